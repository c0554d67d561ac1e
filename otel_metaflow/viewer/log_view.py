"""Log lines of a run, a step or a task in the terminal, as they are or as they come."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import click

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.checkpoint import Cursor
from otel_metaflow.journal.layout import AttemptKey
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model import endings, story
from otel_metaflow.model.attempt_logs import AttemptLogs
from otel_metaflow.model.following import Following
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import formatting, log_lines
from otel_metaflow.viewer.frames import Fold, folded
from otel_metaflow.viewer.log_lines import Line
from otel_metaflow.viewer.terminal import echo

_LOOK_AGAIN = 0.2
_NAMES = {log_lines.DEBUG: "DEBUG", log_lines.INFO: "INFO", log_lines.WARN: "WARN", log_lines.ERROR: "ERROR"}
_COLOURS = {log_lines.DEBUG: "bright_black", log_lines.WARN: "yellow", log_lines.ERROR: "red"}


class Said(NamedTuple):
    """One line, and of which attempt; of none, if the launcher said it."""

    key: Optional[AttemptKey]
    line: Line


class Feed:
    """The lines of those attempts of a run that are `wanted`, each once; with the launcher's, if asked for."""

    def __init__(
        self, home: Path, folder: Path, pattern: str, wanted: Callable[[AttemptKey], bool], *, launcher: bool
    ) -> None:
        self._following = Following(home, folder)
        self._pattern = pattern
        self._wanted = wanted
        self._launcher = Tail(folder / layout.RUN_FILE, only=layout.LINE) if launcher else None
        self._masks: Dict[Optional[AttemptKey], Redaction] = {}
        self._logs: Dict[AttemptKey, AttemptLogs] = {}
        self._read_out: set[AttemptKey] = set()
        self._has_told_end = False

    @property
    def is_over(self) -> bool:
        """Whether no more will come."""
        return self._following.run_is_over

    @property
    def is_recorded(self) -> bool:
        """Whether any of the attempts is, if there are some."""
        run = self._following.run
        wanted = [attempt for key, attempt in run.attempts.items() if self._wanted(key)]
        return not wanted or any(map(run.is_recorded, wanted))

    def read(self) -> Iterator[Said]:
        """What came since the last call, in the order of time."""
        self._following.look()
        found: List[Said] = []
        if self._launcher is not None:
            before = -1
            while self._launcher.offset != before:
                before = self._launcher.offset
                redaction = self._mask(None)
                found.extend(Said(None, log_lines.made(entry.record, redaction)) for entry in self._launcher.read())
        run = self._following.run
        for key in run.attempts:
            if key not in self._read_out and self._wanted(key):
                found.extend(self._of_attempt(key))
        if self._launcher is not None and self.is_over and not self._has_told_end:
            self._has_told_end = True
            found.extend(Said(None, log_lines.noticed(notice, self._mask(None))) for notice in endings.of_run(run))
        found.sort(key=lambda said: said.line.at)
        yield from found

    def _of_attempt(self, key: AttemptKey) -> Iterator[Said]:
        logs = self._logs.setdefault(key, AttemptLogs(self._following.folder, key, Cursor()))
        final = key in self._following.settled
        for entry in logs.read(final=final):
            yield Said(key, log_lines.made(entry.record, self._mask(key)))
        if final:
            self._read_out.add(key)
            run = self._following.run
            for notice in endings.of_attempt(run, run.attempts[key]):
                yield Said(key, log_lines.noticed(notice, self._mask(key)))

    def _mask(self, key: Optional[AttemptKey]) -> Redaction:
        return self._masks.setdefault(key, Redaction(self._pattern))


def show(feed: Feed, *, follow: bool, errors: bool, as_json: bool, names: bool) -> None:
    """Print lines to standard output, `errors` only those that are; with `names`, say whose each is."""
    is_empty = True
    while True:
        for said in feed.read() if as_json else _folded(feed.read()):
            if not errors or said.line.level >= log_lines.ERROR:
                is_empty = False
                echo(_as_json(said) if as_json else _shown(said, names=names))
        if not follow or feed.is_over:
            break
        time.sleep(_LOOK_AGAIN)
    if is_empty and not as_json:
        nothing = "no errors" if errors else "no log records"
        echo(
            nothing
            + ("" if feed.is_over else " so far")
            + ("" if feed.is_recorded else ": not recorded, without @otel")
        )


def _folded(lines: Iterator[Said]) -> Iterator[Said]:
    """Lines without Metaflow's own frames, be a traceback one record or printed line by line."""
    folds: Dict[Tuple[Optional[AttemptKey], str], Fold] = {}
    latest: Dict[Tuple[Optional[AttemptKey], str], Said] = {}
    for said in lines:
        source = said.key, said.line.source
        latest[source] = said
        if "\n" in said.line.text:
            yield _with(said, folded(said.line.text))
        else:
            for text in folds.setdefault(source, Fold()).add(said.line.text):
                yield _with(said, text)
    for source, fold in folds.items():
        for text in fold.end():
            yield _with(latest[source], text)


def _with(said: Said, text: str) -> Said:
    return said._replace(line=said.line._replace(text=text))


def _shown(said: Said, *, names: bool) -> str:
    line = said.line
    at = datetime.fromtimestamp(line.at / 1e9).astimezone().strftime("%H:%M:%S.%f")[:-3]
    whose = f"{_whose(said):<14}  " if names else ""
    head = f"{at}  {whose}{_NAMES[line.level]:<5}  "
    first, *more = formatting.coloured(line.text).split("\n")
    text = "\n".join([first, *(" " * len(head) + one for one in more)])
    return click.style(head, fg=_COLOURS.get(line.level)) + text


def _whose(said: Said) -> str:
    return "launcher" if said.key is None else formatting.plain(story.name(said.key))


def _as_json(said: Said) -> str:
    line = said.line
    values = {"timeUnixNano": line.at, "severity": _NAMES[line.level], "source": line.source, "body": line.text}
    if said.key is not None:
        values.update({"step": said.key.step, "task": said.key.task, "attempt": said.key.attempt})
    return json.dumps(values)


def counted(folder: Path, run: Run, attempt: Attempt) -> Tuple[int, int]:
    """How many log records an attempt has, and how many of them are errors."""
    levels = [log_lines.level(entry.record) for entry in log_lines.read(folder, attempt)]
    levels += [log_lines.LEVELS[notice.severity] for notice in log_lines.notices(run, attempt)]
    return len(levels), sum(level >= log_lines.ERROR for level in levels)
