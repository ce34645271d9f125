"""Trainings are killed at random moments and run again; each ends in the weights of one that nobody killed."""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.campaigns.figures import Figure, Options
from tasks.bases import ResolvedBase
from tasks.child import run_child
from tasks.config import Method, Tuned
from tasks.data.tokenize import tokenize
from tasks.errors import ChildDied
from tasks.progress import Bar, listening
from tasks.records import TokensRecord
from tasks.workspace import Workspace
from tests.tiny_model import LABELS, make_base, make_dataset, make_tokens

KILLS = 20
EPOCHS = 10
SAVE_EVERY_S = 0.2
"""So that many kills fall into the writing of a checkpoint."""
ROWS_AT_ONCE = {
    "lora, 4 parts to a step": 2,
    "lora": 8,
    "lora, long rows": 8,
    "head, 2 parts to a step": 4,
    "full": 8,
    "full, 8 parts to a step": 1,
    "lora, as text": 8,
    "lora, as text, 2 parts to a step": 4,
}
"""What is trained: a method, and how many of a step's 8 rows go at once. Long ones are shared out among the cores; a causal model
learns to write the label's name as text."""
FILLER = (60, 90)
"""Words of a long row."""


@dataclass
class Tally:
    """What became of all rounds."""

    kills: int = 0
    rounds: int = 0
    largest: float = 0.0
    curves: int = 0
    """Rounds whose losses or accuracies differ."""
    when: Counter[str] = field(default_factory=Counter)
    set_aside: int = 0


@dataclass(frozen=True)
class World:
    """Tiny bases with dropout, tokens for them, and a place for trainings."""

    folder: Path
    base: ResolvedBase
    causal: ResolvedBase
    tokens: dict[str, TokensRecord]
    """By what is trained: `long`, `text`, or empty for the others."""

    def job(self, what: str, home: Path) -> dict[str, Any]:
        """What the child is asked."""
        (home / "made").mkdir(parents=True, exist_ok=True)
        method = Method(what.split(",")[0])
        tuned = Tuned(name="killed", method=method, learning_rate=0.005, epochs=EPOCHS, batch_size=8, dropout=0.1)
        dropped = 0.1 if "parts" in what else 0.0  # without it attention takes another way
        tuned = tuned.model_copy(update={"attention_dropout": dropped, "as_text": "text" in what})
        place = self.causal if "text" in what else self.base
        return {
            "tuned": tuned.model_dump(mode="json"),
            "labels": LABELS,
            "tokens": str(self.tokens[next((each for each in ("long", "text") if each in what), "")].folder),
            "base": {"id": place.id, "revision": place.revision, "path": str(place.path), "config_sha256": place.config_sha256},
            "folder": str(home / "made"),
            "checkpoints": str(home / "checkpoints"),
            "rows_at_once": ROWS_AT_ONCE[what],
            "save_every_s": SAVE_EVERY_S,
        }


