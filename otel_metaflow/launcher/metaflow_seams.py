"""All that the launcher reads of Metaflow beyond what its hooks are given, as plain values of ours.

Metaflow's launcher reads the pipes of every task line by line (metaflow/runtime.py, Worker). That raw stream holds
what the task cannot report: C code, subprocesses, the bytes before a kill. There is no public hook for it, so
methods of Worker are wrapped, and the function by which `resume` takes over a task.

Nothing here is promised by Metaflow. So each function is a `seam`: where a Metaflow is built differently, it
answers with a default, one line names what goes unrecorded, and the run goes as it does without us. What is wrapped
takes whatever it is given, is called exactly once, and answers or raises what it does. No other module of the
launcher touches an attribute of Metaflow's. tests/test_seams.py takes away each name of DEPENDS in turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timezone
from typing import Any, NamedTuple, Protocol

from otel_metaflow.core import clock
from otel_metaflow.core.guard import hidden, let_pass, seam
from otel_metaflow.core.metaflow_seams import node as node_of
from otel_metaflow.journal.layout import AttemptKey

DEPENDS = (
    "metaflow.runtime.Worker",
    "metaflow.runtime.Worker._launch",
    "metaflow.runtime.Worker.emit_log",
    "metaflow.runtime.Worker.terminate",
    "metaflow.runtime.Worker.task",
    "metaflow.runtime.Worker.killed",
    "metaflow.runtime.Worker._proc",
    "metaflow.runtime.Worker._stdout",
    "metaflow.runtime.Task.step",
    "metaflow.runtime.Task.task_id",
    "metaflow.runtime.Task.retries",
    "metaflow.runtime.Task.is_cloned",
    "metaflow.runtime.Task.input_paths",
    "metaflow.runtime.Task.results",
    "metaflow.datastore.task_datastore.TaskDataStore._objects",
    "metaflow.runtime.clone_task_helper",
    "metaflow.runtime.CLIArgs.env",
    "metaflow.datastore.datastore_set.TaskDataStoreSet.get_with_pathspec",
    "metaflow.datastore.task_datastore.TaskDataStore.attempt",
    "metaflow.events.Trigger.events",
    "metaflow.mflog.mflog.parse",
    "metaflow.flowspec.FlowSpec.__iter__",
    "metaflow.graph.DAGNode.out_funcs",
    "metaflow.graph.DAGNode.source_file",
    "metaflow.graph.DAGNode.func_lineno",
    "metaflow.decorators.Decorator.name",
    "metaflow.decorators.Decorator.attributes",
)
"""The names that this module needs, each where Metaflow 2.19 defines it."""

# What a step may ask of the machine, and the decorators that ask.
_ASKED = ("cpu", "gpu", "memory")
_ASKING = ("resources", "kubernetes", "batch")
_OURS = "otel"


class Lines(Protocol):
    """Takes the lines of one task."""

    def add(self, stream: str, data: bytes) -> None:
        """Take one line as it was read from `stream`."""


class Listener(Protocol):
    """Hears of the processes that the launcher starts; output.py."""

    def launched(self, key: AttemptKey, at: int, pid: int, inputs: dict[str, list[str]] | None) -> Lines | None:
        """A task's process was started, no sooner than `at`, to read from `inputs`; what takes its lines, if any."""

    def ended(self, key: AttemptKey, code: int, *, killed: bool, ok: bool | None) -> None:
        """A task's process is gone, and its pipes are read to the end; `ok` is Metaflow's word on a code of 0."""

    def cloned(self, key: AttemptKey, run: str, task: str, attempt: int) -> None:
        """A task was taken over from attempt `attempt` of `task` of `run`."""

    def mute(self, *, is_muted: bool) -> None:
        """While muted, what the launcher prints is the echo of a line that a task wrote."""


def watch(listener: Listener) -> bool:
    """Have `listener` hear of the run's tasks; whether the echo of their lines can be told from the launcher's own."""
    _watch_launches(listener)
    _watch_ends(listener)
    _watch_clones(listener)
    return bool(_watch_lines(listener))


@seam("when tasks were launched, and what only the launcher reads of them")
def _watch_launches(listener: Listener) -> None:
    from metaflow.runtime import Worker

    launch = Worker._launch

    @seam("when tasks were launched, and what only the launcher reads of them")
    def note(worker: Any, at: int, process: Any) -> None:
        key = _launched_key(worker.task)
        if key is not None:
            worker.otel_lines = listener.launched(key, at, int(process.pid), inputs(worker.task))

    @hidden
    def watched(*args: Any, **kwargs: Any) -> Any:
        at = clock.now()
        process = launch(*args, **kwargs)
        note(args[0], at, process)
        return process

    Worker._launch = watched


