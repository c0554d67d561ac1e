"""Chromium, and a page in it that must neither complain nor ask the network for anything."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the tests of the range do without it
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        # A CI run that quietly left the browser out would prove nothing about the page.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the page cannot be looked at without chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Look:
    """A page in a browser, and what went wrong in it."""

    page: Page
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, file: Path) -> None:
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def rows(self) -> list[str]:
        """The names of the rows that are drawn, from above."""
        rows = self.page.locator("#rows .row").all()
        rows.sort(key=lambda row: float(row.evaluate("row => parseFloat(row.style.top)")))
        return [row.locator(".name").inner_text() for row in rows]

    def log(self) -> list[str]:
        """The log lines that are drawn, from above, without time and source."""
        script = """nodes => nodes.sort((one, other) => parseFloat(one.style.top) - parseFloat(other.style.top))
            .map(node => [...node.childNodes].slice(2).map(part => part.textContent).join(""))"""
        found: list[str] = self.page.locator("#log .line").evaluate_all(script)
        return found

    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def title(self) -> str:
        return self.page.locator("#detail-title").inner_text()


@pytest.fixture
def look(chromium: Browser) -> Iterator[Look]:
    """A page that must neither complain nor ask the network for anything."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    seen = Look(context.new_page())
    yield seen
    context.close()
    assert seen.problems == []
    assert [url for url in seen.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in seen.requests if url.startswith("file:")]) == 1
