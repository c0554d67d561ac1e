"""Writes the journals of one attempt as it and its launcher would have, from what Metaflow stored of it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from otel_metaflow.backfill import log_files, resource
from otel_metaflow.backfill.attempts import StoredAttempt
from otel_metaflow.backfill.graph import Graph, Lineage
from otel_metaflow.backfill.stored_json import read_json
from otel_metaflow.backfill.tracebacks import Traceback, is_timeout
from otel_metaflow.core import mflog, secrets
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.journal.raw_journal import Line, RawJournal
from otel_metaflow.journal.replacement import replacing
from otel_metaflow.journal.writer import Journal

_NANO = 1_000_000_000
_LINES = 1_000  # written with one call


class Written(NamedTuple):
    """What was written of an attempt, and what was seen meanwhile."""

    lines: int
    bytes: int
    last: int
    """When its last line was printed, in nanoseconds since 1970; 0 if that is unknown."""
    unwritten: Mapping[str, int]
    """How many records of each kind the journal did not take."""
    in_doubt: bool
    """Whether it had `@otel` and left no ledger, so that a part of it may have been exported."""


class AttemptJournals:
    """Writes the journals of attempts of one run."""

    def __init__(
        self,
        folder: Path,
        run: RunKey,
        environment: Settings,
        graph: Graph,
        lineage: Lineage,
        mask: secrets.Mask,
        record_line: Callable[[StoredAttempt, log_files.Line], None],
    ) -> None:
        """`record_line` is called with each line of an attempt's log files that its launcher printed."""
        self._folder = folder
        self._run = run
        self._environment = environment
        self._graph = graph
        self._lineage = lineage
        self._record_line = record_line
        self._redaction = Redaction(environment.redact)
        self._mask = mask

    def write(
        self, attempt: StoredAttempt, files: Mapping[str, Path], of_run: Mapping[str, Any], *, is_killed: bool
    ) -> Written:
        """Write those of an attempt; `files` are copies of what Metaflow stored of it, `of_run` the run's resource."""
        output = self._write_output(attempt, files)
        size = layout.output_file(self._folder, attempt.key).stat().st_size
        step = self._graph.steps.get(attempt.key.step)
        in_doubt = False
        if attempt.begun or output.is_from_container:
            in_doubt = step is not None and step.is_recorded
            found = resource.of_attempt(attempt, of_run, self._redaction, in_doubt=in_doubt)
            end = self._end(attempt, output.traceback, files, is_killed=is_killed) if attempt.ended else None
            self._write_own(attempt, found, end)
            size += layout.attempt_file(self._folder, attempt.key).stat().st_size
        return Written(output.lines, size, output.last, output.unwritten, in_doubt)

    def _write_output(self, attempt: StoredAttempt, files: Mapping[str, Path]) -> _Output:
        """Write the lines that an attempt printed."""
        key = attempt.key
        path = layout.output_file(self._folder, key)
        with replacing(path) as part:
            journal = Journal(part, lambda _: None, self._environment.journal_max_bytes)
            if layout.is_cut(path):
                journal.append(layout.LAUNCH, {"timeUnixNano": attempt.launched, **key._asdict()})
            output = _Output(journal, layout.attempt_file(self._folder, key), self._mask, self._environment.logs)
            # What the process that sent a task to a container prints is not that task's.
            is_sent = resource.is_in_container(attempt)
            for line in log_files.lines(files, key.attempt, attempt.begun or attempt.launched):
                if line.is_note or (is_sent and line.source == mflog.RUNTIME):
                    self._record_line(attempt, line)
                else:
                    output.add(line)
            output.close()
        return output

    def _write_own(self, attempt: StoredAttempt, found: Mapping[str, Any], end: dict[str, Any] | None) -> None:
        """Write the journal that the attempt itself would have written; `found` is its resource."""
        key, run = attempt.key, self._run
        step = self._graph.steps.get(key.step)
        start: dict[str, Any] = {
            "timeUnixNano": attempt.begun or attempt.launched,
            "version": layout.VERSION,
            "flow": run.flow,
            "run": run.run,
            "namespace": run.namespace,
            **key._asdict(),
            "logs": list(self._environment.logs),
            "resource": found,
        }
        if attempt.launched:
            start["processStartTimeUnixNano"] = attempt.launched
        if step is not None:
            start["stepType"] = step.type
        if attempt.place:
            around = [attempt.place[:depth] for depth in range(1, len(attempt.place) + 1)]
            sizes = attempt.sizes or [self._lineage.size(key.step, place) for place in around]
            start["foreach"] = [[index, size] for index, size in zip(attempt.place, sizes, strict=False)]
        with replacing(layout.attempt_file(self._folder, key)) as part:
            journal = Journal(part, raise_unwritten)
            journal.append(layout.START, start)
            if end is not None:
                journal.append(layout.END, end)
            journal.close()

    def _end(
        self, attempt: StoredAttempt, traceback: Traceback, files: Mapping[str, Path], *, is_killed: bool
    ) -> dict[str, Any]:
        """The last record of an attempt that Metaflow saw end, with secrets masked."""
        end = _end(attempt, traceback, read_json(files.get(f"{attempt.key.attempt}.data.json")), is_killed=is_killed)
        if "exception" in end:
            end["exception"] = {name: self._mask(text) for name, text in end["exception"].items()}
        return end


