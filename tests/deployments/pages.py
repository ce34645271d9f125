"""Prefect's UI in a real browser, as a person uses it. Every look leaves a screenshot."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = os.environ.get("FORM_PICTURES", "")
"""A folder for the screenshots; empty leaves them with the test."""
PATIENCE_MS = 120_000


class Pages:
    """A browser's window on the UI of a Prefect server."""

    def __init__(self, page: "Page", server: str, pictures: Path) -> None:
        self.page, self.pictures, self.address = page, pictures, server.removesuffix("/api")
        self.root = self.address + "/v2"
        self._taken = 0

    def look(self, name: str, whole: bool = False) -> None:
        """A screenshot, numbered in the order of the story."""
        self._taken += 1
        self.page.screenshot(path=self.pictures / f"{self._taken:02d}-{name}.png", full_page=whole)

    def find_deployment(self, flow: str, name: str) -> None:
        """From the address that `make up` prints, by clicks alone."""
        self.page.goto(self.address)
        self.page.get_by_role("link", name="Deployments", exact=True).click()
        self.page.get_by_placeholder("Search deployments").fill(name)  # the list shows ten of them
        self.page.wait_for_url(lambda address: f"={name}" in address)  # the search comes late, and leaves a page opened meanwhile
        rows = self.page.get_by_role("row").filter(has=self.page.get_by_role("link", name=flow, exact=True))
        rows.get_by_role("link", name=name, exact=True).click()
        self._run_button().wait_for()
        self.says("Flow ID")

    def open_custom_run(self) -> None:
        """The form, from a deployment's page."""
        self._run_button().click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()

    def _run_button(self) -> "Locator":
        return self.page.get_by_role("button", name="Run", exact=True)

    def open_deployment(self, deployment: str) -> None:
        self.page.goto(f"{self.root}/deployments/deployment/{deployment}")
        self._run_button().wait_for()

    def open_form(self, deployment: str) -> None:
        self.page.goto(f"{self.root}/deployments/deployment/{deployment}/run")
        self.page.get_by_role("button", name="Submit").wait_for()

    def open_run(self, run: str, tab: str = "") -> None:
        self.page.goto(f"{self.root}/runs/flow-run/{run}")
        if tab:
            self.page.get_by_role("tab", name=tab, exact=True).click()

    def leave(self) -> None:
        """Look at nothing while a run works: a page that shows progress takes half a core to draw."""
        self.page.goto("about:blank")

    def field(self, title: str, number: int = 0) -> "Locator":
        """A field by its title; of several with one title, the one of that number."""
        return self.page.get_by_label(title, exact=True).nth(number)

    def submit(self) -> str:
        """Send the form. Returns what the server says: the new run's id, or why there is none."""
        answer = self._sent(self.page.get_by_role("button", name="Submit"), "/create_flow_run")
        return str(answer.get("id") or answer["detail"])

    def _sent(self, button: "Locator", address: str) -> dict[str, Any]:
        """What the server answers to a click, which is one more click where SQLite was busy."""
        for _ in range(20):
            with self.page.expect_response(lambda answer: answer.url.endswith(address)) as sent:
                button.click()
            if sent.value.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
        return dict(sent.value.json())

    def resume(self) -> "Locator":
        """The form of a paused run, which its page opens from the menu at the top."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name="Resume").click()
        self.page.get_by_role("dialog").get_by_label("Publish (Optional)").wait_for()
        return self.page.get_by_role("dialog")

    def answer(self, word: "Locator") -> None:
        """Send the form of a paused run."""
        answer = self._sent(word.get_by_role("button", name="Resume"), "/resume")
        assert answer["status"] == "ACCEPT", answer

    def open_artifact(self, key: str) -> None:
        """From a run's page; its newest artifact of that key."""
        self.page.get_by_text(key, exact=True).first.click()
        self.page.locator('a[href*="/artifacts/artifact/"]').first.click()
        self.says("Show Raw Data")

    def says(self, *texts: str) -> None:
        """Waits until each of the texts stands somewhere in the window."""
        for text in texts:
            self.page.get_by_text(text).first.wait_for()


@contextmanager
def opened_pages(chromium: str, server: str, folder: Path) -> Iterator[Pages]:
    """A browser for the time of a `with`."""
    from playwright.sync_api import sync_playwright

    pictures = Path(PICTURES) if PICTURES else folder
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        page.set_default_timeout(PATIENCE_MS)
        try:
            yield Pages(page, server, pictures)
        finally:
            browser.close()
