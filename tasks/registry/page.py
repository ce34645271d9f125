"""The champion, for its page in Prefect: what it is now, since when and why, and how to go back."""

from tasks.records import Champion
from tasks.registry.champion import ChampionVersion
from tasks.verdict.text import escape, markdown_table


def markdown_publication(champion: Champion, name: str, store: str, reason: str) -> str:
    """Of a champion that a run has just published."""
    return _page(champion, name, store, [("because", reason)])


def markdown_rollback(now: ChampionVersion, store: str) -> str:
    """Of a champion that was taken back."""
    facts = [
        ("event", f"taken back to version {now.back_to}"),
        ("replaces", f"version {now.previous}"),
        ("by", now.publisher),
        ("when", f"{now.published:%Y-%m-%d %H:%M} UTC"),
        ("because", now.reason),
    ]
    return _page(now.champion(), now.name, store, facts)


def _page(champion: Champion, name: str, store: str, facts: list[tuple[str, str]]) -> str:
    rows = [("store", store), ("contender", champion.contender), *facts, ("lies at", champion.uri)]
    return "\n\n".join(
        [
            f"# Champion of {escape(name)}: version {champion.version}, {escape(champion.contender)}",
            markdown_table(["", ""], [[title, escape(text)] for title, text in rows]),
            f"To go back to this version later: deployment `rollback`, with `to` {champion.version}.",
        ]
    )
