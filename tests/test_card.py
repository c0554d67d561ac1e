"""`@card(type="otel")` through Metaflow's own machinery: made, fetched, and shown by its server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from browser import Look
from collectors import free_ports
from running import Finished, Place, eventually, seen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLOW = """
    import os
    from metaflow import FlowSpec, card, otel, step
    class CardFlow(FlowSpec):
        @otel
        @card(type="otel")
        @step
        def start(self):
            print("printed in start")
            self.next(self.work)
        @card(type="otel")
        @otel
        @step
        def work(self):
            if os.environ.get("BROKEN"):
                raise ValueError("no rows")
            self.next(self.end)
        @otel
        @card(type="otel", id="whole")
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        CardFlow()
    """


def fetched(place: Place, finished: Finished, task: str) -> Path:
    """The card of a task, as `card get` writes it."""
    file = place.path / f"{task.replace('/', '-')}.html"
    subprocess.run(
        [sys.executable, "flow.py", "card", "get", f"{finished.run}/{task}", str(file)],
        cwd=place.path,
        env=place.environ(),
        check=True,
        capture_output=True,
    )
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    return place.run(FLOW)


@pytest.fixture(scope="module")
def failed(place: Place) -> Finished:
    return place.run(FLOW, env={"BROKEN": "1"})


def test_each_step_has_the_run_so_far_and_the_last_one_all_of_it(look: Look, place: Place, finished: Finished) -> None:
    assert finished.code == 0
    look.open(fetched(place, finished, "start/1"))
    assert [re.sub("^◆", "", row) for row in look.rows()] == ["start/1"]
    assert look.log() == ["printed in start"]
    assert look.page.locator("#header .pill").inner_text() == "running"
    look.requests.clear()
    look.page.goto(fetched(place, finished, "end/3").as_uri())
    look.page.wait_for_selector("html[data-ready]")
    assert [re.sub("^◆", "", row) for row in look.rows()] == ["start/1", "work/2", "end/3"]


def test_a_step_that_failed_has_one_too(look: Look, place: Place, failed: Finished) -> None:
    """Metaflow makes none for it; whatever the order of the two decorators."""
    assert failed.code == 1
    look.open(fetched(place, failed, "work/2"))
    assert look.title() == "work/2"
    assert "ValueError: no rows" in look.page.locator("#failure pre").inner_text()


def test_a_card_changes_nothing_else_of_the_run(tmp_path: Path, failed: Finished) -> None:
    """What the user sees is what a run without @otel and without cards shows."""
    plain = Place(tmp_path)
    other = plain.run(re.sub(r"@otel|@card\([^)]*\)", "", FLOW), env={"BROKEN": "1"})
    assert [unplaced(part) for part in seen(failed)[1:]] == [unplaced(part) for part in seen(other)[1:]]
    assert (failed.code, other.code) == (1, 1)


def unplaced(lines: list[str]) -> list[str]:
    """Lines of a traceback without where in the user's file they point: that has other lines without decorators."""
    return sorted(re.sub(r'"[^"]*/flow.py", line \d+', "flow.py", line) for line in lines)


def test_without_a_journal_it_names_the_cause(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path)
    finished = other.run(FLOW.replace("@otel", "").replace(", otel", ""))
    text = fetched(other, finished, "start/1").read_text()
    assert f"There is no journal of CardFlow/{finished.run}" in text
    assert "Add @otel to the step" in text


def test_metaflows_server_shows_it(chromium: Browser, place: Place, finished: Finished) -> None:
    """In a frame of its page, which gets what it needs from nowhere else."""
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "flow.py", "card", "server", "--run-id", finished.run, "--port", str(port)],
        cwd=place.path,
        env=place.environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        eventually(lambda: _answers(port))
        page = chromium.new_page()
        page.goto(f"http://localhost:{port}/", wait_until="domcontentloaded")
        card = page.frame_locator("iframe")
        card.locator("html[data-ready]").wait_for(state="attached")
        assert card.locator("h1").inner_text() == f"CardFlow / {finished.run}"
        page.close()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://localhost:{port}/", timeout=1).ok
    except requests.exceptions.RequestException:
        return False
