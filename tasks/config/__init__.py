"""The config of one bake-off: the flow's parameter, the command line's file, the form in Prefect's UI, and what is kept beside what
was published. It holds names only; the places behind the names stand in the operator's settings (`tasks/settings.py`).

A module a part; all are imported from here. Importing this is cheap (pydantic alone).
"""

from tasks.config.bakeoff import BakeoffConfig
from tasks.config.contenders import Combination, Grader, Hybrid, Trivial
from tasks.config.data import BUILT_IN_SLICES, Dataset, Kind, OnBadRows, Splits
from tasks.config.gate import Budget, Gate, Metric, Use
from tasks.config.part import NAME, SPELLED, Name, Part
from tasks.config.pools import Pool, Pools
from tasks.config.prompting import FREE_TEXT, Format, Interview, Order, Prompt, Selection, Task, Technique
from tasks.config.reading import explain, load_config, parse_config
from tasks.config.triggers import Drift, Quality, Triggers
from tasks.config.tuning import (
    ALL_LINEAR,
    LORA_SWITCHES,
    OBJECTIVES_OWN,
    OF_HEADS,
    SEVERAL,
    Algorithm,
    ClassWeights,
    Method,
    Objective,
    TruncationSide,
    Tuned,
)

__all__ = [
    "ALL_LINEAR",
    "BUILT_IN_SLICES",
    "FREE_TEXT",
    "LORA_SWITCHES",
    "NAME",
    "OBJECTIVES_OWN",
    "OF_HEADS",
    "SEVERAL",
    "SPELLED",
    "Algorithm",
    "BakeoffConfig",
    "Budget",
    "ClassWeights",
    "Combination",
    "Dataset",
    "Drift",
    "Format",
    "Gate",
    "Grader",
    "Hybrid",
    "Interview",
    "Kind",
    "Method",
    "Metric",
    "Name",
    "Objective",
    "OnBadRows",
    "Order",
    "Part",
    "Pool",
    "Pools",
    "Prompt",
    "Quality",
    "Selection",
    "Splits",
    "Task",
    "Technique",
    "Triggers",
    "Trivial",
    "TruncationSide",
    "Tuned",
    "Use",
    "explain",
    "load_config",
    "parse_config",
]
