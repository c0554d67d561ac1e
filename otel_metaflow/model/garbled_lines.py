"""Lines of several processes that fell into each other in one pipe: known again on proof, or not at all.

What counts as proof is that nothing is left over and nothing is missing. Each report is a promise that its
text and one newline went through the pipe, between the lines that its process wrote before and after it.
So lines that were read are reported ones

- if together they hold the very characters of reports whose turn is over, newlines counted, or
- if one is made of whole reported texts and for each newline that is missing an empty line follows, which
  nobody reported; a text of somebody else may end it (`minetheirs`, and an empty line), or
- if it ends with a reported text, before which somebody else wrote one without a newline (a prompt): then
  everything that its process reported between two lines that were read must be found like this.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import Container, Deque, Iterable, List, Optional, Sequence, Tuple

from otel_metaflow.journal.cursor import NEVER

# Beyond every place in a journal.
# So many missing reports are looked at, and so many lines that were read.
_MOST_REPORTS = 256
MOST_LINES = 32
# So many ways to put a line together are tried.
_MOST_WAYS = 500


@dataclass(eq=False)
class Report:
    """A line that process `pid` reported it was about to write; `offset` is its place in the task's journal.

    `after` and `before` are places in the launcher's journal: of the lines read of that process before and
    after it, as far as that is known. It is `is_followed` if the process lived to write another record.
    """

    text: str
    length: int
    at: int
    offset: int
    pid: int = 0
    after: int = -1
    before: Optional[int] = None
    is_followed: bool = False


@dataclass(eq=False)
class Raw:
    """A line that was read from the pipe; `offset` is its place in the launcher's journal.

    When it was read, the task's journal was known up to `known`; `until` up to where it was when the line
    was first to be decided. `read` is by the launcher's monotonic clock. `at` is when it was written, as far
    as the lines around it show.
    """

    text: str
    length: int
    at: int
    offset: int
    known: int = NEVER
    read: int = 0
    until: Optional[int] = None


class Garbled:
    """The question what the first of the `held` lines is made of, where the reports in `missing` were not read."""

    def __init__(
        self, held: Deque[Raw], missing: Sequence[Report], released: Iterable[Raw], ambiguous: Container[str]
    ) -> None:
        """`released` are lines that were read before; `ambiguous` texts of lines that may be of several reports."""
        self._raw = held[0]
        # Of a line that was cut nothing can be counted.
        self._held = [raw for raw in islice(held, MOST_LINES) if raw.length == len(raw.text)]
        self._missing = [report for report in missing[:_MOST_REPORTS] if report.length == len(report.text)]
        # Of these the lines before were read before this one, so they may be in it.
        self._around = [report for report in self._missing if report.after < self._raw.offset]
        self._ambiguous = ambiguous
        self._lines = [*released, *self._held]
        self.found: List[Report] = []  # the reports that are accounted for
        self.taken: List[Raw] = []  # the lines that they are
        self.rest: Optional[Raw] = None  # what somebody else wrote into them

    def resolve(self, *, is_alive: bool) -> bool:
        """Whether it is known; `is_alive` if no process can have died between a report and its line."""
        if not self._missing or self._raw not in self._held:
            return False
        return self._is_shuffle() or self._is_joined(is_alive=is_alive) or self._ends_a_prompt(is_alive=is_alive)

    def _is_shuffle(self) -> bool:
        """The lines are the reports, their pieces in another order.

        `print` writes each of its arguments apart, and the pieces of several processes come in any order.
        """
        read = said = 0  # how many of each are looked at
        surplus = 0  # how many characters more were read than said
        while True:
            if read and said and not surplus and _is_shuffled(self._held[:read], self._missing[:said]):
                self.taken, self.found = self._held[:read], self._missing[:said]
                return True
            if surplus <= 0 and read < len(self._held):
                surplus += len(self._held[read].text) + 1
                read += 1
            elif said < len(self._missing):
                surplus -= len(self._missing[said].text) + 1
                said += 1
            else:
                return False

    def _is_joined(self, *, is_alive: bool) -> bool:
        """The line is made of whole texts, and empty lines follow for their newlines."""
        text = self._raw.text
        lone = [raw for raw in self._held[1:] if not raw.text]
        ways = [way for way in _joined(text, self._around) if len(way) <= len(lone) + (_length(way) == len(text))]
        # What leaves nothing over, else what leaves the least.
        best = max(ways, key=_length, default=())
        rest = text[_length(best) :]
        if not best or (rest and not all(self._is_sure(report, is_alive=is_alive) for report in best)):
            return False
        # Each report brought a newline, and so did what is left over; one of them ended this line.
        self.found, self.taken = list(best), [self._raw, *lone[: len(best) - (not rest)]]
        self.rest = replace(self._raw, text=rest, length=len(rest)) if rest else None
        return True

    def _ends_a_prompt(self, *, is_alive: bool) -> bool:
        """The line ends with a reported one, and others with whatever else its process has missing here."""
        for report in self._around:
            # The newline is the report's own, so this was read after it.
            is_own = report.text and self._raw.text.endswith(report.text) and report.offset < self._raw.known
            if is_own and self._is_sure(report, is_alive=is_alive):
                lines = iter(self._held)
                of_process = (each for each in self._around if each.pid == report.pid)
                if all(any(line.text.endswith(each.text) for line in lines) for each in of_process):
                    rest, at = self._raw.text[: -len(report.text)], max(0, min(self._raw.at, report.at - 1))
                    self.found, self.taken = [report], [self._raw]
                    self.rest = replace(self._raw, text=rest, length=len(rest), at=at)
                    return True
        return False

    def _is_sure(self, report: Report, *, is_alive: bool) -> bool:
        """Whether a reported line must be in a line that holds its text.

        Its process lived to write it, has nothing missing from before it, and no line around looks like it.
        """
        written = [each for each in self._around if each.before is not None or each.is_followed or is_alive]
        if report not in written or report.text in self._ambiguous:
            return False
        if next(each for each in self._around if each.pid == report.pid) is not report:
            return False
        before = NEVER if report.before is None else report.before
        alike = sum(raw.text.count(report.text) for raw in self._lines if report.after < raw.offset < before)
        return alike == sum(each.text == report.text for each in written)


def _length(reports: Sequence[Report]) -> int:
    return sum(len(report.text) for report in reports)


def _joined(text: str, reports: Sequence[Report]) -> List[Tuple[Report, ...]]:
    """The ways to put together a beginning of `text` from whole texts of reports, each used once."""
    within = [report for report in reports if report.text and report.text in text]
    ways: List[Tuple[Report, ...]] = []
    begun: List[Tuple[Report, ...]] = [()]
    while begun and len(ways) < _MOST_WAYS:
        way = begun.pop()
        at = _length(way)
        tried = set()
        for report in within:
            if report.text not in tried and report not in way and text.startswith(report.text, at):
                tried.add(report.text)
                ways.append((*way, report))
                begun.append((*way, report))
    return ways


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
