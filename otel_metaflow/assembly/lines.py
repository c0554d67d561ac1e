"""Takes the lines that a task reported from the lines that the launcher read, so that each counts once.

A task reports a line to its journal just before it writes it; whoever reads the pipe reads it a moment
later. What was read and not reported came from C code, a subprocess or a last gasp. Lines of one
process arrive in the order in which it reported them, so a line read is looked for at the front of
each process's queue.

Two processes can write into one line: Python writes the text and the newline of a `print` separately.
Then the pipe holds "xy" and an empty line where "x" and "y" were reported. A line read that nobody
reported is therefore held for a moment, and taken apart if it is made of reported lines whose turn in
the pipe has passed.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from itertools import islice
from typing import Deque, Dict, Iterator, List, Optional, Sequence

# How long a line that was read and not reported is held, in nanoseconds of the journal's time: reports
# come first by causality, so this only has to cover a clock that is set back, and garbled lines.
HOLD = 200_000_000
# How long it is held if it may be garbled: it then contains a reported line that was not read yet.
HOLD_SUSPICIOUS = 3_000_000_000
# Without anything read for so long, the pipe is empty and every reported line has been through it.
IDLE = 1_000_000_000
# So many reports wait at most: more lines than a pipe of 64 KB holds, and the launcher puts aside, are on their
# way to nobody. Without a bound, a launcher that was killed would have the shipper remember all that followed.
MOST_WAITING = 70_000
# So many waiting reports are looked at for a garbled line; more are waiting only while the launcher lags.
_MOST_LOOKED_AT = 256
# So many lines that were read are looked at together, in case they are reported ones, shuffled.
_MOST_SHUFFLED = 32


@dataclass(slots=True)
class Report:
    """A line that a process said it was about to write."""

    text: str
    length: int
    at: int


@dataclass(slots=True)
class Raw:
    """A line that was read from the pipe at `read`; `offset` is its place in the launcher's journal.

    `at` is when it was written, as far as the lines around it tell.
    """

    text: str
    length: int
    at: int
    offset: int
    read: int


class Subtraction:
    """One stream of one attempt."""

    def __init__(self) -> None:
        self._reports: Dict[int, Deque[Report]] = {}
        self._texts: Dict[str, int] = {}
        self._waiting = 0
        self._newest_taken = 0
        self._newest_of: Dict[int, int] = {}  # by process
        self._last_read = 0
        self._held: Deque[Raw] = deque()
        self._spare_newlines = 0
        self.unread = 0  # reported lines that were never read, once all is final

    @property
    def is_clean(self) -> bool:
        """Whether nothing is pending: a later start from here sees what this one saw."""
        return not self._waiting and not self._held and not self._spare_newlines

    @property
    def holds(self) -> bool:
        """Whether lines are held."""
        return bool(self._held)

    @property
    def held(self) -> List[int]:
        """The offsets of the lines that were read and are not decided."""
        return [raw.offset for raw in self._held]

    def report(self, pid: int, report: Report) -> None:
        """Process `pid` is about to write a line."""
        for raw in self._held:
            if raw.text == report.text and raw.length == report.length:
                self._held.remove(raw)
                self._date_held(before=report.at, up_to=raw.offset)
                return
        reports = self._reports.get(pid)
        if reports is None:
            reports = self._reports[pid] = deque()
        reports.append(report)
        self._texts[report.text] = self._texts.get(report.text, 0) + 1
        self._waiting += 1
        if self._waiting > MOST_WAITING:
            newest, oldest = self._newest_taken, self._reports[pid].popleft()
            self._taken(oldest)
            self._newest_taken = newest
            self.unread += 1

    def read(self, raw: Raw) -> None:
        """A line was read from the pipe."""
        self._last_read = max(self._last_read, raw.read)
        reported = self._take(raw)
        if reported is None:
            self._held.append(raw)
        elif self._held:
            self._date_held(before=reported.at, up_to=raw.offset)

    def release(self, now: int, *, final: bool = False) -> Iterator[Raw]:
        """Yield the lines that nobody reported, once that is sure; `final` when no more will come."""
        while self._held:
            raw = self._held[0]
            age = now - raw.read
            if not final and age < HOLD:
                return
            if not final and age < HOLD_SUSPICIOUS and self._may_be_garbled(raw):
                return
            passed = None if final or now - self._last_read > IDLE else self._newest_taken
            if self._take_shuffled():
                continue
            self._held.popleft()
            rest = self._taken_apart(raw, passed)
            if rest is not None:
                yield rest
        if final:
            self.unread += self._waiting
            self._reports.clear()
            self._texts.clear()
            self._waiting = 0
            self._spare_newlines = 0

    def _take(self, raw: Raw) -> Optional[Report]:
        """Take the report of this very line; earlier ones of its process stay, they are garbled ones."""
        if raw.text not in self._texts:
            return None
        for pid, reports in self._reports.items():
            if reports and _same(reports[0], raw):
                self._newest_of[pid] = reports[0].at
                return self._taken(reports.popleft())
        for pid, reports in self._reports.items():
            for index, report in enumerate(reports):
                if _same(report, raw):
                    del reports[index]
                    self._newest_of[pid] = report.at
                    return self._taken(report)
        return None

    def _taken(self, report: Report) -> Report:
        self._waiting -= 1
        self._newest_taken = max(self._newest_taken, report.at)
        left = self._texts[report.text] - 1
        if left:
            self._texts[report.text] = left
        else:
            del self._texts[report.text]
        return report

    def _date_held(self, before: int, up_to: int) -> None:
        """Lines read before this one were written before it, however late the launcher read them."""
        for raw in reversed(self._held):
            if raw.offset < up_to:
                end = self._reported_end(raw)
                before = raw.at = min(raw.at, (end.at if end else before) - 1)

    def _may_be_garbled(self, raw: Raw) -> bool:
        if not self._waiting:
            return False
        if not raw.text:
            # The second newline of two that fell together, perhaps: it waits as long as the first.
            return True
        # A report whose turn should have come is missing: it is in what was read around this line, perhaps.
        return any(reports and reports[0].at <= raw.read for reports in self._reports.values())

    def _all_reports(self) -> Iterator[Report]:
        for reports in self._reports.values():
            yield from reports

    def _taken_apart(self, raw: Raw, passed: Optional[int]) -> Optional[Raw]:
        """What is left of a line after the reported lines in it are taken out, None if nothing is.

        Only reports from before `passed` count: their turn in the pipe is over. None means all of them.
        """
        if not raw.text:
            if self._spare_newlines:
                self._spare_newlines -= 1
                return None
            return raw
        left = [raw.text]
        parts: List[Report] = []
        for report in list(islice(self._all_reports(), _MOST_LOOKED_AT)):
            # A text that fell into this line is reported with its own newline, a moment later.
            if not report.text or report.at > raw.read + HOLD or (passed is not None and report.at >= passed):
                continue
            cut = _cut(left, report.text)
            if cut is not None:
                left = cut
                parts.append(report)
        rest = "".join(left)
        # Each reported line brought a newline of its own, and so did an unreported rest; one of them ended
        # this line, the others stand alone in the stream. Where they do not, the likeness is chance.
        newlines = len(parts) - (0 if rest else 1)
        if not parts or newlines > self._lone_newlines():
            return self._without_reported_end(raw)
        for report in parts:
            self._forget(report)
        self._spare_newlines += newlines
        return Raw(rest, len(rest), raw.at, raw.offset, raw.read) if rest else None

    def _take_shuffled(self) -> bool:
        """Take the lines held first for the reported lines that they are, shuffled; whether they were.

        `print` writes each of its arguments apart, and the pieces of several processes come in any order: what
        was read then holds the very characters of what was reported, newlines counted, in each one's own order.
        """
        if not self._waiting:
            return False
        reports = sorted(islice(self._all_reports(), _MOST_LOOKED_AT), key=lambda report: report.at)
        raws = list(islice(self._held, _MOST_SHUFFLED))
        read = said = 0  # how many of each are looked at
        surplus = 0  # how many characters more were read than said
        while True:
            if read and said and not surplus and _is_shuffled(raws[:read], reports[:said]):
                break
            if surplus <= 0 and read < len(raws):
                surplus += len(raws[read].text) + 1
                read += 1
            elif said < len(reports):
                surplus -= len(reports[said].text) + 1
                said += 1
            else:
                return False
        for raw in raws[:read]:
            self._held.remove(raw)
        for report in reports[:said]:
            self._forget(report)
        return True

    def _reported_end(self, raw: Raw) -> Optional[Report]:
        """The reported line before which somebody wrote a text without a newline, a prompt say.

        Only a report that its own process has followed by another, which was read, is surely in what was read.
        """
        for pid, reports in self._reports.items():
            newest = self._newest_of.get(pid, 0)
            for report in reports:
                if report.at >= newest:
                    break
                if report.text and raw.text.endswith(report.text):
                    return report
        return None

    def _without_reported_end(self, raw: Raw) -> Raw:
        report = self._reported_end(raw)
        if report is None:
            return raw
        self._forget(report)
        rest = raw.text[: -len(report.text)]
        return Raw(rest, len(rest), raw.at, raw.offset, raw.read)

    def _lone_newlines(self) -> int:
        """How many empty lines were read that nobody reported, and that no garbled line accounts for."""
        return sum(not raw.text for raw in self._held) - self._spare_newlines

    def _forget(self, report: Report) -> None:
        for reports in self._reports.values():
            if report in reports:
                reports.remove(report)
                self._taken(report)
                return


def _is_shuffled(raws: Sequence[Raw], reports: Sequence[Report]) -> bool:
    """Whether the lines read are the reported ones, their pieces in another order.

    The same characters, and at least one report whole: of the others a line that is gone may have taken
    pieces, where shuffled pieces happened to make up another reported line.
    """
    read = "".join(raw.text + "\n" for raw in raws)
    if Counter(read) != Counter("".join(report.text + "\n" for report in reports)):
        return False
    return any(_is_within(report.text + "\n", read) for report in reports)


def _is_within(text: str, other: str) -> bool:
    """Whether the characters of `text` stand in `other` in their order, others between them."""
    rest = iter(other)
    return all(character in rest for character in text)


def _same(report: Report, raw: Raw) -> bool:
    return report.length == raw.length and report.text == raw.text


def _cut(pieces: List[str], text: str) -> Optional[List[str]]:
    """`pieces` without one occurrence of `text`, or None if no piece holds it."""
    for index, piece in enumerate(pieces):
        at = piece.find(text)
        if at >= 0:
            return [*pieces[:index], piece[:at], piece[at + len(text) :], *pieces[index + 1 :]]
    return None
