"""The names of everything that leaves, and what they mean: the one source, `docs/names.md` is made of it.

`python -m otel_metaflow.core.names` prints that page. Names of the semantic conventions are spelled here as
strings, because the launcher, which must not import OpenTelemetry, uses them too; `tests/test_names.py`
holds them against the conventions' package.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple


class Name(NamedTuple):
    """One attribute, event or metric; `on` says where it is found, `form` its type or unit."""

    name: str
    form: str
    status: str
    text: str
    on: str


CATALOG: List[Name] = []
_OWN, _STABLE, _DEVELOPMENT, _CANDIDATE = "ours", "stable", "development", "release candidate"


def _called(on: str, name: str, form: str, text: str, status: str = _OWN) -> str:
    CATALOG.append(Name(name, form, status, text, on))
    return name


# Resource: conventions
SERVICE_NAME = _called("resource, metrics", "service.name", "string", "`OTEL_SERVICE_NAME`, else `metaflow`", _STABLE)
SERVICE_NAMESPACE = _called("resource, metrics", "service.namespace", "string", "the `@project`", _STABLE)
SERVICE_VERSION = _called(
    "resource, metrics", "service.version", "string", "as the user says in `OTEL_RESOURCE_ATTRIBUTES`", _STABLE
)
SERVICE_INSTANCE_ID = _called(
    "resource",
    "service.instance.id",
    "string",
    "a UUID made of the attempt's span id: one process is one attempt",
    _STABLE,
)
DEPLOYMENT_ENVIRONMENT_NAME = _called(
    "resource, metrics",
    "deployment.environment.name",
    "string",
    "`production` on a production branch, else the branch, else `dev`",
    _STABLE,
)
TELEMETRY_SDK_NAME = _called("resource, metrics", "telemetry.sdk.name", "string", "of the SDK in the shipper", _STABLE)
TELEMETRY_SDK_LANGUAGE = _called(
    "resource, metrics", "telemetry.sdk.language", "string", "of the SDK in the shipper", _STABLE
)
TELEMETRY_SDK_VERSION = _called(
    "resource, metrics", "telemetry.sdk.version", "string", "of the SDK in the shipper", _STABLE
)
TELEMETRY_DISTRO_NAME = _called("resource, metrics", "telemetry.distro.name", "string", "`otel-metaflow`", _STABLE)
TELEMETRY_DISTRO_VERSION = _called("resource, metrics", "telemetry.distro.version", "string", "its version", _STABLE)
HOST_NAME = _called("resource, metrics", "host.name", "string", "", _DEVELOPMENT)
HOST_ARCH = _called("resource", "host.arch", "string", "", _DEVELOPMENT)
OS_TYPE = _called("resource", "os.type", "string", "", _DEVELOPMENT)
PROCESS_PID = _called(
    "resource, logs, user",
    "process.pid",
    "int",
    "of the attempt; on a record or a span of user code, of the child process that wrote it",
    _DEVELOPMENT,
)
PROCESS_RUNTIME_NAME = _called("resource", "process.runtime.name", "string", "", _DEVELOPMENT)
PROCESS_RUNTIME_VERSION = _called("resource", "process.runtime.version", "string", "", _DEVELOPMENT)
USER_NAME = _called("resource", "user.name", "string", "Metaflow's user", _DEVELOPMENT)
CICD_PIPELINE_NAME = _called("resource", "cicd.pipeline.name", "string", "the flow", _CANDIDATE)
CICD_PIPELINE_RUN_ID = _called("resource", "cicd.pipeline.run.id", "string", "the run", _CANDIDATE)

# Resource: ours
FLOW_NAME = _called("resource, metrics", "metaflow.flow.name", "string", "the flow's class")
RUN_ID = _called("resource, metrics", "metaflow.run.id", "string", "")
STEP_NAME = _called(
    "resource, metrics",
    "metaflow.step.name",
    "string",
    "also on a metric point, and on a line of the launcher that speaks of a step",
)
TASK_ID = _called("resource, logs", "metaflow.task.id", "string", "")
ATTEMPT = _called("resource", "metaflow.attempt", "int", "counts from 0, as Metaflow's retry count")
METAFLOW_VERSION = _called("resource", "metaflow.version", "string", "")
PROJECT_NAME = _called("resource, metrics", "metaflow.project.name", "string", "of `@project`")
BRANCH_NAME = _called("resource, metrics", "metaflow.branch.name", "string", "of `@project`")
NAMESPACE = _called("resource", "metaflow.namespace", "string", "Metaflow's namespace")
ORIGIN_RUN_ID = _called("resource", "metaflow.origin_run.id", "string", "the run that this one resumes")
COMPUTE_NAME = _called("resource, metrics", "metaflow.compute.name", "string", "where tasks run: `local`")
ORCHESTRATOR_NAME = _called("resource", "metaflow.orchestrator.name", "string", "who launches them: `local`")

# Spans: conventions
ERROR_TYPE = _called(
    "attempt, run, metrics",
    "error.type",
    "string",
    "the exception's class, the signal, or `_OTHER`; on metrics one of Python's own, else `_OTHER`",
    _STABLE,
)
PROCESS_EXIT_CODE = _called(
    "attempt, metaflow.task.lost",
    "process.exit.code",
    "int",
    "minus the number of the signal that ended the process",
    _DEVELOPMENT,
)
CODE_FUNCTION_NAME = _called("attempt, logs", "code.function.name", "string", "", _STABLE)
CODE_FILE_PATH = _called("attempt, logs", "code.file.path", "string", "", _STABLE)
CODE_LINE_NUMBER = _called("attempt, logs", "code.line.number", "int", "", _STABLE)
CICD_PIPELINE_ACTION_NAME = _called("run", "cicd.pipeline.action.name", "string", "`RUN`", _CANDIDATE)
CICD_PIPELINE_RESULT = _called("run", "cicd.pipeline.result", "string", "as `metaflow.run.result`", _CANDIDATE)
CICD_PIPELINE_TASK_NAME = _called("attempt", "cicd.pipeline.task.name", "string", "the step", _CANDIDATE)
CICD_PIPELINE_TASK_RUN_ID = _called("attempt", "cicd.pipeline.task.run.id", "string", "the task", _CANDIDATE)
CICD_PIPELINE_TASK_RUN_RESULT = _called(
    "attempt", "cicd.pipeline.task.run.result", "string", "as `metaflow.task.result`", _CANDIDATE
)

# Spans of attempts: ours
PATHSPEC = _called("attempt", "metaflow.task.pathspec", "string", "FLOW/RUN/STEP/TASK")
TASK_RESULT = _called(
    "attempt, metaflow.task.end, metrics",
    "metaflow.task.result",
    "string",
    "success, failure, error (the system failed: killed), timeout, cancellation, skip (cloned)",
)
TASK_SIGNAL = _called(
    "attempt, metaflow.task.lost", "metaflow.task.signal", "string", "the signal that ended the process, as `SIGKILL`"
)
FINAL = _called("attempt", "metaflow.attempt.final", "boolean", "whether no other attempt of the task followed")
CAUGHT = _called("attempt", "metaflow.task.caught", "boolean", "the step raised and `@catch` rescued the task")
CLONED = _called("attempt", "metaflow.task.cloned", "boolean", "`resume` took the task over from an earlier run")
PARTIAL = _called(
    "attempt",
    "metaflow.telemetry.partial",
    "boolean",
    "its own journal does not tell how it ended; the launcher does, which knows neither user code's times nor its use",
)
FIRST_FAILURE = _called(
    "attempt", "metaflow.failure.first", "boolean", "the failure that made the run fail; others only followed"
)
STEP_TYPE = _called("attempt", "metaflow.step.type", "string", "start, linear, split, split-switch, foreach, join, end")
FOREACH_INDEX = _called(
    "attempt", "metaflow.foreach.index", "int[]", "the index in each foreach around the task, the innermost last"
)
FOREACH_SIZE = _called("attempt", "metaflow.foreach.size", "int[]", "the sizes of those; 0 where it is not known")
FOREACH_VALUE = _called(
    "attempt", "metaflow.foreach.value", "string", "only if `@otel(foreach_value=True)` asks for it"
)
JOIN_INPUT_COUNT = _called(
    "attempt", "metaflow.join.input.count", "int", "how many tasks a join read from; at most 100 of them are linked"
)
PARALLEL_NODE_INDEX = _called("attempt", "metaflow.parallel.node.index", "int", "of a `@parallel` step")
PARALLEL_NODE_COUNT = _called("attempt", "metaflow.parallel.node.count", "int", "of a `@parallel` step")
QUEUE_DURATION = _called(
    "attempt", "metaflow.task.queue.duration", "double, s", "from when all that it reads was done to its launch"
)
STARTUP_DURATION = _called(
    "attempt",
    "metaflow.task.startup.duration",
    "double, s",
    "from its launch to Metaflow's first hook: the process, the imports",
)
LOAD_DURATION = _called(
    "attempt", "metaflow.task.load.duration", "double, s", "from there to user code: what other decorators prepare"
)
CODE_DURATION = _called("attempt", "metaflow.task.code.duration", "double, s", "user code")
PERSIST_DURATION = _called(
    "attempt",
    "metaflow.task.persist.duration",
    "double, s",
    "from the end of user code until its artifacts were stored",
)
TASK_CPU_TIME = _called(
    "attempt, metaflow.task.heartbeat",
    "metaflow.task.cpu.time",
    "double, s",
    "of the process and its children that ended; in a heartbeat, so far",
)
TASK_MEMORY_PEAK = _called(
    "attempt",
    "metaflow.task.memory.peak",
    "int, By",
    "resident, of the process or its largest child; of all together where samples of a long attempt saw more",
)
TASK_GPU_MEMORY_PEAK = _called(
    "attempt",
    "metaflow.task.gpu.memory.peak",
    "int, By",
    "of devices, in the samples of a long attempt, where `nvidia-smi` answers",
)
TASK_IO_READ = _called("attempt", "metaflow.task.io.read", "int, By", "from storage, where the kernel tells")
TASK_IO_WRITE = _called("attempt", "metaflow.task.io.write", "int, By", "to storage, where the kernel tells")
REQUESTED_CPU = _called(
    "attempt", "metaflow.task.requested.cpu", "double", "cores requested by `@resources`, `@kubernetes` or `@batch`"
)
REQUESTED_GPU = _called("attempt", "metaflow.task.requested.gpu", "double", "devices requested")
REQUESTED_MEMORY = _called("attempt", "metaflow.task.requested.memory", "int, By", "requested by the same")
ARTIFACT_COUNT = _called("attempt", "metaflow.artifact.count", "int", "artifacts stored")
ARTIFACT_SIZE = _called("attempt", "metaflow.artifact.size", "int, By", "their size before compression")

# Spans of runs: ours
RUN_RESULT = _called(
    "run, metaflow.run.end, metrics",
    "metaflow.run.result",
    "string",
    "success, failure, cancellation, error (the launcher died)",
)
RUN_TASK_COUNT = _called(
    "run, metaflow.run.summary", "metaflow.run.task.count", "int", "those of steps without `@otel` and cloned ones, too"
)
RUN_FAILED_COUNT = _called(
    "run, metaflow.run.summary", "metaflow.run.failed.count", "int", "attempts that failed, retried ones too"
)
RUN_RETRIED_COUNT = _called(
    "run, metaflow.run.summary", "metaflow.run.retried.count", "int", "attempts after the first"
)
RUN_CLONED_COUNT = _called(
    "run, metaflow.run.summary", "metaflow.run.cloned.count", "int", "tasks taken over by `resume`"
)
RUN_TRIGGER_TYPE = _called(
    "run", "metaflow.run.trigger.type", "string", "`run` or `event` for a triggered run, `resume`, else `manual`"
)
CRITICAL_STEPS = _called(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.steps",
    "string[]",
    "the chain of attempts that decided when the run ended, `step/task`, in order",
)
CRITICAL_DURATION = _called(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.duration",
    "double, s",
    "from the run's start to the end of that chain",
)
CRITICAL_QUEUE = _called(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.queue.duration",
    "double, s",
    "the part of it in which none of the chain ran",
)
SAVED_DURATION = _called(
    "run",
    "metaflow.resume.saved.duration",
    "double, s",
    "what the cloned tasks took in the origin run, where its journals are here",
)

# Links
LINK_TYPE = _called(
    "links",
    "metaflow.link.type",
    "string",
    "input (read from), retry (the attempt before), clone, resume, trigger, first_failure (from the run)",
)

# Spans of user code: ours
SPAN_UNFINISHED = _called("user", "metaflow.span.unfinished", "boolean", "nobody ended it; closed with its attempt")

# Logs: conventions
LOG_IOSTREAM = _called("logs", "log.iostream", "string", "stdout, stderr", _DEVELOPMENT)
LOG_RECORD_UID = _called(
    "logs",
    "log.record.uid",
    "string",
    "the attempt's span id and the record's place in the journal: the same when a batch arrives twice",
    _DEVELOPMENT,
)
LOG_RECORD_ORIGINAL = _called(
    "logs",
    "log.record.original",
    "string",
    "the whole line, where the body is the last state of a progress bar",
    _DEVELOPMENT,
)
THREAD_NAME = _called("logs", "thread.name", "string", "", _DEVELOPMENT)
EXCEPTION_TYPE = _called("logs, metaflow.task.exception", "exception.type", "string", "", _STABLE)
EXCEPTION_MESSAGE = _called("logs, metaflow.task.exception", "exception.message", "string", "", _STABLE)
EXCEPTION_STACKTRACE = _called("logs, metaflow.task.exception", "exception.stacktrace", "string", "", _STABLE)

# Logs: ours
LOG_TRUNCATED_LENGTH = _called(
    "logs", "metaflow.log.truncated.length", "int", "characters of a line that was cut at 65,536"
)
LOG_ATTRIBUTES_TRUNCATED = _called(
    "logs",
    "metaflow.log.attributes.truncated.count",
    "int",
    "in how many places something is missing of a logging record's `extra`",
)
LOG_SANITIZED = _called("logs", "metaflow.log.sanitized", "boolean", "NUL or invalid UTF-8 was replaced")
TASK_ELAPSED = _called(
    "metaflow.task.heartbeat, metaflow.task.end", "metaflow.task.elapsed", "double, s", "since the process started"
)
TASK_MEMORY = _called(
    "metaflow.task.heartbeat", "metaflow.task.memory.usage", "int, By", "resident, of the process and its descendants"
)
TASK_GPU_MEMORY = _called(
    "metaflow.task.heartbeat", "metaflow.task.gpu.memory.usage", "int, By", "of devices, where `nvidia-smi` answers"
)
TASK_GPU_UTILIZATION = _called(
    "metaflow.task.heartbeat", "metaflow.task.gpu.utilization", "double", "of those devices, from 0 to 1"
)

# Events
EVENT_RUN_START = _called("event", "metaflow.run.start", "INFO", "the launcher is at work")
EVENT_RUN_END = _called("event", "metaflow.run.end", "INFO, ERROR", "the run is over")
EVENT_RUN_SUMMARY = _called("event", "metaflow.run.summary", "INFO", "its counts and its critical path")
EVENT_TASK_START = _called("event", "metaflow.task.start", "INFO", "an attempt runs")
EVENT_TASK_HEARTBEAT = _called(
    "event", "metaflow.task.heartbeat", "INFO", "it still runs: after 10 s, then each 60 s, seen from outside"
)
EVENT_TASK_RETRY = _called("event", "metaflow.task.retry", "WARN", "another attempt follows a failed one")
EVENT_TASK_END = _called("event", "metaflow.task.end", "INFO, ERROR", "an attempt is over")
EVENT_TASK_EXCEPTION = _called(
    "event", "metaflow.task.exception", "ERROR, WARN", "the step raised; WARN where `@catch` rescued it"
)
EVENT_TASK_LOST = _called("event", "metaflow.task.lost", "FATAL", "the process died without a word")

# Metrics
METRIC_RUN_DURATION = _called("metric", "metaflow.run.duration", "histogram, s", "a run")
METRIC_TASK_DURATION = _called("metric", "metaflow.task.duration", "histogram, s", "an attempt")
METRIC_TASK_QUEUE_DURATION = _called(
    "metric", "metaflow.task.queue.duration", "histogram, s", "from when all that it reads was done to its launch"
)
METRIC_TASK_RETRIES = _called("metric", "metaflow.task.retries", "counter, {retry}", "attempts after the first")
METRIC_TASK_CPU_TIME = _called("metric", "metaflow.task.cpu.time", "histogram, s", "of an attempt")
METRIC_TASK_MEMORY_PEAK = _called("metric", "metaflow.task.memory.peak", "histogram, By", "of an attempt")
METRIC_ARTIFACT_IO = _called("metric", "metaflow.artifact.io", "counter, By", "bytes of artifacts stored")
METRIC_TELEMETRY_DROPPED = _called(
    "metric", "metaflow.telemetry.dropped", "counter, {record}", "records that will never arrive"
)
SIGNAL = _called("metrics", "metaflow.telemetry.signal", "string", "logs, traces or metrics")
REASON = _called("metrics", "metaflow.telemetry.drop.reason", "string", "rejected, unconvertible, unwritten, corrupt")
DIRECTION = _called("metrics", "metaflow.artifact.io.direction", "string", "write")

# Bucket boundaries, in the unit of the metric
RUN_DURATION_BOUNDARIES = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
TASK_DURATION_BOUNDARIES = (0.1, 0.5, *RUN_DURATION_BOUNDARIES)
QUEUE_BOUNDARIES = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600)
MEMORY_BOUNDARIES = tuple(2**power for power in range(26, 40))  # 64 MiB … 512 GiB
BOUNDARIES: Dict[str, Tuple[float, ...]] = {
    METRIC_RUN_DURATION: RUN_DURATION_BOUNDARIES,
    METRIC_TASK_DURATION: TASK_DURATION_BOUNDARIES,
    METRIC_TASK_QUEUE_DURATION: QUEUE_BOUNDARIES,
    METRIC_TASK_CPU_TIME: TASK_DURATION_BOUNDARIES,
    METRIC_TASK_MEMORY_PEAK: MEMORY_BOUNDARIES,
}

# Scopes
SCOPE = "otel_metaflow"
SCOPE_STDIO = "otel_metaflow.stdio"
SCOPE_LAUNCHER = "otel_metaflow.launcher"
DISTRO = "otel-metaflow"
