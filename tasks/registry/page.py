"""The champion, for its page in Prefect: what it is now, since when and why, and how to go back."""

from tasks.records import Champion
from tasks.registry.champion import ChampionVersion
from tasks.verdict.text import escape


def markdown_publication(champion: Champion, previous: ChampionVersion | None, name: str, store: str, reason: str) -> str:
    """Of a champion that a run has just published."""
    replaces = f"version {previous.version}, {previous.contender}" if previous else "nothing: it is the first"
    return _page(champion, name, store, [("replaces", replaces), ("because", reason)])


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
    return "\n\n".join(
        [
            f"# Champion of {escape(name)}: version {champion.version}, {escape(champion.contender)}",
            "\n".join(f"- **{title}** {escape(text)}" for title, text in facts),
            f"It lies in store {escape(store)}:",
            f"    {champion.uri}",  # as code, which scrolls: it is too long for a line
            f"To come back to this version later: deployment `rollback`, with `to` {champion.version}.",
        ]
    )