def raise_unwritten(error: OSError) -> NoReturn:
    """Refuse to go on when a journal takes no more: unlike in a run, everything can be done again.

    Raises:
        OSError: always.
    """
    raise error if error.errno else OSError(errno.EIO, str(error))


class _Output:
    """Writes the lines of one attempt to its output journal, and follows what they have of an exception."""

    def __init__(self, journal: Journal, reports: Path, mask: secrets.Mask, streams: Iterable[str]) -> None:
        self.traceback = Traceback()
        self.lines = 0
        self.last = 0
        self.is_from_container = False
        """Whether the shell of a container wrote any of it, so that its process has come up."""
        self._journal = RawJournal(journal, reports)
        self._mask = mask
        self._streams = frozenset(streams)
        self._batch: list[tuple[str, Line]] = []
        self._clock = 0

    def add(self, line: log_files.Line) -> None:
        self.last = max(self.last, line.at)
        self.is_from_container |= line.source != mflog.RUNTIME
        self.traceback.add(line.stream, line.data.decode("utf-8", "replace").rstrip("\n"))
        if line.stream in self._streams:
            self._batch.append((line.id, (line.at, line.stream, line.data)))
            self.lines += 1
        if len(self._batch) == _LINES:
            self._write()

    def _write(self) -> None:
        self._clock += _NANO
        self._journal.append_stored(self._batch, self._mask, self._clock)
        self._batch = []

    def close(self) -> None:
        if self._batch:
            self._write()
        self._journal.close()

    @property
    def unwritten(self) -> Mapping[str, int]:
        """How many records of each kind the journal did not take."""
        return self._journal.unwritten


def _end(attempt: StoredAttempt, traceback: Traceback, data: Mapping[str, Any], *, is_killed: bool) -> dict[str, Any]:
    """The last record of an attempt that Metaflow saw end."""
    exception = traceback.caught() if attempt.is_ok else traceback.failure()
    result = "success" if attempt.is_ok else "timeout" if is_timeout(exception) else "failure"
    end: dict[str, Any] = {
        "timeUnixNano": attempt.ended,
        "result": "cancellation" if is_killed else result,
        "codeStart": attempt.begun,
        "codeEnd": attempt.ended,  # with the time that it took to store artifacts, which nothing tells apart
    }
    if exception is not None:
        end["exception"] = exception
        end["caught"] = bool(attempt.is_ok)
    stored = data.get("info")
    sizes = [each.get("size") for each in stored.values() if isinstance(each, dict)] if isinstance(stored, dict) else []
    if sizes:
        end["artifacts"] = {"count": len(sizes), "bytes": sum(size for size in sizes if isinstance(size, int))}
    nodes = (attempt.facts.get("parallel-node-index"), attempt.facts.get("parallel-world-size"))
    if all(str(each).isdecimal() for each in nodes):
        end["parallel"] = [int(str(each)) for each in nodes]
    return end
