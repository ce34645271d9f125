"""`dataset`: the labelled rows, and which play which role."""

from enum import StrEnum
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from tasks.config.part import Part


class Splits(Part):
    """Which of the source's splits play which role.

    Left empty, splits are recognised by their usual names (train; validation, valid, dev; test), and what is missing is taken
    from train by a hash of each row's content. Roles that name the same split of the source share it, by hash.
    """

    train: str = ""
    """The source's split that teaches."""
    dev: str = ""
    """The source's split that selects prompts, checkpoints and thresholds."""
    test: str = ""
    """The source's split that is scored once per contender and decides."""
    dev_share: float = Field(0.15, gt=0, lt=1)
    """Share of a split that becomes dev, where roles share one."""
    test_share: float = Field(0.25, gt=0, lt=1)
    """Share of a split that becomes test, where roles share one."""
    train_rows: int | None = Field(None, ge=1)
    """Keep at most this many train rows, chosen by hash."""
    dev_rows: int | None = Field(None, ge=1)
    """Keep at most this many dev rows, chosen by hash."""
    test_rows: int | None = Field(None, ge=1)
    """Keep at most this many test rows, chosen by hash."""

    @model_validator(mode="after")
    def _shares_leave_something_for_train(self) -> Self:
        if self.dev_share + self.test_share >= 1:
            raise ValueError(f"dev_share {self.dev_share} and test_share {self.test_share} leave nothing for train: lower one")
        return self


BUILT_IN_SLICES = {"label", "length"}
"""What test rows are sliced by whatever the data: the right answer, and the length of the text."""


class Kind(StrEnum):
    """What is to be answered."""

    CLASSIFICATION = "classification"
    """One of a few labels."""
    GENERATION = "generation"
    """Free text."""


class OnBadRows(StrEnum):
    """What happens to rows that fail validation."""

    REFUSE = "refuse"
    DROP = "drop"


class Dataset(Part):
    """The labelled examples."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # YAML reads `labels: {0: negative}` with a number as key

    source: str = Field(min_length=1, max_length=1024)
    """A Hub id (`owner/name`), a file (parquet, CSV, JSON lines), a folder of them, or `package:` and a file inside an installed
    Python package."""
    inputs: list[str] = Field(default=["text"], min_length=1)
    """The columns that a contender sees."""
    label: str = "label"
    """The column with the right answer."""
    labels: dict[str, str] = {}
    """Names for the values of the label column, such as `0: negative`. Values that are not listed are refused; class labels that
    bear these names already are taken as they are."""
    kind: Kind = Kind.CLASSIFICATION
    """What is to be answered: a label, or free text, which is right where it is the label column's text but for letter case,
    punctuation, markup and white space."""
    revision: str = ""
    """The Hub revision (a commit is best: a branch can move)."""
    subset: str = ""
    """The Hub configuration name, where the data set has several."""
    where: dict[str, str] = {}
    """Keep only rows whose column has this value."""
    cluster: str = ""
    """The column that says which rows belong together (one person's, one document's). They never stand in two splits, and the gate
    counts them as one piece of evidence."""
    slices: list[str] = Field(default=[], max_length=10)
    """Columns by whose values accuracy is shown, and may be guarded (gate.slices); no contender sees them."""
    splits: Splits = Splits()
    """Which rows teach, select and decide."""
    on_bad_rows: OnBadRows = OnBadRows.REFUSE
    """Refuse the data when rows are bad (empty, unknown label, too long), or drop those rows and count them."""
    max_characters: int = Field(100_000, ge=1)
    """A row with more characters than this is bad."""
    drop_repeats: bool = True
    """Keep each text once a split; off keeps repeats within a split as the source has them. Across splits they never stay."""
    near_duplicates: float = Field(0.85, ge=0, le=1)
    """Rows at least this similar (Jaccard over word trigrams) are near-duplicates; 0 looks for exact ones only."""
    max_overlap: float = Field(0.01, ge=0, le=1)
    """Stop when a larger share of the given dev and test rows is found again in train; at or below it those rows leave train."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        columns = [*self.inputs, self.label]
        if len(set(columns)) < len(columns):
            raise ValueError(f"inputs {self.inputs} and label {self.label!r} name a column twice: name each column once")
        if self.label in (self.cluster, *self.slices):
            raise ValueError(
                f"cluster or slices name the label's column {self.label!r}: a contender's rows are sliced by label as it is"
            )
        twice = len(set(self.slices)) < len(self.slices)
        if twice or BUILT_IN_SLICES & set(self.slices):
            raise ValueError(f"slices {self.slices} name a column twice, or one called label or length, which are there already")
        return self
