"""The report as Markdown, for the run's page in Prefect: the same parts in the same order, pictures as their figures."""

from collections.abc import Iterator
from dataclasses import replace

from tasks.reporting.parts import Page, Section, Table
from tasks.reporting.records import Said, ShownRow, Text
from tasks.reporting.text import visible
from tasks.verdict.text import escape, markdown_table

MOST_ROWS = 60
"""Of a picture's figures: beyond that the page is mostly one table."""


def markdown_page(page: Page) -> str:
    """All of a page; whatever is data in it is escaped. Pictures are told by the tables that they are drawn from."""
    parts = [f"# {escape(page.headline)}", escape(page.reason), escape(page.about), *([escape(page.why)] if page.why else [])]
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {escape(section.title)}"
    yield from (escape(text) for text in section.said)
    for table in [*(_thinned(chart.table) for chart in section.charts), *section.tables]:
        yield f"**{escape(table.caption)}**"
        yield _table(table)
    if section.facts:
        yield "\n".join(f"- **{escape(name)}** {escape(text)}" for name, text in section.facts)
    yield from map(_row, section.rows)
    for code in section.codes:
        yield f"**{escape(code.title)}**"
        yield _code(code.text)


def _thinned(table: Table) -> Table:
    """A picture's figures; of many, some at equal distances and the last: a training tells its loss hundreds of times."""
    every = -(-len(table.rows) // MOST_ROWS)
    if every < 2 or table.marked is not None:
        return table
    rows = [*table.rows[:-1:every], table.rows[-1]]
    return replace(table, caption=f"{table.caption} ({len(rows)} of {len(table.rows)} rows)", rows=rows)


def _table(table: Table) -> str:
    cells = [[escape(cell) for cell in row] for row in table.rows]
    if table.marked is not None:
        cells[table.marked] = [f"**{cell}**" if cell else "" for cell in cells[table.marked]]
    return markdown_table([escape(name) for name in table.head], cells)


def _row(row: ShownRow) -> str:
    lines = [f"- Row {row.row} of the source, right: {_data(row.reference)}"]
    lines += [f"    - {escape(name)}: {_data(text)}" for name, text in row.inputs.items()]
    return "\n".join([*lines, *(f"    - {_said(each)}" for each in row.said)])


def _said(said: Said) -> str:
    answer = _data(said.label) if said.label is not None else f"no usable answer ({escape(str(said.failure))})"
    sure = f" ({said.probability:.0%})" if said.probability is not None else ""
    raw = f"; said: {_data(said.raw)}" if said.raw is not None else ""
    return f"**{escape(said.contender)}**: {answer}{sure}, {'right' if said.correct else 'wrong'}{raw}"


def _data(text: Text) -> str:
    cut = f" … (cut: the whole has {text.characters:,} characters)" if text.characters > len(text.text) else ""
    return f"{escape(text.text)}{cut}"


def _code(text: str) -> str:
    """As a block by indentation, which nothing in the text can end: whatever else ends a line is spelled out."""
    return "\n".join(f"    {line}" for line in visible(text).split("\n"))
