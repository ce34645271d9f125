"""The verdict reads in ten seconds, on any width, and data in it stays data."""

import io
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from tasks.config import Gate
from tasks.records import Arm, Champion, DatasetRecord, Decision, Reason, Trigger, Verdict, Why
from tasks.verdict.decision import decide
from tasks.verdict.report import HEADLINES, markdown_verdict, render_verdict, table_rows, verdict_of
from tests.verdict.builders import answers, contestant, scores
from tests.verdict.test_decision import field

DATASET = DatasetRecord(
    fingerprint="d" * 64,
    source="reviews.csv",
    revision="",
    inputs=["text"],
    labels=["negative", "positive"],
    rows={"train": 1500, "dev": 1000, "test": 500},
    label_rows={},
)
SHA256 = "ab12" * 16
CHAMPION = Champion(uri=f"s3://bakeoff/contenders/{SHA256}/", version=3, sha256=SHA256, contender="lora")
NASTY = "[bold]x[/] | <script>alert(1)</script> \x1b[31m\n# **head** ![i](http://e.vil) `c`"


def verdict(contestants=None, reigning=None, champion: Champion | None = CHAMPION, **updates) -> Verdict:
    judgement = decide(Gate(), contestants or field(), reigning)
    made = verdict_of(
        judgement,
        run_id="run",
        name="quickstart",
        dataset=DATASET,
        champion=champion,
        spent_usd=0.0123,
        reused=["load"],
        created=datetime(2026, 11, 24, tzinfo=UTC),
    )
    return made.model_copy(update=updates)


def shown(verdict: Verdict, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render_verdict(verdict))
    return console.file.getvalue()


def test_the_verdicts_json_is_read_back_as_it_was():
    made = verdict()
    assert Verdict.model_validate_json(made.model_dump_json()) == made
    assert (made.dataset.train, made.dataset.test, made.reused) == (1500, 500, ["load"])


def test_every_key_and_word_of_the_verdicts_json_stands_in_its_page(root: Path):
    code = re.findall(r"`([^`\n]+)`", (root / "docs" / "verdict.md").read_text())
    named = set(re.findall(r"\w+", " ".join(code)))
    schema = Verdict.model_json_schema(mode="serialization")
    parts = [schema, *schema["$defs"].values()]
    written = {word for part in parts for word in [*part.get("properties", {}), *part.get("enum", [])]}
    assert written - named == set()


def test_by_macro_f1_the_headline_has_macro_f1_and_a_difference_says_of_what_it_is():
    made = verdict()
    lines = [
        line.model_copy(update={"test": line.test.model_copy(update={"macro_f1": 0.4321})}) if line.name == made.winner else line
        for line in made.contenders
    ]
    by_f1 = made.model_copy(update={"metric": "macro_f1", "contenders": lines})
    assert f"PUBLISHED  {made.winner} with 43.2 % macro-F1" in shown(by_f1)
    assert f"PUBLISHED  {made.winner} with {100 * made.contenders[0].test.accuracy:.1f} %\n" in re.sub(r" +\n", "\n", shown(made))
    assert r"\] of accuracy" in markdown_verdict(made)


@pytest.mark.parametrize("reigning", [None, field()[0], contestant("old", Arm.PROMPT, answers(0.79))])
def test_the_first_line_is_the_decision(reigning):
    made = verdict(reigning=reigning)
    assert shown(made).strip().splitlines()[0].startswith(HEADLINES[made.decision])
    assert markdown_verdict(made).startswith(f"# {HEADLINES[made.decision]}")


@pytest.mark.parametrize("width", [80, 120])
def test_every_figure_is_whole_and_no_line_is_too_long(width):
    long = contestant("n" * 64, Arm.TRIVIAL, answers(0.62), dev=0.6, cost=123.4, failed=30, failures={"invalid": 41})
    text = shown(verdict([*field(), long]), width)
    assert max(map(len, text.splitlines())) <= width
    for figure in ("80.0 [76.3, 83.3]", "0.0100", "12/36", "123.40", "80.0"):
        assert figure in text
    assert "★  lora" in text
    assert "•  few_shot" in text
    assert "30 of 500 test rows" in " ".join(text.split())


