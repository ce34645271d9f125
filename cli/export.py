"""`bakeoff export`: the champion, or a contender of this home, as a folder for other programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.run import allow_roots
from services.bench import Bench, opened
from tasks.config import BakeoffConfig, load_config
from tasks.errors import BadConfig
from tasks.registry.champion import current_champion, fetch_champion, read_version, version_numbers
from tasks.store import open_store

if TYPE_CHECKING:
    from tasks.contenders.export import Exported

CHECKED_ROWS = 64
"""Of the test split, on which merged and unmerged are compared."""


def export(
    config: Path, overrides: Sequence[str], version: int | None, contender: Path | None, to: Path, merged: bool
) -> "Exported":
    """Write the champion, one of its versions, or the contender in a folder of this home, to `to`.

    Raises:
        BadConfig: there is no champion or version, both are asked for, `to` is not empty, or the contender cannot be merged.
        OutsideRoots: the contender's folder lies neither in this home nor in an allowed root.
        IntegrityError: bytes are not what was published, or merged and unmerged differ.
        StoreError: the store is out of reach.
    """
    from tasks.contenders.export import export_contender, export_merged, refuse_full_folder, refuse_what_cannot_merge
    from tasks.data.examples import input_text, read_examples
    from tasks.data.load import load
    from tasks.manifest import read_manifest

    parsed, to = load_config(config, overrides), to.absolute()
    if version and contender:
        raise BadConfig("give --version for a champion's or --contender for a folder's, not both")
    refuse_full_folder(to)
    allow_roots(config)
    with opened(parsed) as bench:
        folder = _find(parsed, config, version, contender, bench)
        if not merged:
            return export_contender(folder, to)
        refuse_what_cannot_merge(folder, read_manifest(folder))
        dataset = load(parsed.dataset, bench.settings, bench.workspace)
        rows = read_examples(dataset, "test")[:CHECKED_ROWS]
        return export_merged(folder, to, [input_text(row.inputs) for row in rows], bench.settings)


def told(found: "Exported") -> str:
    """What was written, in a few lines."""
    how = "one model merged with its base" if found.merged else "the files as they were published"
    lines = [f"{found.contender} ({found.kind}) is in {found.folder}: {how}, {found.bytes:,} bytes"]
    if found.merged:
        lines.append(
            f"  merged and unmerged give the same answers to {found.checked_rows} rows; logits differ by up to "
            f"{found.largest_difference:.1g}"
        )
    if found.prompts_alike is not None:
        lines.append(f"  the prompt of {found.prompts_alike} of them is what the tokenizer's chat template makes of the row")
    return "\n".join(lines)


def _find(parsed: BakeoffConfig, config: Path, version: int | None, contender: Path | None, bench: Bench) -> Path:
    if contender:
        roots = [*bench.settings.roots, bench.workspace.root]
        return bench.settings.model_copy(update={"roots": roots}).readable(contender)
    champion = current_champion(bench.places, parsed.store, parsed.name)
    if version and (champion is None or champion.version != version):
        client = open_store(bench.places, parsed.store)
        champion = read_version(client, parsed.name, version)
        if champion is None:
            known = ", ".join(map(str, version_numbers(client, parsed.name))) or "none"
            raise BadConfig(f"champion {parsed.name!r} has no version {version}; there are {known}")
    if champion is None:
        raise BadConfig(f"{parsed.name} has no champion yet: `bakeoff run {config}` publishes one when the evidence is there")
    return fetch_champion(bench.places, parsed.store, champion, bench.workspace).folder
