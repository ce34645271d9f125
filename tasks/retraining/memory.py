"""What this workspace remembers between runs.

<workspace>/answered/<store>/<name>/<when>-<run>.json   what a verdict dealt with: the same is no reason again
<workspace>/hashed/<hash of a path>.json                size, times and SHA-256 of a file: an untouched one is not read again
"""

import logging
import time
from pathlib import Path

from tasks.config import BakeoffConfig
from tasks.records import Model, Verdict
from tasks.retraining.records import Answer, Answers
from tasks.workspace import Workspace, digest, file_sha256, write_durably

logger = logging.getLogger(__name__)
FOLDER, KEPT = "answered", 100
"""So many of a bake-off's newest verdicts are looked at."""
SETTLED_S = 2.0
"""A file that was touched so shortly before it was read may change again within the same tick of its clock."""
BESIDE = {"name", "store", "budget", "samples", "triggers", "pools"}
"""Parts of a config that do not change what is asked."""
AFTERWARDS = {"approval", "approval_hours"}
"""Fields of the gate that come after the judgement."""


class Hashed(Model):
    """A file as it was when it was read."""

    stat: tuple[int, int, int, int]
    """Size, time of the last write, time of the last change, inode."""
    sha256: str


class Hashes:
    """SHA-256 of files; one that has the size, times and inode of before is not read again."""

    def __init__(self, workspace: Workspace) -> None:
        self._folder = workspace.root / "hashed"
        self.read: list[Path] = []
        """The files that had to be read."""

    def __call__(self, path: Path) -> str:
        kept = self._folder / f"{digest(str(path.resolve()))}.json"
        now = _stat(path)
        known = Hashed.model_validate_json(kept.read_bytes()) if kept.exists() else None
        if known and known.stat == now:
            return known.sha256
        sha256 = file_sha256(path)
        self.read.append(path)
        if _stat(path) == now and time.time_ns() - max(now[1:3]) > SETTLED_S * 1e9:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_durably(kept, Hashed(stat=now, sha256=sha256).model_dump_json())
        return sha256


def question_of(config: BakeoffConfig) -> dict[str, object]:
    """What a config asks: everything that can change the verdict of the same data."""
    asked = config.model_dump(mode="json", exclude=BESIDE)
    asked["gate"] = {name: value for name, value in asked["gate"].items() if name not in AFTERWARDS}
    return asked


def recall_answers(config: BakeoffConfig, workspace: Workspace) -> Answers:
    """What verdicts of this bake-off dealt with, on whichever machine."""
    _share(config, workspace)
    newest = sorted((workspace.root / _place(config)).glob("*.json"))[-KEPT:]
    return Answers(answers=[Answer.model_validate_json(path.read_bytes()) for path in newest])


def remember_answer(config: BakeoffConfig, data: str, verdict: Verdict, workspace: Workspace) -> None:
    """Keep what a verdict dealt with: the data, the question, and the reasons for which it ran. One that waits for a person's word,
    or for its grader to be validated, dealt with nothing yet.

    Args:
        data: the revision of the source that was read.
    """
    if verdict.doubts or (verdict.approval and verdict.approval.approved is None):
        return
    reasons = verdict.why.reasons if verdict.why else []
    answer = Answer(
        run_id=verdict.run_id,
        when=verdict.created,
        decision=verdict.decision,
        data=data,
        question=digest(question_of(config)),
        reasons=[(reason.kind, reason.subject, reason.level) for reason in reasons],
    )
    folder = workspace.root / _place(config)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{verdict.created:%Y%m%dT%H%M%S}-{verdict.run_id}.json", answer.model_dump_json(indent=2))
    _share(config, workspace)


def _share(config: BakeoffConfig, workspace: Workspace) -> None:
    if workspace.sharing:
        workspace.sharing.together(_place(config))


def _place(config: BakeoffConfig) -> str:
    return f"{FOLDER}/{config.store}/{config.name}"


def _stat(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
