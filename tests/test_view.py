"""What `otel-metaflow view` shows, as text without the figures that differ from run to run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from collectors import ROOT
from journals import SECOND, Journals, moment, wide
from rich.cells import cell_len
from running import Finished, Place, eventually

from otel_metaflow.cli.view import view
from otel_metaflow.core import ids
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.processes import process_start
from otel_metaflow.model.run import Run, load
from otel_metaflow.viewer import comparison, formatting, frames
from otel_metaflow.viewer.run_view import graph


def without_figures(shown: str, finished: Finished) -> str:
    """Times, sizes and bars replaced by what they are; columns closed up, rows of one moment in order."""
    shown = shown.replace(finished.run, "RUN")
    shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", shown)
    shown = re.sub(r"\d+\.\d\ds", "Ts", shown)
    shown = re.sub(
        r"[·░█▒]+(?: [·░█▒]+)*(?= )",
        "BAR",
        shown.replace("bar: · queued  ░ starting  █ user code  ▒ storing", "legend"),
    )
    shown = re.sub(r"\b\d+(\.\d+)? (B|KiB|MiB|GiB)\b", "SIZE", shown)
    shown = re.sub(r"(?<= )\d+\.\d\d(?= )", "N", shown)
    lines = [re.sub(r" {2,}", "  ", line).strip() for line in shown.splitlines()]
    lines = [re.sub(r"BAR  \d+", "BAR  COUNT", line) for line in lines]
    lines = [re.sub(r"(SIZE  )*SIZE$", "SIZES", line) for line in lines]  # read and written, where there is any
    first = next(number for number, line in enumerate(lines) if line.startswith("attempt"))
    legend = lines.index("legend")
    # Which of a foreach is marked and comes first is chance; that they are there is not.
    rows = sorted(line.removeprefix("* ") for line in lines[first + 1 : legend])
    steps = sorted(lines[legend + 3 : -1])
    return "\n".join([*lines[: first + 1], *rows, *lines[legend : legend + 3], *steps, lines[-1]])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="module")
def finished(place: Place) -> Finished:
    """A run with a branch that fails."""
    run = place.run(ROOT / "examples/branch.py", "--with", "otel")
    assert run.code == 1
    return run


def test_a_run_with_one_failing_branch_answers_at_a_glance(place: Place, finished: Finished) -> None:
    """Its graph, what failed first and why, what was tried again or rescued, where the time went, and use."""
    shown = place.cli("view", f"BranchFlow/{finished.run}").stdout
    (last,) = re.findall(r"critical path \* .*", shown)
    assert re.fullmatch(r"critical path \* \d+\.\d\ds, \d+\.\d\ds of it queued: start/1 > fetch/\d > train/\d", last)
    golden = f"""\
        BranchFlow/RUN  failure  Ts  started TIME
        trace {ids.trace_id("BranchFlow", finished.run)}
        graph start > (clean | fetch) > train[3] > gather > join > end
        failed first: train/6/1: ValueError: shard 3 holds no rows
        attempt  result  queued  took  when  logs
        clean/2  success  Ts  Ts  BAR  COUNT  caught KeyError: 'column price is missing'
        fetch/3  success  Ts  Ts  BAR  COUNT
        start/1  success  Ts  Ts  BAR  COUNT
        train/4  success  Ts  Ts  BAR  COUNT
        train/5  success  Ts  Ts  BAR  COUNT
        train/6  failure  Ts  Ts  BAR  COUNT (1 error)  ValueError: shard 3 holds no rows (retried)
        train/6/1  failure  Ts  Ts  BAR  COUNT (1 error)  ValueError: shard 3 holds no rows
        legend
        {last.replace(finished.run, "RUN")}
        step  attempts  CPU s  cores  CPU requested  memory  memory requested  read  written
        clean  1  N  N  SIZES
        fetch  1  N  N  SIZES
        start  1  N  N  SIZES
        train  4  N  N  2  SIZES
        telemetry: not exported (OTEL_EXPORTER_OTLP_ENDPOINT was not set)
        """
    golden = re.sub(r"\d+\.\d\ds", "Ts", textwrap.dedent(golden).rstrip())
    assert without_figures(shown, finished) == golden


def test_the_graph_of_flows() -> None:
    """Branches side by side, a foreach with its width, a step that leads back to itself marked."""

    def drawn(following: dict[str, list[str]], *tasks: str) -> str:
        run = Run(RunKey("F", "1"), steps={step: {"next": after} for step, after in following.items()})
        for task, step in enumerate(tasks):
            run.attempt(AttemptKey(step, str(task), 0))
        return graph(run)

    assert drawn({"start": ["end"], "end": []}) == "start > end"
    assert drawn({"start": ["a", "b"], "a": ["join"], "b": ["c"], "c": ["join"], "join": []}) == (
        "start > (a | b) > c > join"
    )
    assert drawn({"start": ["work"], "work": ["join"], "join": []}, "start", "work", "work") == "start > work[2] > join"
    assert drawn({"start": ["again"], "again": ["again", "end"], "end": []}) == "start > again ↺ > end"
    assert drawn({"a": ["b"], "b": ["a"]}) == ""


def figures_gone(text: str, run: str) -> list[str]:
    """Lines with times, sizes and ids replaced."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", text.replace(run, "RUN"))
    text = re.sub(r"\d+\.\d\ds", "Ts", re.sub(r"\b\d+(\.\d+)? (B|KiB|MiB|GiB)\b", "SIZE", text))
    return [re.sub(r'File "[^"]*/', 'File "', line.rstrip()) for line in text.splitlines()]


