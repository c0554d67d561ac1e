"""The files of a run's journal, and the kinds of their records.

    HOME/[@namespace/]FLOW/RUN/
        run.jsonl                        written by the launcher
        STEP.TASK.ATTEMPT.jsonl          written by the task: one process, one attempt, one file
        STEP.TASK.ATTEMPT.output.jsonl   written by the launcher: the lines it read from that task's pipes
        delivery.ledger, shipper.*       written by the shipper
        STEP.TASK.ATTEMPT.ledger, .lock, .pid   of a container's own shipper: several containers may share a folder
        unwritten                        why a task could not write its journal, for the launcher to print

Every line is one JSON object whose first key is `kind`; the other keys are named as in OTLP's JSON encoding,
with times as integers, nanoseconds since 1970.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Container, Dict, Iterable, Iterator, List, Optional, Set, Tuple
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from otel_metaflow.journal.keys import AttemptKey, RunKey

VERSION = 1
RUN_FILE = "run.jsonl"
LEDGER_FILE = "delivery.ledger"
LOCK_FILE = "shipper.lock"
SHIPPER_LOG = "shipper.log"
# The folder in Metaflow's code package that this package travels in; no module's name, so that it hides none.
CARRIED = "otel-metaflow"
STORED = "otel"  # the source of which Metaflow's datastore has our files, as it has `task` and `runtime`
RUN_MARK = "otel_run.json"  # there, beside a run's parameters: a container wrote the run's span
SECRETS_PIPE = "secrets.pipe"
UNWRITTEN_MARK = "unwritten"
INCOMPLETE_MARK = "incomplete"  # what tasks could not record, and why, one per line
# The errors of flock(2) on a file system without it, such as Lustre and some NFS mounts.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
DROPPED_LOG = "dropped.log"  # in HOME
_SUFFIX = ".jsonl"
_OUTPUT_SUFFIX = ".output.jsonl"
# Of the shipper of a container, which delivers one attempt.
_LEDGER_SUFFIX, _LOCK_SUFFIX, _PID_SUFFIX = ".ledger", ".lock", ".pid"
# A file name has at most 255 bytes (NAME_MAX), of which the suffix, the attempt's number and dots take up to 25.
_LONGEST_STEP, _LONGEST_TASK, _LONGEST_FOLDER = 160, 70, 240
# Precedes the hash at the end of a truncated name: quoting never produces a percent sign before this character.
_CUT = "%~"
_DIGEST = 8
_LONGEST_NUMBER = 16  # of a task: exact in a double, for readers that have no other numbers
_ATTEMPT_FILE = r"([^.]+)\.([^.]+)\.([0-9]{1,10})(?:\.output)?\.jsonl"

# Kinds of records. Of a task: start, line, log, end, and of user code's own telemetry span, metric and record (of the
# logs API). Of the launcher: start, step, line, clone, launch, exit, end and closed in its own file, line and read in
# the output files.
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


_keys: Dict[Path, AttemptKey] = {}  # of files with truncated names, once they were read


def grouped(inputs: Iterable[Tuple[str, str, int]]) -> Dict[str, List[Any]]:
    """What a task reads from, given by step, task and attempt, as records name it: by step, tasks in their order.

    Of a join of 50,000 tasks that is `{"work": [[2, 50001]]}`: a pair stands for all numbers between. An attempt other
    than the first follows a slash, as in `"7/1"`.
    """
    found: Dict[str, List[Any]] = {}
    for step, task, attempt in inputs:
        tasks = found.setdefault(step, [])
        last = tasks[-1] if tasks else None
        if attempt:
            tasks.append(f"{task}/{attempt}")
        elif last.__class__ is list and str(last[1] + 1) == task:
            last[1] += 1
        elif last.__class__ is str and _comes_after(last, task):
            tasks[-1] = [int(last), int(task)]
        else:
            tasks.append(task)
    return found


def _comes_after(number: str, following: str) -> bool:
    """Whether both are numbers as `str` writes them, and consecutive."""
    is_number = number.isdigit() and number.isascii() and len(number) < _LONGEST_NUMBER
    return is_number and str(int(number)) == number and str(int(number) + 1) == following


def run_folder(home: Path, key: Tuple[str, str, str]) -> Path:
    """The folder of a run's journals, given by flow, run and namespace as in a RunKey.

    The name of a flow is a Python identifier, so it cannot start with `@`.
    """
    flow, run, namespace = key
    root = home / f"@{_file_name(namespace)}" if namespace else home
    return root / _file_name(flow) / _file_name(run)


def create_run_folder(folder: Path) -> None:
    """Create the folder of a run for this user alone.

    Raises:
        OSError: it cannot be created, or would be in a folder of another user's among the temporary files.
    """
    for parent in folder.parents:
        if parent.name.startswith("otel-metaflow-"):
            from otel_metaflow.core import private_folder

            if parent.name == private_folder.name():
                private_folder.create(parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def run_key(home: Path, folder: Path) -> RunKey:
    """The inverse of `run_folder`.

    Raises:
        ValueError: `folder` is not the folder of a run below `home`.
    """
    from otel_metaflow.journal.keys import RunKey

    parts = folder.relative_to(home).parts
    namespace = parts[0][1:] if parts and parts[0].startswith("@") else ""
    flow_and_run = parts[1:] if namespace else parts
    if len(flow_and_run) != 2:  # noqa: PLR2004 - FLOW/RUN
        raise ValueError(f"{folder} is not the folder of a run below {home}")
    if _CUT in str(folder.relative_to(home)):
        return _first_run_key(folder) or RunKey(flow_and_run[0], flow_and_run[1], namespace)
    return RunKey(unquote(flow_and_run[0]), unquote(flow_and_run[1]), unquote(namespace))


def _first_run_key(folder: Path) -> Optional[RunKey]:
    """The key in the first records of a folder whose name is truncated."""
    from otel_metaflow.journal.keys import RunKey

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
    """The first record of a journal, empty if there is none yet."""
    try:
        with path.open("rb") as file:
            record = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def run_folders(home: Path) -> Iterator[Path]:
    """The folders of all runs below `home` that this user can read, in no particular order."""
    for entry in _folders(home):
        for flow in _folders(entry) if entry.name.startswith("@") else (entry,):
            yield from _folders(flow)


def is_open_to_us(folder: Path) -> bool:
    """Whether this user can read and write there; not if the run was started with `sudo`."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _folders(parent: Path) -> Iterator[Path]:
    """The folders in `parent` with names that we may have created; none if it cannot be read."""
    try:
        with os.scandir(parent) as entries:
            found = [entry.path for entry in entries if entry.name.isascii() and entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    yield from map(Path, found)


def attempt_file(folder: Path, key: Tuple[str, str, int]) -> Path:
    """The journal that the task itself writes, given by step, task and attempt as in an AttemptKey."""
    return folder / (_attempt_name(key) + _SUFFIX)


def streams(folder: Path, journal: str) -> Dict[str, Path]:
    """The files of an attempt that are kept when its machine is gone, `journal` being the name of its own.

    The ledger is that of the attempt's own shipper.
    """
    stem = journal[: -len(_SUFFIX)]
    return {
        "journal": folder / journal,
        "output": folder / (stem + _OUTPUT_SUFFIX),
        "ledger": folder / (stem + _LEDGER_SUFFIX),
    }


def container_files(folder: Path, key: Tuple[str, str, int]) -> Dict[str, Path]:
    """Where these files are on the machine of the launcher, and in the container."""
    return streams(folder, _attempt_name(key) + _SUFFIX)


def stored_name(attempt: int, stream: str) -> str:
    """The name of such a file in Metaflow's datastore, beside the attempt's log files (metaflow/mflog)."""
    return f"{attempt}.{STORED}_{stream}.log"


def attempt_lock(key: Tuple[str, str, int]) -> str:
    """The name of the lock that an attempt's own shipper holds."""
    return _attempt_name(key) + _LOCK_SUFFIX


def attempt_pid(key: Tuple[str, str, int]) -> str:
    """The name of the file with the pid of an attempt's own shipper, for the witness (task/witness.sh)."""
    return _attempt_name(key) + _PID_SUFFIX


def relayed_file(folder: Path, key: Tuple[str, str, int]) -> Path:
    """What the launcher reads from an attempt that exports itself: its output journal, if nothing comes home."""
    return folder / f"{_attempt_name(key)}.relayed"


def output_file(folder: Path, key: Tuple[str, str, int]) -> Path:
    """The journal of the lines that the launcher read from the task."""
    return folder / (_attempt_name(key) + _OUTPUT_SUFFIX)


def _attempt_name(key: Tuple[str, str, int]) -> str:
    step, task, attempt = key
    return f"{_file_name(step, _LONGEST_STEP)}.{_file_name(task, _LONGEST_TASK)}.{attempt}"


def journals(folder: Path) -> Iterator[Tuple[Path, Optional[AttemptKey]]]:
    """The journals of a run, each with its attempt; first the launcher's, with None."""
    yield folder / RUN_FILE, None
    for path in sorted(folder.glob("*" + _SUFFIX)):
        key = attempt_key(path)
        if key is not None:
            yield path, key


def unknown_attempts(folder: Path, known: Container[Tuple[str, str, int]]) -> List[AttemptKey]:
    """The attempts of which `folder` holds a journal, in order, without those that are known, which cost 1 µs each."""
    found: Set[AttemptKey] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                parts = entry.name.split(".")
                # STEP.TASK.ATTEMPT.jsonl or STEP.TASK.ATTEMPT.output.jsonl
                if len(parts) < 4 or parts[-1] != "jsonl":  # noqa: PLR2004
                    continue
                is_plain = "%" not in entry.name and parts[2].isdigit()
                if is_plain and (parts[0], parts[1], int(parts[2])) in known:
                    continue
                key = attempt_key(folder / entry.name)
                if key is not None and key not in known:
                    found.add(key)
    except OSError:  # pruned meanwhile
        pass
    return sorted(found)


def attempt_key(path: Path) -> Optional[AttemptKey]:
    """The attempt that a file belongs to, or None.

    If the file's name is truncated, the attempt is in its first record; None until that is written.
    """
    from otel_metaflow.journal.keys import AttemptKey

    found = re.fullmatch(_ATTEMPT_FILE, path.name) if path.name.isascii() else None
    if found is None:
        return None
    if is_cut(path):
        return _first_key(path)
    return AttemptKey(unquote(found.group(1)), unquote(found.group(2)), int(found.group(3)))


def is_output(path: Path) -> bool:
    """Whether a file holds the lines that the launcher read from a task."""
    return path.name.endswith(_OUTPUT_SUFFIX)


def is_cut(path: Path) -> bool:
    """Whether the name of an attempt's file is truncated, so that the attempt's name must be in its first record."""
    return _CUT in path.name


def _first_key(path: Path) -> Optional[AttemptKey]:
    from otel_metaflow.journal.keys import AttemptKey

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
    """Quote any text as a file name; dots are quoted because they separate step, task and attempt."""
    name = quote(text, safe="-_ :=,+", errors="surrogatepass").replace(".", "%2E") or "%00"
    if len(name) <= longest:
        return name
    from hashlib import blake2b  # few names are so long

    digest = blake2b(name.encode(), digest_size=_DIGEST).hexdigest()
    truncated = name[: longest - len(_CUT) - len(digest)]
    return re.sub("%.?$", "", truncated) + _CUT + digest
