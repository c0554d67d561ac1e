"""A wide run without its work: one process writes what the launcher and the tasks of a foreach would, at a rate.

    python tests/wide_runs.py HOME --attempts 1000 --rate 50

The records are those of docs/journal.md, appended by the product's own journal; only the processes are not there. This
one stands for all of them, so that the run looks alive. Once every attempt is over it prints `written` and lives on, as
a launcher that waits, until its standard input is closed; then it writes the end of the run.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from otel_metaflow.core import ids
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.processes import process_start
from otel_metaflow.journal.writer import Journal

FLOW, RUN = "WideFlow", "1"
UNLIMITED = {"OTEL_METAFLOW_MAX_ATTEMPT_SPANS": "1000000"}
"""For shippers whose work is counted by spans: each attempt has one, however wide the run."""
_NANO = 10**9
# The pace by which a run is dated that is written as fast as it can be: so many attempts a second.
_PACE = 50.0
_STEPS: tuple[tuple[str, str, list[str]], ...] = (
    ("start", "start", ["work"]),
    ("work", "linear", ["join"]),
    ("join", "join", ["end"]),
    ("end", "end", []),
)


@dataclass(frozen=True)
class Shape:
    """What a run is like: `rate` attempts a second, `at_once` of them at a time, `failures` of them in each hundred.

    A failed attempt is tried again, and every other one of them is killed. With a rate of 0 the run is written as fast
    as it can be, and dated as if it had lain there for a while.
    """

    attempts: int
    rate: float = 50.0
    at_once: int = 16
    lines: int = 3
    spans: int = 0
    failures: int = 4


class Planned(NamedTuple):
    """One attempt to be: when it begins and ends, in seconds since the run began, and how."""

    key: AttemptKey
    begins: float
    ends: float
    result: str  # success, failure or killed


def plan(shape: Shape) -> list[Planned]:
    """All attempts, in order of their beginnings: of start and end, and the foreach between them.

    So many at once take turns; of a turn whose attempt failed, the next attempt is the retry.
    """
    pace = shape.rate or _PACE
    took = shape.at_once / pace
    wide = shape.attempts - 3
    last: dict[int, Planned] = {}
    made = [Planned(AttemptKey("start", "1", 0), 0.0, took, "success")]
    task = 1
    for number in range(wide):
        turn = number % shape.at_once
        before = last.get(turn)
        if before is not None and before.result != "success":
            key = before.key._replace(attempt=before.key.attempt + 1)
        else:
            task += 1
            key = AttemptKey("work", str(task), 0)
        fails = number % 100 < shape.failures and key.attempt == 0 and number < wide - shape.at_once
        result = ("failure", "killed")[number % 2] if fails else "success"
        begins = took + number / pace
        last[turn] = Planned(key, begins, begins + took * (1 - number % 7 / 14), result)
        made.append(last[turn])
    for step in ("join", "end"):
        task += 1
        begins = max(one.ends for one in made)
        made.append(Planned(AttemptKey(step, str(task), 0), begins, begins + took, "success"))
    return made


def bodies(shape: Shape) -> set[str]:
    """The lines of all tasks: each is to arrive once."""
    return {line for one in plan(shape) for line in _lines(one.key, shape)}


def span_ids(shape: Shape) -> set[str]:
    """The spans of the run, of its attempts and what those waited for, and of user code."""
    planned = plan(shape)
    attempts = {ids.attempt_span_id(FLOW, RUN, *one.key, "") for one in planned}
    waits = {ids.part_span_id(FLOW, RUN, *one.key, "queued", "") for one in planned if _has_queued(one, planned[0])}
    users = {_span_id(one.key, number) for one in planned for number in range(shape.spans)}
    return {ids.run_span_id(FLOW, RUN, ""), *attempts, *waits, *users}


def _has_queued(one: Planned, start: Planned) -> bool:
    """Whether an attempt waited so long for its turn that its wait is a span of its own: for more than a second."""
    is_first = one.key.step == "work" and not one.key.attempt
    return is_first and round(one.begins * _NANO) - round(start.ends * _NANO) > _NANO


def is_line(body: str) -> bool:
    """Whether a log record's body is a task's line, rather than an event's."""
    return body.startswith("line ")


def _lines(key: AttemptKey, shape: Shape) -> list[str]:
    return [
        f"line {number} of {key}: loss=0.4186 accuracy=0.9731, and words as lines have" for number in range(shape.lines)
    ]


