"""Prints the log lines of a run, a step or a task in the terminal, once or continuously."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import click

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model import endings, story
from otel_metaflow.model.attempt_logs import AttemptLogs
from otel_metaflow.model.following import Following, Update
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import formatting, log_lines
from otel_metaflow.viewer.frames import Fold, folded
from otel_metaflow.viewer.log_lines import Line
from otel_metaflow.viewer.terminal import echo

_POLL = 0.2
_LAUNCHER_BYTES = 1 << 16  # of the launcher's journal, read at a time
_NAMES = {log_lines.DEBUG: "DEBUG", log_lines.INFO: "INFO", log_lines.WARN: "WARN", log_lines.ERROR: "ERROR"}
_COLOURS = {log_lines.DEBUG: "bright_black", log_lines.WARN: "yellow", log_lines.ERROR: "red"}


class Entry(NamedTuple):
    """One line, and its attempt; None if it is the launcher's."""

    key: AttemptKey | None
    line: Line


class Feed:
    """The lines of the `wanted` attempts of a run, each once, and optionally those of the launcher."""

    def __init__(
        self, home: Path, folder: Path, pattern: str, wanted: Callable[[AttemptKey], bool], *, launcher: bool
    ) -> None:
        self._following = Following(home, folder)
        self._pattern = pattern
        self._wanted = wanted
        self._launcher = Tail(folder / layout.RUN_FILE, only=layout.LINE) if launcher else None
        self._masks: dict[AttemptKey | None, Redaction] = {}
        self._open: dict[AttemptKey, AttemptLogs] = {}  # wanted attempts of which records may come
        self._undecided: set[AttemptKey] = set()  # failed ones, of which it is unknown whether they are retried
        self._found: list[Entry] = []
        self._has_read_end = False

    @property
    def run(self) -> Run:
        """The run, as far as it was looked at."""
        return self._following.run

    @property
    def is_over(self) -> bool:
        """Whether there will be no more lines."""
        return self._following.run_is_over

    @property
    def is_recorded(self) -> bool:
        """Whether any of the attempts is recorded; True if there are none."""
        run = self.run
        wanted = [attempt for key, attempt in run.attempts.items() if self._wanted(key)]
        return not wanted or any(map(run.is_recorded, wanted))

    def read(self) -> Iterator[Entry]:
        """The lines since the last call, ordered by time."""
        self.look()
        found, self._found = self._found, []
        if self._launcher is not None:
            before = -1
            while self._launcher.offset != before:
                before = self._launcher.offset
                redaction = self._mask(None)
                found.extend(
                    Entry(None, log_lines.from_record(entry.record, redaction)) for entry in self._launcher.read()
                )
            if self.is_over and not self._has_read_end:
                self._has_read_end = True
                ends = endings.of_run(self.run)
                found.extend(Entry(None, log_lines.from_notice(notice, self._mask(None))) for notice in ends)
        found.sort(key=lambda entry: entry.line.at)
        yield from found

    def look(self) -> None:
        """Read what was added to the journals: of many attempts bit by bit, so that no more than the lines is kept."""
        self._take_in(self._following.poll(max_bytes=_LAUNCHER_BYTES))
        while self._following.is_behind:
            self._take_in(self._following.poll(max_bytes=_LAUNCHER_BYTES))

    def _take_in(self, update: Update) -> None:
        for key in filter(self._wanted, update.appeared):
            self._open[key] = AttemptLogs(self._following.folder, key, Cursor())
        for key in list(self._open):
            self._found.extend(self._of_attempt(key))
        for key in self._undecided.intersection(update.decided):
            self._undecided.discard(key)
            again = endings.retry(self.run, self.run.attempts[key])
            if again is not None:
                self._found.append(Entry(key, log_lines.from_notice(again, Redaction(self._pattern))))
        for key in update.read:
            self.run.keep_outline(key)

    def _of_attempt(self, key: AttemptKey) -> Iterator[Entry]:
        attempt, redaction = self.run.attempts[key], self._mask(key)
        final = attempt.is_settled
        for entry in self._open[key].read(final=final):
            yield Entry(key, log_lines.from_record(entry.record, redaction))
        if final:
            for notice in endings.of_attempt(self.run, attempt):
                yield Entry(key, log_lines.from_notice(notice, redaction))
            if story.is_final(self.run, attempt, run_is_over=False) is None:
                self._undecided.add(key)
            del self._open[key], self._masks[key]

    def _mask(self, key: AttemptKey | None) -> Redaction:
        return self._masks.setdefault(key, Redaction(self._pattern))


def show(feed: Feed, *, follow: bool, errors: bool, as_json: bool, names: bool) -> None:
    """Print lines: with `errors` only those of level ERROR, with `names` each with the name of its attempt."""
    is_empty = True
    while True:
        for entry in feed.read() if as_json else _folded(feed.read()):
            if not errors or entry.line.level >= log_lines.ERROR:
                is_empty = False
                echo(_as_json(entry) if as_json else _shown(entry, names=names))
        if not follow or feed.is_over:
            break
        time.sleep(_POLL)
    if is_empty and not as_json:
        nothing = "no errors" if errors else "no log records"
        echo(nothing + ("" if feed.is_over else " so far") + ("" if feed.is_recorded else ": not recorded (no @otel)"))


def _folded(lines: Iterator[Entry]) -> Iterator[Entry]:
    """Fold Metaflow's own frames, whether a traceback is one record or was printed line by line."""
    folds: dict[tuple[AttemptKey | None, str], Fold] = {}
    latest: dict[tuple[AttemptKey | None, str], Entry] = {}
    for entry in lines:
        source = entry.key, entry.line.source
        latest[source] = entry
        if "\n" in entry.line.text:
            yield _with(entry, folded(entry.line.text))
        else:
            for text in folds.setdefault(source, Fold()).add(entry.line.text):
                yield _with(entry, text)
    for source, fold in folds.items():
        for text in fold.end():
            yield _with(latest[source], text)


def _with(entry: Entry, text: str) -> Entry:
    return entry._replace(line=entry.line._replace(text=text))


def _shown(entry: Entry, *, names: bool) -> str:
    line = entry.line
    at = datetime.fromtimestamp(line.at / 1e9).astimezone().strftime("%H:%M:%S.%f")[:-3]
    whose = f"{_whose(entry):<14}  " if names else ""
    head = f"{at}  {whose}{_NAMES[line.level]:<5}  "
    first, *more = formatting.coloured(line.text).split("\n")
    text = "\n".join([first, *(" " * len(head) + one for one in more)])
    return click.style(head, fg=_COLOURS.get(line.level)) + text


def _whose(entry: Entry) -> str:
    return "launcher" if entry.key is None else formatting.plain(story.name(entry.key))


def _as_json(entry: Entry) -> str:
    line = entry.line
    values = {"timeUnixNano": line.at, "severity": _NAMES[line.level], "source": line.source, "body": line.text}
    if entry.key is not None:
        values.update({"step": entry.key.step, "task": entry.key.task, "attempt": entry.key.attempt})
    return json.dumps(values)


def counted(folder: Path, run: Run, attempt: Attempt) -> tuple[int, int]:
    """How many log records an attempt has, and how many of them are errors."""
    levels = [log_lines.level(entry.record) for entry in log_lines.read(folder, attempt)]
    levels += [log_lines.LEVELS[notice.severity] for notice in log_lines.notices(run, attempt)]
    return len(levels), sum(level >= log_lines.ERROR for level in levels)
