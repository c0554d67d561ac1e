"""Everything that the launcher reads from Metaflow's internals, as plain values.

Metaflow's launcher reads the pipes of every task line by line (metaflow/runtime.py, Worker). That raw stream has output
that the task cannot report: of C code, subprocesses, and just before a kill. There is no public hook for it, so methods
of Worker are wrapped, and so is the function by which `resume` clones a task.

None of this is part of Metaflow's public API. So each function is a `seam`: if Metaflow's internals change, it returns
a default, one line reports what goes unrecorded, and the run behaves as without us. A wrapper accepts any arguments,
calls the wrapped function exactly once, and returns or raises what that does. No other module of the launcher touches
Metaflow's attributes. tests/test_seams.py removes each name of DEPENDS in turn.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timezone
from typing import Any, NamedTuple, Protocol

from otel_metaflow.core import clock, requested_resources
from otel_metaflow.core.guard import hidden, let_pass, seam
from otel_metaflow.core.metaflow_seams import node as node_of
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey

DEPENDS = (
    "metaflow.runtime.Worker",
    "metaflow.runtime.Worker._launch",
    "metaflow.runtime.Worker.emit_log",
    "metaflow.runtime.Worker.terminate",
    "metaflow.runtime.Worker.task",
    "metaflow.runtime.Worker.killed",
    "metaflow.runtime.Worker.cleaned",
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
    "metaflow.runtime.CLIArgs.commands",
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
    "metaflow.plugins.argo.argo_workflows.ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT",
)
"""The names that this module depends on, where Metaflow 2.19 defines them."""

_OURS = "otel"


class Lines(Protocol):
    """Receives the lines of one task."""

    def add(self, stream: str, data: bytes) -> None:
        """Add one line as it was read from `stream`."""


class Listener(Protocol):
    """Is notified of the processes that the launcher starts; see output.py."""

    def launched(self, key: AttemptKey, at: int, pid: int, inputs: dict[str, list[Any]] | None) -> Lines | None:
        """A task's process was started, no sooner than `at`, to read from `inputs`; returns a receiver of its lines."""

    def ended(self, key: AttemptKey, code: int, *, killed: bool, stopping: bool, ok: bool | None) -> None:
        """A task's process has ended and its pipes are read to the end.

        `stopping` is whether all tasks were to end by then, and `ok` whether Metaflow has its result.
        """

    def cloned(self, key: AttemptKey, run: str, task: str, attempt: int) -> None:
        """A task was cloned from attempt `attempt` of `task` of `run`."""

    def mute(self, *, is_muted: bool) -> None:
        """While muted, the launcher's output is the echo of a task's line."""


def watch(listener: Listener) -> bool:
    """Notify `listener` of the run's tasks; return whether the echo of their lines can be distinguished."""
    _watch_launches(listener)
    _watch_ends(listener)
    _watch_clones(listener)
    return bool(_watch_lines(listener))


@seam("launch times and raw output of tasks")
def _watch_launches(listener: Listener) -> None:
    from metaflow.runtime import Worker

    launch = Worker._launch

    @seam("launch times and raw output of tasks")
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


@seam("exit codes of tasks")
def _watch_ends(listener: Listener) -> None:
    from metaflow.runtime import Worker

    terminate = Worker.terminate

    @seam("exit codes of tasks")
    def note(worker: Any, *, raised: bool) -> None:
        key = _launched_key(worker.task)
        if key is not None:
            code = int(worker._proc.returncode)
            ok = None if code else False if raised else _has_result(worker.task)
            listener.ended(key, code, killed=bool(worker.killed), stopping=bool(worker.cleaned), ok=ok)

    @hidden
    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            result = terminate(*args, **kwargs)
        except BaseException:
            # Metaflow raises if a process exited with 0 without a result, for example by os._exit(0).
            note(args[0], raised=True)
            raise
        note(args[0], raised=False)
        return result

    Worker.terminate = watched


