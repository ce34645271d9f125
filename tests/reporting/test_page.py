"""The report is one file that needs nothing, shows everything in its place, and in which data stay data."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tasks.records import Reason, Trigger, Verdict, Why
from tasks.reporting.markdown import MOST_ROWS, markdown_page
from tasks.reporting.page import read_page, write_report
from tasks.reporting.parts import Chart, Page, Section, Table
from tasks.reporting.runs import KEPT, runs_folder
from tasks.reporting.text import cut, visible
from tasks.verdict.text import escape
from tasks.workspace import Workspace
from tests.reporting.conftest import LABELS, hostile
from tests.reporting.making import make_run

ORDER = [
    "Contenders",
    "Differences on the same rows",
    "Cost against quality",
    "What was taken for what",
    "How far probabilities can be believed",
    "How the tuned ones learned",
    "Where contenders disagree",
    "What failed",
    "What was dropped, cut or mended",
    "What it cost",
    "Lineage",
    "Prompts",
]


class Seen(HTMLParser):
    """What a browser would make of the page: tags with their attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.headings: list[tuple[int, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if any(re.fullmatch(r"h[1-6]", tag) for tag in self.open):
            level, said = self.headings[-1]
            self.headings[-1] = level, said + data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in tags]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Verdict, str]:
    """A verdict and its page; drawn once, since nothing is changed by those who look at it."""
    space = tmp_path_factory.mktemp("workspace")
    verdict = make_run(space, hostile())
    return verdict, write_report(runs_folder(space) / verdict.run_id, Workspace(space)).read_text()


