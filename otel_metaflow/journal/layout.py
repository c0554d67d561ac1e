"""Where the journals of a run lie, and what their records are called.

    HOME/[@namespace/]FLOW/RUN/
        run.jsonl                        written by the launcher
        STEP.TASK.ATTEMPT.jsonl          written by the task: one process, one attempt, one file
        STEP.TASK.ATTEMPT.output.jsonl   written by the launcher: the lines it read from that task's pipes
        checkpoint.json, shipper.*       the shipper's
        lost                             why a task's journal took no more, for the launcher to say

Every line is one JSON object whose first key is `kind`; the names of the others follow OTLP's JSON
encoding, with times as integers of nanoseconds since 1970.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, NamedTuple, Optional
from urllib.parse import quote, unquote

VERSION = 1
RUN_FILE = "run.jsonl"
CHECKPOINT_FILE = "checkpoint.json"
LOCK_FILE = "shipper.lock"
SHIPPER_LOG = "shipper.log"
SECRETS_PIPE = "secrets.pipe"
LOST_MARK = "lost"
INCOMPLETE_MARK = "incomplete"  # what tasks could not record, and why, a line each
_SUFFIX = ".jsonl"
_OUTPUT_SUFFIX = ".output.jsonl"

# Kinds of records. Of a task: start, line, log, end, and what user code says through OpenTelemetry: span,
# metric, record (of the logs API). Of the launcher: start, step, line, clone, launch, exit, end and closed in
# its own file, line in the output files.
START = "start"
LINE = "line"
LOG = "log"
SPAN = "span"
METRIC = "metric"
RECORD = "record"
END = "end"
STEP = "step"
CLONE = "clone"
LAUNCH = "launch"
EXIT = "exit"
CLOSED = "closed"

# A line longer than this many characters is cut, and says how long it was.
LONGEST_LINE = 65_536


class RunKey(NamedTuple):
    """What a run is called."""

    flow: str
    run: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.flow}/{self.run}"


class AttemptKey(NamedTuple):
    """What an attempt is called within its run; `attempt` counts from 0."""

    step: str
    task: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.step}/{self.task}/{self.attempt}"


def run_folder(home: Path, key: RunKey) -> Path:
    """The folder of a run's journals. A flow is a Python identifier, so `@` cannot begin one."""
    root = home / f"@{_file_name(key.namespace)}" if key.namespace else home
    return root / _file_name(key.flow) / _file_name(key.run)


def run_key(home: Path, folder: Path) -> RunKey:
    """The inverse of `run_folder`.

    Raises:
        ValueError: `folder` is not the folder of a run below `home`.
    """
    parts = folder.relative_to(home).parts
    namespace = parts[0][1:] if parts and parts[0].startswith("@") else ""
    flow_and_run = parts[1:] if namespace else parts
    if len(flow_and_run) != 2:  # noqa: PLR2004 - FLOW/RUN
        raise ValueError(f"{folder} is not the folder of a run below {home}")
    return RunKey(unquote(flow_and_run[0]), unquote(flow_and_run[1]), unquote(namespace))


def run_folders(home: Path) -> Iterator[Path]:
    """The folders of all runs below `home`, in no order."""
    for entry in _folders(home):
        for flow in _folders(entry) if entry.name.startswith("@") else (entry,):
            yield from _folders(flow)


def _folders(parent: Path) -> Iterator[Path]:
    try:
        with os.scandir(parent) as entries:
            yield from (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return


def attempt_file(folder: Path, key: AttemptKey) -> Path:
    """The journal that the task itself writes."""
    return folder / f"{_file_name(key.step)}.{_file_name(key.task)}.{key.attempt}{_SUFFIX}"


def output_file(folder: Path, key: AttemptKey) -> Path:
    """The journal of the lines that the launcher read from the task."""
    return folder / f"{_file_name(key.step)}.{_file_name(key.task)}.{key.attempt}{_OUTPUT_SUFFIX}"


def attempt_key(name: str) -> Optional[AttemptKey]:
    """The attempt that a file name speaks of, or None where it speaks of none."""
    for suffix in (_OUTPUT_SUFFIX, _SUFFIX):
        if name.endswith(suffix):
            parts = name[: -len(suffix)].split(".")
            if len(parts) == 3 and parts[2].isdigit():  # noqa: PLR2004 - STEP.TASK.ATTEMPT
                return AttemptKey(unquote(parts[0]), unquote(parts[1]), int(parts[2]))
    return None


def _file_name(text: str) -> str:
    """A file name that holds any text; dots are quoted because they part step, task and attempt."""
    return quote(text, safe="-_ :=,+").replace(".", "%2E") or "%00"