def test_a_task_is_shown_attempt_by_attempt(place: Place, finished: Finished) -> None:
    """Times, place in the flow, use against what was requested, and why it failed."""
    shown = figures_gone(place.cli("view", f"BranchFlow/{finished.run}/train/6/1").stdout, finished.run)
    (count,) = re.findall(r"  (\d+) log records", "\n".join(shown))
    golden = textwrap.dedent(f"""\
        BranchFlow/RUN/train/6/1  failure  Ts  started TIME
          queued Ts, started up Ts, user code Ts, stored Ts
          on the critical path
          inputs: fetch/3
          retry of train/6
          foreach index 2
          exit code 1
          cpu Ts of 2 cores requested; memory SIZE of SIZE requested; read SIZE; written SIZE
          14 artifacts, SIZE
          Traceback (most recent call last):
            … 3 frames of Metaflow
            File "branch.py", line 36, in train
              raise ValueError("shard 3 holds no rows")
          ValueError: shard 3 holds no rows
          {count} log records, 1 of them error: otel-metaflow view BranchFlow/RUN/train/6/1 --logs""").splitlines()
    assert [line for line in shown if "critical" not in line] == [line for line in golden if "critical" not in line]
    both = place.cli("view", f"BranchFlow/{finished.run}/train/6").stdout
    assert re.findall(r"^BranchFlow\S+", both, re.MULTILINE) == [
        f"BranchFlow/{finished.run}/train/6",
        f"BranchFlow/{finished.run}/train/6/1",
    ]


def test_a_step_is_a_part_of_the_run(place: Place, finished: Finished) -> None:
    shown = place.cli("view", f"BranchFlow/{finished.run}/train").stdout
    assert shown.startswith(f"BranchFlow/{finished.run}/train  failure")
    assert set(re.findall(r"^[* ] (\w+)/", shown, re.MULTILINE)) == {"train"}


