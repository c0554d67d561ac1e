"""Matches interleaved lines, which several processes wrote into one pipe at the same time, with their reports.

They are matched only if that is certain: nothing may be left over, and nothing missing. Each report means that its text
and one newline went through the pipe, between the lines that its process wrote before and after it. So lines that were
read are reported ones

- if together they have exactly the characters of reports that are due, including newlines, or
- if one consists of complete reported texts, followed by an unreported empty line for each missing newline; text of
  another process may end it (`minetheirs`, and an empty line), or
- if it ends with a reported text, preceded by text without a newline from another process (a prompt): then everything
  that its process reported between two lines that were read must be found in this way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import Container, Deque, Iterable, List, Optional, Sequence, Tuple

from otel_metaflow.journal.cursor import NEVER

# Limits of the missing reports and of the lines that are considered together, and of the combinations tried for a line.
_MAX_REPORTS = 256
MAX_LINES = 32
_MAX_COMBINATIONS = 500


@dataclass(eq=False)
class Report:
    """A line that process `pid` reported before writing it; `offset` is its position in the task's journal.

    `after` and `before` are positions in the launcher's journal: of the process's lines before and after it that were
    read, if known. `is_followed` means that the process lived to write another record.
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
    """A line that was read from the pipe; `offset` is its position in the launcher's journal.

    `known` is the length of the task's journal when it was read, `until` its length when the line was first considered.
    `read` is the time of reading, by the launcher's monotonic clock. `at` is the time of writing, as far as it follows
    from the lines around it. `id` is its id in Metaflow's log files, if it is from there. If it is `in_doubt`, its
    container may have exported it.
    """

    text: str
    length: int
    at: int
    offset: int
    known: int = NEVER
    read: int = 0
    until: Optional[int] = None
    id: str = ""
    in_doubt: bool = False


class Garbled:
    """Finds out what the first of the `held` lines consists of, given that the reports in `missing` were not read."""

    def __init__(
        self, held: Deque[Raw], missing: Sequence[Report], released: Iterable[Raw], ambiguous: Container[str]
    ) -> None:
        """`released` are lines that were read before; `ambiguous` are texts of lines that match several reports."""
        self._raw = held[0]
        # The characters of a truncated line cannot be counted.
        self._held = [raw for raw in islice(held, MAX_LINES) if raw.length == len(raw.text)]
        self._missing = [report for report in missing[:_MAX_REPORTS] if report.length == len(report.text)]
        # The previous lines of their processes were read before this one, so they may be part of it.
        self._around = [report for report in self._missing if report.after < self._raw.offset]
        self._ambiguous = ambiguous
        self._lines = [*released, *self._held]
        self.found: List[Report] = []  # the reports that were matched
        self.taken: List[Raw] = []  # the lines that they match
        self.rest: Optional[Raw] = None  # the text of other processes in them

    def resolve(self, *, is_alive: bool) -> bool:
        """Whether a match was found; `is_alive` if no process can have died between a report and its line."""
        if not self._missing or self._raw not in self._held:
            return False
        return self._is_shuffle() or self._is_joined(is_alive=is_alive) or self._ends_a_prompt(is_alive=is_alive)

    def _is_shuffle(self) -> bool:
        """Whether the lines are the reports, with their pieces in another order.

        `print` writes each of its arguments separately, and the pieces of several processes come in any order.
        """
        read = reported = 0  # how many of each are considered
        surplus = 0  # characters read minus characters reported
        while True:
            if read and reported and not surplus and _is_shuffled(self._held[:read], self._missing[:reported]):
                self.taken, self.found = self._held[:read], self._missing[:reported]
                return True
            if surplus <= 0 and read < len(self._held):
                surplus += len(self._held[read].text) + 1
                read += 1
            elif reported < len(self._missing):
                surplus -= len(self._missing[reported].text) + 1
                reported += 1
            else:
                return False

    def _is_joined(self, *, is_alive: bool) -> bool:
        """Whether the line consists of complete texts, and empty lines follow for their newlines."""
        text = self._raw.text
        lone = [raw for raw in self._held[1:] if not raw.text]
        joined = _joined(text, self._around)
        fitting = [each for each in joined if len(each) <= len(lone) + (_length(each) == len(text))]
        # The one that covers most of the text.
        best = max(fitting, key=_length, default=())
        rest = text[_length(best) :]
        if not best or (rest and not all(self._is_sure(report, is_alive=is_alive) for report in best)):
            return False
        # Each report has a newline, and so has the rest; one of them ended this line.
        self.found, self.taken = list(best), [self._raw, *lone[: len(best) - (not rest)]]
        self.rest = replace(self._raw, text=rest, length=len(rest)) if rest else None
        return True

    def _ends_a_prompt(self, *, is_alive: bool) -> bool:
        """Whether the line ends with a reported text, and other lines with all that its process has missing here."""
        for report in self._around:
            # The newline is the report's own, so the line was read after it.
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
        """Whether a reported line must be part of a line that contains its text.

        That is so if its process lived to write it and has nothing missing before it, and no other line resembles it.
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
    """The combinations of complete reports, each used once, whose texts make up a prefix of `text`."""
    within = [report for report in reports if report.text and report.text in text]
    combinations: List[Tuple[Report, ...]] = []
    begun: List[Tuple[Report, ...]] = [()]
    while begun and len(combinations) < _MAX_COMBINATIONS:
        combination = begun.pop()
        at = _length(combination)
        tried = set()
        for report in within:
            if report.text not in tried and report not in combination and text.startswith(report.text, at):
                tried.add(report.text)
                combinations.append((*combination, report))
                begun.append((*combination, report))
    return combinations


def _is_shuffled(raws: Sequence[Raw], reports: Sequence[Report]) -> bool:
    """Whether the lines read are the reported ones, with their pieces in another order.

    They must have the same characters, and at least one report must be complete: pieces of the others may be missing,
    if shuffled pieces happened to make up another reported line, which was removed.
    """
    read = "".join(raw.text + "\n" for raw in raws)
    if Counter(read) != Counter("".join(report.text + "\n" for report in reports)):
        return False
    return any(_is_within(report.text + "\n", read) for report in reports)


def _is_within(text: str, other: str) -> bool:
    """Whether `text` is a subsequence of `other`."""
    rest = iter(other)
    return all(character in rest for character in text)
