"""`triggers`: when a new bake-off is due."""

from typing import Self, TypeVar

from pydantic import Field, model_validator

from tasks.config.part import Part


class Drift(Part):
    """Whether incoming rows are still like those that the champion learned from."""

    incoming: str = Field("", max_length=300)
    """A file or folder of incoming rows, in an allowed root, with the columns of `dataset.inputs`; empty does not look."""
    least_rows: int = Field(200, ge=20)
    """With fewer incoming rows nothing is said."""
    most_rows: int = Field(2_000, ge=20, le=100_000)
    """So many of them are looked at, chosen by hash. The champion predicts these, which costs money where it is a prompt."""
    alpha: float = Field(0.01, gt=0, le=0.5)
    """The level of both tests together, of texts and of predictions (Holm)."""
    text: float = Field(0.65, gt=0.5, le=1)
    """Texts have drifted where a classifier tells incoming rows from training rows so well (area under the curve; .5 is chance)."""
    labels: float = Field(0.1, gt=0, le=1)
    """Predictions have drifted where so large a share of them went from some labels to others."""

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Self:
        return _least_within_most(self, "drift", self.least_rows, self.most_rows)


class Quality(Part):
    """Whether the champion is still as good as the verdict said."""

    fresh: str = Field("", max_length=300)
    """A file or folder of labelled rows that it never saw, in an allowed root, with the data set's columns; empty does not look."""
    least_rows: int = Field(100, ge=20)
    """With fewer labelled rows nothing is said."""
    most_rows: int = Field(2_000, ge=20, le=100_000)
    """So many of them are predicted, chosen by hash."""
    margin: float = Field(0.02, ge=0, lt=1)
    """How much less accurate it may be than it was on test."""
    alpha: float = Field(0.05, gt=0, le=0.5)
    """The level of the one-sided test."""

    @model_validator(mode="after")
    def _rows_are_enough(self) -> Self:
        return _least_within_most(self, "quality", self.least_rows, self.most_rows)


P = TypeVar("P", bound=Part)


def _least_within_most(part: P, name: str, least: int, most: int) -> P:
    if least > most:
        raise ValueError(f"triggers.{name}: least_rows {least} is more than most_rows {most}: nothing would ever be said")
    return part


class Triggers(Part):
    """When a new bake-off is due; what `bakeoff retrain` looks at. Nothing here changes what a bake-off finds."""

    champion: bool = True
    """While there is no champion; the same data and contenders are not tried twice."""
    contenders: bool = True
    """When the config asks for something else than the champion's version was judged by."""
    data: bool = True
    """When the data set has a new version: other bytes, or another commit."""
    shutdown_days: int | None = Field(30, ge=0)
    """When a provider ends a model that the champion or a contender asks within so many days; empty does not look."""
    age_days: float | None = Field(None, gt=0)
    """When the newest verdict is so old, whatever changed; empty does not look."""
    drift: Drift = Drift()
    """When incoming rows are no longer like the training set."""
    quality: Quality = Quality()
    """When the champion is worse on fresh labelled rows."""
