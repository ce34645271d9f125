"""What a technique is given, and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tasks.config import Interview, Prompt, Task
from tasks.prompting.ask import AskContext
from tasks.prompting.messages import PromptSpec
from tasks.records import DatasetRecord, Finding, Model
from tasks.settings import Endpoint, Settings


class Exchange(Model):
    """One question of the model's, and what it was told."""

    question: str
    answer: str
    by: Interview = Interview.ROWS
    """Who answered."""


@dataclass(frozen=True)
class Drafting:
    """A prompt contender that is being made."""

    prompt: Prompt
    """Its part of the config."""
    task: Task
    """What prompts are told of the task."""
    dataset: DatasetRecord
    """Its train rows teach, its dev rows select; test rows are nobody's business here."""
    endpoint: Endpoint
    """As the settings have it; it need not listen."""
    settings: Settings
    """Where base models lie."""
    folder: Path
    """The contender's folder; what a technique writes here is published with it."""
    ask: Callable[[], AskContext]
    """With what the endpoint is asked, listening from the first call on."""
    transcript: list[Exchange] | None = None
    """flipped: what a person answered; None where nobody was asked."""
    findings: list[Finding] = field(default_factory=list)
    """What a technique left out or could not do, for people; filled while drafting."""


Technique = Callable[[PromptSpec, Drafting], PromptSpec]
"""One step of the draft to the next. Raises BadConfig or BadData where the config or the data do not allow it."""
