"""Takes the pictures of the README: of the page and of the card of the run that `make demo` made.

make screenshots
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs/pictures"
DEMO = ROOT / ".demo"
WIDTH = 1180
_RENAME = """([now, then]) => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = walk.nextNode(); text; text = walk.nextNode()) text.data = text.data.replaceAll(now, then);
}"""


def shoot(page: Page, name: str, height: int) -> None:
    """Take what is in sight of a page."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    for frame in page.frames:  # where this checkout lies is nobody's concern
        frame.evaluate(_RENAME, [str(ROOT), "/home/ann/otel-metaflow"])
    page.screenshot(path=PICTURES / f"{name}.png")


def of_page(browser: Browser) -> None:
    """The top of the page, in light; an attempt and its log, in dark."""
    for name, scheme, height in (("page", "light", 1010), ("attempt", "dark", 800)):
        page = browser.new_page(color_scheme=scheme)
        page.set_viewport_size({"width": WIDTH, "height": height})
        page.goto((DEMO / "run.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        if name == "attempt":
            page.keyboard.press("f")
            page.locator("#log .line", has_text="middle of a row").wait_for()
            page.evaluate("window.scrollTo(0, document.getElementById('detail').offsetTop - 230)")
        shoot(page, name, height)
        page.close()


def of_card(browser: Browser) -> None:
    """The card of the step that failed, in Metaflow's own card server."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (run,) = (path.name for path in (DEMO / "journals/TourFlow").iterdir())
    server = subprocess.Popen(
        [sys.executable, "examples/tour.py", "card", "server", "--run-id", run, "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        page = browser.new_page(color_scheme="light")
        page.set_viewport_size({"width": WIDTH, "height": 700})
        _open(page, f"http://localhost:{port}/")
        options = [text.strip() for text in page.locator("select option").all_text_contents()]
        page.locator("select").select_option(index=options.index("train/7"))
        page.frame_locator("iframe").locator("#failure h2").wait_for()
        shoot(page, "card", 700)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _open(page: Page, url: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            requests.get(url, timeout=1)
            break
        except requests.exceptions.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    page.goto(url, wait_until="domcontentloaded")


def main() -> None:
    """Take them all."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("the pictures are taken with chromium: apt install chromium")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        of_page(browser)
        of_card(browser)
        browser.close()


if __name__ == "__main__":
    main()