def test_logs_are_shown_in_the_order_of_time(place: Place, finished: Finished) -> None:
    """Of the run with the launcher's own; of one task without its name; as JSON a line each."""
    run = f"BranchFlow/{finished.run}"
    shown = place.cli("view", run, "--logs").stdout.splitlines()
    times = [line[:12] for line in shown if re.match(r"\d\d:\d\d:\d\d\.\d{3}  ", line)]
    assert times == sorted(times)
    assert any(re.match(r"\S+  launcher +INFO .*Workflow starting", line) for line in shown)
    assert any(re.match(r"\S+  train/6/1 +INFO +ValueError: shard 3 holds no rows", line) for line in shown)
    one = place.cli("view", f"{run}/clean/2", "--logs").stdout
    assert "clean/2" not in one
    assert "KeyError: 'column price is missing'" in one
    records = [json.loads(line) for line in place.cli("view", f"{run}/train", "--logs", "--json").stdout.splitlines()]
    assert {record["step"] for record in records} == {"train"}
    assert {record["attempt"] for record in records if record["task"] == "6"} == {0, 1}
    assert {"timeUnixNano", "severity", "source", "body"} < records[0].keys()


def test_everything_is_there_as_json(place: Place, finished: Finished) -> None:
    """With the same names, of the run, a step, a task, and the list."""
    run = f"BranchFlow/{finished.run}"
    whole = json.loads(place.cli("view", run, "--json").stdout)
    assert (whole["state"], whole["failure"]) == ("failure", "train/6/1")
    assert whole["criticalPath"]["attempts"][0] == "start/1"
    task = json.loads(place.cli("view", f"{run}/train/6", "--json").stdout)
    assert [one["name"] for one in task["attempts"]] == ["train/6", "train/6/1"]
    assert [step["name"] for step in task["steps"]] == ["train"]
    assert task["attempts"] == [one for one in whole["attempts"] if one["name"].startswith("train/6")]
    (listed,) = json.loads(place.cli("view", "--json").stdout)
    assert (listed["run"], listed["attempts"], listed["failed"]) == (finished.run, 7, 2)
    assert json.loads(place.cli("id", f"{run}/train/6/1", "--json").stdout)["spanId"] == task["attempts"][1]["spanId"]
    (listed,) = json.loads(place.cli("status", "--json").stdout)["runs"]
    assert (listed["run"], listed["state"]) == (finished.run, "not exported")


