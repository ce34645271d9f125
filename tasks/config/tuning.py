"""`tuned`: which weights of a small model train, on what, and how."""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from tasks.config.part import Name, Part


class Method(StrEnum):
    """Which weights train."""

    LORA = "lora"
    HEAD = "head"
    FULL = "full"


OBJECTIVES_OWN = (
    "objective",
    "corpus",
    "corpus_column",
    "corpus_rows",
    "corpus_epochs",
    "corpus_learning_rate",
    "masked",
    "preferences",
    "most_pairs",
    "preference_epochs",
    "preference_learning_rate",
    "beta",
    "algorithm",
    "reinforce_steps",
    "reinforce_learning_rate",
    "group",
    "kl_weight",
    "kl_limit",
)
"""Fields of a tuned contender that its supervised step knows nothing of."""


class Objective(StrEnum):
    """What training minimises."""

    SUPERVISED = "supervised"
    """The right labels; for generation the right completions."""
    SELF_SUPERVISED = "self_supervised"
    """Further pre-training on unlabelled text, masked for encoders and causal for decoders; then supervised."""
    PREFERENCES = "preferences"
    """Supervised; then preference pairs at once (DPO). For answers in text."""
    REINFORCEMENT = "reinforcement"
    """Supervised; then a reward model from preference pairs; then RLOO or GRPO. For answers in text."""


class Algorithm(StrEnum):
    """How reinforcement turns rewards into steps."""

    RLOO = "rloo"
    GRPO = "grpo"


class TruncationSide(StrEnum):
    """Which end of a long text is cut."""

    LEFT = "left"
    RIGHT = "right"


class ClassWeights(StrEnum):
    """What an error on a row counts while training."""

    NONE = "none"
    """The same for every row."""
    BALANCED = "balanced"
    """More for rare labels: each label's rows weigh as much as any other's."""


OF_PAIRS = {"preferences", "most_pairs", "preference_epochs"}
READS = {
    Objective.SUPERVISED: set[str](),
    Objective.SELF_SUPERVISED: {"corpus", "corpus_column", "corpus_rows", "corpus_epochs", "corpus_learning_rate", "masked"},
    Objective.PREFERENCES: OF_PAIRS | {"preference_learning_rate", "beta"},
    Objective.REINFORCEMENT: OF_PAIRS
    | {"algorithm", "reinforce_steps", "reinforce_learning_rate", "group", "kl_weight", "kl_limit"},
}
"""Of `OBJECTIVES_OWN`, what each objective heeds."""

LORA_SWITCHES = ("dora", "rslora", "quantized")
ALL_LINEAR = "all-linear"
"""What PEFT calls all linear layers; the same as naming no target."""


