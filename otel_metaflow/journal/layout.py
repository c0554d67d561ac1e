"""Where the journals of a run lie, and what their records are called.

    HOME/[@namespace/]FLOW/RUN/
        run.jsonl                        written by the launcher
        STEP.TASK.ATTEMPT.jsonl          written by the task: one process, one attempt, one file
        STEP.TASK.ATTEMPT.output.jsonl   written by the launcher: the lines it read from that task's pipes
        delivery.ledger, shipper.*       the shipper's
        unwritten                        why a task's journal took no more, for the launcher to print

Every line is one JSON object whose first key is `kind`; the names of the others follow OTLP's JSON
encoding, with times as integers of nanoseconds since 1970.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple
from urllib.parse import quote, unquote

VERSION = 1
RUN_FILE = "run.jsonl"
LEDGER_FILE = "delivery.ledger"
LOCK_FILE = "shipper.lock"
SHIPPER_LOG = "shipper.log"
SECRETS_PIPE = "secrets.pipe"
UNWRITTEN_MARK = "unwritten"
INCOMPLETE_MARK = "incomplete"  # what tasks could not record, and why, a line each
# What flock(2) answers on a file system that has none, such as Lustre and some mounts of NFS.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
GIVEN_UP = "given-up.log"  # beside the flows
_SUFFIX = ".jsonl"
_OUTPUT_SUFFIX = ".output.jsonl"
# A file's name holds 255 bytes (NAME_MAX), of which the suffix, the number of the attempt and dots take up to 25.
_LONGEST_STEP, _LONGEST_TASK, _LONGEST_FOLDER = 160, 70, 240
# Stands before the hash that ends a name that was cut: quoting never leaves a percent sign before another character.
_CUT = "%~"
_DIGEST = 8
_ATTEMPT_FILE = re.compile(r"([^.]+)\.([^.]+)\.([0-9]{1,10})(?:\.output)?\.jsonl")

# Kinds of records. Of a task: start, line, log, end, and what user code says through OpenTelemetry: span,
# metric, record (of the logs API). Of the launcher: start, step, line, clone, launch, exit, end and closed in
# its own file, line and read in the output files.
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
READ = "read"


_keys: Dict[Path, AttemptKey] = {}  # of files whose names are cut, once they were read


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
    if _CUT in str(folder.relative_to(home)):
        return _first_run_key(folder) or RunKey(flow_and_run[0], flow_and_run[1], namespace)
    return RunKey(unquote(flow_and_run[0]), unquote(flow_and_run[1]), unquote(namespace))


def _first_run_key(folder: Path) -> Optional[RunKey]:
    """What the first records in a folder say, whose name is too long for a folder."""
    for path in sorted(folder.glob("*" + _SUFFIX)):
        record = _first_record(path)
        if "flow" in record and "run" in record:
            return RunKey(str(record["flow"]), str(record["run"]), str(record.get("namespace", "")))
    return None


def started_at(folder: Path) -> int:
    """When the run in `folder` started, in nanoseconds since 1970, without reading all of it."""
    started = _first_record(folder / RUN_FILE).get("timeUnixNano")
    if started.__class__ is int:
        return int(started)
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # pruned meanwhile
        return 0


def _first_record(path: Path) -> Dict[str, Any]:
    """The first record of a journal, empty where there is none yet."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def run_folders(home: Path) -> Iterator[Path]:
    """The folders of all runs below `home` that this user may look into, in no order."""
    for entry in _folders(home):
        for flow in _folders(entry) if entry.name.startswith("@") else (entry,):
            yield from _folders(flow)


def is_open_to_us(folder: Path) -> bool:
    """Whether this user may read and write there: not in what `sudo` left."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _folders(parent: Path) -> Iterator[Path]:
    """The folders in `parent` whose names can be ours; none where it is not a folder, or another user's alone."""
    try:
        with os.scandir(parent) as entries:
            found = [entry.path for entry in entries if entry.name.isascii() and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from map(Path, found)


def attempt_file(folder: Path, key: AttemptKey) -> Path:
    """The journal that the task itself writes."""
    return folder / (_attempt_name(key) + _SUFFIX)


def output_file(folder: Path, key: AttemptKey) -> Path:
    """The journal of the lines that the launcher read from the task."""
    return folder / (_attempt_name(key) + _OUTPUT_SUFFIX)


def _attempt_name(key: AttemptKey) -> str:
    return f"{_file_name(key.step, _LONGEST_STEP)}.{_file_name(key.task, _LONGEST_TASK)}.{key.attempt}"


def journals(folder: Path) -> Iterator[Tuple[Path, Optional[AttemptKey]]]:
    """The journals of a run with the attempts that they speak of, the launcher's with None first."""
    yield folder / RUN_FILE, None
    for path in sorted(folder.glob("*" + _SUFFIX)):
        key = attempt_key(path)
        if key is not None:
            yield path, key


def attempt_key(path: Path) -> Optional[AttemptKey]:
    """The attempt that a file speaks of, or None where it speaks of none.

    A name too long for a file is in the file's first record; None until that is written.
    """
    found = _ATTEMPT_FILE.fullmatch(path.name) if path.name.isascii() else None
    if found is None:
        return None
    if is_cut(path):
        return _first_key(path)
    return AttemptKey(unquote(found.group(1)), unquote(found.group(2)), int(found.group(3)))


def is_output(path: Path) -> bool:
    """Whether a file is the launcher's, of the lines that it read from a task."""
    return path.name.endswith(_OUTPUT_SUFFIX)


def is_cut(path: Path) -> bool:
    """Whether the name of an attempt's file does not hold all of the attempt's name: its first record is to do so."""
    return _CUT in path.name


def _first_key(path: Path) -> Optional[AttemptKey]:
    if path not in _keys:
        record = _first_record(path)
        number = record.get("attempt")
        if number.__class__ is not int:
            return None
        key = AttemptKey(str(record.get("step")), str(record.get("task")), number)
        if path.name not in (attempt_file(path.parent, key).name, output_file(path.parent, key).name):
            return None
        _keys[path] = key
    return _keys[path]


def _file_name(text: str, longest: int = _LONGEST_FOLDER) -> str:
    """A file name that holds any text; dots are quoted because they part step, task and attempt."""
    name = quote(text, safe="-_ :=,+", errors="surrogatepass").replace(".", "%2E") or "%00"
    if len(name) <= longest:
        return name
    digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST).hexdigest()
    kept = name[: longest - len(_CUT) - len(digest)]
    return re.sub("%.?$", "", kept) + _CUT + digest