def test_recent_runs_are_listed_with_a_spark_line_for_each_flow(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.cli("view").stdout == (f"no run in {place.home}; run a flow with `python flow.py run --with otel`\n")
    for number, (took, result) in enumerate([(1, "success"), (4, "failure"), (8, "success")], 1):
        made = Journals(place.home, "AFlow", str(number))
        made.attempt("start", 1, 0.1, took - 0.2, result=result)
        made.end(took, result)
    other = Journals(place.home, "BFlow", "1")
    other.end(2)
    shown = figures_gone(place.cli("view", "AFlow").stdout, "none")
    assert [re.sub(r" {2,}", "  ", line) for line in shown] == [
        "run  result  took  started  attempts  failed",
        *(f"AFlow/{number}  {result}  Ts  TIME  1{bad}" for number, result, bad in reversed(_ROWS)),
        "",
        "AFlow  ▂▅█  last 3, longest Ts",
    ]
    assert "BFlow  █" in place.cli("view").stdout
    assert len(json.loads(place.cli("view", "--json", "--limit", "2").stdout)) == 2


_ROWS = [("1", "success", ""), ("2", "failure", "  1"), ("3", "success", "")]


def test_a_run_is_followed_until_it_ends(tmp_path: Path) -> None:
    """Each line as it comes, once; Ctrl-C is no error of the program."""
    place = Place(tmp_path)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = """
        import os
        from metaflow import FlowSpec, otel, step
        class FollowFlow(FlowSpec):
            @otel
            @step
            def start(self):
                print("before", flush=True)
                open(os.environ["GATE"]).read()
                print("after", flush=True)
                self.next(self.end)
            @otel
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            FollowFlow()
        """
    running = place.start(place.write(source), env={"GATE": str(gate)})
    folder = eventually(lambda: next(place.home.glob("FollowFlow/*"), None))
    command = [sys.executable, "-m", "otel_metaflow.cli", "view", f"FollowFlow/{folder.name}", "--follow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": place.environ()}
    following, stopped = subprocess.Popen(command, **pipes), subprocess.Popen(command, **pipes)
    for one in (following, stopped):
        while not one.stdout.readline().endswith("before\n"):
            pass
    stopped.send_signal(signal.SIGINT)
    assert (stopped.wait(30), stopped.stderr.read()) == (130, "")
    gate.write_text("go")
    rest, problems = following.communicate(timeout=60)
    assert (following.returncode, problems) == (0, "")
    assert rest.count("after\n") == 1
    assert "before" not in rest
    assert "Done!" in rest
    stopped.stdout.close()
    stopped.stderr.close()
    assert place.finish(running).code == 0


def steady(home: Path, run: str, slow: float, memory: int = 50 << 20) -> Run:
    """A run whose step `work` takes `slow` seconds, more or less, in each of eight tasks."""
    made = Journals(home, "Compared", run)
    made.attempt("start", 1, 0, 0.5)
    for task in range(8):
        usage = {"cpu": 0.5, "memoryPeak": memory, "read": 0, "written": 0}
        made.attempt("work", task + 2, 1, slow + task / 50, inputs=[("start", 1)], usage=usage)
    made.end(slow + 2)
    return load(home, made.folder)


def test_slower_steps_and_higher_usage_are_shown(tmp_path: Path) -> None:
    """By the medians; what only differs as runs do is not."""
    place = Place(tmp_path)
    before = steady(place.home, "1", 1.0)
    after = steady(place.home, "2", 2.0, memory=100 << 20)
    again = steady(place.home, "3", 1.05)
    notable = [(one.step, one.figure) for one in comparison.changes(before, after) if one.is_notable]
    assert notable == [("work", "took"), ("work", "memory")]
    assert not [one for one in comparison.changes(before, again) if one.is_notable]
    shown = place.cli("compare", "Compared/1", "Compared/2").stdout
    assert "1.07s > 2.07s ▲" in shown
    assert "work slower: 1.9 times 1.07s > 2.07s; work uses more memory: 2.0 times 50 MiB > 100 MiB" in shown
    values = json.loads(place.cli("compare", "Compared/2", "Compared/1", "--json").stdout)
    assert [(one["step"], one["figure"]) for one in values["changes"] if one["notable"]] == notable
    assert "no step changed notably" in place.cli("compare", "Compared/1", "Compared/3").stdout
    assert place.cli("compare", "Compared/1", "Compared/9").returncode == 2


def test_of_many_attempts_the_important_ones_are_shown(tmp_path: Path) -> None:
    """A step is one row, with its failures and its slowest; all are there for who asks."""
    place = Place(tmp_path)
    wide(place.home, 10_000, 0)
    shown = place.cli("view", "WideFlow/1").stdout
    assert len(shown.splitlines()) < 25
    assert "work x10000" in shown
    assert "9999 success, 1 failure; median 1.30s, longest 1.60s" in shown
    assert re.search(r"^  work/5002 +failure", shown, re.MULTILINE)
    assert len(place.cli("view", "WideFlow/1", "--all").stdout.splitlines()) > 10_000


def test_escape_sequences_do_not_move_the_cursor(tmp_path: Path) -> None:
    """Colours may stay where there is a terminal; nothing else does."""
    evil = "\x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x1b[5A\x07\u202eback\x9b1m"
    assert formatting.coloured(evil) == "\x1b[31mred\x1b[0mback1m\x1b[0m"
    assert formatting.plain(evil) == "redback1m"
    assert formatting.plain("\x1b[38:5:1mred\x1b[>4;1m\x1b[0m") == "red"
    home = tmp_path / "home"
    made = Journals(home, "Evil")
    failure = {"type": evil, "message": evil, "stacktrace": evil}
    made.attempt(evil, 1, 0, 1, lines=[evil], result="failure", exception=failure)
    made.end(2, "failure")
    runner = CliRunner(env={"OTEL_METAFLOW_HOME": str(home)})
    for arguments in (["Evil/1"], ["Evil/1", "--logs"], [f"Evil/1/{evil}"], [f"Evil/1/{evil}/1"], []):
        done = runner.invoke(view, arguments, color=True)
        assert done.exit_code == 0, done.output
        assert not re.search(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x9b\u202e]", done.output)


def test_a_run_that_goes_on_and_one_of_nothing_are_shown(tmp_path: Path) -> None:
    place = Place(tmp_path)
    made = Journals(place.home, "Going", pid=os.getpid(), processStart=process_start())
    made.attempt("start", 1, 0, 1)
    assert place.cli("view", "Going/1").stdout.startswith("Going/1  running")
    empty = Journals(place.home, "Empty")
    empty.end(1, "failure")
    assert "no attempt was recorded" in place.cli("view", "Empty/1").stdout
    error = {"kind": "log", "timeUnixNano": moment(1), "severityNumber": 40, "logger": "a", "body": "bad"}
    loud = Journals(place.home, "Loud")
    loud.attempt("start", 1, 0, 1, lines=["fine"], records=[{**error, "exception": {"stacktrace": "Trace\n  boom"}}])
    loud.end(2)
    shown = place.cli("view", "Loud/1", "--errors").stdout.splitlines()
    assert [line.rpartition("  ")[2] for line in shown] == ["bad", "Trace", "boom"]


def test_of_a_run_that_goes_on_all_is_drawn_up_to_now(tmp_path: Path) -> None:
    """What runs is no waiting: neither on the critical path nor in how long it took; and no failure."""
    place = Place(tmp_path)
    now = (time.time_ns() - moment(0)) / SECOND
    made = Journals(place.home, "Going", pid=os.getpid(), processStart=process_start(), timeUnixNano=moment(now - 100))
    made.step("start", "work")
    made.step("work")
    made.attempt("start", 1, now - 99, 9)
    made.attempt("work", 2, now - 89, None, inputs=[("start", 1)])
    values = json.loads(place.cli("view", "Going/1", "--json").stdout)
    assert (values["state"], "failure" in values) == ("running", False)
    assert values["durationSeconds"] == pytest.approx(100, abs=30)
    path = values["criticalPath"]
    assert path["attempts"] == ["start/1", "work/2"]
    assert path["queueSeconds"] == pytest.approx(2, abs=0.01)
    assert path["durationSeconds"] == pytest.approx(values["durationSeconds"], abs=0.01)
    (work,) = (one for one in values["attempts"] if one["name"] == "work/2")
    assert (work["state"], work["durationSeconds"] > 80) == ("running", True)
    assert re.search(r"critical path so far \* 1m\d\ds, 2.00s of it queued", place.cli("view", "Going/1").stdout)
    (listed,) = json.loads(place.cli("view", "--json").stdout)
    assert (listed["attempts"], listed["failed"], listed["state"]) == (2, 0, "running")


def test_an_attempt_has_one_name_which_can_be_pasted(place: Place, finished: Finished) -> None:
    """Into `view` and into `id`: as the terminal, the values and the messages call it."""
    run = f"BranchFlow/{finished.run}"
    shown = "\n".join(place.cli("view", run, *more).stdout for more in ([], ["--logs"], ["--json"]))
    shown += place.cli("export", run, "--format", "perfetto").stdout
    assert "retry 1" not in shown
    assert "train/6 is followed by train/6/1" in shown
    for name in set(re.findall(r"\b(?:start|clean|fetch|train)/\d+(?:/\d+)?\b", shown)):
        spans = [one["spanId"] for one in json.loads(place.cli("view", f"{run}/{name}", "--json").stdout)["attempts"]]
        assert json.loads(place.cli("id", f"{run}/{name}", "--json").stdout)["spanId"] == spans[0]


def test_of_a_resumed_run_all_count_the_same(tmp_path: Path) -> None:
    """What ran in it: not what was cloned, which is shown beside it."""
    place = Place(tmp_path)
    source = place.write("""
        import os
        from metaflow import FlowSpec, step
        class AgainFlow(FlowSpec):
            @step
            def start(self):
                self.items = [1, 2, 3]
                self.next(self.work, foreach="items")
            @step
            def work(self):
                self.next(self.join)
            @step
            def join(self, inputs):
                if not os.environ.get("FIXED"):
                    raise ValueError("not yet")
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            AgainFlow()
        """)
    assert place.run(source, "--with", "otel").code == 1
    command = [sys.executable, str(source), "--no-pylint", "resume", "--with", "otel"]
    env = place.environ({"FIXED": "1"})
    done = subprocess.run(command, cwd=place.path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (closing,) = re.findall(
        r"otel: recorded (\d+) attempts, not exported \(no endpoint\). View: otel-metaflow view (\S+)", done.stderr
    )
    assert closing[0] == "2"
    listed = json.loads(place.cli("view", "AgainFlow", "--json", "--limit", "1").stdout)[0]
    assert (listed["attempts"], listed["cloned"]) == (2, 4)
    values = json.loads(place.cli("view", closing[1], "--json").stdout)
    assert sum(one["state"] != "skip" for one in values["attempts"]) == 2
    assert sum(step["used"]["attempts"] for step in values["steps"] if "used" in step) == 2
    shown = place.cli("view", closing[1]).stdout
    assert len(re.findall(r" success ", shown)) - 1 == 2  # of the run itself


def varied(home: Path) -> Journals:
    """A run with failures, retries, a foreach of many tasks and names and reasons of any length."""
    made = Journals(home, "NarrowFlow", "1795460834611391")
    made.step("start", "train")
    made.step("train", LONG, requested={"cpu": 2, "memory": 4000})
    made.step(LONG, "end")
    made.step("end")
    made.attempt("start", 1, 0.1, 0.9, lines=["fine"])
    damaged = {"result": "failure", "exception": {"type": "ValueError", "message": REASON}}
    for task in range(2, 5):
        made.attempt(
            "train", task, 1.5, task, inputs=[("start", 1)], lines=["line"] * task, **(damaged if task == 3 else {})
        )
    made.attempt("train", 3, 5.5, 1.5, attempt=1, inputs=[("start", 1)])
    killed = {"result": "failure", "exception": {"type": "KeyError", "message": "'price'"}}
    made.attempt(LONG, 5, 8, 2, inputs=[("train", 2), ("train", 3), ("train", 4)], **killed)
    made.end(11, "failure")
    return made


LONG = "aggregate_the_predictions_of_all_the_regional_models"
REASON = "the shard eu-west-1/2026-11-23/part-00003.parquet ends in the middle of a row, 12 of 400 rows are missing"


def printed(command: str, place: Place, width: int) -> str:
    """What a command prints on a terminal `width` columns wide, without colours."""
    env = {"COLUMNS": str(width), "FORCE_COLOR": "1", "TERM": "xterm", "TZ": "UTC"}
    done = place.cli(*command.split(), env=env)
    assert done.returncode == 0, done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


PICTURES = Path(__file__).parent / "pictures"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("what", ["run", "foreach", "list", "comparison"])
def test_a_view_fits_the_terminal(tmp_path: Path, what: str, width: int) -> None:
    """The bar gives way first, a reason has lines of its own, and nothing is cut: as the pictures have it."""
    place = Place(tmp_path)
    run = "NarrowFlow/1795460834611391"
    if what == "comparison":
        steady(place.home, "1", 1.0)
        steady(place.home, "2", 2.0, memory=100 << 20)
    elif what == "foreach":
        wide(place.home, 200, 0)
    else:
        varied(place.home)
        Journals(place.home, timeUnixNano=moment(60)).end(65)
    command = {
        "run": f"view {run}",
        "foreach": "view WideFlow/1",
        "list": "view",
        "comparison": "compare Compared/1 Compared/2",
    }[what]
    picture = PICTURES / f"{what}_{width}.txt"
    shown = printed(command, place, width)
    if os.environ.get("DRAW_PICTURES"):
        picture.write_text(shown)
    assert shown == picture.read_text()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_nothing_is_cut_and_nothing_sticks_out(tmp_path: Path, width: int) -> None:
    """Names, reasons, figures and requests are there at any width, and no line is longer."""
    place = Place(tmp_path)
    varied(place.home)
    wide(place.home, 200, 0)
    for run in ("NarrowFlow/1795460834611391", "WideFlow/1"):
        shown = printed(f"view {run}", place, width)
        assert max(map(len, shown.splitlines())) <= width
        assert "…" not in shown
        squeezed = re.sub(r"\s", "", shown)
        named = ("WideFlow/1", "work/102", "199success,1failure") if run == "WideFlow/1" else (LONG, REASON, "3.9KiB")
        for text in (*named, "requested", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            assert re.sub(r"\s", "", text) in squeezed


def test_wide_characters_stay_in_their_columns(tmp_path: Path) -> None:
    """A letter that takes two cells counts as two."""
    place = Place(tmp_path)
    made = Journals(place.home, "流程")
    made.attempt("训练", 1, 0, 1)
    made.attempt("end", 2, 1, 1)
    made.end(2)
    rows = [line for line in printed("view 流程/1", place, 80).splitlines() if "success" in line][1:]
    assert len({cell_len(row[: row.index("success")]) for row in rows}) == 1


_METAFLOW = "/env/lib/python3.11/site-packages/metaflow/task.py"


def frame(file: str, margin: str = "  ", source: str = "work()") -> str:
    """As traceback prints it, with what marks the place."""
    return f'{margin}File "{file}", line 3, in work\n{margin}  {source}\n{margin}  ^^^^^^\n'


@pytest.mark.parametrize(
    ("trace", "shown"),
    [
        ("ValueError: no", "ValueError: no"),
        (frame(_METAFLOW) * 5 + frame("flow.py") + "E", "  … 5 frames of Metaflow\n" + frame("flow.py") + "E"),
        (frame("a.py") + frame(_METAFLOW) + frame("b.py"), frame("a.py") + "  … 1 frame of Metaflow\n" + frame("b.py")),
        (frame(_METAFLOW) * 2 + "E\n\nDuring handling", "  … 2 frames of Metaflow\nE\n\nDuring handling"),
        (frame("/metaflow/metaflow/cli.py"), "  … 1 frame of Metaflow\n"),
        (frame("/metaflow/.mf_code/metaflow/cli.py"), "  … 1 frame of Metaflow\n"),
        (frame(r"C:\env\Lib\site-packages\metaflow\cli.py"), "  … 1 frame of Metaflow\n"),
        (frame("/home/ann/metaflow/flow.py"), frame("/home/ann/metaflow/flow.py")),
        (frame("/env/site-packages/metaflow_extensions/x.py"), frame("/env/site-packages/metaflow_extensions/x.py")),
        (frame(_METAFLOW, "  |   ") + "  |   E", "  |   … 1 frame of Metaflow\n  |   E"),
        (frame(_METAFLOW) + "  [Previous line repeated 9 more times]\nE", "  … 1 frame of Metaflow\nE"),
    ],
)  # fmt: skip
def test_metaflows_own_frames_are_folded(trace: str, shown: str) -> None:
    """In rows, wherever they stand; frames of anything else stay."""
    assert frames.folded(trace) == shown
    fold = frames.Fold()
    one_by_one = [shown for line in trace.split("\n") for shown in fold.add(line)]
    assert "\n".join([*one_by_one, *fold.end()]) == shown


def test_logs_are_folded_and_json_is_not(place: Place, finished: Finished) -> None:
    """A traceback that was printed as one that was recorded."""
    task = f"BranchFlow/{finished.run}/train/6"
    shown = place.cli("view", task, "--logs").stdout
    assert len(re.findall(r"  … \d+ frames? of Metaflow", shown)) >= 2
    assert "/metaflow/task.py" not in shown
    assert shown.count("branch.py") >= 2
    assert "/metaflow/task.py" in place.cli("view", task, "--logs", "--json").stdout
    assert "/metaflow/task.py" in place.cli("view", task, "--json").stdout
