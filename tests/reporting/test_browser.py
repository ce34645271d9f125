"""The report as a browser shows it: whole, quiet, and readable on any screen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.reporting.page import write_report
from tasks.reporting.runs import runs_folder
from tasks.workspace import Workspace
from tests.deployments.pages import CHROMIUM
from tests.reporting.conftest import hostile
from tests.reporting.making import make_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt-get install chromium` brings one"),
]
CONTRAST = """() => {
  const light = rgb => rgb.map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const read = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const ground = light(read(getComputedStyle(document.body).backgroundColor));
  const found = [...document.querySelectorAll('main p, main td, main th, header p, .mark, a, summary, svg text')].map(each => {
    const style = getComputedStyle(each), ink = light(read(each.closest('svg') ? style.fill : style.color));
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  });
  return Math.min(...found);
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = tmp_path_factory.mktemp("workspace")
    verdict = make_run(space, hostile())
    return write_report(runs_folder(space) / verdict.run_id, Workspace(space))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_loads_without_a_complaint_or_a_request_and_is_readable(browser: Any, report: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert complaints == []
    assert [url for url in requests if url != report.as_uri() and not url.startswith("data:")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll sideways, inside their own box"
    assert page.locator("svg").count() >= 9
    assert all(svg.bounding_box()["width"] > 150 for svg in page.locator("svg").all())
    assert page.get_by_role("heading", level=1).inner_text().startswith(("NOT ENOUGH EVIDENCE", "PUBLISHED"))
    assert page.get_by_text("<script>alert(1)</script> 0", exact=True).first.is_visible()
    assert page.evaluate(CONTRAST) >= 4.5, "as WCAG 2 asks of text"
    page.close()


def test_the_figures_of_a_picture_unfold(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    figures = page.locator("figure").first
    assert not figures.locator("table").is_visible()
    figures.get_by_text("Figures").click()
    assert figures.locator("table").is_visible()
    page.close()
