"""The small records that pass between tasks, and the shapes of what lies in files. Payloads stay in the workspace.

A record of a stage's product is stored beside it as `record.json`; `folder` and `reused` are filled in when it is read back.
Each stage of a row's way has a module; all are imported from here.
"""

from tasks.records.base import SPLITS, Arm, Example, Failure, Finding, Model, Record, Split
from tasks.records.comparisons import BestPrompt, Comparison, Difference, Effect, FormatSpread, Guard, Lift, Slice, TunedLine
from tasks.records.contenders import Answer, ContenderRecord, Prediction, PredictionsRecord
from tasks.records.data import DatasetRecord, TokensRecord
from tasks.records.scores import Latency, Money, Scores, ScoresRecord
from tasks.records.tuning import Calibration, CurvePoint, CurveRecord, Repeats, Searched, SweepRecord, TrainingFacts, Trial
from tasks.records.verdict import (
    Approval,
    AskedModel,
    BreakEven,
    Champion,
    ContenderVerdict,
    DatasetSummary,
    Decision,
    Judgement,
    Looks,
    PublicationRecord,
    Reason,
    Route,
    Trigger,
    Verdict,
    Why,
)

__all__ = [
    "SPLITS",
    "Answer",
    "Approval",
    "Arm",
    "AskedModel",
    "BestPrompt",
    "BreakEven",
    "Calibration",
    "Champion",
    "Comparison",
    "ContenderRecord",
    "ContenderVerdict",
    "CurvePoint",
    "CurveRecord",
    "DatasetRecord",
    "DatasetSummary",
    "Decision",
    "Difference",
    "Effect",
    "Example",
    "Failure",
    "Finding",
    "FormatSpread",
    "Guard",
    "Judgement",
    "Latency",
    "Lift",
    "Looks",
    "Model",
    "Money",
    "Prediction",
    "PredictionsRecord",
    "PublicationRecord",
    "Reason",
    "Record",
    "Repeats",
    "Route",
    "Scores",
    "ScoresRecord",
    "Searched",
    "Slice",
    "Split",
    "SweepRecord",
    "TokensRecord",
    "TrainingFacts",
    "Trial",
    "Trigger",
    "TunedLine",
    "Verdict",
    "Why",
]
