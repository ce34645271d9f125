"""A base model that comes as GGUF, unpacked once into a plain model folder with safetensors, so that it can be tuned.

What GGUF rounded stays rounded: the folder holds the same numbers as the file, in bfloat16. Its revision says so.
"""

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.child import run_child, serve_child
from tasks.errors import MissingPart
from tasks.workspace import file_sha256, write_durably

logger = logging.getLogger(__name__)
WHOLE = "unpacked.json"
"""Written last: the SHA-256 of every other file."""


def unpack(gguf: Path, sha256: str, home: Path) -> Path:
    """The folder that a GGUF file (of this hash) was unpacked into, made in a child process where it is not there or not whole.

    Raises:
        MissingPart: the package gguf is not installed.
    """
    folder = home / f"{gguf.stem}-{sha256[:12]}"
    with FileLock(_made(home) / f"{folder.name}.lock"):
        if _is_whole(folder):
            return folder
        if importlib.util.find_spec("gguf") is None:
            raise MissingPart(f"{gguf.name} can only be tuned when it is unpacked: `pip install '.[gguf]'` in the project's folder")
        logger.info("unpacking %s into %s (once)", gguf.name, folder)
        aside = folder.with_suffix(".writing")
        shutil.rmtree(aside, ignore_errors=True)
        run_child("tasks.unpack", {"gguf": str(gguf), "folder": str(aside)})
        hashes = {file.name: file_sha256(file) for file in sorted(aside.iterdir())}
        write_durably(aside / WHOLE, json.dumps(hashes, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    return folder


def _made(home: Path) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    return home


def _is_whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
        return all(file_sha256(folder / name) == expected for name, expected in hashes.items())
    except (OSError, ValueError):
        return False


def write(request: dict[str, str]) -> dict[str, Any]:
    """The child's part: model, config and tokenizer of `gguf`, written into `folder`. The config names no version of the library,
    so that it stays the same when that changes."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as theirs

    theirs.disable_progress_bar()
    theirs.set_verbosity_error()
    gguf, folder = Path(request["gguf"]), Path(request["folder"])
    given: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype="float32", **given)
    folder.mkdir(parents=True)
    weights = {name: weight.detach().to(torch.bfloat16).contiguous() for name, weight in model.named_parameters()}  # tied ones once
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict()
    for name in ("_name_or_path", "quantization_config", "transformers_version"):
        config.pop(name, None)
    config |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    AutoTokenizer.from_pretrained(gguf.parent, **given).save_pretrained(folder)
    return {"parameters": sum(weight.numel() for weight in weights.values())}


if __name__ == "__main__":
    serve_child(write)