def _span_id(key: AttemptKey, number: int) -> str:
    return ids.part_span_id(FLOW, RUN, *key, f"user {number}", "")


class Wide:
    """A run that a process of its own writes; `folder` is where."""

    def __init__(self, home: Path, shape: Shape) -> None:
        self.shape = shape
        self.folder = layout.run_folder(home, RunKey(FLOW, RUN))
        options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(shape).items()]
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(home), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._wait_for("begun")

    def wait_written(self) -> None:
        """Return when all attempts are over; the launcher lives on."""
        self._wait_for("written")

    def end(self) -> float:
        """The launcher ends the run; the moment of its last line, by `time.monotonic`."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        return time.monotonic()

    def _wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == f"{word}\n", f"{word} was expected, {line!r} came"


@contextlib.contextmanager
def running(home: Path, shape: Shape) -> Generator[Wide, None, None]:
    """A run that is being written; its process does not outlive the context."""
    wide = Wide(home, shape)
    try:
        yield wide
    finally:
        for pipe in (wide.process.stdin, wide.process.stdout):
            if pipe is not None:
                pipe.close()
        wide.process.kill()
        wide.process.wait()


def cpu_seconds(pid: int) -> float:
    """The CPU that a process and its threads have used, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def memory_peak(pid: int) -> int:
    """The most bytes that a process had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


# What the process does


class _Writing:
    def __init__(self, home: Path, shape: Shape) -> None:
        self._shape = shape
        self._folder = layout.run_folder(home, RunKey(FLOW, RUN))
        self._folder.mkdir(parents=True)
        self._plan = plan(shape)
        self._tasks = sum(one.key.step == "work" and not one.key.attempt for one in self._plan)
        past = 0 if shape.rate else int((self._plan[-1].ends + 60) * _NANO)
        self._began = time.time_ns() - past
        self._process = {"pid": os.getpid(), "processStart": process_start()}
        self._common = {"version": layout.VERSION, "flow": FLOW, "run": RUN, "namespace": ""}
        self._run = Journal(self._folder / layout.RUN_FILE, _fail)

    def begin(self) -> None:
        """The run's first records."""
        resource = {
            "service.name": "metaflow",
            "service.namespace": "metaflow",
            "host.name": "wide",
            "user.name": "ann",
        }
        self._record(layout.START, 0, **self._common, **self._process, resource=resource)
        for step, kind, following in _STEPS:
            self._record(layout.STEP, 0, step=step, type=kind, next=following, recorded=True, requested={"cpu": 1})

    def attempts(self) -> None:
        """What happens to the attempts, in order of time."""
        doings: list[tuple[float, int, Iterator[float]]] = []
        for number, one in enumerate(self._plan):
            # Those that are under way do what they do before the next begins.
            while doings and doings[0][0] <= one.begins:
                self._go_on(doings)
            heapq.heappush(doings, (one.begins, number, self._attempt(one)))
        while doings:
            self._go_on(doings)

    def _go_on(self, doings: list[tuple[float, int, Iterator[float]]]) -> None:
        at, number, doing = doings[0]
        if self._shape.rate:
            late = self._began + at * _NANO - time.time_ns()
            if late > 0:
                time.sleep(late / _NANO)
        after = next(doing, None)
        if after is None:
            heapq.heappop(doings)
        else:
            heapq.heapreplace(doings, (after, number, doing))

    def end(self) -> None:
        """The run's last records."""
        at = self._plan[-1].ends
        self._record(layout.END, at, result="success")
        self._record(layout.CLOSED, at)
        self._run.close()

    def _attempt(self, one: Planned) -> Iterator[float]:
        """All that one attempt's processes write; yields when each part of it is due."""
        key, took = one.key, one.ends - one.begins
        identity = key._asdict()
        reads = {"start": [], "work": ["1"], "join": self._read_by_join, "end": [str(self._tasks + 2)]}[key.step]
        step = {"start": "", "work": "start", "join": "work", "end": "join"}[key.step]
        inputs = layout.grouped((step, task, 0) for task in reads)
        yield one.begins
        self._record(layout.LAUNCH, one.begins, **identity, **self._process, inputs=inputs)
        own_file = layout.attempt_file(self._folder, key)
        own = Journal(own_file, _fail)
        output = Journal(layout.output_file(self._folder, key), _fail)
        yield one.begins + took * 0.1
        facts: dict[str, Any] = {
            **self._common, **identity, "maxUserCodeRetries": 1, "logs": ["stdout", "stderr", "logging"],
            "attributes": {}, "stepType": "linear", "inputs": inputs,
            **self._process, "processStartTimeUnixNano": self._at(one.begins),
        }  # fmt: skip
        if key.step == "work":
            facts["foreach"] = [[int(key.task) - 2, self._tasks]]
        self._append(own, layout.START, one.begins + took * 0.1, **facts)
        yield one.begins + took * 0.2
        lines = _lines(key, self._shape)
        middle = len(lines) // 2
        for part, share in ((lines[:middle], 0.3), (lines[middle:], 0.8)):
            at = one.begins + took * share
            yield at
            self._print(own, own_file, output, at, part)
        for number in range(self._shape.spans):
            self._user_span(own, one, number)
        if one.result != "killed":
            self._end(own, one, took)
        own.close()
        yield one.ends
        output.close()
        code = {"success": 0, "failure": 1, "killed": -9}[one.result]
        result = {"ok": True} if one.result == "success" else {}
        self._record(layout.EXIT, one.ends, **identity, code=code, killed=False, **result)

    @property
    def _read_by_join(self) -> list[str]:
        return [str(task + 2) for task in range(self._tasks)]

    def _print(self, own: Journal, own_file: Path, output: Journal, at: float, lines: list[str]) -> None:
        """Lines of a task; its third is a subprocess's, which only the launcher reads."""
        stamp = {"timeUnixNano": self._at(at), "stream": "stdout"}
        for line in lines:
            if not line.startswith("line 2 "):
                own.append(layout.LINE, {**stamp, "body": line})
        note = {"lines": len(lines), "monotonicNano": stamp["timeUnixNano"], "reported": own_file.stat().st_size}
        self._append(output, layout.READ, at, **note)
        for line in lines:
            output.append(layout.LINE, {**stamp, "body": line})

    def _user_span(self, own: Journal, one: Planned, number: int) -> None:
        began = one.begins + (one.ends - one.begins) * 0.4
        self._append(
            own, layout.SPAN, began + 0.01, traceId=ids.trace_id(FLOW, RUN, ""), spanId=_span_id(one.key, number),
            parentSpanId=ids.attempt_span_id(FLOW, RUN, *one.key, ""), flags=1, name=f"part {number}", spanKind=1,
            startTimeUnixNano=self._at(began), endTimeUnixNano=self._at(began + 0.01), attributes={"part": number},
            events=[], links=[], status={"code": 0}, scope={"name": "wide"},
        )  # fmt: skip

    def _end(self, own: Journal, one: Planned, took: float) -> None:
        fields: dict[str, Any] = {
            "result": one.result,
            "codeStart": self._at(one.begins + took * 0.2),
            "codeEnd": self._at(one.begins + took * 0.9),
            "artifacts": {"count": 2, "bytes": 200},
            "usage": {"cpu": took / 2, "memoryPeak": 50 << 20, "read": 1000, "written": 1000},
        }
        if one.result == "failure":
            message = f"shard {one.key.task} is damaged"
            stacktrace = (
                f'Traceback (most recent call last):\n  File "flow.py", line 9, in work\nValueError: {message}\n'
            )
            fields["exception"] = {"type": "ValueError", "message": message, "stacktrace": stacktrace}
            fields["caught"] = False
        self._append(own, layout.END, one.begins + took * 0.95, **fields)

    def _record(self, kind: str, at: float, **fields: Any) -> None:
        self._append(self._run, kind, at, **fields)

    def _append(self, journal: Journal, kind: str, at: float, **fields: Any) -> None:
        journal.append(kind, {"timeUnixNano": self._at(at), **fields})

    def _at(self, seconds: float) -> int:
        return self._began + round(seconds * _NANO)


def _fail(error: OSError) -> None:
    raise error


@click.command()
@click.argument("home", type=click.Path(path_type=Path))
@click.option("--attempts", type=int, required=True)
@click.option("--rate", default=50.0, show_default=True, help="Attempts a second; 0 is as fast as can be.")
@click.option("--at-once", default=16, show_default=True)
@click.option("--lines", default=3, show_default=True, help="Of each attempt.")
@click.option("--spans", default=0, show_default=True, help="Of each attempt's user code.")
@click.option("--failures", default=4, show_default=True, help="Of a hundred attempts.")
def main(home: Path, **shape: Any) -> None:
    """Write a wide run."""
    writing = _Writing(home, Shape(**shape))
    writing.begin()
    click.echo("begun")
    writing.attempts()
    click.echo("written")
    sys.stdin.read()
    writing.end()


if __name__ == "__main__":
    main()
