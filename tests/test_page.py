"""The page of a run, in a real browser."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import Look
from collectors import ROOT
from journals import Journals, moment, wide
from running import Finished, Place, eventually

from otel_metaflow.core import settings
from otel_metaflow.journal.processes import process_start
from otel_metaflow.model.run import load
from otel_metaflow.viewer import page as pages

HOSTILE = (
    '<img src=x onerror="window.pwned=1">',
    "</script><script>window.pwned=2</script>",
    "<!--<script>",
    "'\"`${window.pwned=3}",
    "javascript:window.pwned=4",
    "@@SCRIPT@@ @@DATA@@",
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \x1b[2J",
    "\u202egnp.exe\u202c \u2066mixed\u2069 \u0000 \u2028 \U0001f389",
)


def write(home: Path, folder: Path, file: Path, **variables: str) -> Path:
    file.write_text(pages.html(settings.read({"OTEL_METAFLOW_HOME": str(home), **variables}), folder))
    return file


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    """A real run with a branch that fails, and its page, written by the command."""
    place = Place(tmp_path_factory.mktemp("branch"))
    finished = place.run(ROOT / "examples/branch.py", "--with", "otel")
    file = place.path / "page.html"
    done = place.cli("view", f"BranchFlow/{finished.run}", "--html", str(file))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return finished, file


def test_a_failed_run_answers_at_a_glance(look: Look, failed: tuple[Finished, Path]) -> None:
    """Who and when, what failed first and why, its shape, the way that decided, and what was used."""
    finished, file = failed
    look.open(file)
    page = look.page
    assert page.title() == f"BranchFlow/{finished.run} · failure"
    assert page.locator("h1").inner_text() == f"BranchFlow / {finished.run}"
    header = page.locator("#header").inner_text()
    assert "tester" in header
    failure = page.locator("#failure").inner_text()
    assert "Failed first: train/6/1" in failure
    assert "ValueError: shard 3 holds no rows" in failure
    assert "Traceback (most recent call last)" in failure
    nodes = page.locator("#graph g.node").evaluate_all("nodes => nodes.map(n => n.querySelector('text').textContent)")
    assert sorted(nodes) == ["clean", "end", "fetch", "gather", "join", "start", "train"]
    assert page.locator("#graph g.failed text").first.text_content() == "train"
    assert page.locator("#graph path").count() == 7
    assert "start/1 → fetch/3 → train/" in page.locator("#path").inner_text()
    use = page.locator("#use-table").inner_text()
    assert "3.9 GiB" in use
    assert look.title() == "train/6/1"


def test_it_works_in_a_frame_that_may_do_nothing_but_run_scripts(
    look: Look, failed: tuple[Finished, Path], tmp_path: Path
) -> None:
    """As a card may be shown: no origin, no storage."""
    inner = failed[1].read_text().replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / "outer.html"
    frame = f'<iframe sandbox="allow-scripts" width="1000" height="700" srcdoc="{inner}"></iframe>'
    outer.write_text(f"<!DOCTYPE html><html data-ready><title>a card</title>{frame}</html>")
    look.open(outer)
    shown = look.page.frame_locator("iframe")
    shown.locator("#log .line", has_text="Traceback").first.wait_for()
    assert shown.locator("#detail-title").inner_text() == "train/6/1"
    shown.get_by_role("button", name="dark / light").click()
    shown.locator(":root[data-theme=dark]").wait_for()


def test_retries_are_side_by_side_and_links_are_shown(look: Look, failed: tuple[Finished, Path]) -> None:
    look.open(failed[1])
    rows = look.rows()
    (first,) = (index for index, row in enumerate(rows) if row.endswith("train/6"))
    assert rows[first + 1].endswith("train/6/1")
    look.page.locator("#rows .row", has_text="train/6/1").hover()
    assert look.page.locator("#links").inner_text() == "train/6/1: inputs: fetch/3; retry of train/6"
    linked = look.page.locator("#rows .row.linked .name").all_inner_texts()
    assert sorted(name.strip("◆") for name in linked) == ["fetch/3", "train/6"]


def test_whatever_else_failed_is_one_click_away(look: Look, tmp_path: Path) -> None:
    """But for what was tried again and went well."""
    home = tmp_path / "home"
    made = Journals(home)
    failure = {"result": "failure", "exception": {"type": "E", "message": "no"}}
    for task in range(1, 5):
        made.attempt("work", task, 0, task, **({} if task == 4 else failure))
    made.attempt("work", 3, 4, 1, attempt=1)
    made.end(5, "failure")
    look.open(write(home, made.folder, tmp_path / "page.html"))
    assert "Failed first: work/1" in look.page.locator("#failure").inner_text()
    assert look.page.locator("#failure .others").inner_text() == "Also failed: work/2"
    look.page.locator("#failure .others button").click()
    assert look.title() == "work/2"


def test_a_way_on_by_every_mention(look: Look, failed: tuple[Finished, Path]) -> None:
    """From the failure, the graph, the path, the facts and the rows to an attempt and its log."""
    look.open(failed[1])
    page = look.page
    page.locator("#graph g.node", has_text="clean").click()
    assert look.title() == "clean/2"
    assert any("KeyError" in line for line in look.log())
    page.locator("#path button", has_text="start/1").click()
    assert look.title() == "start/1"
    page.locator("#facts button", has_text="clean/2").click()
    assert look.title() == "clean/2"
    page.get_by_role("button", name="Go to this attempt").click()
    assert look.title() == "train/6/1"
    page.get_by_role("button", name="the launcher's log").click()
    assert look.title() == "The launcher"
    page.locator("#log .line", has_text="Workflow starting").wait_for()


def test_the_lines_of_the_graph_run_between_the_steps(look: Look, tmp_path: Path) -> None:
    """Those that pass columns as those to the next one; a step that leads back to itself has its line above."""
    home = tmp_path / "home"
    made = Journals(home)
    graph = {"start": ["a", "b", "c"], "a": ["join"], "b": ["split"], "split": ["x", "wide_name"], "x": ["inner"],
             "wide_name": ["inner"], "inner": ["join"], "c": ["join"], "join": ["again"], "again": ["again", "end"],
             "end": []}  # fmt: skip
    for step, following in graph.items():
        made.step(step, *following)
    made.end(1)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    assert look.page.locator("#graph path").count() == sum(map(len, graph.values()))
    crossed = """() => {
        const boxes = [...document.querySelectorAll("#graph rect")].map((rect) => rect.getBBox());
        const isIn = ({ x, y }, box) => x > box.x && x < box.x + box.width && y > box.y && y < box.y + box.height;
        return [...document.querySelectorAll("#graph path")].flatMap((path) => {
            const length = path.getTotalLength();
            return [...Array(99).keys()].map((part) => path.getPointAtLength(length * (part + 1) / 100))
                .filter((point) => boxes.some((box) => isIn(point, box)));
        }).length;
    }"""
    assert look.page.evaluate(crossed) == 0
    assert look.page.evaluate("document.querySelector('#graph svg').getBBox().y") >= 0


def test_it_can_be_used_with_keys_alone(look: Look, failed: tuple[Finished, Path]) -> None:
    look.open(failed[1])
    page = look.page
    page.locator("#rows").focus()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert look.title() == "start/1"
    page.keyboard.press("f")
    assert look.title() == "train/6/1"
    group = page.locator("#rows .row.group")
    assert group.get_attribute("aria-expanded") == "true"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert group.get_attribute("aria-expanded") == "false"
    assert not page.locator("#rows .row", has_text="train/6/1").count()
    page.keyboard.press("ArrowRight")
    assert page.locator("#rows .row", has_text="train/6/1").count() == 1
    assert page.locator("#rows [aria-selected=true]").count() == 1
    assert page.locator("#rows").get_attribute("aria-activedescendant") == group.get_attribute("id")
    page.locator("#graph g.node", has_text="clean").focus()
    page.keyboard.press("Enter")
    assert look.title() == "clean/2"
    assert page.locator("#graph g.node[tabindex]").count() == 4  # not of steps that did not run
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_light_dark_narrow_and_on_paper(look: Look, failed: tuple[Finished, Path]) -> None:
    """As the system has it, until a key or the button changes it."""
    look.open(failed[1])
    page = look.page
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.keyboard.press("t")
    assert page.evaluate(paper) == "rgb(18, 22, 28)"
    page.get_by_role("button", name="dark / light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    assert page.evaluate(paper) == "rgb(18, 22, 28)"
    page.set_viewport_size({"width": 600, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert page.get_by_role("button", name="dark / light").is_hidden()


def test_all_text_can_be_read(look: Look, failed: tuple[Finished, Path]) -> None:
    """It stands out from what it stands on as WCAG asks, by light and by dark."""
    pale = """() => {
        const colour = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = (text) => colour(text).slice(0, 3).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
            .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
        const below = (node) => {
            const paper = getComputedStyle(node).backgroundColor;
            return colour(paper)[3] === 0 ? below(node.parentElement) : paper;
        };
        const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
        let count = 0;
        for (let text = walk.nextNode(); text; text = walk.nextNode()) {
            const node = text.parentElement;
            if (!text.data.trim() || !node.offsetWidth) continue;
            count++;
            const both = [getComputedStyle(node).color, below(node)], [ink, paper] = both.map(light);
            const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
            if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${text.data} ${both}`);
        }
        return count > 100 ? found : ["too little text was looked at"];
    }"""
    look.open(failed[1])
    assert look.page.evaluate(pale) == []
    look.page.keyboard.press("t")
    assert look.page.evaluate(pale) == []


def test_paper_holds_every_row_and_the_end_of_the_log(look: Look, tmp_path: Path) -> None:
    """Below each other, and not a page for every line that the log could be scrolled to."""
    home = tmp_path / "home"
    made = Journals(home)
    for task in range(1, 51):
        made.attempt("work", task, 0, 1)
    made.attempt("join", 51, 1, 1, lines=[f"line {number} {'wide ' * 50}" for number in range(10_000)])
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    assert page.locator("#rows .row").count() < 52
    page.evaluate("""addEventListener("beforeprint", () => window.printed = [
        document.querySelectorAll("#rows .row").length, document.querySelectorAll("#log .line").length,
        document.querySelector("#log").lastChild.textContent])""")
    pdf = page.pdf()
    rows, lines, last = page.evaluate("window.printed")
    assert (rows, lines) == (52, 200)
    assert "line 9999 " in last
    assert 5 < pdf.count(b"/Type /Page\n") < 30
    look.page.locator("#log .line", has_text="line 0 ").wait_for()
    assert page.locator("#rows .row").count() < 52


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run whose every name and line is an attack."""
    home = tmp_path / "home"
    resource = {"user.name": HOSTILE[0], "host.name": HOSTILE[1]}
    made = Journals(home, "Evil", HOSTILE[1].replace("/", "|"), resource=resource)
    made.step(HOSTILE[0], "b", requested={"cpu": 1})
    made.step("b")
    for line in HOSTILE:
        made.print(0, line)
    failure = {"type": HOSTILE[0], "message": HOSTILE[1], "stacktrace": "\n".join(HOSTILE)}
    span = {
        "kind": "span", "timeUnixNano": 1, "traceId": "a" * 32, "spanId": "b" * 16, "name": HOSTILE[0],
        "startTimeUnixNano": moment(0.3), "endTimeUnixNano": moment(0.4),
        "attributes": {HOSTILE[0]: HOSTILE[1]},
    }  # fmt: skip
    made.attempt(HOSTILE[0], 1, 0.1, 1, lines=HOSTILE, records=[span], result="failure", exception=failure)
    made.end(2, "failure")
    return write(home, made.folder, tmp_path / "hostile.html", OTEL_METAFLOW_TRACE_URL="https://x/{trace_id}")


def test_no_recorded_text_is_run_as_code(look: Look, hostile: Path) -> None:
    """It is shown as it is, but for what moves cursors of terminals."""
    look.open(hostile)
    page = look.page
    assert page.evaluate("window.pwned") is None
    assert not page.locator("img").count()
    assert page.locator("script:not(.packed)").count() == 1
    assert HOSTILE[0] in page.locator("#header").inner_text()
    assert HOSTILE[1] in page.locator("#failure pre").inner_text()
    log = look.log()
    assert log[:6] == list(HOSTILE[:6])
    assert log[6] == "red link "
    assert page.locator("#log .line .c1").first.inner_text() == "red"
    assert HOSTILE[0] in " ".join(look.rows())
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.pwned = 5'}))")
    assert page.evaluate("window.pwned") is None  # the policy stops what would get in after all
    assert len(look.problems) == 1
    assert "Content Security Policy" in look.problems.pop()


def test_a_log_is_filtered_and_searched(look: Look, tmp_path: Path) -> None:
    """By severity and by words; what is found is marked."""
    home = tmp_path / "home"
    made = Journals(home)
    levels = {"debug": 10, "info": 20, "warning": 30, "error": 40}
    trace = {"exception": {"stacktrace": "Traceback\n  boom"}}
    records = []
    for name, number in levels.items():
        record = {"kind": "log", "timeUnixNano": moment(0.5) + number, "logger": "app", "body": f"{name} line"}
        records.append({**record, "severityNumber": number, **(trace if name == "error" else {})})
    lines = ["plain", '{"level": "error", "event": "structured"}', "50%\r100%", "MiXed Case"]
    made.attempt("start", 1, 0, 1, lines=lines, records=records)
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    assert look.count() == "7 of 8 records"
    assert "100%" in look.log()
    page.select_option("#level", "error")
    assert look.count() == "2 of 8 records"
    assert [line for line in look.log() if "structured" not in line] == ["error line", "Traceback", "  boom"]
    page.select_option("#level", "debug")
    assert look.count() == "8 records"
    page.fill("#search", "mixed")
    assert look.log() == ["MiXed Case"]
    assert page.locator("#log mark").inner_text() == "MiXed"
    page.fill("#search", "no such word")
    assert page.locator("#log .empty").inner_text() == "No line matches."


def test_many_lines_do_not_freeze_it(look: Look, tmp_path: Path) -> None:
    """Only those in sight are in the document."""
    home = tmp_path / "home"
    made = Journals(home)
    made.attempt("start", 1, 0, 1, lines=[f"line {number}" for number in range(100_000)])
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    assert look.count() == "100 000 records"
    page.evaluate("document.getElementById('log').scrollTop = 1e9")
    page.locator("#log .line", has_text="line 99999").wait_for()
    assert page.locator("#log .line").count() < 100
    page.fill("#search", "line 4242")
    page.locator("#count", has_text="11 of 100 000 records").wait_for()
    assert look.log()[0] == "line 4242"


def test_ten_thousand_tasks_are_a_group(look: Look, tmp_path: Path) -> None:
    """That can be opened; its first failure is one key away."""
    home = tmp_path / "home"
    file = write(home, wide(home, 10_000, 0).folder, tmp_path / "page.html")
    assert file.stat().st_size < 1_000_000
    look.open(file)
    page = look.page
    page.locator("#rows").focus()
    assert any("10000" in row for row in look.rows())
    picture = page.locator("#rows .row.group svg")
    times = [(1 + number // 16, 2 + number // 16 + number % 7 / 10) for number in range(10_000)]  # as `wide` has them
    most = max(sum(start <= at < end for start, end in times) for at in range(1, 20))
    assert picture.locator("title").text_content() == f"at most {most} at once"
    assert picture.locator(".failed").get_attribute("d").count("M") == 1
    page.keyboard.press("f")
    assert look.title() == "work/5002"
    assert page.locator("#rows .row.active .name").inner_text() == "work/5002"
    page.keyboard.press("End")
    assert page.locator("#rows .row.active .name").inner_text() == "work/10001"
    assert page.locator("#rows .row").count() < 100


def test_spans_of_user_code_nest_below_their_attempt(look: Look, tmp_path: Path) -> None:
    """Each below its parent, with its attributes, NaN included."""
    home = tmp_path / "home"
    made = Journals(home)
    spans = [
        {
            "kind": "span", "timeUnixNano": moment(1), "spanId": f"{number:016x}", "parentSpanId": f"{number - 1:016x}",
            "name": name, "startTimeUnixNano": moment(number / 10), "endTimeUnixNano": moment(number / 5),
            "attributes": {"loss": float("nan"), "password": "hunter22"},
            "status": {"code": 2, "message": "no rows"} if name == "parse" else {},
        }
        for number, name in ((1, "load"), (2, "parse"))
    ]  # fmt: skip
    broken = {"kind": "span", "timeUnixNano": moment(1), "name": "without times"}
    made.attempt("start", 1, 0, 1, records=[*reversed(spans), broken])
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    assert look.rows() == ["◆▾ start/1", "load", "parse"]
    rows = look.page.locator("#rows .row")
    assert rows.evaluate_all("rows => rows.map(row => row.ariaLevel)") == ["1", "2", "3"]
    assert look.page.locator("#rows .track .failed").count() == 1
    title = rows.nth(1).get_attribute("title") or ""
    assert "loss=NaN" in title
    assert "password=[REDACTED]" in title
    look.page.locator("#rows").focus()
    look.page.keyboard.press("Home")
    look.page.keyboard.press("ArrowLeft")
    assert look.rows() == ["◆▸ start/1"]


def test_a_run_that_goes_on_is_drawn_so_far(look: Look, tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = Journals(home, pid=os.getpid(), processStart=process_start())
    made.attempt("start", 1, 0, 1)
    made.attempt("work", 2, 1, None, inputs=[("start", 1)], lines=["so far"])
    look.open(write(home, made.folder, tmp_path / "page.html"))
    assert look.page.locator("#header .pill").inner_text() == "running"
    assert "Still running" in look.page.locator("#header .note").inner_text()
    assert look.page.locator("#failure").is_hidden()
    assert look.page.locator("#rows .row", has_text="work/2").locator(".state").inner_text() == "running"
    assert look.title() == "work/2"
    assert look.log() == ["so far"]


def test_a_run_without_a_task_and_a_damaged_one(look: Look, tmp_path: Path) -> None:
    """What is there is shown."""
    home = tmp_path / "home"
    empty = Journals(home, "Empty")
    empty.end(1, "failure", exception={"type": "MetaflowException", "message": "no such parameter"})
    look.open(write(home, empty.folder, tmp_path / "empty.html"))
    assert look.page.locator("#links").inner_text() == "No attempt was recorded."
    assert "no such parameter" in look.page.locator("#failure").inner_text()
    look.requests.clear()
    damaged = Journals(home, "Damaged")
    damaged.attempt("start", 1, 0, 1, lines=["before", "after"])
    for path in damaged.folder.glob("*.jsonl"):
        text = path.read_bytes()
        path.write_bytes(b'{"kind":"start"}\n\xff\xfe not json\n[1,2]\n' + text[:10] + b"\n" + text + b'{"kind":"li')
    (damaged.folder / "odd name.jsonl").write_text("{}")
    look.page.goto(write(home, damaged.folder, tmp_path / "damaged.html").as_uri())
    look.page.wait_for_selector("html[data-ready]")
    assert look.log() == ["before", "after"]


def test_secrets_are_masked_on_it(tmp_path: Path) -> None:
    """A page is made to be shown around."""
    home = tmp_path / "home"
    made = Journals(home)
    made.attempt("start", 1, 0, 1, lines=["password=hunter2", "ours: 1234-5678"])
    made.end(2)
    environment = settings.read({"OTEL_METAFLOW_HOME": str(home), "OTEL_METAFLOW_REDACT": r"\d{4}-\d{4}"})
    found = [
        line.text for line in pages.log_lines.of_attempt(made.folder, *_only(home, made.folder), environment.redact)
    ]
    assert found == ["password=[REDACTED]", "ours: [REDACTED]"]


def _only(home: Path, folder: Path) -> Any:
    run = load(home, folder)
    return run, *run.attempts.values()


def test_unrecorded_attempts_are_drawn_as_such(look: Look, tmp_path: Path) -> None:
    """Dashed in the graph and in the waterfall, on the critical path where it was; its log explains why it is empty."""
    home = tmp_path / "home"
    made = Journals(home)
    made.step("start", "work")
    made.step("work", "end", recorded=False)
    made.step("end")
    made.attempt("start", 1, 0, 1, lines=["fine"])
    made.launched("work", 2, 1, 2, inputs=[("start", 1)])
    made.attempt("end", 3, 3.5, 1, inputs=[("work", 2)])
    made.end(5)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    assert look.rows() == ["◆start/1", "◆work/2", "◆end/3"]
    assert page.locator("#graph g.node.unseen").all_text_contents() == [
        "work: linear, 1 attempt, not recordedwork2.00s, not recorded"
    ]
    assert page.locator("#rows .row .track b.unseen").count() == 1
    assert page.locator("#path").inner_text() == "Critical path 4.50s, 0.50s of it queued: start/1 → work/2 → end/3"
    assert page.locator("#unseen").is_visible()
    page.locator("#rows .row", has_text="work/2").click()
    assert "not recorded (no @otel)" in page.locator("#facts").inner_text()
    page.locator("#log .empty", has_text="Not recorded (no @otel).").wait_for()
    page.locator("#rows .row", has_text="start/1").click()
    page.locator("#log .line", has_text="fine").wait_for()
    page.locator("#level").select_option("4")
    assert page.locator("#log .empty").inner_text() == "No errors."
    assert page.locator("#use-table tbody tr").count() == 2


def test_an_uncaught_exception_is_among_the_errors(look: Look, failed: tuple[Finished, Path]) -> None:
    look.open(failed[1])
    look.page.locator("#level").select_option("4")
    look.page.locator("#count", has_text="1 of ").wait_for()
    log = look.log()
    assert (log[0], log[1], log[-1]) == (
        "ValueError: shard 3 holds no rows",
        "Traceback (most recent call last):",
        "ValueError: shard 3 holds no rows",
    )


def test_of_too_many_lines_errors_and_the_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the page shows how many are left out."""
    monkeypatch.setattr(pages, "MAX_LINES", 1000)
    home = tmp_path / "home"
    made = Journals(home)
    error = {"kind": "log", "timeUnixNano": moment(0), "severityNumber": 40, "body": "early error"}
    lines = [f"line {number}" for number in range(5000)]
    made.attempt("start", 1, 0, 1, lines=lines, records=[error])
    made.end(2)
    environment = settings.read({"OTEL_METAFLOW_HOME": str(home)})
    parts = {part.name: part for part in pages._parts(made.folder, load(environment.home, made.folder), "")}
    kept = [line.text for line in parts["start/1"].lines]
    assert kept[0] == "early error"
    assert kept[-1] == "line 4999"
    assert len(kept) + parts["start/1"].omitted == 5001
    assert len(kept) <= 1000


def test_open_shows_it_by_what_shows_pages_here(place: Place) -> None:
    """In a file of its own, which is named."""
    made = Journals(place.home)
    made.end(1)
    seen = place.path / "seen"
    for name in ("xdg-open", "open"):  # Linux, macOS
        (place.path / name).write_text(f'#!/bin/sh\necho "$1" > {seen}.new; mv {seen}.new {seen}\n')
        (place.path / name).chmod(0o755)
    env = {"PATH": f"{place.path}:{os.environ['PATH']}", "TMPDIR": str(place.path)}
    done = place.cli("view", "HandFlow/1", "--open", env=env)
    assert done.returncode == 0, done.stderr
    file = Path(done.stderr.removeprefix("wrote ").strip())
    assert file.name == "HandFlow-1.html"
    assert file.read_text().startswith("<!DOCTYPE html>")
    opened = eventually(lambda: seen.exists() and seen.read_text().strip())
    assert opened in {str(file), file.as_uri()}


def test_bad_input_is_one_line(place: Place) -> None:
    made = Journals(place.home)
    made.end(1)
    done = place.cli("view", "HandFlow/1", "--html", "-")
    assert done.stdout.startswith("<!DOCTYPE html>")
    done = place.cli("view", "HandFlow/1", "--html", str(place.path / "no/such/folder.html"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "choose another file for --html" in done.stderr
    done = place.cli("view", "HandFlow/2", "--html", "x.html")
    assert done.returncode == 2
    assert "the latest runs: HandFlow/1" in done.stderr


_LONG = "aggregate_the_predictions_of_all_the_regional_models"


def overflowing(look: Look) -> list[str]:
    """What is wider than its box, or sticks out of the window."""
    found: list[str] = look.page.evaluate("""() => [...document.querySelectorAll("body, body *:not(script)")]
        .filter((node) => node.getClientRects().length && !(node instanceof SVGElement))
        .filter((node) => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== "inline"
            || node.getBoundingClientRect().right > window.innerWidth + 1)
        .map((node) => `${node.tagName} ${node.id} ${node.className} ${node.textContent.slice(0, 40)}`)""")
    return found


@pytest.mark.parametrize("width", [390, 600, 899, 901])
def test_a_phone_hides_nothing_and_scrolls_downwards_only(look: Look, tmp_path: Path, width: int) -> None:
    """Every figure of every row, the axis, the graph, the table and the log."""
    home = tmp_path / "home"
    made = Journals(home)
    made.step("start", "a", "b", requested={"cpu": 2, "memory": 4000})
    for step in ("a", "b"):
        made.step(step, _LONG)
    made.step(_LONG)
    made.attempt("start", 1, 0.1, 0.9, lines=["a line of words " * 20, "x" * 300, "漢字" * 100])
    made.attempt("a", 2, 2, 1, inputs=[("start", 1)])
    made.attempt("b", 3, 2, 1, inputs=[("start", 1)])
    failure = {"result": "failure", "exception": {"type": "E", "message": "why " * 40}}
    made.attempt(_LONG, 4, 4, 2000, inputs=[("a", 2), ("b", 3)], lines=["line"] * 3, **failure)
    made.end(2005, "failure")
    look.page.set_viewport_size({"width": width, "height": 800})
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    page.locator("#rows .row", has_text="start/1").click()
    page.locator("#log .line").first.wait_for()
    if width <= 900:
        assert overflowing(look) == []
        assert "".join(look.log()).count("漢字") == 100
        assert "".join(look.log()).count("x" * 5) == 60
    else:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    ticks = page.locator("#scale .ticks span").evaluate_all(
        "spans => spans.map(span => span.getBoundingClientRect()).map(box => [box.left, box.right])"
    )
    assert len(ticks) == 5
    assert all(left[1] < right[0] for left, right in pairwise(ticks))
    row = page.locator("#rows .row", has_text="start/1")
    for cell in (".name", ".state", ".wait", ".took", ".logs", ".track .code"):
        assert row.locator(cell).first.is_visible()
        box = row.locator(cell).first.bounding_box()
        assert box is not None
        assert box["width"] > 1
    for text in ("CPU requested", "memory requested"):
        assert text in " ".join(
            page.locator("#use-table [data-column]").evaluate_all("n => n.map(n => n.dataset.column)")
        )
    page.set_viewport_size({"width": 1200, "height": 800})
    page.locator("#wrap:not(:checked)").wait_for()
    assert row.evaluate("row => row.offsetHeight") == 27


def test_f_finds_the_failed_attempt_of_a_successful_run(look: Look, tmp_path: Path) -> None:
    """The first attempt that failed, else the first whose exception was caught, else a word that none did."""
    home = tmp_path / "home"
    exception = {"type": "E", "message": "no"}
    for number, (caught, failed, found) in enumerate([(True, True, "b/2"), (True, False, "a/1"), (False, False, "")]):
        made = Journals(home, run=str(number))
        made.attempt("a", 1, 0, 1, **({"caught": True, "exception": exception} if caught else {}))
        made.attempt("b", 2, 1, 1, **({"result": "failure", "exception": exception} if failed else {}))
        if failed:
            made.attempt("b", 2, 2, 1, attempt=1)
        made.attempt("end", 3, 3, 1)
        made.end(4)
        file = write(home, made.folder, tmp_path / f"{number}.html")
        if number:
            look.requests.clear()
            look.page.goto(file.as_uri())
            look.page.wait_for_selector("html[data-ready]")
        else:
            look.open(file)
        look.page.keyboard.press("f")
        assert look.title() == (found or "end/3")
        if not found:
            assert look.page.locator("#links").inner_text() == "No attempt failed."


@pytest.mark.parametrize(
    ("codes", "look_of_it"),
    [
        ("31", "c1"), ("41", "b1"), ("97;44", "c7 b4"), ("7", "inverse"), ("7;32", "i2"), ("31;42;7", "c2 b1"),
        ("7;27", ""), ("104", "b4"), ("41;49", ""), ("38;5;196", "c1"), ("48;5;21", "b4"), ("48;2;0;255;0", "b2"),
        ("38;5;244", "c7"), ("38:5:196", "c1"),
        ("1;4;9;22", "underline struck"), ("41;1;0", ""), ("38;5", ""), ("48;2;1", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_line_looks_as_in_a_terminal(look: Look, tmp_path: Path, codes: str, look_of_it: str) -> None:
    """Backgrounds, inverse and all colours, each by one of eight that can be read; on to the next line of a record."""
    home = tmp_path / "home"
    made = Journals(home)
    record = {
        "kind": "log",
        "timeUnixNano": moment(0.5),
        "severityNumber": 20,
        "logger": "a",
        "body": f"a\x1b[{codes}mb\nc",
    }
    made.attempt("start", 1, 0, 1, records=[record])
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    assert look.log() == ["ab", "c"]
    for line, text in ((0, "b"), (1, "c")):
        piece = look.page.locator("#log .line").nth(line).locator("span:not(.at):not(.source)")
        assert (piece.get_attribute("class") if piece.count() else "") == look_of_it
        if look_of_it:
            assert piece.inner_text() == text
    if any(name in look_of_it for name in ("b", "i")) and "struck" not in look_of_it:
        paper = look.page.locator("#log .line").first.locator("span").last
        assert paper.evaluate("node => getComputedStyle(node).backgroundColor") != "rgba(0, 0, 0, 0)"


def test_lines_are_wrapped_on_demand(look: Look, tmp_path: Path) -> None:
    """Then nothing is to the right of what is in sight; what is found is marked over the end of a line, too."""
    home = tmp_path / "home"
    made = Journals(home)
    text = "".join(f"word{number} " for number in range(100))
    made.attempt("start", 1, 0, 1, lines=["short", f"\x1b[31m{text}\x1b[0m", "\tlast"])
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    page = look.page
    sticks_out = "document.getElementById('log').scrollWidth > document.getElementById('log').clientWidth"
    assert look.log() == ["short", text, "\tlast"]
    assert page.evaluate(sticks_out)
    page.keyboard.press("w")
    assert page.locator("#wrap").is_checked()
    assert not page.evaluate(sticks_out)
    lines = look.log()
    assert (lines[0], "".join(lines[1:-1]), lines[-1]) == ("short", text, "\tlast")
    assert len(lines) > 5
    assert all(page.locator("#log .line").nth(number).locator(".c1").count() for number in range(1, len(lines) - 1))
    page.fill("#search", text[:200].strip().lower())
    assert "".join(page.locator("#log mark").all_text_contents()) == text[:200].strip()
    page.fill("#search", "")
    page.get_by_label("wrap lines").uncheck()
    assert look.log() == ["short", text, "\tlast"]


def test_metaflows_own_frames_are_folded(look: Look, failed: tuple[Finished, Path]) -> None:
    """Where the failure stands, where the attempt stands and in its log; the first two can be opened."""
    look.open(failed[1])
    page = look.page
    shown = page.locator("#failure pre").inner_text()
    assert re.search(r"^ *… \d+ frames of Metaflow$", shown, re.MULTILINE)
    assert "branch.py" in shown
    assert "metaflow/task.py" not in shown
    page.locator("#failure details.fold summary").click()
    assert "metaflow/task.py" in page.locator("#failure pre").inner_text()
    log = "\n".join(look.log())
    assert len(re.findall(r"^ *… \d+ frames? of Metaflow$", log, re.MULTILINE)) >= 2
    assert "metaflow/task.py" not in log
    assert "branch.py" in log
    page.fill("#search", "metaflow/task.py")
    assert any("metaflow/task.py" in line for line in look.log())


def test_the_words_of_the_page(look: Look, tmp_path: Path) -> None:
    home = tmp_path / "home"
    made = Journals(home)
    made.step("start", "end")
    made.step("end")
    made.attempt("start", 1, 0, 1)
    made.end(2)
    look.open(write(home, made.folder, tmp_path / "page.html"))
    text = look.page.locator("body").inner_text()
    for words in ("Flow graph", "Level ≥", "No output.", "CPU requested", "memory requested", "queued", "50 MiB"):
        assert words in text
    for words in ("Shape", "asked", "wait", "It said", " MB"):
        assert words not in text
