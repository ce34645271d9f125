"""`pools`: where contenders are made."""

from enum import StrEnum

from tasks.config.part import Part


class Pool(StrEnum):
    """Where contenders are made."""

    HERE = "here"
    """By the run itself."""
    GPU = "gpu"
    APPLE_SILICON = "apple-silicon"
    CPU = "cpu"


class Pools(Part):
    """Work pools that make contenders, as runs of their own. The workers must share a workspace (docs/how-to/machines.md)."""

    tuned: Pool = Pool.HERE
    """Where tuned contenders train: a run each."""
    prompts: Pool = Pool.HERE
    """Where prompted contenders are made and asked: one run for all of them, since they share the cap. Hybrids are made here."""
