"""Reads the log records of one attempt from its two journals, each exactly once, across restarts.

The task's journal has logging records and the lines that the task reported; the launcher's journal has the lines that
it read, and the length of the task's journal at that time. They are merged by these positions, and lines in both are
dropped from the latter (see subtraction.py). No clock is involved, so the result is the same while the task runs,
afterwards, and after a restart in between.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any, Deque, Dict, Generator, Iterator, NamedTuple, Tuple, Union

from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import NEVER, Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import LINE_HEAD, Tail, Unparsed, same_line
from otel_metaflow.model.garbled_lines import Raw, Report
from otel_metaflow.model.run import Attempt
from otel_metaflow.model.subtraction import MAX_PENDING, Subtraction

# How many records of forked children are remembered, because they may arrive again through a queue.
_MAX_FORWARDED = 10_000
# If nothing is read from a pipe for this long (launcher's clock, ns), everything that was reported has been read.
_IDLE = 400_000_000


class LogEntry(NamedTuple):
    """A record of the journal (kind line, log or record) that becomes a log record, and its unique name."""

    uid: str
    record: Dict[str, Any]


class AttemptLogs:
    """The log records of one attempt, in reading order."""

    def __init__(self, folder: Path, key: AttemptKey, cursor: Cursor) -> None:
        self._task = Tail(layout.attempt_file(folder, key), cursor.clean[0], counted=cursor.sent[0])
        self._output = Tail(layout.output_file(folder, key), cursor.clean[1], counted=cursor.sent[1])
        self._from = cursor
        self._held_before = frozenset(cursor.held)
        self._unread = set(cursor.held)  # those of them that have not been read again yet
        self._clean = cursor.clean
        self._clean_batch = cursor.batch
        self._known, self._clock = cursor.batch
        self._is_idle = False
        self._batch = 0  # how many lines are left of a batch that the launcher wrote
        self._is_due = False  # whether held lines should be released
        self._last_reports: Dict[int, Report] = {}  # by process
        self._last = -1  # the position of the last record of the attempt's own process
        self._entries: Deque[Unparsed] = deque()
        self._raw: Deque[Tuple[Union[bytes, Dict[str, Any]], int]] = deque()  # lines that are not parsed, or records
        self._stdout, self._stderr = Subtraction(), Subtraction()
        self._streams = {"stdout": self._stdout, "stderr": self._stderr}
        self._children_records: Deque[Tuple[Any, ...]] = deque(maxlen=_MAX_FORWARDED)
        self._forwarded_records: Deque[Tuple[Any, ...]] = deque(maxlen=_MAX_FORWARDED)

    @property
    def corrupt(self) -> int:
        """The number of corrupt lines in the two journals before the position of `cursor()`."""
        task, output = self._handed_out()
        return self._task.corrupt_before(task) + self._output.corrupt_before(output)

    @property
    def unread(self) -> int:
        """The number of reported lines that the launcher's journal lacks; known when everything is read."""
        return sum(stream.unread for stream in self._streams.values())

    def cursor(self) -> Cursor:
        """The position after the entries returned so far."""
        task, output = self._handed_out()
        held = {offset for stream in self._streams.values() for offset in stream.held if self._is_new(offset)}
        sent = (max(task, self._from.sent[0]), max(output, self._from.sent[1]))
        return Cursor(self._clean, self._clean_batch, sent, sorted(held | self._unread))

    def _handed_out(self) -> Tuple[int, int]:
        task = self._entries[0][1] if self._entries else self._task.offset
        return task, self._raw[0][1] if self._raw else self._output.offset

    def may_begin(self, attempt: Attempt) -> bool:
        """Whether the attempt of the records is known: the task's first record was read, or there is none yet."""
        return attempt.start is not None or self._task.at_end()

    def at_end(self) -> bool:
        """Whether everything in the journals was returned or is held."""
        return not self._entries and not self._raw and self._task.at_end() and self._output.at_end()

    @property
    def holds(self) -> bool:
        """Whether lines are held."""
        return self._stdout.holds or self._stderr.holds

    def read(self, *, final: bool = False) -> Generator[LogEntry, None, None]:
        """Yield the entries so far; `final` when no process can write any more.

        A caller that stops in between can continue with another call, or in another process from `cursor()`.
        """
        entries, raw = self._entries, self._raw
        while True:
            if self._is_due:
                yield from self._release(final=False)
                self._is_due = False
                self._note_clean()
            if not raw:
                raw.extend(self._read_output())
            known = self._known_at(raw[0][0]) if raw else NEVER
            if not entries and self._task.offset < known:
                entries.extend(self._task.unparsed())
            if entries and (not raw or (entries[0][1] < known and not self._is_full())):
                line, start, _ = entries.popleft()
                record = self._task.parsed(line, start)
                if record is not None and self._consume(record, line, start) and start >= self._from.sent[0]:
                    yield LogEntry(f"t{start}", record)
            elif raw:
                self._consume_raw(*raw.popleft())
            else:
                if final:
                    yield from self._release(final=True)
                self._note_clean()
                return
            if not self._stdout.pending and not self._stderr.pending:
                self._note_clean()

    def _read_output(self) -> Iterator[Tuple[Union[bytes, Dict[str, Any]], int]]:
        """What the launcher's journal has next; the lines that were read are not parsed yet."""
        for line, start, _ in self._output.unparsed():
            if line[: len(LINE_HEAD)] == LINE_HEAD:
                yield line, start
            else:
                record = self._output.parsed(line, start)
                if record is not None:
                    yield record, start

    def _known_at(self, raw: Union[bytes, Dict[str, Any]]) -> int:
        """The length of the task's journal when the launcher wrote `raw`."""
        if isinstance(raw, dict) and raw["kind"] == layout.READ:
            return _number(raw, "reported", self._known)
        return self._known

    def _is_full(self) -> bool:
        """Whether no more reports are read ahead: journals of older launchers lack the length of the task's."""
        return self._stdout.pending >= MAX_PENDING or self._stderr.pending >= MAX_PENDING

    def _consume(self, record: Dict[str, Any], line: bytes, start: int) -> bool:
        """Process a record of the task; return whether it is a log record of its own."""
        pid = 0 if record.get("forwarded") else _number(record, "pid", 0)
        last = self._last_reports.pop(pid, None)
        if last is not None:
            last.is_followed = True
        if not pid:
            self._last = start
        kind = record["kind"]
        if kind == layout.LINE:
            self._consume_report(record, line, start, pid)
            return "covered" not in record or not record["covered"]
        if kind == layout.LOG:
            if "output" in record:
                self._consume_report(record["output"], line, start, pid)
            return not self._is_forwarded_twice(record)
        return bool(kind == layout.RECORD)

    def _consume_report(self, reported: Dict[str, Any], line: bytes, start: int, pid: int) -> None:
        stream = self._streams.get(reported.get("stream", ""))
        # Without a launcher the raw stream is not read, and reports would stay pending forever.
        if stream is None or not (self._raw or self._output.offset or self._output.path.exists()):
            return
        text = reported.setdefault("body", "")
        if not pid and stream.expect(start, reported, same_line(line)):
            return
        self._report_unmet(stream)
        report = Report(text, reported.get("length", len(text)), reported["timeUnixNano"], start, pid)
        self._last_reports[pid] = report
        stream.report(report)

    def _report_unmet(self, stream: Subtraction) -> None:
        """The next line of a stream is not the one expected, or not of the process that it is expected of."""
        for report in stream.unmet():
            report.is_followed = report.offset != self._last
            if not report.is_followed:
                self._last_reports[0] = report

    def _is_forwarded_twice(self, record: Dict[str, Any]) -> bool:
        """Whether it was written twice: by the child process that made it, and by the process that read the queue."""
        if "pid" not in record:
            return False
        identity = (record["pid"], record["timeUnixNano"], record.get("line"), record.get("logger"))
        # The child's own handlers may be slower than the queue and its reader.
        mine, others = self._children_records, self._forwarded_records
        if record.get("forwarded"):
            mine, others = others, mine
        if identity in others:
            return True
        mine.append(identity)
        return False

    def _consume_raw(self, raw: Union[bytes, Dict[str, Any]], start: int) -> None:
        """Process a record of the launcher: a line that it read, or the length of the task's journal."""
        if isinstance(raw, dict):
            record = raw
        else:
            same = same_line(raw)
            for stream in (self._stdout, self._stderr):
                if stream.read_expected(start, same, self._known):
                    self._count_raw(start)
                    return
            parsed = self._output.parsed(raw, start)
            if parsed is None:
                return
            record = parsed
        if record["kind"] == layout.READ:
            self._consume_note(record)
            return
        of = self._streams.get(record.get("stream", ""))
        if of is None or record["kind"] != layout.LINE:
            return
        self._report_unmet(of)
        text = record.get("body", "")
        length = record.get("length", len(text))
        line = Raw(text, length, record["timeUnixNano"], start, self._known, self._clock, id=record.get("id", ""))
        line.in_doubt = "inDoubt" in record
        of.read(line)
        self._count_raw(start)

    def _consume_note(self, record: Dict[str, Any]) -> None:
        """Process the launcher's note before lines that it read at once."""
        for stream in self._streams.values():
            stream.settle(self._known)
        clock = max(self._clock, _number(record, "monotonicNano", self._clock))
        self._is_idle = clock - self._clock >= _IDLE
        self._clock = clock
        self._known = _number(record, "reported", self._known)
        self._batch = _number(record, "lines", 0)
        self._is_due = not self._batch and self.holds

    def _count_raw(self, offset: int) -> None:
        """One line more of a batch was processed: earlier lines are decided only when the whole batch is known."""
        if self._unread:
            self._unread.discard(offset)
        self._batch -= 1
        if not self._batch:
            self._is_due = self.holds

    def _release(self, *, final: bool) -> Iterator[LogEntry]:
        for name, stream in self._streams.items():
            for raw in stream.release(self._known, self._clock, is_idle=self._is_idle, final=final):
                if self._is_new(raw.offset):
                    record: Dict[str, Any] = {
                        "kind": layout.LINE,
                        "timeUnixNano": raw.at,
                        "stream": name,
                        "body": raw.text,
                        "length": raw.length,
                    }
                    if raw.in_doubt:
                        record["inDoubt"] = True
                    yield LogEntry(raw.id or f"o{raw.offset}", record)

    def _is_new(self, offset: int) -> bool:
        """Whether a line of the launcher's journal was undecided when this reader started."""
        return offset >= self._from.sent[1] or offset in self._held_before

    def _note_clean(self) -> None:
        if self._stdout.is_clean and self._stderr.is_clean:
            self._clean = self._handed_out()
            self._clean_batch = (self._known, self._clock)


def _number(record: Dict[str, Any], name: str, otherwise: int) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else otherwise
