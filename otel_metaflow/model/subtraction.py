"""Subtracts the lines that a task reported from the lines that the launcher read, so that no line is a duplicate.

A task reports a line to its journal just before it writes it; the launcher reads it from the pipe and records the
length of the task's journal at that time. So the report of a line that was read is before that position: the order
follows from positions in the two journals, without a clock. A line that was only read came from C code, a subprocess or
the moment before a kill.

Processes that share a pipe write into each other's lines: Python writes the text and the newline of a `print`
separately, and the pipe may contain "xy" and an empty line if "x" and "y" were reported. Such lines are matched only if
that is certain (see garbled_lines.py). Otherwise a line counts as read: text that appears twice does less harm than a
line that no process wrote.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Any, Deque, Dict, Iterator, List, Optional, Set, Tuple

from otel_metaflow.journal.cursor import NEVER
from otel_metaflow.model.garbled_lines import MAX_LINES, Garbled, Raw, Report

# How long a line that was read but not reported is held, in nanoseconds of the launcher's monotonic clock: text that
# was written into it may be reported with its own newline a moment later.
HOLD = 200_000_000
# How long it is held while reported lines are missing that should have been read: they may be part of it.
HOLD_SUSPICIOUS = 3_000_000_000
# The maximum of pending reports: more lines than fit into a pipe of 64 KB and the launcher's queue cannot be on their
# way. Without a limit, the shipper would remember every report after a launcher was killed.
MAX_PENDING = 70_000


class Subtraction:
    """One stream of one attempt.

    Nearly always the lines that are read are those that one process reports, one after the other. As long as they are,
    they are compared as the bytes that both journals have of them, and no more is made of them (`expect`,
    `read_expected`). What comes of it is the same: for any other line, `unmet` makes reports of what was expected.
    """

    def __init__(self) -> None:
        # Reports of process 0 that are expected to be read in this order: offset, record, what is compared.
        self._expected: Deque[Tuple[int, Dict[str, Any], bytes]] = deque()
        self._alike_expected: Dict[bytes, int] = {}  # how many of them are the same
        self._reported = 0  # pending reports that are not among them
        self._reports: Dict[int, Deque[Report]] = {}  # by process, in its order
        self._alike: Dict[Tuple[str, int], Deque[Report]] = {}  # by text and length
        self._ambiguous: Set[str] = set()  # texts of lines that were read and match several reports
        self._last_read: Dict[int, int] = {}  # by process: the position of its last line that was read
        self._held: Deque[Raw] = deque()
        self._released: Deque[Raw] = deque(maxlen=MAX_LINES)  # the last ones, while anything is pending
        self.pending = 0  # reported lines that have not been read
        self.unread = 0  # reported lines that were never read, once everything is final

    @property
    def is_clean(self) -> bool:
        """Whether nothing is pending, so that a reader that starts here gets the same result."""
        return not self.pending and not self._held

    @property
    def holds(self) -> bool:
        """Whether lines are held."""
        return bool(self._held)

    @property
    def held(self) -> List[int]:
        """The offsets of the lines that were read but are undecided."""
        return [raw.offset for raw in self._held]

    def report(self, report: Report) -> None:
        """A process is about to write a line."""
        reports = self._reports.get(report.pid)
        if reports is None:
            reports = self._reports[report.pid] = deque()
        reports.append(report)
        self._alike.setdefault((report.text, report.length), deque()).append(report)
        self.pending += 1
        self._reported += 1
        if self.pending > MAX_PENDING:
            self._forget(reports[0])
            self.unread += 1

    def expect(self, offset: int, record: Dict[str, Any], same: bytes) -> bool:
        """Process 0 is about to write a line, which is recorded as `same` when it is read; whether it is expected.

        Otherwise it has to be reported, and before it what is `unmet`.
        """
        if self._reported or self._held or not same or self.pending >= MAX_PENDING:
            return False
        self._expected.append((offset, record, same))
        alike = self._alike_expected
        alike[same] = alike.get(same, 0) + 1
        self.pending += 1
        return True

    def read_expected(self, offset: int, same: bytes, known: int) -> bool:
        """Whether a line was read that is the next one expected; otherwise it has to be `read`, after what is `unmet`.

        `offset` is its position in the launcher's journal, and `known` the length of the task's when it was read.
        """
        expected = self._expected
        if not expected or expected[0][2] != same or expected[0][0] >= known:
            return False
        _, record, _ = expected.popleft()
        self.pending -= 1
        alike, text = self._alike_expected, record["body"]
        if alike[same] == 1:
            del alike[same]
        else:
            alike[same] -= 1
            if any(each[2] == same and each[0] < known for each in expected):
                self._ambiguous.add(text)
        if text and text not in self._ambiguous:
            self._last_read[0] = offset
        return True

    def unmet(self) -> Iterator[Report]:
        """What is expected, now as reports."""
        expected = list(self._expected)
        self._expected.clear()
        self._alike_expected.clear()
        self.pending -= len(expected)
        for offset, record, _ in expected:
            text = record["body"]
            report = Report(text, record.get("length", len(text)), record["timeUnixNano"], offset)
            self.report(report)
            yield report

    def read(self, raw: Raw) -> None:
        """A line was read from the pipe."""
        self.settle(raw.known)
        reported = self._take(raw)
        if reported is None:
            self._held.append(raw)
        elif self._held:
            self._date_held(reported, up_to=raw.offset)

    def settle(self, known: int) -> None:
        """Drop the state if nothing before `known` is pending, so that a reader starting here gets the same result."""
        if self._held or not (self._released or self._last_read or self._ambiguous):
            return
        if self._expected and self._expected[0][0] < known:
            return
        for reports in self._reports.values():
            if reports and reports[0].offset < known:
                return
        self._released.clear()
        self._last_read.clear()
        self._ambiguous.clear()

    def release(self, known: int, now: int, *, is_idle: bool = False, final: bool = False) -> Iterator[Raw]:
        """Yield the lines that were not reported, once that is certain, in order.

        The task's journal is known up to `known`, and `now` is the launcher's monotonic clock. If it `is_idle`, nothing
        was read for a while and the pipe is empty; if it is `final`, there will be no more lines.
        """
        if final:
            known = NEVER
        while self._held:
            raw = self._held[0]
            age = now - raw.read
            if not final and age < HOLD:
                return
            if raw.until is None:
                raw.until = known
            if self.pending:
                is_over = is_idle or final or age >= HOLD_SUSPICIOUS
                missing = self._missing(raw, known, is_over=is_over)
                garbled = Garbled(self._held, missing, self._released, self._ambiguous)
                if garbled.resolve(is_alive=not final) and (is_over or not self._may_be_reported(garbled.rest)):
                    for report in garbled.found:
                        self._forget(report)
                    for taken in garbled.taken:
                        self._held.remove(taken)
                    if garbled.rest is not None:
                        self._released.append(garbled.rest)
                        yield garbled.rest
                    continue
                if not is_over and self._is_suspicious(raw):
                    return
            self._released.append(self._held.popleft())
            yield raw
        if final:
            self.unread += self.pending
            self._reports.clear()
            self._alike.clear()
            self._released.clear()
            self._expected.clear()
            self._alike_expected.clear()
            self.pending = self._reported = 0

    def _take(self, raw: Raw) -> Optional[Report]:
        """Remove and return the report of this line; earlier reports of its process remain for garbled lines."""
        alike = self._alike.get((raw.text, raw.length))
        if alike is None or alike[0].offset >= raw.known:
            return None
        # The oldest one that is the first pending report of its process, or else the oldest of all.
        fronts = [reports[0] for reports in self._reports.values() if reports and _is(reports[0], raw)]
        report = min(fronts, key=_offset) if len(fronts) > 1 else fronts[0] if fronts else alike[0]
        self._forget(report)
        if alike and alike[0].offset < raw.known:
            self._ambiguous.add(raw.text)
        # An empty line may be any process's newline, so it proves nothing about its process.
        if raw.text and report.before is None and raw.text not in self._ambiguous:
            self._pass(report, raw)
        return report

    def _pass(self, read: Report, raw: Raw) -> None:
        """`read` was read as `raw`: earlier reports of its process should have been read before it."""
        after = self._last_read.get(read.pid, -1)
        for report in self._reports[read.pid]:
            if report.offset > read.offset:
                break
            if report.before is None:
                report.after, report.before = after, raw.offset
        self._last_read[read.pid] = raw.offset

    def _forget(self, report: Report) -> None:
        self.pending -= 1
        self._reported -= 1
        key = (report.text, report.length)
        for reports in (self._reports[report.pid], self._alike[key]):
            if reports[0] is report:
                reports.popleft()
            else:
                reports.remove(report)
        if not self._alike[key]:
            del self._alike[key]

    def _date_held(self, read: Report, up_to: int) -> None:
        """Date held lines: those read before this one were written before it, however late the launcher read them."""
        before = read.at
        # A missing line of that process may be the end of a held one, which then was written no later than that.
        ends = [report for report in takewhile(_is_passed, self._reports[read.pid]) if report.text]
        for raw in reversed(self._held):
            if raw.offset < up_to:
                for report in ends:
                    if raw.text.endswith(report.text):
                        before = min(before, report.at)
                before = raw.at = max(0, min(raw.at, before - 1))

    def _missing(self, raw: Raw, known: int, *, is_over: bool) -> List[Report]:
        """The reports before `known` that should have been read around `raw` or later, in order.

        These are the ones whose process's next line was read after it; if it `is_over`, all that were not read.
        """
        found: List[Report] = []
        for pid, reports in self._reports.items():
            for report in reports:
                if report.before is None:
                    if not is_over:
                        break
                    report.after = self._last_read.get(pid, -1)
                if report.offset >= known:
                    break
                if report.before is None or report.before > raw.offset:
                    found.append(report)
        found.sort(key=lambda report: report.offset)
        return found

    def _may_be_reported(self, rest: Optional[Raw]) -> bool:
        """Whether what is left of a line may be the next line of a process of which no later one was read yet."""
        if rest is None:
            return False
        pending = (next((each for each in reports if each.before is None), None) for reports in self._reports.values())
        return any(each.text in rest.text for each in pending if each is not None and each.text)

    def _is_suspicious(self, raw: Raw) -> bool:
        """Whether a line is missing that had been reported when this one was first considered."""
        until = NEVER if raw.until is None else raw.until
        return any(
            report.offset < until and (report.before is None or report.before > raw.offset)
            for reports in self._reports.values()
            for report in reports
        )


def _is(report: Report, raw: Raw) -> bool:
    """Whether `raw` is the line of `report`, which had been reported when it was read."""
    return report.offset < raw.known and report.text == raw.text and report.length == raw.length


def _offset(report: Report) -> int:
    return report.offset


def _is_passed(report: Report) -> bool:
    return report.before is not None