@seam("output of the launcher and raw output of tasks", lambda: False)
def _watch_lines(listener: Listener) -> bool:
    from metaflow.runtime import Worker

    emit_log = Worker.emit_log
    given = _Given(emit_log)
    usual = ["self", "msg", "buf", "system_msg"]
    is_usual = given.names == usual  # as it is in Metaflow 2.19, which calls it once a line

    @seam("raw output of tasks", lambda: True)
    def is_echo(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Record the line if it is a task's; return whether it is, rather than a message of Metaflow's."""
        if is_usual and len(args) == len(usual) - 1 and not kwargs:
            worker, message, buffer = args
        else:
            if given.value(args, kwargs, 3, "system_msg", default=False):
                return False
            worker = args[0]
            message, buffer = given.value(args, kwargs, 1, "msg"), given.value(args, kwargs, 2, "buf")
        lines = getattr(worker, "otel_lines", None)
        if lines is not None:
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


@seam("tasks cloned by resume")
def _watch_clones(listener: Listener) -> None:
    """Wrap the function by which `resume` clones a task of the origin run (metaflow/clone_util.py)."""
    from metaflow import runtime

    clone = runtime.clone_task_helper
    given = _Given(clone)

    @seam("tasks cloned by resume")
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


@seam("attempts cloned by resume", lambda: 0)
def _origin_attempt(origins: Any, pathspec: str) -> int:
    origin = origins.get_with_pathspec(pathspec)
    return 0 if origin is None else int(origin.attempt or 0)


def _launched_key(task: Any) -> AttemptKey | None:
    """The attempt that a process of the launcher runs; None for one that only clones another run's task."""
    if task.is_cloned:
        return None
    return AttemptKey(str(task.step), str(task.task_id), int(task.retries))


# Whatever deploys a flow makes a task of this name for its parameters, before all others.
_PARAMETERS = "_parameters"


@seam("inputs of tasks")
def inputs(task: Any) -> dict[str, list[Any]] | None:
    """What a task will read from; None if that is unknown."""
    read = (str(path).split("/") for path in task.input_paths or ())
    return layout.grouped((step, task, 0) for _, step, task in read if step != _PARAMETERS)


@seam("results of tasks that exited with 0")
def _has_result(task: Any) -> bool | None:
    """Whether Metaflow has a result of the attempt, whose process exited with 0; None if that is unknown.

    It has none if the last result is an earlier attempt's, or if user code called `sys.exit(0)`: then `_task_ok` is
    None, as is `_foreach_num_splits`. Artifacts are stored by content and their keys are already loaded, so comparing
    the keys reads nothing (metaflow/runtime.py, Worker.terminate; datastore/task_datastore.py).
    """
    results = task.results
    stored = results._objects
    return bool(results.attempt == task.retries and stored["_task_ok"] != stored["_foreach_num_splits"])


class _Given:
    """Finds arguments of a wrapped function, by name or by position."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.names = list(inspect.signature(function).parameters)
        self._positions = {name: position for position, name in enumerate(self.names)}

    def value(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str, **default: Any) -> Any:
        """The argument `name`, which is at `position` in Metaflow 2.19, or `default`.

        Raises:
            LookupError: it was not passed, and there is no default.
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
    """The run that this one resumes, and the runs that triggered it, as FLOW/RUN."""

    resumed: str = ""
    triggers: tuple[str, ...] = ()


@seam("origin and triggers of the run", Origin)
def origin() -> Origin:
    """The origin of the run (metaflow/metaflow_current.py, metaflow/events.py)."""
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


@seam("steps of the flow", list)
def _steps(flow: Any) -> list[_Step]:
    found = []
    for step in flow:
        decorators = list(step.decorators)
        found.append(_Step(str(step.__name__), decorators, any(each.name == _OURS for each in decorators)))
    return found


def describe_steps(flow: Any, graph: Any) -> Iterable[dict[str, Any]]:
    """Each step of the flow: its position in the graph, its requested resources, whether it has `@otel`."""
    for step in _steps(flow):
        found = node_of(graph, step.name)
        described: dict[str, Any] = {
            "step": step.name,
            "type": found.type,
            "parallel": found.is_parallel,
            "next": _following(graph, step.name),
            **_source(graph, step.name),
            # cpu in cores, memory in MiB, gpu in devices, as in Metaflow
            "requested": _requested(step.decorators),
        }
        if not step.is_recorded:
            described["recorded"] = False
        yield described


@seam("transitions between steps", list)
def _following(graph: Any, step: str) -> list[str]:
    return [str(name) for name in graph[step].out_funcs]


@seam("source locations of steps", lambda: {"file": "", "line": 0})
def _source(graph: Any, step: str) -> dict[str, Any]:
    return {"file": str(graph[step].source_file), "line": int(graph[step].func_lineno)}


@seam("requested resources", dict)
def _requested(decorators: Iterable[Any]) -> dict[str, float]:
    return requested_resources.of((each.name, each.attributes) for each in decorators)


def set_variable(cli_args: Any, name: str, value: str) -> None:
    """Set an environment variable of a task that is about to be launched.

    Without it, the task determines everything by itself, which costs milliseconds.
    """
    try:
        cli_args.env[name] = value
    except Exception as error:  # noqa: BLE001 - see above
        let_pass(error)


@seam("where tasks run", lambda: False)
def is_sent_away(cli_args: Any) -> bool:
    """Whether a task's command sends it away, as `flow.py kubernetes step` does (metaflow/runtime.py, CLIArgs)."""
    return cli_args is not None and list(cli_args.commands) != ["step"]


@seam("the journals of remote steps", dict)
def stored_logs(datastore: Any, task: tuple[str, str, str, int], streams: Sequence[str]) -> dict[str, bytes]:
    """What a container stored, by stream (metaflow/datastore/task_datastore.py); `task` is run, step, task, attempt."""
    run, step, task_id, attempt = task
    stored = datastore.get_task_datastore(run, step, task_id, attempt=attempt, mode="r", allow_not_done=True)
    found = {stream: stored.load_logs([layout.STORED], stream)[0][1] for stream in streams}
    return {stream: bytes(data) for stream, data in found.items() if data}


@seam("the settings of remote steps")
def add_variables(decorators: Any, variables: Mapping[str, str]) -> None:
    """Have the containers of a step get `variables`, which those of the user's own `@environment` go before.

    All that send steps away read `@environment` (kubernetes_cli.py, batch_cli.py, argo_workflows.py, step_functions.py,
    airflow.py). It counts as written in the flow: as an option of the command line its values would be on that of the
    task, too.
    """
    from metaflow.plugins.environment_decorator import EnvironmentDecorator

    given = next((each for each in decorators if each.name == EnvironmentDecorator.name), None)
    if given is None:
        if not variables:
            return
        given = EnvironmentDecorator({"vars": {}}, statically_defined=True)
        decorators.append(given)
    given.attributes["vars"] = {**variables, **given.attributes["vars"]}
    given.statically_defined = True


@seam("how the processes of remote steps end")
def run_before(environment: Any, step: str, command: str) -> None:
    """Have the containers of a step run `command` in the step's shell before all else (metaflow_environment.py)."""
    commands = environment.bootstrap_commands

    @hidden
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = commands(*args, **kwargs)
        step_name = args[0] if args else kwargs.get("step_name")
        return [command, *found] if step_name == step and command not in found else found

    environment.bootstrap_commands = wrapped


@seam("log groups of steps on AWS Batch")
def log_to(decorators: Any, group: str) -> None:
    """Have AWS Batch keep what a step prints in the log group `group`, unless the user's `@batch` says otherwise."""
    for decorator in decorators:
        if decorator.name == "batch":
            given = decorator.attributes
            if not given["log_driver"] and not given["log_options"]:  # metaflow/plugins/aws/batch/batch_client.py
                given.update(log_driver="awslogs", log_options=[f"awslogs-group:{group}"])


@seam("the runs of workflows that fail")
def run_when_workflow_fails(script: str) -> None:
    """Have Argo Workflows run `script` when a workflow of this flow has failed, before a script of the user's.

    Metaflow takes METAFLOW_ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT from its configuration (argo_workflows.py); the module
    is loaded where a flow is deployed to Argo Workflows, and nowhere else.
    """
    module: Any = sys.modules.get("metaflow.plugins.argo.argo_workflows")
    if module is None:
        return
    given = module.ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT or ""
    if script not in given:
        module.ARGO_WORKFLOWS_CAPTURE_ERROR_SCRIPT = f"{script}; {given}".rstrip("; ")


def message(exception: BaseException) -> str:
    """The message of an exception; a MetaflowException has it in `message` (metaflow/exception.py)."""
    try:
        return str(getattr(exception, "message", None) or exception)
    except Exception as error:  # noqa: BLE001 - the user's __str__ may be broken
        let_pass(error)
        return f"<{type(exception).__name__} without a readable message>"


@seam("timestamps of lines from other machines")
def unwrapped(line: bytes) -> tuple[bytes, int] | None:
    """The text and time of a line in Metaflow's own log format (metaflow/mflog/mflog.py), or None."""
    from metaflow.mflog import mflog

    parsed = mflog.parse(line)
    if parsed is None:
        return None
    return bytes(parsed.msg), int(parsed.utc_tstamp.replace(tzinfo=timezone.utc).timestamp() * 1e9)
