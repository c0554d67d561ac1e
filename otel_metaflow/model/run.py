"""The state of a run and of its attempts, from the records of all its processes."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple

from otel_metaflow.core import ids
from otel_metaflow.journal import layout, reader
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.processes import is_alive, is_elsewhere, is_held
from otel_metaflow.model.inputs import Inputs

Record = Dict[str, Any]
_OUT_OF_MEMORY = "OOMKilled"  # Kubernetes' term


class Place:
    """Where the journals of a run are, and the process space that the pids in them are of if nothing else is recorded.

    One for all its attempts.
    """

    __slots__ = ("folder", "space")

    def __init__(self, folder: Path, space: str = "") -> None:
        self.folder = folder
        self.space = space

    def is_held(self, journal: Path) -> bool:
        """Whether the process of another machine that writes `journal` lives."""
        return is_held(self.folder / journal)


@dataclass
class Attempt:
    """One attempt: records of its own journal (start, end) and of the launcher (launch, exit)."""

    key: AttemptKey
    start: Optional[Record] = None
    end: Optional[Record] = None
    launch: Optional[Record] = None
    exit: Optional[Record] = None
    witnessed: Optional[Record] = None  # its exit as its container saw it, whose process it was
    clone: Optional[Record] = None
    last_seen: int = 0
    is_settled: bool = False
    """Nothing more will be heard of it, as far as whoever follows the run knows."""
    has_span: bool = True
    """Whether it has a span of its own; span_limit.py decides."""
    is_exported: bool = False
    """Whether its container has exported all that it knows of it: only what its launcher knows is left."""
    place: Optional[Place] = None

    @property
    def is_cloned(self) -> bool:
        """Whether `resume` cloned it from an earlier run, so that it did not run and took no time."""
        return self.clone is not None

    @property
    def cloned_from(self) -> Optional[str]:
        """The id of the run that it was cloned from; None if that is unknown, or it is no clone."""
        return str((self.clone or {}).get("originRun") or "") or None

    @property
    def is_within_another(self) -> bool:
        """Whether another task started it, as in a `@parallel` step: the launcher does not record its end."""
        return "within" in (self.start or {})

    @property
    def again(self) -> str:
        """The container that it ran in, if another one had made the same attempt before; empty otherwise."""
        return str((self.start or {}).get("again", ""))

    @property
    def is_alone(self) -> bool:
        """Whether it ran where no launcher was, in a container."""
        return "processSpace" in (self.start or {})

    @property
    def inputs(self) -> Optional[Collection[AttemptKey]]:
        """The attempts that it read from, by its own record; None if that does not name them; see `Run.inputs_of`."""
        named = (self.start or {}).get("inputs")
        return None if named is None else Inputs(named)

    @property
    def input_count(self) -> int:
        """How many attempts it read from."""
        return len(self.inputs or self.launched_on or ())

    @property
    def launched_on(self) -> Optional[Collection[AttemptKey]]:
        """The first attempts of the tasks that it was launched with; None if the launcher did not record them."""
        named = (self.launch or {}).get("inputs")
        return None if named is None else Inputs(named)

    @property
    def started_at(self) -> int:
        """Start of its process, in nanoseconds since 1970; the kernel rounds down, possibly to before its launch."""
        if self.clone is not None:
            return int(self.clone["timeUnixNano"])
        start = self.start or {}
        launched: int = (self.launch or {}).get("timeUnixNano", 0)
        own: int = start.get("processStartTimeUnixNano") or start.get("timeUnixNano") or 0
        return max(own, launched) or self.last_seen

    @property
    def ended_at(self) -> int:
        """When Metaflow had stored it; for an attempt that died, when the launcher noticed its end."""
        if self.clone is not None:
            return self.started_at
        known = self.end or self.exit
        at: int = known["timeUnixNano"] if known else self.last_seen
        return max(at, self.started_at)

    @property
    def over_at(self) -> int:
        """When the launcher knew that it was over, which is what the next one waits for."""
        return int(self.exit["timeUnixNano"]) if self.exit is not None else self.ended_at

    @property
    def exit_code(self) -> Optional[int]:
        """The exit code of its process, negative for a signal that killed it; None if unknown."""
        code = (self.witnessed or self.exit or {}).get("code")
        return code if isinstance(code, int) else None

    @property
    def signal_name(self) -> Optional[str]:
        """The signal that ended the process, such as SIGKILL."""
        code = self.exit_code
        if code is None or code >= 0:
            return None
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"SIG{-code}"

    @property
    def is_out_of_memory(self) -> bool:
        """Whether it failed and the kernel killed a process of its container because it was out of memory."""
        return bool((self.witnessed or {}).get("outOfMemory")) and self.exit_code != 0

    @property
    def is_lost(self) -> bool:
        """Whether the process died before Metaflow could finish the attempt."""
        return self.end is None and self.result == "error"

    @property
    def is_partial(self) -> bool:
        """Whether the launcher recorded its end but its own journal did not.

        That is so if the task's interpreter or container has no otel-metaflow, if its journal could not be written, or
        if its step has no `@otel`.
        """
        return self.end is None and self.exit is not None and not self.is_lost and not self.is_cloned

    @property
    def result(self) -> str:
        """success, failure, timeout, cancellation, skip (cloned), or error if the system failed, not the code."""
        if self.is_cloned:
            return "skip"
        if self.exit is not None and self.exit.get("killed"):
            return "cancellation"
        recorded = self._result_by_code if self.end is None else str(self.end.get("result", "failure"))
        if recorded == "cancellation" and self.exit is not None and not self.exit.get("stopping"):
            # The launcher went on: it is the step that raised KeyboardInterrupt, or was sent a signal.
            return "failure" if self.end else "error"
        # If it died after Metaflow stored it, for example in an exit handler, it also failed for Metaflow.
        return "error" if recorded == "success" and self.exit_code else recorded

    @property
    def _result_by_code(self) -> str:
        """The result of an attempt without an end record.

        For Metaflow an exit code of 0 is a success if there is a result (`ok`). Any other code is a failure of the
        task, unless it had written a start record: then it died before it could write the end record.
        """
        code = self.exit_code
        if code == 0 and (self.exit or {}).get("ok", self.start is None):
            return "success"
        if code is None or code < 0 or self.start is not None:
            return "cancellation" if code == -signal.SIGINT else "error"
        return "failure"

    @property
    def failed(self) -> bool:
        """Whether the attempt failed; a cancelled one did not."""
        return self.result in ("failure", "error", "timeout")

    @property
    def exception(self) -> Record:
        """Type, message and stacktrace of a failure or of an exception that `@catch` caught; empty if there is none."""
        found = (self.end or {}).get("exception")
        return found if isinstance(found, dict) else {}

    @property
    def error_type(self) -> Optional[str]:
        """The value of `error.type` for a failed attempt."""
        if not self.failed:
            return None
        oom = _OUT_OF_MEMORY if self.is_out_of_memory else None
        return str(self.exception.get("type") or oom or self.signal_name or "_OTHER")

    @property
    def error_message(self) -> Optional[str]:
        """One sentence about the failure."""
        if not self.failed:
            return None
        if self.exception and self.exception.get("type") != "SystemExit":
            return f"{self.exception.get('type')}: {self.exception.get('message')}"
        if self.signal_name:
            more = ", out of memory" if self.is_out_of_memory else ""
            return f"the process was killed by {self.signal_name}{more}"
        if self.exit_code is not None:
            more = "" if self.exit_code or self.end else " without a result"
            return f"the process exited with code {self.exit_code}{more}"
        return "the process has ended, its exit code is unknown"

    @property
    def usage(self) -> Record:
        """CPU time (`cpu`, s), `memoryPeak`, `read` and `written` (bytes), if known."""
        found = (self.end or {}).get("usage")
        return found if isinstance(found, dict) else {}

    def unwritten(self, unread: int) -> int:
        """How many log records are in neither journal; `unread` is how many reported lines the launcher lacks.

        A line that the launcher read is available even if the task's own journal was full, and the other way round.
        """
        of_task = (self.end or {}).get("unwritten", {})
        records = int(of_task.get(layout.LOG, 0)) + int(of_task.get(layout.RECORD, 0))
        if self.exit is None:
            return int(of_task.get(layout.LINE, 0)) + records
        return records + max(0, int(self.exit.get("unwritten", {}).get(layout.LINE, 0)) - unread)

    def is_running(self) -> bool:
        """Whether its process is alive; only checked if no record shows its end."""
        if self.exit is not None or self.is_cloned:
            return False
        process = self.start or self.launch
        if process is None:
            return False
        if self.place is not None and self.is_elsewhere:
            held = layout.attempt_file(self.place.folder, self.key) if self.is_alone else Path(layout.RUN_FILE)
            return self.place.is_held(held)
        return _alive(process) or _alive({**process, **process.get("witness", {})})

    @property
    def is_elsewhere(self) -> bool:
        """Whether its process is one of another machine, or of a container, that this process cannot look at."""
        space = (self.start or {}).get("processSpace") or (self.place.space if self.place is not None else "")
        return is_elsewhere(str(space))


class _Common(NamedTuple):
    """What outlines of one step have in common, but for few."""

    start: Optional[Record]
    clone: Optional[Record]
    has_span: bool
    result: str
    inputs: Optional[Collection[AttemptKey]]
    error_type: Optional[str]
    error_message: Optional[str]


def _in_common(name: str) -> Any:
    """A field of the common ones; a record that comes late does not change it."""
    return property(lambda outline: getattr(outline.common, name), lambda _, __: None)


class DeliveredAttempt(Attempt):
    """The outline of an attempt that was delivered: what the end of the run has to know, in 300 bytes with its key."""

    __slots__ = ("_times", "common", "key")

    start = _in_common("start")
    clone = _in_common("clone")
    has_span = _in_common("has_span")
    result = _in_common("result")
    inputs = _in_common("inputs")
    error_type = _in_common("error_type")
    error_message = _in_common("error_message")
    # Of the class, for they take no memory then.
    end: Optional[Record] = None
    launch: Optional[Record] = None
    exit: Optional[Record] = None
    last_seen: int = 0
    is_settled: bool = True
    launched_on = None  # `inputs` has them

    def __init__(self, attempt: Attempt, common: _Common) -> None:
        """Of `attempt`."""
        self.key = attempt.key
        self.common = common
        self._times = _TIMES.pack(attempt.started_at, attempt.ended_at, attempt.over_at)

    @property
    def started_at(self) -> int:
        """Start of its process, in nanoseconds since 1970."""
        return int(_TIMES.unpack(self._times)[0])

    @property
    def ended_at(self) -> int:
        """When Metaflow had stored it, or when the launcher noticed its end."""
        return int(_TIMES.unpack(self._times)[1])

    @property
    def over_at(self) -> int:
        """When the launcher knew that it was over."""
        return int(_TIMES.unpack(self._times)[2])


# Three times in 57 bytes, where three numbers take 144.
_TIMES = Struct("3q")
# That there was a record.
_NO_RECORD: Record = {}


@dataclass
class Run:
    """One run, from its journals."""

    key: RunKey
    place: Optional[Place] = None
    start: Optional[Record] = None
    end: Optional[Record] = None
    closed: bool = False
    last_seen: int = 0
    attempts: Dict[AttemptKey, Attempt] = field(default_factory=dict)
    steps: Dict[str, Record] = field(default_factory=dict)
    resource: Record = field(default_factory=dict)  # of attempts without a launcher
    _first_started_at: int = 0  # of the attempts, if no launcher recorded the run's start
    _traceparent: str = ""  # what an attempt knows of it, where no launcher does
    _common: Dict[Tuple[str, str], _Common] = field(default_factory=dict)  # of the latest outlines, by step and result

    @property
    def traceparent(self) -> Optional[Tuple[str, str]]:
        """Trace id and span id of the caller's trace, in which the launcher was started."""
        parts = str(self.start.get("traceparent", "") if self.start else self._traceparent).split("-")
        return (parts[1], parts[2]) if len(parts) == 4 else None  # noqa: PLR2004 - W3C trace context

    @property
    def origin(self) -> Optional[str]:
        """The id of the run that this one resumes."""
        recorded = (self.start or {}).get("origin")
        cloned = (attempt.cloned_from for attempt in self.attempts.values())
        return str(recorded) if recorded else next(filter(None, cloned), None)

    @property
    def trace_id(self) -> str:
        """The id of the run's trace: its own, unless it was started inside a trace."""
        joined = self.traceparent
        return joined[0] if joined else ids.trace_id(*self.key)

    def add(self, key: Optional[AttemptKey], record: Record) -> Optional[Attempt]:
        """Take in one record of an attempt's file; of the launcher's where `key` is None.

        Returns the attempt that it speaks of, if it speaks of one.
        """
        attempt = None if key is None else self.attempt(key)
        if attempt is not None:
            attempt.last_seen = max(attempt.last_seen, record["timeUnixNano"])
            if record["kind"] == layout.START:
                attempt.start = record
            elif record["kind"] == layout.END:
                attempt.end = record
            elif record["kind"] == layout.EXIT:  # of a container's witness
                attempt.witnessed = record
                attempt.exit = attempt.exit or record
        else:
            attempt = self._add_launcher(record)
        if attempt is not None and self.start is None:
            self._traceparent = self._traceparent or str((attempt.start or {}).get("traceparent", ""))
            started = attempt.started_at
            self._first_started_at = min(self._first_started_at or started, started)
        self.last_seen = max(self.last_seen, record["timeUnixNano"])
        return attempt

    def _add_launcher(self, record: Record) -> Optional[Attempt]:
        kind = record["kind"]
        if kind == layout.START:
            self.start = record
            if self.place is not None:
                self.place.space = str(record.get("processSpace", ""))
        elif kind == layout.END:
            self.end = record
        elif kind == layout.CLOSED:
            self.closed = True
        elif kind == layout.STEP:
            self.steps[str(record["step"])] = record
        elif kind in (layout.LAUNCH, layout.EXIT, layout.CLONE):
            step = sys.intern(str(record["step"]))  # one for all its attempts
            attempt = self.attempt(AttemptKey(step, str(record["task"]), int(record["attempt"])))
            attempt.last_seen = max(attempt.last_seen, record["timeUnixNano"])
            setattr(attempt, kind, record)
            return attempt
        return None

    def attempt(self, key: AttemptKey) -> Attempt:
        """The attempt with that key, created if necessary."""
        return self.attempts.setdefault(key, Attempt(key, place=self.place))

    def keep_outline(self, key: AttemptKey) -> None:
        """The attempt is delivered: keep of it what the end of the run has to know."""
        attempt = self.attempts[key]
        start, result = None if attempt.start is None else _NO_RECORD, sys.intern(attempt.result)
        error = (attempt.error_type, attempt.error_message)
        common = _Common(start, attempt.clone, attempt.has_span, result, self._known_inputs(attempt), *error)
        latest = self._common.get((key.step, result))
        if common != latest:
            self._common[key.step, result] = latest = common
        self.attempts[key] = DeliveredAttempt(attempt, latest)

    def _known_inputs(self, attempt: Attempt) -> Optional[Collection[AttemptKey]]:
        """The attempts that it read from, without those that are unknown; none of them is kept twice."""
        read = self.inputs_of(attempt)
        known = [self.attempts[one].key for one in read or () if one in self.attempts]
        return None if read is None else known if len(known) == 1 else Inputs(layout.grouped(known))

    def is_recorded(self, attempt: Attempt) -> bool:
        """Whether telemetry of the attempt is exported: not for a step without `@otel`."""
        return attempt.start is not None or bool(self.steps.get(attempt.key.step, {}).get("recorded", True))

    @property
    def recorded(self) -> Dict[AttemptKey, Attempt]:
        """The attempts whose telemetry is exported."""
        if all(step.get("recorded", True) for step in self.steps.values()):
            return self.attempts
        return {key: attempt for key, attempt in self.attempts.items() if self.is_recorded(attempt)}

    @property
    def ran(self) -> List[Attempt]:
        """The attempts that ran in this run, without those that `resume` cloned."""
        return [attempt for attempt in self.attempts.values() if not attempt.is_cloned]

    def inputs_of(self, attempt: Attempt) -> Optional[Collection[AttemptKey]]:
        """All attempts that it read from; None if they are unknown.

        The launcher records tasks; Metaflow reads the last attempt of each.
        """
        if attempt.inputs is not None or attempt.launched_on is None:
            return attempt.inputs
        return [self._last(key) for key in attempt.launched_on]

    def _last(self, key: AttemptKey) -> AttemptKey:
        """The last attempt of a task: its own key, of which there is one, for there may be many tasks."""
        while (after := key._replace(attempt=key.attempt + 1)) in self.attempts:
            key = after
        found = self.attempts.get(key)
        return key if found is None else found.key

    @property
    def in_order(self) -> Iterator[Attempt]:
        """The attempts, ordered by their start."""
        return iter(sorted(self.attempts.values(), key=lambda attempt: (attempt.started_at, attempt.key)))

    @property
    def has_launcher(self) -> bool:
        """Whether there is a launcher's journal; not on Argo Workflows or Step Functions."""
        return self.start is not None

    @property
    def is_backfilled(self) -> bool:
        """Whether its journals were made afterwards, from what Metaflow had stored."""
        return self.start is not None and bool(self.start.get("backfilled"))

    @property
    def is_partial(self) -> bool:
        """Whether no launcher recorded it, but one of its containers, which does not know of all its attempts."""
        return self.start is not None and bool(self.start.get("partial"))

    @property
    def again(self) -> str:
        """The container that recorded it, if the run had ended before and was made to go on; empty otherwise."""
        return str((self.start or {}).get("again", ""))

    @property
    def started_at(self) -> int:
        """Start of the run, in nanoseconds since 1970."""
        if self.start is not None:
            at: int = self.start["timeUnixNano"]
            return at
        if self._first_started_at:
            return self._first_started_at
        return min((attempt.started_at for attempt in self.attempts.values()), default=self.last_seen)

    @property
    def ended_at(self) -> int:
        """End of the run, or the time when it was last seen."""
        at = self.end["timeUnixNano"] if self.end is not None else self.last_seen
        return max(at, self.started_at)

    @property
    def result(self) -> str:
        """success, failure, cancellation, or error if the launcher died before the end.

        Metaflow's runtime also finishes without an exception where a task exited with 0 and left no result;
        it notices that only afterwards.
        """
        if self.end is None:
            return "error"
        recorded = str(self.end.get("result", "failure"))
        return "failure" if recorded == "success" and self._has_failed_task else recorded

    @property
    def _has_failed_task(self) -> bool:
        """Whether the last attempt of any task failed."""
        return any(
            attempt.failed and key._replace(attempt=key.attempt + 1) not in self.attempts
            for key, attempt in self.attempts.items()
        )

    @property
    def error_message(self) -> str:
        """Why a run failed, if none of its attempts explains it."""
        if self.end is None:
            return "the launcher died before the run ended"
        exception = self.end.get("exception")
        return str((exception.get("message") if isinstance(exception, dict) else None) or "the run failed")

    def see_alive(self, now: int) -> None:
        """Extend everything that is still running to `now`, even if it has no recent records."""
        for attempt in self.attempts.values():
            if attempt.end is None and attempt.is_running():
                attempt.last_seen = max(attempt.last_seen, now)
        if self.end is None and self.is_running():
            self.last_seen = max(self.last_seen, now)

    def launcher_is_alive(self) -> bool:
        """Whether the process that launched the run is alive; of a backfilled one, always."""
        if self.start is None or self.is_backfilled:
            return self.start is not None
        if self.place is not None and is_elsewhere(self.place.space):
            return self.place.is_held(Path(layout.RUN_FILE))
        return _alive(self.start)

    def is_running(self) -> bool:
        """Whether its launcher, or a task that outlived the launcher, is alive."""
        if not self.closed and self.launcher_is_alive():
            return True
        return any(attempt.is_running() for attempt in self.attempts.values())


def _alive(record: Record) -> bool:
    return "pid" in record and is_alive(record["pid"], record.get("processStart"))


def load(home: Path, folder: Path) -> Run:
    """Assemble the run in `folder` from its journals so far, without its log lines."""
    run = Run(layout.run_key(home, folder), Place(folder))
    for path, key in layout.journals(folder):
        for record in reader.facts(path):
            run.add(key, record)
    run.see_alive(time.time_ns())
    return run


def is_running(home: Path, folder: Path) -> bool:
    """Whether a process of the run in `folder` is alive; of attempts that are over no journal is read."""
    run, over = Run(layout.run_key(home, folder), Place(folder)), set()
    for record in reader.facts(folder / layout.RUN_FILE):
        attempt = run.add(None, record)
        if attempt is not None and (attempt.exit is not None or attempt.is_cloned):
            over.add(attempt.key)
            del run.attempts[attempt.key]
    for key in layout.unknown_attempts(folder, over):
        for record in reader.facts(layout.attempt_file(folder, key)):
            run.add(key, record)
    return run.is_running()
