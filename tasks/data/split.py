"""Which rows teach, select and decide.

Where roles share a split of the source, each row goes by a hash of its content alone, so a row keeps its split when the data
grows, and rows that say the same always stay together. Caps keep rows by a second hash, which knows nothing of the first.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.config import Splits
from tasks.data.validate import Row
from tasks.errors import BadData
from tasks.records import SPLITS, Split

USUAL: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "dev": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""How sources name the splits."""


@dataclass(frozen=True)
class Share:
    """A role's share of one split of the source: the rows whose hash, in [0, 1), lies in [low, high)."""

    source: str
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """Where each role's rows come from."""

    shares: dict[Split, Share]

    @property
    def sources(self) -> list[str]:
        """The source's splits that are used."""
        return list(dict.fromkeys(share.source for share in self.shares.values()))

    @property
    def halved(self) -> bool:
        """Whether dev and test, but not train, come from one split of the source."""
        return self.shares["dev"].source == self.shares["test"].source != self.shares["train"].source

    def is_given(self, role: Split) -> bool:
        """Whether the source itself keeps this role's rows apart from train's."""
        return self.shares[role].source != self.shares["train"].source


def plan_splits(names: Sequence[str], splits: Splits) -> Plan:
    """Who takes what from a source with splits of these names.

    Raises:
        BadData: a split that the config names is not there, or none can be recognised as train.
    """
    sources = _sources(names, splits)
    shares: dict[Split, Share] = {}
    for source in dict.fromkeys(sources.values()):
        weights = _weights([role for role in SPLITS if sources[role] == source], splits)
        low = 0.0
        for role in sorted(weights):  # dev, test, train: what is left is train's
            shares[role] = Share(source, low, low + weights[role])
            low += weights[role]
        shares[role] = replace(shares[role], high=1.0)
    return Plan({role: shares[role] for role in SPLITS})


def assign(plan: Plan, rows: Mapping[str, Sequence[Row]]) -> dict[Split, list[Row]]:
    """Each role's rows, in the source's order."""
    return {
        role: [row for row in rows[share.source] if share.low <= place_of(row.key) < share.high]
        for role, share in plan.shares.items()
    }


def place_of(key: bytes) -> float:
    """A hash's place in [0, 1), to 53 bits so that it is never 1."""
    return (int.from_bytes(key[:8]) >> 11) / 2**53


def cap(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows, each label keeping its share of them, in the source's order."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    quotas = _quotas(Counter(row.label for row in rows), limit)
    taken: Counter[str] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: hashlib.sha256(b"cap" + row.key).digest()):
        if taken[row.label] < quotas[row.label]:
            taken[row.label] += 1
            kept.append(row)
    return sorted(kept, key=lambda row: row.place)


def _sources(names: Sequence[str], splits: Splits) -> dict[Split, str]:
    """The source's split for each role."""
    asked = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    for role, name in asked.items():
        if name and name not in names:
            raise BadData(f"dataset.splits.{role} is {name!r}, but the source has {', '.join(map(repr, names))}")
    usual = {role: next((name for name in USUAL[role] if name in names), "") for role in SPLITS}
    train = asked["train"] or usual["train"] or (names[0] if len(names) == 1 else "")
    if not train:
        raise BadData(
            f"no split of the source is named train; it has {', '.join(map(repr, names))}: name one under dataset.splits.train"
        )
    dev, test = (asked[role] or (usual[role] if usual[role] != train else "") for role in ("dev", "test"))
    if dev and not test:
        test = dev  # halved, rather than taking rows away from train
    return {"train": train, "dev": dev or train, "test": test or train}


def _weights(roles: Sequence[Split], splits: Splits) -> dict[Split, float]:
    """The shares of one split of the source among its roles, which add up to 1."""
    asked: dict[Split, float] = {"dev": splits.dev_share, "test": splits.test_share}
    if "train" in roles:
        shares = {role: asked[role] for role in roles if role != "train"}
        return shares | {"train": 1 - sum(shares.values())}
    total = sum(asked[role] for role in roles)
    return {role: asked[role] / total for role in roles}


def _quotas(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """`limit` shared out in proportion, by largest remainder."""
    total = sum(counts.values())
    exact = {label: limit * count / total for label, count in counts.items()}
    quotas = {label: int(share) for label, share in exact.items()}
    for label in sorted(exact, key=lambda label: (quotas[label] - exact[label], label))[: limit - sum(quotas.values())]:
        quotas[label] += 1
    return quotas