def run(options: Options) -> list[Figure]:
    """The figures."""
    rng, tally, wanted = Random(f"training kills {options.seed}"), Tally(), options.kills or KILLS
    kinds = list(ROWS_AT_ONCE)[: max(1, min(len(ROWS_AT_ONCE), wanted // 2))]
    with TemporaryDirectory() as name:
        folder = Path(name)
        base, causal = make_base(folder / "base"), make_base(folder / "causal", "gpt2")
        rows, long = make_dataset(folder / "data"), make_dataset(folder / "long-data", FILLER)
        named = tokenize(Tuned(name="killed", as_text=True), rows, causal, Workspace(folder / "named"))
        tokens = {"": make_tokens(folder / "tokens", base, rows), "long": make_tokens(folder / "long", base, long), "text": named}
        world = World(folder, base, causal, tokens)
        for place, what in enumerate(kinds):
            unbroken = folder / f"unbroken-{place}"
            module = module_of(what)
            curve = run_child(module, world.job(what, unbroken))["training"]["epochs"]
            share = (wanted - tally.kills) // (len(kinds) - place)
            killed = folder / f"killed-{place}"
            broken = kill_round(module, world.job(what, killed), killed, share, rng, tally)
            tally.largest = max(tally.largest, difference(unbroken, killed))
            tally.curves += [(each["loss"], each["dev_accuracy"]) for each in curve] != broken
    moments = ", ".join(f"{count} {moment}" for moment, count in sorted(tally.when.items()))
    return [
        Figure("kills", tally.kills, f">= {KILLS}", moments),
        Figure("trainings", tally.rounds, note="; ".join(kinds)),
        Figure("largest_weight_difference", tally.largest, "== 0", "of what is published, and of the last weights and optimizer"),
        Figure("curves_that_differ", tally.curves, "== 0"),
        Figure("checkpoints_set_aside", tally.set_aside, note="half written when the process was killed"),
    ]


def module_of(what: str) -> str:
    """The child that trains it."""
    return "tasks.tuning.language.complete" if "text" in what else "tasks.tuning.train"


def kill_round(module: str, job: dict[str, Any], home: Path, kills: int, rng: Random, tally: Tally) -> list[tuple[float, float]]:
    """Start and kill so many times, then let it end: its losses and accuracies."""
    tally.rounds += 1
    left = kills
    while left:
        done = kill_sometime(module, job, home, kills, rng, tally)
        if done:
            raise RuntimeError(f"{job['tuned']['method']}: the training ended before it was killed: make it longer")
        left -= 1
    made = run_child(module, job)
    aside = home / "checkpoints" / "set-aside"
    tally.set_aside += len(list(aside.iterdir())) if aside.exists() else 0
    return [(epoch["loss"], epoch["dev_accuracy"]) for epoch in made["training"]["epochs"]]


def kill_sometime(module: str, job: dict[str, Any], home: Path, kills: int, rng: Random, tally: Tally) -> bool:
    """Run until it has made its share of the steps, and a moment longer; then SIGKILL. Whether it had ended by then."""
    steps, delay = rng.randint(1, 12 * EPOCHS // (kills + 1)), rng.uniform(0, SAVE_EVERY_S)
    begun: list[float] = []
    enough = threading.Event()
    doing = {"what": "before the first step"}

    def hear(bar: Bar) -> None:
        doing["what"] = "in an evaluation" if bar.title.startswith("dev") and not bar.finished else "in an epoch"
        if bar.title.startswith("train"):
            begun.append(bar.done)
            if bar.done >= begun[0] + steps:
                enough.set()

    def life() -> None:
        try:
            run_child(module, job)
            enough.set()
        except ChildDied as error:
            if "SIGKILL" not in str(error):
                raise

    thread = threading.Thread(target=life)
    with listening(hear):
        thread.start()
        enough.wait(300)
        time.sleep(delay)
        writing = list((home / "checkpoints").glob("writing-*"))
        for child in psutil.Process().children(recursive=True):
            if child.name() == module.removeprefix("tasks.")[:15]:
                child.kill()
                tally.kills += 1
                tally.when["in a checkpoint" if writing else doing["what"]] += 1
                break
        else:
            thread.join()
            return True
        thread.join()
    return False


def difference(one: Path, other: Path) -> float:
    """The largest difference of any stored weight or optimizer state, infinite where one has what the other lacks."""
    names = [path.relative_to(one) for path in (one / "made").rglob("*.safetensors")]
    last = max((one / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])).relative_to(one)
    names += [last / "weights.safetensors", last / "optimizer.pt"]
    return max(_largest(_tensors(one / name), _tensors(other / name)) for name in names)


def _tensors(path: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    if not path.exists():
        return {}
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    state = torch.load(path, weights_only=True)["state"]
    return {f"{number}.{name}": value for number, each in state.items() for name, value in each.items()}


def _largest(one: dict[str, Any], other: dict[str, Any]) -> float:
    if set(one) != set(other):
        return float("inf")
    return max((float((value.double() - other[name].double()).abs().max()) for name, value in one.items()), default=float("inf"))


if __name__ == "__main__":
    print(json.dumps([figure.as_json() for figure in run(Options())], indent=2))