def test_the_runs_page_in_prefect_tells_all_that_the_file_does_and_data_bring_no_markup_there(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    space = tmp_path_factory.mktemp("workspace")
    verdict = make_run(space, hostile())
    told = markdown_page(read_page(runs_folder(space) / verdict.run_id, Workspace(space)))
    headings = [line.removeprefix("## ") for line in told.splitlines() if line.startswith("## ")]
    assert [each for each in headings if each in ORDER] == ORDER
    assert "right label down, answer across" in told, "confusions"
    assert "Reliability of" in told
    assert "of the source, right:" in told, "rows on which contenders disagree"
    outside = "\n".join(line for line in told.splitlines() if not line.startswith("    ") or line.startswith("    - "))
    assert "<script" not in outside
    assert "<b>" not in outside
    assert "\r" not in told
    assert not re.search(r"(https?|ftp)://|www\.\w|\w@\w", outside), "no address that becomes a link"
    tags = set(re.findall(r"<([a-z0-9]+)", MarkdownIt("commonmark").enable("table").render(told)))
    assert tags <= {"h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "pre", "code"}


@pytest.fixture
def page(shown: tuple[Verdict, str]) -> str:
    return shown[1]


def test_rows_labels_and_answers_bring_no_markup_and_no_template_into_the_page(page: str) -> None:
    seen = Seen(page)
    assert not {"script", "img", "iframe", "object", "form", "base"} & {tag for tag, _ in seen.tags}
    assert len(seen.all("style")) == 1
    assert [name for _, attrs in seen.tags for name in attrs if name.startswith("on")] == []
    assert "<script>alert(1)</script> 0" in seen.text
    assert "{{ 7*7 }} {% raw %}" in seen.text
    assert "&lt;b&gt; already escaped &amp;" in seen.text
    assert "</li><script>alert(3)</script>" in seen.text
    assert LABELS[0] in seen.text


def test_nothing_in_the_page_is_fetched_from_elsewhere(page: str) -> None:
    places = [value for _, attrs in Seen(page).tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")]
    assert [place for place in places if not (place or "").startswith(("#", "data:,"))] == []
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_marks_that_turn_the_text_are_spelled_out_and_scripts_of_people_are_not(page: str) -> None:
    assert not re.search("[\x00\x1b\u202e\u2066]", page)
    assert "turned [U+202E] around [U+2066]and[U+001B][31m red[U+0000]" in page
    assert "مرحبا 👩‍🚀 日本語" in page


def test_long_rows_and_answers_are_cut_and_the_cut_is_told(page: str) -> None:
    assert "x" * 601 not in page
    assert "the whole has 20,002 characters" in page or "the whole has 20,003 characters" in page
    assert "the whole has 5,000 characters" in page
    assert visible("a\u200fb") == "a[U+200F]b"
    assert cut("short").characters == 5


def test_the_parts_come_in_their_order_under_headings_without_a_gap(page: str) -> None:
    headings = Seen(page).headings
    assert [said for level, said in headings if level == 2] == ORDER
    assert [level for level, _ in headings].count(1) == 1
    levels = [level for level, _ in headings]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_those_who_do_not_see_it_are_told_what_every_picture_and_cell_is(page: str) -> None:
    seen = Seen(page)
    assert seen.all("html")[0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in seen.all("meta"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in seen.all("th"))
    pictures = seen.all("svg")
    ids = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(pictures) >= 9
    assert all(attrs["role"] == "img" for attrs in pictures)
    assert all(name in ids for attrs in pictures for name in (attrs["aria-labelledby"] or "").split())
    assert len(ids) == len(set(ids))
    assert page.count("<summary>Figures</summary>") == len(pictures)


def test_pictures_take_their_colours_from_the_page(page: str) -> None:
    body = page.split("</style>", 1)[1]
    assert set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", body)) <= {"#000000"}
    assert "var(--ink)" in body
    assert "font-family" not in body


def test_figures_failures_findings_prompts_and_lineage_are_there(shown: tuple[Verdict, str]) -> None:
    verdict, page = shown
    text = Seen(page).text
    line = verdict.contenders[0]
    assert f"{100 * line.test.accuracy:.1f} [{100 * line.test.interval[0]:.1f}" in text
    assert verdict.reason in text
    assert "test: 3 rows were cut <i>here</i>" in text
    assert "Classify {{ labels }} <b>now</b>." in text
    assert "source: rows.csv" in text
    assert verdict.dataset.fingerprint in text
    assert "no usable answer (invalid)" in text


def test_the_pages_own_words_have_no_marks_of_markdown_in_them(page: str) -> None:
    text = Seen(page).text
    assert "the column p, Holm is for reading all comparisons at once." in text
    assert [line for line in text.splitlines() if "`" in line or "**" in line] == []


def test_lineage_tells_the_prices_with_their_day_and_from_which_revision_of_its_base_the_tuned_one_comes(
    verdict: Verdict, space: Path
) -> None:
    folder = runs_folder(space) / verdict.run_id
    prices = "loopback: m, $0.15 in, $0.6 out a million tokens (settings of 2026-11-20)"
    base = "tiny at revision 1, of tuned"
    made = read_page(folder, Workspace(space))
    facts = next(each.facts for each in made.sections if each.title == "Lineage")
    assert [fact for fact in facts if fact[0] in ("model", "base")] == [("model", prices), ("base", base)]
    assert f"- **base** {base}" in markdown_page(made)
    assert escape(prices) in markdown_page(made)
    (space / "products" / "evidence").rename(space / "gone")
    (space / "products" / "predictions").rename(space / "gone-too")
    assert base in Seen(write_report(folder, Workspace(space)).read_text()).text, "where its products are no longer there"


def test_a_run_of_an_earlier_release_has_its_base_from_the_contender(verdict: Verdict, space: Path) -> None:
    kept = runs_folder(space) / verdict.run_id / KEPT
    run = json.loads(kept.read_text())
    for each in run["contenders"]:
        del each["base"], each["revision"]
    kept.write_text(json.dumps(run))
    assert "tiny at revision 1, of tuned" in Seen(write_report(kept.parent, Workspace(space)).read_text()).text


def test_a_second_report_draws_and_reads_nothing_again_and_outlives_the_rows_it_was_made_of(verdict: Verdict, space: Path) -> None:
    folder = runs_folder(space) / verdict.run_id
    page = write_report(folder, Workspace(space)).read_text()
    products = {path: path.stat().st_mtime_ns for path in (space / "products").rglob("*")}
    workspace = Workspace(space)
    assert write_report(folder, workspace).read_text() == page
    assert workspace.reused == ["evidence", "pictures"]
    assert {path: path.stat().st_mtime_ns for path in (space / "products").rglob("*")} == products
    (space / "products" / "predictions").rename(space / "gone")
    assert write_report(folder, Workspace(space)).read_text() == page
    (space / "products" / "evidence").rename(space / "gone-too")
    bare = write_report(folder, Workspace(space)).read_text()
    assert "no longer in the workspace" in bare
    assert verdict.dataset.fingerprint in bare


def test_a_run_of_an_earlier_release_has_a_report_of_what_its_verdict_says(verdict: Verdict, space: Path, tmp_path: Path) -> None:
    (runs_folder(space) / verdict.run_id / KEPT).unlink()
    page = write_report(runs_folder(space) / verdict.run_id, Workspace(space), tmp_path / "deep" / "it.html").read_text()
    assert "Contenders" in page
    assert "This run kept neither its config nor its versions" in page


def test_what_the_run_alone_knows_of_its_tuned_contenders_is_shown(verdict: Verdict, space: Path) -> None:
    page = write_report(runs_folder(space) / verdict.run_id, Workspace(space)).read_text()
    assert "twice the labels would add 1.0 points" in page
    assert "How tuned grows with its rows" in page
    assert "tuned: by seed" in page


def test_why_it_ran_stands_at_the_top_as_text_and_nothing_where_somebody_ran_it(page: str, tmp_path: Path) -> None:
    assert "It ran because" not in page
    verdict = make_run(tmp_path, hostile())
    words = "it was asked for: </p><script>alert(9)</script>\u202e"
    why = Why(words=words, reasons=[Reason(kind=Trigger.ASKED, words=words)])
    folder = runs_folder(tmp_path) / verdict.run_id
    (folder / "verdict.json").write_text(verdict.model_copy(update={"why": why}).model_dump_json())
    seen = Seen(write_report(folder, Workspace(tmp_path)).read_text())
    assert "It ran because it was asked for: </p><script>alert(9)</script>[U+202E]." in seen.text
    assert not seen.all("script")


def test_in_prefect_words_about_pictures_are_left_out_and_of_many_figures_some_are_shown_with_the_last() -> None:
    rows = [[f"step {number}", f"{1 / number:.4f}"] for number in range(1, 500)]
    charts = [Chart("Loss", "<svg/>", Table("Loss by step", ("step", "loss"), rows))]
    section = Section("How the tuned ones learned", ["It learned."], charts=charts, drawn=["Under the dashed line it is too sure."])
    told = markdown_page(Page("t", "h", "r", "a", "", "publish", [section]))
    assert "It learned" in told
    assert "dashed" not in told
    shown = re.findall(r"step (\d+)", told)
    assert (shown[0], shown[-1]) == ("1", "499")
    assert MOST_ROWS / 2 < len(shown) <= MOST_ROWS + 1
    assert f"{len(shown)} of 499 rows" in told
