"""What comes of lines that processes wrote into one pipe, whatever their clocks showed and whenever somebody read."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.attempt_logs import AttemptLogs

KEY = AttemptKey("start", "1", 0)
# Numbered, so that of two lines that were reported it is known which one was read; many begin or end another.
TEXTS = ("epoch 1 of {}", "{}", "yes {}", "1 of {}", "")
# What a clock may show: right, stopped, set back, hours ahead.
CLOCKS = st.integers(10**18, 1 << 62) | st.integers(0, 1 << 62)


@dataclass
class World:
    """A task, its forked children and a subprocess on one pipe, and the launcher that reads it."""

    steps: list[tuple[str, bytes]] = field(default_factory=list)
    """What was appended to the journals, in order: to the task's (t) or to the launcher's (o)."""
    reported: list[str] = field(default_factory=list)
    whole: Counter[str] = field(default_factory=Counter)
    """Lines of the subprocess without others' text in them."""
    torn: list[int] = field(default_factory=list)
    """The numbers of its lines that fell into others."""
    is_garbled: bool = False
    """Whether processes wrote into each other's lines, so that undecidable ones may come twice."""
    _line: list[tuple[str, str]] = field(default_factory=list)  # who wrote what, since the last newline
    _unread: list[str] = field(default_factory=list)
    _task_bytes: int = 0
    _clock: int = 1

    def append(self, record: dict[str, Any]) -> None:
        data = _dumped(record)
        self._task_bytes += len(data)
        self.steps.append(("t", data))

    def report(self, pid: int, text: str, at: int) -> None:
        self.reported.append(text)
        record = {"kind": "line", "timeUnixNano": at, "stream": "stdout", "body": text}
        self.append({**record, "pid": pid} if pid else record)

    def log(self, at: int, output: str | None, written_at: int) -> None:
        """A logging record, by a handler that is about to write `output` for it, or by one that writes elsewhere."""
        fields = {"severityNumber": 20, "severityText": "INFO", "logger": "x", "body": "log", "thread": "MainThread"}
        record = {"kind": "log", "timeUnixNano": at, **fields, "file": "flow.py", "line": 7, "function": "start"}
        if output is None:
            self.append(record)
        else:
            line = {"timeUnixNano": written_at, "stream": "stdout", "body": output}
            self.append({**record, "output": line})
            self.write("0", f"{output}\n")

    def write(self, who: str, text: str) -> None:
        """Bytes go into the pipe."""
        for piece in text.splitlines(keepends=True):
            self._line.append((who, piece))
            if piece.endswith("\n"):
                self._end_line()

    def _end_line(self) -> None:
        line = "".join(piece for _, piece in self._line)[:-1]
        self._unread.append(line)
        writers = {who for who, _ in self._line}
        if writers == {"subprocess"}:
            self.whole[line] += 1
        else:
            self.torn.extend(int(re.findall(r"#(\d+)", piece)[0]) for who, piece in self._line if who == "subprocess")
        self.is_garbled |= len(writers) > 1
        self._line = []

    def read(self, clock: int, at: int) -> None:
        """The launcher writes what it has read since, or that there was nothing."""
        self._clock += clock
        records: list[dict[str, Any]] = [
            {
                "kind": "read",
                "timeUnixNano": at,
                "lines": len(self._unread),
                "monotonicNano": self._clock,
                "reported": self._task_bytes,
            },
            *({"kind": "line", "timeUnixNano": at, "stream": "stdout", "body": line} for line in self._unread),
        ]
        self._unread = []
        self.steps.append(("o", b"".join(_dumped(record) for record in records)))

    def unlike(self) -> list[tuple[str, bytes]]:
        """The same steps, in which no line that was read has the bytes of one that was reported."""
        return [
            (which, data if which == "t" else b"".join(_dumped(json.loads(each), " ") for each in data.splitlines()))
            for which, data in self.steps
        ]


