"""What a shipper does for the one attempt of its container: it reads the attempt's output, where no launcher does.

Metaflow's shell copies what a step and its subprocesses print to two files, each line with its time
(metaflow/mflog/tee.py). They are what a launcher's pipes are elsewhere, and become the same journal.
"""

from __future__ import annotations

import json
import os
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from otel_metaflow.core import clock, mflog, names, resource, secrets
from otel_metaflow.core.metaflow_seams import Facts
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.raw_journal import Line, RawJournal
from otel_metaflow.journal.reader import Tail, read_chunk
from otel_metaflow.journal.writer import Journal
from otel_metaflow.model.following import Following, Update
from otel_metaflow.model.run import Attempt

# How often the journals are read while they grow, in seconds: as much is lost if the whole container is killed at once,
# and as many requests are made.
POLL = 0.05
# While they do not, only their sizes are looked at, more often, so that what follows is sent at once.
_GLANCE = 0.02
_LONGEST = 0.2
# An attempt that has ended is over when its output does not grow for so long, in seconds: `tee` may lag behind.
_QUIET = 0.1
_STREAMS = {"stdout": "MFLOG_STDOUT", "stderr": "MFLOG_STDERR"}


class Output:
    """Follows Metaflow's two log files of an attempt."""

    def __init__(self, folder: Path, key: AttemptKey, environment: Settings, environ: Mapping[str, str]) -> None:
        self._reports = layout.attempt_file(folder, key)
        self._mask = secrets.Mask(secrets.known(environ))
        streams = _streams(self._reports, environment.logs)
        self._paths = {
            stream: Path(environ[name]) for stream, name in _STREAMS.items() if stream in streams and name in environ
        }
        path = layout.output_file(folder, key)
        self._offsets: Dict[str, int] = dict.fromkeys(self._paths, 0)
        self._offsets.update(_position(path))
        journal = Journal(path, lambda _: None, environment.journal_max_bytes)
        if layout.is_cut(path):
            journal.append(layout.LAUNCH, {**key._asdict()})
        self._journal = RawJournal(journal, self._reports)
        self.grew = time.monotonic()
        self._sizes: List[int] = []

    def poll(self, *, is_over: bool = False) -> None:
        """Read the output since the last poll; once the attempt `is_over`, a line without an end, too."""
        while True:
            lines: List[Line] = []
            for stream in self._paths:
                lines += self._read(stream, is_over=is_over)
            if not lines:
                break
            self.grew = time.monotonic()
            lines.sort(key=lambda line: line[0])
            offsets = ",".join(f'"{stream}":{offset}' for stream, offset in self._offsets.items())
            self._journal.append(lines, self._mask, f"{{{offsets}}}")
        self._journal.note_quiet()

    def has_grown(self) -> bool:
        """Whether there is something to read, in the output or in what the task records."""
        sizes = [_size(path) for path in (self._reports, *self._paths.values())]
        has_grown, self._sizes = sizes != self._sizes, sizes
        return has_grown

    def _read(self, stream: str, *, is_over: bool) -> List[Line]:
        try:
            data = read_chunk(self._paths[stream], self._offsets[stream])
        except OSError:  # not there yet
            return []
        end = data.rfind(b"\n") + 1
        if is_over and not end:
            end = len(data)
        self._offsets[stream] += end
        return [_line(stream, text) for text in BytesIO(data[:end])]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # not there yet
        return -1


def _log_stream(environ: Mapping[str, str]) -> Dict[str, Any]:
    """Where Amazon's container agent keeps the container's output, asked as Metaflow asks it (batch_decorator.py)."""
    address = environ.get("ECS_CONTAINER_METADATA_URI_V4", "")
    if not address.startswith("http://"):
        return {}
    import urllib.request  # elsewhere nobody needs it

    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=1.0) as answer:
            options = json.load(answer).get("LogOptions") or {}
    except (OSError, ValueError):
        return {}
    pairs = ((names.AWS_LOG_GROUP_NAMES, "awslogs-group"), (names.AWS_LOG_STREAM_NAMES, "awslogs-stream"))
    return {name: [str(options[option])] for name, option in pairs if options.get(option)}


def _line(stream: str, data: bytes) -> Line:
    found = mflog.parse(data)
    if found is None:
        return clock.now(), stream, data
    return clock.now() if found.at is None else found.at, stream, found.data


def _streams(reports: Path, otherwise: Sequence[str]) -> Sequence[str]:
    """Which streams the step wants recorded, as its first record says."""
    first = next(Tail(reports).read(), None)
    chosen = first.record.get("logs") if first is not None and first.record["kind"] == layout.START else None
    return otherwise if chosen is None else chosen


def _position(path: Path) -> Dict[str, int]:
    """How far a shipper before this one had read, by stream."""
    tail, before = Tail(path, only=layout.READ), -1
    found: Dict[str, int] = {}
    while tail.offset != before:
        before = tail.offset
        for entry in tail.read():
            found = entry.record.get("position") or found
    return {stream: offset for stream, offset in found.items() if isinstance(offset, int)}


class ContainerFollowing(Following):
    """The facts of the attempt of this container, whose end is the end of all that is to be delivered here."""

    def __init__(self, home: Path, folder: Path, key: AttemptKey, environment: Settings) -> None:
        super().__init__(home, folder)
        self._own = key
        self._output = Output(folder, key, environment, os.environ)
        self._ended: Optional[float] = None  # when the attempt was seen to have
        # If a step never starts, nothing else records where it was.
        self.run.resource = {
            **resource.describe(self.run.key.flow, self.run.key.run, Facts()),
            **_log_stream(os.environ),
        }

    @property
    def ledger_file(self) -> Path:
        """Of this attempt: other containers may share the folder."""
        return layout.container_files(self.folder, self._own)["ledger"]

    def poll(self, *, max_bytes: Optional[int] = None, thorough: bool = False) -> Update:
        """Read what was added to the attempt's output and to the journals."""
        self._output.poll(is_over=self._ended is not None)
        return super().poll(max_bytes=max_bytes, thorough=thorough)

    def wait(self, wake: threading.Event, seconds: float) -> None:
        """Wait for `seconds`, or until `wake` is set; longer while the step is silent."""
        deadline = time.monotonic() + (_LONGEST if self._ended is None else seconds)
        is_set = wake.wait(seconds)
        while not is_set and time.monotonic() < deadline and not self._output.has_grown():
            is_set = wake.wait(_GLANCE)

    def is_ours(self, key: AttemptKey) -> bool:
        """Only the attempt of this container, whoever else has its journals in this folder."""
        return key == self._own

    def is_over(self, attempt: Attempt, *, is_launcher_gone: bool) -> bool:
        """Whether nothing more will be recorded of an attempt: of this container's, once all of its output was read."""
        if not super().is_over(attempt, is_launcher_gone=is_launcher_gone):
            return False
        if attempt.key != self._own:
            return True
        now = time.monotonic()
        self._ended = self._ended or now
        return now - max(self._ended, self._output.grew) >= _QUIET

    def is_run_over(self, *, is_launcher_gone: bool) -> bool:  # noqa: ARG002 - there is none
        """Whether all that is to be delivered here is over."""
        own = self.run.attempts.get(self._own)
        return own is not None and own.is_settled
