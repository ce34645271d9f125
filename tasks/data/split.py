"""Which rows teach, select and decide.

Where roles share a split of the source, each row goes by a hash of its content alone, or of its cluster where it has one: so a row
keeps its split when the data grows, and rows that say the same or belong together stay together. Caps keep rows by a second hash,
which knows nothing of the first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks.config import Splits
from tasks.data.rows import KEY, KEYS_AT_ONCE, Rows
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


def assign(plan: Plan, rows: Mapping[str, Rows]) -> dict[Split, Rows]:
    """Each role's rows, in the source's order. They are taken out of `rows`, which must not be used again."""
    taken = {role: _taken(share, rows[share.source]) for role, share in plan.shares.items()}
    in_place = {share.source: role for role, share in reversed(plan.shares.items())}  # train's, where it is among them
    made = {role: rows[share.source][taken[role]] for role, share in plan.shares.items() if in_place[share.source] != role}
    made |= {role: rows[source].keep(taken[role]) for source, role in in_place.items()}
    return {role: made[role] for role in SPLITS}


def _taken(share: Share, source: Rows) -> np.ndarray:
    """A mask: which rows of its source's split are a role's."""
    keys, taken = source.key if source.cluster is None else source.cluster, np.zeros(len(source), dtype=bool)
    for start in range(0, len(keys), KEYS_AT_ONCE):
        places = places_of(keys[start : start + KEYS_AT_ONCE])
        taken[start : start + KEYS_AT_ONCE] = (share.low <= places) & (places < share.high)
    return taken


def places_of(keys: np.ndarray) -> np.ndarray:
    """The places of hashes in [0, 1), to 53 bits so that none is 1."""
    return (keys.view(">u8")[::2] >> np.uint64(11)) / 2.0**53


def cap(rows: Rows, limit: int | None, stratified: bool = True) -> Rows:
    """At most `limit` rows in the source's order; where `stratified`, each label keeps its share of them."""
    if limit is None or len(rows) <= limit:
        return rows
    keys = rows.key.tobytes()
    hashes = (hashlib.sha256(b"cap" + keys[at : at + KEY.itemsize]).digest() for at in range(0, len(keys), KEY.itemsize))
    order = np.argsort(np.fromiter(hashes, dtype="S32", count=len(rows)), kind="stable")
    if not stratified:
        return rows[np.sort(order[:limit])]
    labels = rows.label[order]
    quotas = _quotas(rows.count_labels(), limit)
    kept = [order[labels == rows.labels.index(label)][:quota] for label, quota in quotas.items()]
    return rows[np.sort(np.concatenate(kept))]


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