def _dumped(record: dict[str, Any], space: str = "") -> bytes:
    return json.dumps(record, separators=("," + space, ":" + space)).encode() + b"\n"


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Processes that print by one write or by two, in parts, or into nothing; one that is killed; a subprocess."""
    world = World()
    begun: dict[int, str] = {}
    written = [""]
    number = 0

    def text() -> str:
        written.append(draw(st.sampled_from(TEXTS)).format(len(written)))
        return written[-1]

    for _ in range(draw(st.integers(1, 40))):
        act = draw(
            st.sampled_from(
                ["text", "newline", "newline", "line", "log", "log", "subprocess", "subprocess", "read", "idle"]
            )
        )
        pid = draw(st.integers(0, 2))
        at = draw(CLOCKS)
        if act == "text" and pid not in begun:
            begun[pid] = text()
            world.write(str(pid), begun[pid])
        elif act == "newline" and pid in begun:
            world.report(pid, begun.pop(pid), at)
            world.write(str(pid), "\n")
        elif act == "line" and pid not in begun:
            line = text()
            world.report(pid, line, at)
            world.write(str(pid), f"{line}\n")
        elif act == "log":
            world.log(at, None if 0 in begun else draw(st.none() | st.builds(text)), draw(CLOCKS))
        elif act == "subprocess":
            number += 1
            likeness = draw(st.sampled_from(written))
            world.write("subprocess", draw(st.sampled_from([f"{likeness}#{number}\n", f"#{number} {likeness}\n"])))
        elif act == "read":
            # A text and its newline are microseconds apart.
            world.read(draw(st.integers(1, 1_000 if begun else 300_000_000)), at)
        elif act == "idle" and not begun:
            world.read(1, at)
            world.read(500_000_000, at)
    for pid in list(begun):
        world.report(pid, begun.pop(pid), draw(CLOCKS))
        world.write(str(pid), "\n")
    if draw(st.booleans()):
        # Killed between its report and its line.
        world.report(draw(st.integers(1, 2)), text(), draw(CLOCKS))
    else:
        world.append({"kind": "end", "timeUnixNano": draw(CLOCKS)})
    world.read(1, draw(CLOCKS))
    return world


def path(folder: Path, which: str) -> Path:
    return layout.attempt_file(folder, KEY) if which == "t" else layout.output_file(folder, KEY)


def watched(
    steps: list[tuple[str, bytes]], looks: list[bool], restarts: list[bool], most: list[int]
) -> list[tuple[str, Any]]:
    """What a reader hands out that looks after some appends, reads so many, and goes on in another process."""
    found: list[tuple[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for which in "to":
            path(folder, which).touch()
        logs = AttemptLogs(folder, KEY, Cursor())
        last = len(steps) - 1
        for number, (which, data) in enumerate(steps):
            with path(folder, which).open("ab") as file:
                file.write(data)
            if number != last and not looks[number % len(looks)]:
                continue
            is_stopped = number != last
            reading = logs.read(final=number == last)
            for count, entry in enumerate(reading):
                found.append((entry.uid, entry.record))
                if is_stopped and count >= most[number % len(most)]:
                    break
            reading.close()
            if is_stopped and restarts[number % len(restarts)]:
                logs = AttemptLogs(folder, KEY, Cursor.from_json(json.loads(json.dumps(logs.cursor().as_json()))))
    return found


BOOLS = st.lists(st.booleans(), min_size=1, max_size=20)


@given(worlds(), BOOLS, BOOLS, st.lists(st.integers(0, 5), min_size=1, max_size=20))
@settings(deadline=None, max_examples=300)
def test_reading_at_any_time_with_any_restarts_has_one_result(
    world: World, looks: list[bool], restarts: list[bool], most: list[int]
) -> None:
    """While it runs or afterwards; and nothing is handed out twice."""
    afterwards = watched(world.steps, [False], [False], [0])
    live = watched(world.steps, looks, restarts, most)
    assert sorted(uid for uid, _ in live) == sorted({uid for uid, _ in live})
    assert dict(live) == dict(afterwards)
    for source in "to":
        assert [uid for uid, _ in live if uid[0] == source] == [uid for uid, _ in afterwards if uid[0] == source]


@given(worlds())
@settings(deadline=None, max_examples=500)
def test_lines_that_are_compared_as_bytes_come_to_the_same_as_parsed_ones(world: World) -> None:
    """Which of the two it is, is a matter of speed alone."""
    found, parsed = (watched(steps, [True], [False], [1_000]) for steps in (world.steps, world.unlike()))
    assert [(uid[0], record) for uid, record in found] == [(uid[0], record) for uid, record in parsed]


@given(worlds())
@settings(deadline=None, max_examples=500)
def test_no_line_is_lost_or_changed_and_none_comes_twice_unless_it_is_undecidable(world: World) -> None:
    """A subprocess's line arrives byte for byte, unless others wrote into it; reported lines arrive in their order."""
    found = watched(world.steps, [False], [False], [0])
    reported = [record["body"] for uid, record in found if uid[0] == "t" and record["kind"] == "line"]
    assert reported == world.reported
    read = [record["body"] for uid, record in found if uid[0] == "o"]
    assert not world.whole - Counter(read), "lost or changed"
    if not world.is_garbled:
        assert Counter(read) == world.whole, "twice"
    for number in world.torn:
        assert any(f"#{number}" in line for line in read), "lost"
