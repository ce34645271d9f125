"""`budget`, `gate` and `use`: what may be spent, when a winner replaces the champion, and what one-off costs are spread over."""

from enum import StrEnum

from pydantic import Field

from tasks.config.part import Part


class Budget(Part):
    """What a run may spend on endpoints."""

    usd: float = Field(1.0, ge=0)
    """The hard cap in dollars for one run: it stops before this is passed."""
    max_failed: float = Field(0.5, gt=0, le=1)
    """A prompted contender stops asking once more than this share of its rows (at least 20 asked) failed."""


class Metric(StrEnum):
    """What the gate decides by."""

    ACCURACY = "accuracy"
    MACRO_F1 = "macro_f1"
    """The mean of the labels' F1 scores: every label counts alike, however rare."""


class Gate(Part):
    """When a contender may become champion."""

    metric: Metric = Metric.ACCURACY
    """What finalists are chosen by on dev, and compared by on test; `macro_f1` counts every label alike, however rare."""
    approval: bool = False
    """Ask a person, on the run's page in Prefect, before a winner is published."""
    approval_hours: float = Field(24, gt=0, le=720)
    """How long the run waits; without an answer nothing is published."""
    alpha: float = Field(0.05, gt=0, le=0.5)
    """The significance level of the deciding tests, two-sided; intervals cover 1 - alpha. A contender that is no better becomes
    champion with a chance of at most half of it, as simulated (in clusters: at the default margin)."""
    minimum_gain: float = Field(0.0, ge=0, lt=1)
    """The gain in the metric that a new champion must show on test."""
    minimum_rows: int = Field(30, ge=2)
    """With fewer test rows (where dataset.cluster names clusters: clusters of equal size) the verdict is always
    `not_enough_evidence`; no guard on calibration holds with fewer."""
    margin: float = Field(0.01, ge=0, lt=1)
    """Contenders within this much of each other count as equally good, so that the cheaper one may take or keep the place; 0 leaves
    costs out of the decision."""
    cheaper_by: float = Field(0.5, gt=0, lt=1)
    """By what share a contender must be cheaper to run before its cost decides; measured times swing, so not by little."""
    slices: list[str] = Field(default=[], max_length=12)
    """Where a new champion must be shown to be no worse than the old one: `label`, `length`, or columns of dataset.slices."""
    slice_margin: float = Field(0.05, gt=0, lt=1)
    """How much less accurate it may be on any such slice."""
    slice_rows: int = Field(30, ge=1)
    """Values of a slice with fewer test rows than this are taken together."""
    brier_margin: float | None = Field(None, gt=0, le=1)
    """How much worse its Brier score may be; empty does not ask. Contenders without probabilities then never replace a champion."""
    ece_margin: float | None = Field(None, gt=0, le=1)
    """How much worse its expected calibration error may be; likewise."""


class Use(Part):
    """How the champion will be used: what one-off costs are spread over."""

    per_month: int = Field(100_000, ge=1)
    """Predictions a month."""
    months: int = Field(12, ge=1, le=120)
    """How long a trained model serves before it is trained anew."""