def _targets(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    return [] if names == [ALL_LINEAR] else names


class Tuned(Part):
    """One fine-tuned contender."""

    name: Name
    """Its name in the tables: lower-case letters, digits, `-` and `_`."""
    base: str = Field("sentence-transformers/all-MiniLM-L6-v2", min_length=1, max_length=256)
    """The base model: a Hub id, or a folder in an allowed root."""
    revision: str = ""
    """The base's Hub revision; empty takes the one that the operator's settings pin, else `main`."""
    method: Method = Method.LORA
    """Which weights train: low-rank adapters (`lora`), the classifier alone (`head`), or all (`full`)."""
    rank: int = Field(8, ge=1, le=1024)
    """LoRA: the rank of the update."""
    alpha: float = Field(16, gt=0)
    """LoRA: the update is scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """LoRA: dropout before the update."""
    targets: Annotated[list[str], BeforeValidator(_targets)] = []
    """LoRA: names of the modules to adapt; empty (or `all-linear`) adapts all linear layers of the encoder."""
    dora: bool = False
    """LoRA: learn the size of each weight apart from its direction (DoRA)."""
    rslora: bool = False
    """LoRA: scale the update by alpha / sqrt(rank) instead, so that high ranks learn as fast (rsLoRA)."""
    quantized: bool = False
    """LoRA: hold the base in 4 bits while training (QLoRA); needs CUDA and the package bitsandbytes."""
    learning_rate: float = Field(5e-4, gt=0, le=1)
    """The peak learning rate."""
    epochs: int = Field(3, ge=1, le=1000)
    """Passes over train."""
    batch_size: int = Field(16, ge=1, le=4096)
    """Rows in one optimiser step."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises; then it falls to zero."""
    gradient_clipping: float = Field(1.0, ge=0)
    """The gradient's norm is cut to this in each step; 0 leaves it as it is."""
    early_stopping: int = Field(0, ge=0)
    """Stop after so many evaluations on dev (one an epoch) in a row without a better accuracy; 0 trains all epochs."""
    class_weights: ClassWeights = ClassWeights.NONE
    """What an error counts: the same for every row (`none`), or more for rare labels (`balanced`)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each row's target that is spread over all labels; 0 trains on the labels as they are."""
    head_start: bool = False
    """Classifiers: begin with a head that points where the base's outputs tell train's labels apart (one forward pass over 4,096
    rows at most), in place of a random one: against first epochs that learn nothing."""
    calibrate: bool = True
    """Fit a temperature on dev, so that probabilities say how often the contender is right; labels and logits stay as they are."""
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[], max_length=20)
    """Train once with each of these instead of `seed`: mean and spread are told, and the one best on dev is the contender."""
    search_trials: int = Field(0, ge=0, le=1000)
    """Try so many recipes on dev first (the recipe itself among them), and train the best (extra `search`); 0 tries none, unless
    `search_minutes` is set."""
    search_minutes: float = Field(0.0, ge=0, le=10_080)
    """Begin no further trial once trials have taken so long; 0 sets no limit in time."""
    learning_rates_tried: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[], max_length=50)
    """Search: learning rates to try beside `learning_rate`; empty tries any from a quarter to four times of it."""
    ranks_tried: list[Annotated[int, Field(ge=1, le=1024)]] = Field(default=[], max_length=20)
    """Search, LoRA: ranks to try beside `rank` (alpha moves along, so that the update keeps its scale); empty keeps `rank`."""
    targets_tried: list[str] = Field(default=[], max_length=20)
    """Search, LoRA: targets to try beside `targets`: names with commas between them, or `all-linear`; empty keeps `targets`."""
    learning_curve: bool = False
    """Train on 12, 25 and 50 % of train as well, which tells whether more labels would help."""
    attention_dropout: float | None = Field(0.0, ge=0, lt=1)
    """The base's own attention dropout while training; 0 lets the fast attention kernels run, empty keeps the base's."""
    max_tokens: int = Field(256, ge=8, le=131_072)
    """Longer texts are cut to this many tokens."""
    truncation_side: TruncationSide = TruncationSide.RIGHT
    """Which end of a long text is cut off."""
    seed: int = Field(42, ge=0)
    """Seeds the head's first weights, the order of rows and dropout."""
    as_text: bool = False
    """Classification: a causal base writes the label's name, in place of a new head that gives its number."""
    max_answer_tokens: int = Field(32, ge=1, le=4096)
    """Generation: answers are cut at this length."""
    objective: Objective = Objective.SUPERVISED
    """What training minimises: the right labels (`supervised`), with more pre-training on text before (`self_supervised`), or with
    pairs of answers after it, at once (`preferences`) or by a reward (`reinforcement`)."""
    corpus: str = Field("", max_length=1024)
    """self_supervised: the unlabelled text, named as `dataset.source` is; empty takes the train rows' own text."""
    corpus_column: Annotated[str, Field(min_length=1)] = "text"
    """self_supervised: the column of `corpus` that holds the text."""
    corpus_rows: int | None = Field(None, ge=1)
    """self_supervised: take at most this many texts, chosen by hash."""
    corpus_epochs: int = Field(1, ge=1, le=1000)
    """self_supervised: passes over the unlabelled text."""
    corpus_learning_rate: float = Field(1e-4, gt=0, le=1)
    """self_supervised: the peak learning rate of the further pre-training, which trains all weights of the base."""
    masked: float = Field(0.15, gt=0, lt=1)
    """self_supervised: the share of tokens that an encoder must guess."""
    preferences: str = Field("", max_length=1024)
    """preferences, reinforcement: the pairs, named as `dataset.source` is: columns `prompt`, `chosen`, `rejected`, or graded
    answers, `prompt`, `answer`, `grade`; empty takes train's right answers against wrong ones of the supervised model."""
    most_pairs: int = Field(400, ge=2)
    """preferences, reinforcement: how many pairs are used at most."""
    preference_epochs: int = Field(1, ge=1, le=1000)
    """preferences, reinforcement: passes over the pairs."""
    preference_learning_rate: float = Field(5e-5, gt=0, le=1)
    """preferences: the peak learning rate."""
    beta: float = Field(0.1, gt=0)
    """preferences: how much it costs to leave the supervised model (DPO's beta)."""
    algorithm: Algorithm = Algorithm.RLOO
    """reinforcement: how rewards become steps."""
    reinforce_steps: int = Field(50, ge=1)
    """reinforcement: optimiser steps."""
    reinforce_learning_rate: float = Field(5e-5, gt=0, le=1)
    """reinforcement: the peak learning rate."""
    group: int = Field(4, ge=2, le=256)
    """reinforcement: answers to one prompt, which are compared with each other."""
    kl_weight: float = Field(0.05, gt=0)
    """reinforcement: what the KL to the supervised model costs."""
    kl_limit: float = Field(0.5, gt=0)
    """reinforcement: the run stops where the KL goes beyond this."""

    @model_validator(mode="after")
    def _switches_fit_the_method(self) -> Self:
        wrong = [name for name in LORA_SWITCHES if getattr(self, name)] if self.method is not Method.LORA else []
        if wrong:
            raise ValueError(f"tuned {self.name!r}: {wrong[0]} is a way of LoRA, but the method is {self.method}: set method: lora")
        return self

    @model_validator(mode="after")
    def _objective_heeds_what_is_set(self) -> Self:
        heard = {"objective"} | READS[self.objective]
        unheard = [name for name in OBJECTIVES_OWN if name not in heard and getattr(self, name) != Tuned.model_fields[name].default]
        if unheard:
            wanted = " or ".join(objective for objective in Objective if unheard[0] in READS[objective])
            raise ValueError(
                f"tuned {self.name!r}: {unheard[0]} is for objective {wanted}, but the objective is {self.objective}: set "
                f"objective, or remove {unheard[0]}"
            )
        return self

    @model_validator(mode="after")
    def _searches_within_a_budget(self) -> Self:
        tried = [name for name in SEVERAL if name.endswith("_tried") and getattr(self, name)]
        if tried and not self.searches:
            raise ValueError(f"tuned {self.name!r}: {tried[0]} needs a budget: set search_trials or search_minutes")
        lora = [name for name in tried if name != "learning_rates_tried"] if self.method is not Method.LORA else []
        if lora:
            raise ValueError(f"tuned {self.name!r}: {lora[0]} is for LoRA, but the method is {self.method}: remove it")
        several = [name for name in SEVERAL if getattr(self, name)]
        if several and self.objective not in (Objective.SUPERVISED, Objective.SELF_SUPERVISED):
            raise ValueError(f"tuned {self.name!r}: {several[0]} is for classifiers, not for objective {self.objective}: remove it")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"tuned {self.name!r}: seeds {self.seeds} name one twice: name each once")
        return self

    @property
    def searches(self) -> bool:
        """Whether recipes are tried before the training."""
        return bool(self.search_trials or self.search_minutes)

    def single(self, **changes: Any) -> "Tuned":
        """The recipe of one training: with changes, and without what asks for several."""
        plain = {name: Tuned.model_fields[name].default for name in SEVERAL}
        return self.model_copy(update=plain | changes)


OF_HEADS = ("class_weights", "label_smoothing", "early_stopping", "head_start")
"""What only a training with a head heeds."""
SEVERAL = (
    "seeds",
    "search_trials",
    "search_minutes",
    "learning_rates_tried",
    "ranks_tried",
    "targets_tried",
    "learning_curve",
)
"""Fields of `Tuned` that ask for more than one training."""
