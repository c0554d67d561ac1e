"""What `otel-metaflow view` shows, as text without the figures that differ from run to run."""

from __future__ import annotations

import re
import textwrap

from collectors import ROOT
from running import Finished, Place

from otel_metaflow import ids
from otel_metaflow.assembly.run import Run
from otel_metaflow.journal.layout import AttemptKey, RunKey
from otel_metaflow.viewer.terminal import shape


def without_figures(shown: str, finished: Finished) -> str:
    """Times, sizes and bars replaced by what they are; columns closed up, rows of one moment in order."""
    shown = shown.replace(finished.run, "RUN")
    shown = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", shown)
    shown = re.sub(r"\d+\.\d\ds", "Ts", shown)
    shown = re.sub(
        r"[·░█▒]+(?: [·░█▒]+)*(?= )",
        "BAR",
        shown.replace("bar: · waiting  ░ starting  █ user code  ▒ storing", "legend"),
    )
    shown = re.sub(r"\b\d+(\.\d+)? (B|kB|MB)\b", "SIZE", shown)
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


def test_a_run_with_one_failing_branch_answers_at_a_glance(place: Place) -> None:
    """Its shape, what failed first and why, what was tried again or rescued, where the time went, and use."""
    finished = place.run(ROOT / "examples/branch.py", "--with", "otel")
    assert finished.code == 1
    shown = place.cli("view", f"BranchFlow/{finished.run}").stdout
    (last,) = re.findall(r"critical path \* .*", shown)
    assert re.fullmatch(r"critical path \* \d\.\d\ds, \d\.\d\ds of it waiting: start/1 > fetch/\d > train/\d", last)
    golden = f"""\
        BranchFlow/RUN  failure  Ts  started TIME
        trace {ids.trace_id("BranchFlow", finished.run)}
        shape start > (clean | fetch) > train[3] > gather > join > end
        failed first: train/6 retry 1: ValueError: shard 3 holds no rows
        attempt  result  waited  took  when  logs
        clean/2  success  Ts  Ts  BAR  COUNT  caught KeyError: 'column price is missing'
        fetch/3  success  Ts  Ts  BAR  COUNT
        start/1  success  Ts  Ts  BAR  COUNT
        train/4  success  Ts  Ts  BAR  COUNT
        train/5  success  Ts  Ts  BAR  COUNT
        train/6  failure  Ts  Ts  BAR  COUNT  ValueError: shard 3 holds no rows (tried again)
        train/6 retry 1  failure  Ts  Ts  BAR  COUNT  ValueError: shard 3 holds no rows
        legend
        {last.replace(finished.run, "RUN")}
        step  attempts  cpu s  cores  asked  memory  asked  read  written
        clean  1  N  N  SIZES
        fetch  1  N  N  SIZES
        start  1  N  N  SIZES
        train  4  N  N  2  SIZE  3.9 GB  SIZES
        telemetry: kept here, nothing is sent (OTEL_EXPORTER_OTLP_ENDPOINT was not set)
        """
    golden = re.sub(r"\d+\.\d\ds", "Ts", textwrap.dedent(golden).rstrip())
    assert without_figures(shown, finished) == golden


def test_the_shape_of_flows() -> None:
    """Branches side by side, a foreach with its width, a step that leads back to itself marked."""

    def drawn(following: dict[str, list[str]], *tasks: str) -> str:
        run = Run(RunKey("F", "1"), steps={step: {"next": after} for step, after in following.items()})
        for task, step in enumerate(tasks):
            run.attempt(AttemptKey(step, str(task), 0))
        return shape(run)

    assert drawn({"start": ["end"], "end": []}) == "start > end"
    assert drawn({"start": ["a", "b"], "a": ["join"], "b": ["c"], "c": ["join"], "join": []}) == (
        "start > (a | b) > c > join"
    )
    assert drawn({"start": ["work"], "work": ["join"], "join": []}, "start", "work", "work") == "start > work[2] > join"
    assert drawn({"start": ["again"], "again": ["again", "end"], "end": []}) == "start > again ↺ > end"
    assert drawn({"a": ["b"], "b": ["a"]}) == ""
