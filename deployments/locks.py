"""`make lock`: what the images install, pinned with hashes, from the same versions that requirements.lock has.

deployments/image/common.lock    everything but torch, with the demo's models and data
deployments/image/cuda.lock      torch as the package index has it for Linux, with CUDA's libraries
deployments/image/cpu.lock       torch without CUDA, from PyTorch's own index, whose address TORCH_INDEX gives
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deployments" / "image"
CUDA = re.compile(r"^(torch|triton|nvidia-|cuda-)")
PINNED = ["--universal", "--python-version", "3.11", "--no-annotate", "--no-header", "--quiet", "--generate-hashes"]


def main() -> None:
    """Write the files anew."""
    pinned = resolve("pyproject.toml", "--extra", "image", "--constraint", "requirements.lock")
    demo = resolve("requirements-demo.txt", "--no-deps")  # only their files are used
    common = {name: text for name, text in (pinned | demo).items() if not CUDA.match(name)}
    write(FOLDER / "common.lock", common)
    write(FOLDER / "cuda.lock", {name: text for name, text in pinned.items() if CUDA.match(name)})
    lock_cpu(next(name for name in pinned if name.startswith("torch==")), FOLDER / "cpu.lock", os.environ.get("TORCH_INDEX", ""))


def lock_cpu(torch: str, path: Path, index: str) -> None:
    """Pin the wheels without CUDA of this torch (`torch==VERSION`). Without an index what is there stays while it fits; else the
    command ends with what to give."""
    wanted = f"{torch}+cpu"
    if index:
        with TemporaryDirectory() as folder:
            request = Path(folder) / "torch.in"
            request.write_text(f"{wanted}\n", encoding="utf-8")
            write(path, resolve(str(request), "--no-deps", "--index-url", index))
    elif not path.exists() or wanted not in path.read_text(encoding="utf-8").split():
        sys.exit(
            f"{path.name} does not pin {wanted}: give TORCH_INDEX, the address of PyTorch's index of CPU wheels, and lock again"
        )


def resolve(*request: str) -> dict[str, str]:
    """Packages with their pins and hashes, by name and version: a name may stand twice, for other Pythons."""
    command = [sys.executable, "-m", "uv", "pip", "compile", *request, *PINNED]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    entries = re.findall(r"^\S.*?(?=^\S|\Z)", made, flags=re.MULTILINE | re.DOTALL)
    return {entry.split()[0]: entry for entry in entries}


def write(path: Path, entries: dict[str, str]) -> None:
    """The entries by name."""
    path.write_text("".join(text for _, text in sorted(entries.items())), encoding="utf-8")


if __name__ == "__main__":
    main()
