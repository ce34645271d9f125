"""What can be known of a recipe before anybody is paid: that the LoRA targets it names are in the base, and that this machine can
hold a base in 4 bits where it asks for that."""

import importlib.util
from typing import Any

from tasks.bases import ResolvedBase
from tasks.child import run_child, serve_child
from tasks.config import Method, Tuned
from tasks.errors import BadConfig, MissingPart
from tasks.records import Record
from tasks.workspace import Building, Stage, Workspace

CHECK = Stage("check", 1, ("tasks.tuning.check", "tasks.tuning.methods"))


def check_recipe(tuned: Tuned, base: ResolvedBase, workspace: Workspace) -> None:
    """Refuse LoRA targets that the base does not have. A recipe that adapts all linear layers needs no check; another one is
    checked once, in a child process that builds the architecture without weights.

    Raises:
        BadConfig: naming the targets, and the linear layers that there are; or the recipe is quantized, and there is no CUDA here.
        MissingPart: the recipe is quantized, and bitsandbytes is not installed.
    """
    if tuned.quantized:
        refuse_without_four_bits(tuned)
    if tuned.method is not Method.LORA or not tuned.targets:
        return

    def build(building: Building) -> Record:
        request = {"tuned": tuned.model_dump(mode="json"), "base": base.id, "path": str(base.path)}
        run_child("tasks.tuning.check", request)
        return Record()

    workspace.produce(CHECK, [base.config_sha256], {"targets": tuned.targets}, Record, build, f"check {tuned.name}")


def refuse_without_four_bits(tuned: Tuned) -> None:
    """Raises BadConfig or MissingPart where a base cannot be held in 4 bits."""
    from tasks.device import pick_device

    device = pick_device()
    if device.name != "cuda":
        raise BadConfig(
            f"tuned contender {tuned.name!r} is quantized (QLoRA), which needs CUDA; this machine trains on {device.name} "
            f"({device.reason}): set quantized: false, or run on a pool with a GPU"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingPart(
            f"tuned contender {tuned.name!r} is quantized (QLoRA), which needs bitsandbytes: `pip install '.[quantized]'` "
            "in the project's folder, or set quantized: false"
        )


def check(request: dict[str, Any]) -> None:
    """The child's part."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from tasks.tuning.methods import refuse_unknown_targets

    config = AutoConfig.from_pretrained(request["path"], trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    refuse_unknown_targets(model, Tuned.model_validate(request["tuned"]), request["base"])


if __name__ == "__main__":
    serve_child(check)