@seam("how the processes of tasks ended")
def _watch_ends(listener: Listener) -> None:
    from metaflow.runtime import Worker

    terminate = Worker.terminate

    @seam("how the processes of tasks ended")
    def note(worker: Any, *, raised: bool) -> None:
        key = _launched_key(worker.task)
        if key is not None:
            code = int(worker._proc.returncode)
            ok = None if code else False if raised else _has_result(worker.task)
            listener.ended(key, code, killed=bool(worker.killed), ok=ok)

    @hidden
    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            result = terminate(*args, **kwargs)
        except BaseException:
            # Metaflow raises where a process ended with 0 and left no result, as after os._exit(0).
            note(args[0], raised=True)
            raise
        note(args[0], raised=False)
        return result

    Worker.terminate = watched


@seam("what the launcher itself prints, and what only it reads of tasks", lambda: False)
def _watch_lines(listener: Listener) -> bool:
    from metaflow.runtime import Worker

    emit_log = Worker.emit_log
    given = _Given(emit_log)

    @seam("what only the launcher reads of tasks", lambda: True)
    def is_echo(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Take in the line; whether it is a task's, rather than Metaflow's own words about it."""
        if given.value(args, kwargs, 3, "system_msg", default=False):
            return False
        worker = args[0]
        lines = getattr(worker, "otel_lines", None)
        if lines is not None:
            message, buffer = given.value(args, kwargs, 1, "msg"), given.value(args, kwargs, 2, "buf")
            if not isinstance(message, bytes):
                raise TypeError(f"a line is {type(message).__name__}, not bytes")
            lines.add("stdout" if buffer is worker._stdout else "stderr", message)
        return True

    @hidden
    def watched(*args: Any, **kwargs: Any) -> Any:
        if not is_echo(args, kwargs):
            return emit_log(*args, **kwargs)
        listener.mute(is_muted=True)
        try:
            return emit_log(*args, **kwargs)
        finally:
            listener.mute(is_muted=False)

    Worker.emit_log = watched
    return True


@seam("which tasks a resumed run took over")
def _watch_clones(listener: Listener) -> None:
    """Wrap the function by which `resume` takes over a task of the origin run (metaflow/clone_util.py)."""
    from metaflow import runtime

    clone = runtime.clone_task_helper
    given = _Given(clone)

    @seam("which tasks a resumed run took over")
    def note(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        run = str(given.value(args, kwargs, 1, "clone_run_id"))
        step = str(given.value(args, kwargs, 3, "step_name"))
        origin = str(given.value(args, kwargs, 4, "clone_task_id"))
        task = str(given.value(args, kwargs, 5, "task_id"))
        origins = given.value(args, kwargs, 8, "origin_ds_set", default=None)
        attempt = _origin_attempt(origins, f"{run}/{step}/{origin}") if origins else 0
        listener.cloned(AttemptKey(step, task, 0), run, origin, attempt)

    @hidden
    def watched(*args: Any, **kwargs: Any) -> Any:
        cloned = clone(*args, **kwargs)
        note(args, kwargs)
        return cloned

    runtime.clone_task_helper = watched


@seam("which attempts a resumed run took over", lambda: 0)
def _origin_attempt(origins: Any, pathspec: str) -> int:
    origin = origins.get_with_pathspec(pathspec)
    return 0 if origin is None else int(origin.attempt or 0)


def _launched_key(task: Any) -> AttemptKey | None:
    """The attempt that a process of the launcher makes; None of one that only takes over another run's task."""
    if task.is_cloned:
        return None
    return AttemptKey(str(task.step), str(task.task_id), int(task.retries))


@seam("what tasks read from")
def inputs(task: Any) -> dict[str, list[str]] | None:
    """The tasks that it reads from, by step; None where that is not known, which is not the same as none."""
    found: dict[str, list[str]] = {}
    for path in task.input_paths or ():
        _, step, read = str(path).split("/")
        if step != "_parameters":  # what the run was started with, no task of the user's
            found.setdefault(step, []).append(read)
    return found


@seam("whether a process that ended with 0 left a result")
def _has_result(task: Any) -> bool | None:
    """Whether Metaflow will go on from the attempt, whose process ended with 0; None where that is not known.

    Not where the last result is that of an attempt before it, nor where user code left by `sys.exit(0)`: then
    `_task_ok` is stored as None, as `_foreach_num_splits` is. Artifacts are stored by content, and which content
    they have is known already, so nothing is read (metaflow/runtime.py, Worker.terminate; datastore/task_datastore.py).
    """
    results = task.results
    stored = results._objects
    return bool(results.attempt == task.retries and stored["_task_ok"] != stored["_foreach_num_splits"])


class _Given:
    """Finds the arguments that a wrapped function was given, by name or by where it has them now."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._positions = {name: place for place, name in enumerate(inspect.signature(function).parameters)}

    def value(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str, **default: Any) -> Any:
        """The argument `name`, which Metaflow 2.19 has at `position`; `default` if it was not given.

        Raises:
            LookupError: it was not given, and there is no default.
        """
        if name in kwargs:
            return kwargs[name]
        position = self._positions.get(name, position)
        if position < len(args):
            return args[position]
        if default:
            return default["default"]
        raise LookupError(f"no argument {name}")


class Origin(NamedTuple):
    """The run that is resumed, and FLOW/RUN of those whose end started this one."""

    resumed: str = ""
    triggers: tuple[str, ...] = ()


@seam("what a run comes from", Origin)
def origin() -> Origin:
    """What the run comes from (metaflow/metaflow_current.py, metaflow/events.py)."""
    from metaflow import current

    resumed = current.get("origin_run_id")
    trigger = current.get("trigger")
    events = (trigger.events or [trigger.event]) if trigger else []
    runs = ["/".join(str(event.id).split("/")[:2]) for event in events if event and event.type == "run" and event.id]
    return Origin("" if resumed in (None, "None") else str(resumed), tuple(dict.fromkeys(runs)))


class _Step(NamedTuple):
    """A step of the flow, and whether it has `@otel`."""

    name: str
    decorators: Sequence[Any]
    is_recorded: bool


@seam("the steps of the flow", list)
def _steps(flow: Any) -> list[_Step]:
    found = []
    for step in flow:
        decorators = list(step.decorators)
        found.append(_Step(str(step.__name__), decorators, any(each.name == _OURS for each in decorators)))
    return found


def describe_steps(flow: Any, graph: Any) -> Iterable[dict[str, Any]]:
    """Each step of the flow, by name: its place in the graph, what it asks for, whether it has `@otel`."""
    for step in _steps(flow):
        found = node_of(graph, step.name)
        described: dict[str, Any] = {
            "step": step.name,
            "type": found.type,
            "parallel": found.is_parallel,
            "next": _following(graph, step.name),
            **_place(graph, step.name),
            # cpu in cores, memory in megabytes, gpu in devices, as Metaflow counts them
            "requested": _requested(step.decorators),
        }
        if not step.is_recorded:
            described["recorded"] = False
        yield described


@seam("what follows a step", list)
def _following(graph: Any, step: str) -> list[str]:
    return [str(name) for name in graph[step].out_funcs]


@seam("where the code of a step stands", lambda: {"file": "", "line": 0})
def _place(graph: Any, step: str) -> dict[str, Any]:
    return {"file": str(graph[step].source_file), "line": int(graph[step].func_lineno)}


@seam("what steps ask of the machine", dict)
def _requested(decorators: Iterable[Any]) -> dict[str, float]:
    requested: dict[str, float] = {}
    for decorator in decorators:
        if decorator.name in _ASKING:
            for name in _ASKED:
                amount = _number(decorator.attributes.get(name))
                if amount:
                    requested[name] = max(amount, requested.get(name, 0.0))
    return requested


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def set_variable(cli_args: Any, name: str, value: str) -> None:
    """Set a variable of a task that is about to be launched.

    A task that gets none finds everything out by itself: nothing is lost but milliseconds.
    """
    try:
        cli_args.env[name] = value
    except Exception as error:  # noqa: BLE001 - see above
        let_pass(error)


def message(exception: BaseException) -> str:
    """What an exception says; a MetaflowException has it in `message` (metaflow/exception.py)."""
    try:
        return str(getattr(exception, "message", None) or exception)
    except Exception as error:  # noqa: BLE001 - the user's __str__ may be broken
        let_pass(error)
        return f"<{type(exception).__name__} without a readable message>"


@seam("the times of lines that other machines sent")
def unwrapped(line: bytes) -> tuple[bytes, int] | None:
    """The text and time of a line in Metaflow's own log format (metaflow/mflog/mflog.py); None if it is not in it."""
    from metaflow.mflog import mflog

    parsed = mflog.parse(line)
    if parsed is None:
        return None
    return bytes(parsed.msg), int(parsed.utc_tstamp.replace(tzinfo=timezone.utc).timestamp() * 1e9)