def test_both_say_where_the_champion_lies_and_how_to_look_closer():
    made = verdict()
    assert "s3://bakeoff/contenders/ab12ab12ab12…/" in shown(made)
    assert "s3://bakeoff/contenders/ab12ab12ab12…/" in markdown_verdict(made)
    assert "bakeoff champion show task.yaml" in markdown_verdict(made, ["bakeoff champion show task.yaml"])
    assert "look closer" not in shown(made)
    assert "none yet" in shown(verdict(champion=None))


def test_the_terminal_says_where_the_report_lies():
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(render_verdict(verdict(), page="/home/runs/run/report.html"))
    assert console.file.getvalue().splitlines()[-1].split() == ["report", "/home/runs/run/report.html"]


def test_figures_that_cannot_be_had_are_dashes():
    line = verdict().contenders[0]
    bare = scores(400, 500, cost=None, p50=None).model_copy(update={"macro_f1": None})
    without = line.model_copy(update={"test": bare, "cost_usd_per_1000": None, "latency_ms": bare.latency_ms})
    made = verdict(contenders=[without])
    row = next(row for row in shown(made).splitlines() if "★" in row)
    assert row.split()[-3:] == ["—", "—", "—"]
    assert table_rows(made)[0]["usd per 1000"] is None


def test_the_figure_on_the_whole_split_is_beside_where_there_is_one():
    lines = [line.model_copy(update={"whole": scores(1200, 1500)}) for line in verdict().contenders]
    assert "whole split" not in shown(verdict())
    assert "lora 80.0 %" in shown(verdict(contenders=lines)).split("whole split")[1]


def nasty_verdict() -> Verdict:
    made = verdict()
    lines = [made.contenders[0].model_copy(update={"name": NASTY, "failures": {"invalid": 3}}), *made.contenders[1:]]
    comparison = made.comparison.model_copy(update={"contender": NASTY, "against": NASTY})
    return made.model_copy(
        update={
            "contenders": lines,
            "winner": NASTY,
            "reason": NASTY,
            "comparison": comparison,
            "comparisons": [comparison],
            "champion": CHAMPION.model_copy(update={"contender": NASTY, "uri": NASTY}),
        }
    )


def test_a_name_brings_no_markup_or_control_code_into_the_terminal():
    console = Console(width=400, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render_verdict(nasty_verdict()))
    text = console.file.getvalue()
    assert "[bold]x[/]" in text
    assert "\x1b[31m" not in text
    assert NASTY not in text


def test_a_name_brings_no_markup_into_the_page():
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown_verdict(nasty_verdict()))
    assert "<script" not in html
    assert "<img" not in html
    assert "<strong>head" not in html
    assert html.count("<h1>") == 1
    assert "&lt;script&gt;" in html
    cells = html.split("<tbody>")[1].split("</tr>")[0].count("<td")
    assert cells == 8


def test_not_enough_evidence_names_the_champion_that_stays():
    made = verdict(reigning=contestant("old", Arm.PROMPT, answers(0.79)), champion=CHAMPION.model_copy(update={"contender": "old"}))
    assert made.decision is Decision.NOT_ENOUGH_EVIDENCE
    assert shown(made).strip().splitlines()[0] == "NOT ENOUGH EVIDENCE  no new champion; the champion old stays"


def test_an_odd_run_without_comparisons_is_shown_as_well():
    made = verdict(field(n=5), champion=None)
    assert made.comparison is None
    assert "test has 5 rows" in shown(made)
    assert "On the same test rows" not in markdown_verdict(made)


def test_why_it_ran_is_told_in_the_terminal_and_on_the_page_and_only_then():
    why = Why(words="rows.csv has a *new* version", reasons=[Reason(kind=Trigger.DATA, words="rows.csv has a *new* version")])
    ran = verdict().model_copy(update={"why": why})
    assert "rows.csv has a *new* version" in shown(ran)
    assert "- **why** rows.csv has a \\*new\\* version" in markdown_verdict(ran)
    assert "**why**" not in markdown_verdict(verdict())
