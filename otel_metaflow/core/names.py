"""The names and meanings of everything that is exported: the source from which tools/names_page.py makes docs/names.md.

Names of the semantic conventions are literals here, because the launcher, which must not import OpenTelemetry, uses
them too; `tests/test_names.py` compares them with the conventions' package.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple


class Name(NamedTuple):
    """One attribute, event or metric; `on` is what it is recorded on, `form` its type or unit."""

    name: str
    form: str
    status: str
    text: str
    on: str


CATALOG: List[Name] = []
_OWN, _STABLE, _DEVELOPMENT, _CANDIDATE = "ours", "stable", "development", "release candidate"


def _define(on: str, name: str, form: str, text: str, status: str = _OWN) -> str:
    CATALOG.append(Name(name, form, status, text, on))
    return name


# Resource: conventions
SERVICE_NAME = _define("resource, metrics", "service.name", "string", "`OTEL_SERVICE_NAME`, else `metaflow`", _STABLE)
SERVICE_NAMESPACE = _define("resource, metrics", "service.namespace", "string", "the `@project`", _STABLE)
SERVICE_VERSION = _define(
    "resource, metrics", "service.version", "string", "if set in `OTEL_RESOURCE_ATTRIBUTES`", _STABLE
)
SERVICE_INSTANCE_ID = _define(
    "resource",
    "service.instance.id",
    "string",
    "a UUID derived from the attempt's span id: one process is one attempt",
    _STABLE,
)
DEPLOYMENT_ENVIRONMENT_NAME = _define(
    "resource, metrics",
    "deployment.environment.name",
    "string",
    "`production` on a production branch, else the branch, else `dev`",
    _STABLE,
)
TELEMETRY_SDK_NAME = _define("resource, metrics", "telemetry.sdk.name", "string", "of the SDK in the shipper", _STABLE)
TELEMETRY_SDK_LANGUAGE = _define(
    "resource, metrics", "telemetry.sdk.language", "string", "of the SDK in the shipper", _STABLE
)
TELEMETRY_SDK_VERSION = _define(
    "resource, metrics", "telemetry.sdk.version", "string", "of the SDK in the shipper", _STABLE
)
TELEMETRY_DISTRO_NAME = _define("resource, metrics", "telemetry.distro.name", "string", "`otel-metaflow`", _STABLE)
TELEMETRY_DISTRO_VERSION = _define("resource, metrics", "telemetry.distro.version", "string", "its version", _STABLE)
HOST_NAME = _define("resource, metrics", "host.name", "string", "", _DEVELOPMENT)
HOST_ARCH = _define("resource", "host.arch", "string", "", _DEVELOPMENT)
OS_TYPE = _define("resource", "os.type", "string", "", _DEVELOPMENT)
PROCESS_PID = _define(
    "resource, logs, user",
    "process.pid",
    "int",
    "of the attempt; on a record or span of user code, that of the child process that wrote it",
    _DEVELOPMENT,
)
PROCESS_RUNTIME_NAME = _define("resource", "process.runtime.name", "string", "", _DEVELOPMENT)
PROCESS_RUNTIME_VERSION = _define("resource", "process.runtime.version", "string", "", _DEVELOPMENT)
USER_NAME = _define("resource", "user.name", "string", "Metaflow's user", _DEVELOPMENT)
CICD_PIPELINE_NAME = _define("resource", "cicd.pipeline.name", "string", "the flow", _CANDIDATE)
CICD_PIPELINE_RUN_ID = _define("resource", "cicd.pipeline.run.id", "string", "the run", _CANDIDATE)

# Resource: ours
FLOW_NAME = _define("resource, metrics", "metaflow.flow.name", "string", "the flow's class")
RUN_ID = _define("resource, metrics", "metaflow.run.id", "string", "")
STEP_NAME = _define(
    "resource, metrics",
    "metaflow.step.name",
    "string",
    "also on a metric point, and on a line of the launcher about a step",
)
TASK_ID = _define("resource, logs", "metaflow.task.id", "string", "")
ATTEMPT = _define("resource", "metaflow.attempt", "int", "counts from 0, as Metaflow's retry count")
METAFLOW_VERSION = _define("resource", "metaflow.version", "string", "")
PROJECT_NAME = _define("resource, metrics", "metaflow.project.name", "string", "of `@project`")
BRANCH_NAME = _define("resource, metrics", "metaflow.branch.name", "string", "of `@project`")
NAMESPACE = _define("resource", "metaflow.namespace", "string", "Metaflow's namespace")
ORIGIN_RUN_ID = _define("resource", "metaflow.origin_run.id", "string", "the run that this one resumes")
COMPUTE_NAME = _define(
    "resource, metrics", "metaflow.compute.name", "string", "where tasks run: `local`, `kubernetes`, `aws-batch`, …"
)
ORCHESTRATOR_NAME = _define(
    "resource",
    "metaflow.orchestrator.name",
    "string",
    "what starts tasks: `local`, `argo-workflows`, `step-functions`, `airflow`, …",
)

# Resource: of a container that no launcher follows
CONTAINER_ID = _define("resource", "container.id", "string", "if the container runtime exposes it", _DEVELOPMENT)
K8S_NAMESPACE_NAME = _define("resource", "k8s.namespace.name", "string", "", _DEVELOPMENT)
K8S_POD_NAME = _define("resource", "k8s.pod.name", "string", "", _DEVELOPMENT)
K8S_POD_UID = _define("resource", "k8s.pod.uid", "string", "", _DEVELOPMENT)
CLOUD_PROVIDER = _define("resource", "cloud.provider", "string", "`aws` of AWS Batch", _DEVELOPMENT)
CLOUD_PLATFORM = _define("resource", "cloud.platform", "string", "`aws_ecs` of AWS Batch", _DEVELOPMENT)
CLOUD_REGION = _define("resource", "cloud.region", "string", "of AWS Batch", _DEVELOPMENT)
AWS_LOG_GROUP_NAMES = _define(
    "resource", "aws.log.group.names", "string[]", "where AWS Batch keeps the container's output", _DEVELOPMENT
)
AWS_LOG_STREAM_NAMES = _define(
    "resource", "aws.log.stream.names", "string[]", "the stream with the container's output", _DEVELOPMENT
)

# Resource: of a run that was recorded afterwards, from what Metaflow had stored
SOURCE = _define(
    "resource", "metaflow.telemetry.source", "string", "`backfill` if it was made afterwards from what Metaflow stored"
)
IN_DOUBT = _define(
    "resource",
    "metaflow.telemetry.in_doubt",
    "boolean",
    "of a backfilled attempt with `@otel` that left no ledger, or of such a run: a part may have been exported before",
)
RUN_TAGS = _define("resource", "metaflow.run.tags", "string[]", "the run's own tags, if it was backfilled")
CODE_PACKAGE = _define("resource", "metaflow.code_package.sha", "string", "of Metaflow's code package, if backfilled")
VCS_REVISION = _define("resource", "vcs.ref.head.revision", "string", "the commit, if backfilled", _CANDIDATE)
VCS_URL = _define("resource", "vcs.repository.url.full", "string", "its repository, if backfilled", _CANDIDATE)

# Spans: conventions
ERROR_TYPE = _define(
    "attempt, run, metrics",
    "error.type",
    "string",
    "the exception's class, the signal, or `_OTHER`; on metrics only Python's built-in exceptions, else `_OTHER`",
    _STABLE,
)
PROCESS_EXIT_CODE = _define(
    "attempt, metaflow.task.lost",
    "process.exit.code",
    "int",
    "of a process that was killed, the negative number of the signal",
    _DEVELOPMENT,
)
CODE_FUNCTION_NAME = _define("attempt, logs", "code.function.name", "string", "", _STABLE)
CODE_FILE_PATH = _define("attempt, logs", "code.file.path", "string", "", _STABLE)
CODE_LINE_NUMBER = _define("attempt, logs", "code.line.number", "int", "", _STABLE)
CICD_PIPELINE_ACTION_NAME = _define("run", "cicd.pipeline.action.name", "string", "`RUN`", _CANDIDATE)
CICD_PIPELINE_RESULT = _define("run", "cicd.pipeline.result", "string", "as `metaflow.run.result`", _CANDIDATE)
CICD_PIPELINE_TASK_NAME = _define("attempt", "cicd.pipeline.task.name", "string", "the step", _CANDIDATE)
CICD_PIPELINE_TASK_RUN_ID = _define("attempt", "cicd.pipeline.task.run.id", "string", "the task", _CANDIDATE)
CICD_PIPELINE_TASK_RUN_RESULT = _define(
    "attempt", "cicd.pipeline.task.run.result", "string", "as `metaflow.task.result`", _CANDIDATE
)

# Spans of attempts: ours
PATHSPEC = _define("attempt", "metaflow.task.pathspec", "string", "FLOW/RUN/STEP/TASK")
TASK_RESULT = _define(
    "attempt, metaflow.task.end, metrics",
    "metaflow.task.result",
    "string",
    "success, failure, error (the system failed: killed), timeout, cancellation, skip (cloned)",
)
TASK_SIGNAL = _define(
    "attempt, metaflow.task.lost", "metaflow.task.signal", "string", "the signal that ended the process: `SIGKILL`"
)
FINAL = _define("attempt", "metaflow.attempt.final", "boolean", "whether no other attempt of the task followed")
CAUGHT = _define("attempt", "metaflow.task.caught", "boolean", "the step raised and `@catch` rescued the task")
CLONED = _define("attempt", "metaflow.task.cloned", "boolean", "`resume` took the task over from an earlier run")
PARTIAL = _define(
    "attempt",
    "metaflow.telemetry.partial",
    "boolean",
    "its own journal has no end record, so the result is the launcher's, and code duration and usage are unknown",
)
FIRST_FAILURE = _define(
    "attempt", "metaflow.failure.first", "boolean", "the failure that made the run fail; later ones followed from it"
)
STEP_TYPE = _define("attempt", "metaflow.step.type", "string", "start, linear, split, split-switch, foreach, join, end")
FOREACH_INDEX = _define(
    "attempt", "metaflow.foreach.index", "int[]", "the index in each enclosing foreach, innermost last"
)
FOREACH_SIZE = _define("attempt", "metaflow.foreach.size", "int[]", "the size of each enclosing foreach; 0 if unknown")
FOREACH_VALUE = _define("attempt", "metaflow.foreach.value", "string", "only with `@otel(foreach_value=True)`")
JOIN_INPUT_COUNT = _define(
    "attempt", "metaflow.join.input.count", "int", "the number of inputs of a join; at most 100 of them are linked"
)
PARALLEL_NODE_INDEX = _define("attempt", "metaflow.parallel.node.index", "int", "of a `@parallel` step")
PARALLEL_NODE_COUNT = _define("attempt", "metaflow.parallel.node.count", "int", "of a `@parallel` step")
QUEUE_DURATION = _define(
    "attempt", "metaflow.task.queue.duration", "double, s", "from the end of its last input to its launch"
)
STARTUP_DURATION = _define(
    "attempt",
    "metaflow.task.startup.duration",
    "double, s",
    "from its launch to Metaflow's first hook: process start and imports",
)
LOAD_DURATION = _define(
    "attempt", "metaflow.task.load.duration", "double, s", "from there to user code: other decorators' setup"
)
CODE_DURATION = _define("attempt", "metaflow.task.code.duration", "double, s", "user code")
PERSIST_DURATION = _define(
    "attempt",
    "metaflow.task.persist.duration",
    "double, s",
    "from the end of user code until its artifacts were stored",
)
TASK_CPU_TIME = _define(
    "attempt, metaflow.task.heartbeat",
    "metaflow.task.cpu.time",
    "double, s",
    "of the process and its ended children; in a heartbeat, so far",
)
TASK_MEMORY_PEAK = _define(
    "attempt",
    "metaflow.task.memory.peak",
    "int, By",
    "resident, of the process or its largest child; of all of them together if samples of a long attempt show more",
)
TASK_GPU_MEMORY_PEAK = _define(
    "attempt",
    "metaflow.task.gpu.memory.peak",
    "int, By",
    "of its devices, from samples of a long attempt, if `nvidia-smi` is available",
)
TASK_IO_READ = _define("attempt", "metaflow.task.io.read", "int, By", "from storage, if the kernel reports it")
TASK_IO_WRITE = _define("attempt", "metaflow.task.io.write", "int, By", "to storage, if the kernel reports it")
REQUESTED_CPU = _define(
    "attempt", "metaflow.task.requested.cpu", "double", "cores requested by `@resources`, `@kubernetes` or `@batch`"
)
REQUESTED_GPU = _define("attempt", "metaflow.task.requested.gpu", "double", "devices requested")
REQUESTED_MEMORY = _define("attempt", "metaflow.task.requested.memory", "int, By", "memory requested")
ARTIFACT_COUNT = _define("attempt", "metaflow.artifact.count", "int", "artifacts stored")
ARTIFACT_SIZE = _define("attempt", "metaflow.artifact.size", "int, By", "their size before compression")

# Spans of runs: ours
RUN_RESULT = _define(
    "run, metaflow.run.end, metrics",
    "metaflow.run.result",
    "string",
    "success, failure, cancellation, error (the launcher died)",
)
RUN_TASK_COUNT = _define(
    "run, metaflow.run.summary",
    "metaflow.run.task.count",
    "int",
    "all tasks, including cloned ones and those of steps without `@otel`",
)
RUN_FAILED_COUNT = _define(
    "run, metaflow.run.summary", "metaflow.run.failed.count", "int", "attempts that failed, including retried ones"
)
RUN_RETRIED_COUNT = _define(
    "run, metaflow.run.summary", "metaflow.run.retried.count", "int", "attempts after the first"
)
RUN_CLONED_COUNT = _define(
    "run, metaflow.run.summary", "metaflow.run.cloned.count", "int", "tasks taken over by `resume`"
)
RUN_TRIGGER_TYPE = _define(
    "run", "metaflow.run.trigger.type", "string", "`run` or `event` for a triggered run, `resume`, else `manual`"
)
CRITICAL_STEPS = _define(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.steps",
    "string[]",
    "the chain of attempts that determined when the run ended, as `step/task`, in order",
)
CRITICAL_DURATION = _define(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.duration",
    "double, s",
    "from the run's start to the end of that chain",
)
CRITICAL_QUEUE = _define(
    "run, metaflow.run.summary",
    "metaflow.run.critical_path.queue.duration",
    "double, s",
    "the part of it during which none of the chain ran",
)
SAVED_DURATION = _define(
    "run",
    "metaflow.resume.saved.duration",
    "double, s",
    "the duration of the cloned tasks in the origin run, if its journals are available",
)

# Spans that summarize a step: ours
SUMMARY_ATTEMPT_COUNT = _define(
    "summary", "metaflow.summary.attempt.count", "int", "the attempts that it stands for; those have no spans"
)
SUMMARY_FAILED_COUNT = _define("summary", "metaflow.summary.failed.count", "int", "those of them that failed")
SUMMARY_ERROR_TYPES = _define(
    "summary", "metaflow.summary.error.types", "string[]", "their `error.type`, the most frequent ten"
)
SUMMARY_ERROR_COUNTS = _define("summary", "metaflow.summary.error.counts", "int[]", "how often each occurred")
SUMMARY_DURATION_SUM = _define("summary", "metaflow.summary.duration.sum", "double, s", "of the attempts, together")
SUMMARY_DURATION_MIN = _define("summary", "metaflow.summary.duration.min", "double, s", "of the quickest")
SUMMARY_DURATION_MAX = _define("summary", "metaflow.summary.duration.max", "double, s", "of the slowest")
SUMMARY_DURATION_BOUNDS = _define(
    "summary",
    "metaflow.summary.duration.bounds",
    "double[]",
    "the upper boundaries of the buckets of a histogram of their durations, in seconds",
)
SUMMARY_DURATION_COUNTS = _define(
    "summary",
    "metaflow.summary.duration.bucket_counts",
    "int[]",
    "how many attempts are in each bucket; the last one is beyond all boundaries",
)

# Links
LINK_TYPE = _define(
    "links",
    "metaflow.link.type",
    "string",
    "input (an attempt that it read from), retry (the previous attempt), clone, resume, trigger, "
    "first_failure (on the run), orchestrator (the span that the platform has of its container)",
)

# Spans of user code: ours
SPAN_UNFINISHED = _define("user", "metaflow.span.unfinished", "boolean", "it was never ended; closed with its attempt")

# Logs: conventions
LOG_IOSTREAM = _define("logs", "log.iostream", "string", "stdout, stderr", _DEVELOPMENT)
LOG_RECORD_UID = _define(
    "logs",
    "log.record.uid",
    "string",
    "the attempt's span id, the position in the journal or the id in Metaflow's log files: equal for copies",
    _DEVELOPMENT,
)
ORIGINAL_TIME = _define(
    "attempt, run, logs",
    "metaflow.telemetry.original_time",
    "string",
    "when it really was, of a record that was sent as if it were new (`backfill --date-now`)",
)
LOG_RECORD_ORIGINAL = _define(
    "logs",
    "log.record.original",
    "string",
    "the whole line, if the body is the last state of a progress bar",
    _DEVELOPMENT,
)
THREAD_NAME = _define("logs", "thread.name", "string", "", _DEVELOPMENT)
EXCEPTION_TYPE = _define("logs, metaflow.task.exception", "exception.type", "string", "", _STABLE)
EXCEPTION_MESSAGE = _define("logs, metaflow.task.exception", "exception.message", "string", "", _STABLE)
EXCEPTION_STACKTRACE = _define("logs, metaflow.task.exception", "exception.stacktrace", "string", "", _STABLE)

# Logs: ours
LOG_TRUNCATED_LENGTH = _define(
    "logs", "metaflow.log.truncated.length", "int", "full length in characters of a line truncated to 65,536"
)
LOG_ATTRIBUTES_TRUNCATED = _define(
    "logs",
    "metaflow.log.attributes.truncated.count",
    "int",
    "number of places where a logging record's `extra` was truncated",
)
LOG_SANITIZED = _define("logs", "metaflow.log.sanitized", "boolean", "NUL or invalid UTF-8 was replaced")
TASK_ELAPSED = _define(
    "metaflow.task.heartbeat, metaflow.task.end", "metaflow.task.elapsed", "double, s", "since the process started"
)
TASK_MEMORY = _define(
    "metaflow.task.heartbeat", "metaflow.task.memory.usage", "int, By", "resident, of the process and its descendants"
)
TASK_GPU_MEMORY = _define(
    "metaflow.task.heartbeat",
    "metaflow.task.gpu.memory.usage",
    "int, By",
    "of its devices, if `nvidia-smi` is available",
)
TASK_GPU_UTILIZATION = _define(
    "metaflow.task.heartbeat", "metaflow.task.gpu.utilization", "double", "of those devices, from 0 to 1"
)

# Events
EVENT_RUN_START = _define("event", "metaflow.run.start", "INFO", "the launcher has started")
EVENT_RUN_END = _define("event", "metaflow.run.end", "INFO, ERROR", "the run has ended")
EVENT_RUN_SUMMARY = _define("event", "metaflow.run.summary", "INFO", "its counts and its critical path")
EVENT_TASK_START = _define("event", "metaflow.task.start", "INFO", "an attempt has started")
EVENT_TASK_HEARTBEAT = _define(
    "event", "metaflow.task.heartbeat", "INFO", "it is still running: after 10 s, then every 60 s, by the shipper"
)
EVENT_TASK_RETRY = _define("event", "metaflow.task.retry", "WARN", "another attempt follows a failed one")
EVENT_TASK_END = _define("event", "metaflow.task.end", "INFO, ERROR", "an attempt has ended")
EVENT_TASK_EXCEPTION = _define(
    "event", "metaflow.task.exception", "ERROR, WARN", "the step raised; WARN if `@catch` rescued it"
)
EVENT_TASK_LOST = _define("event", "metaflow.task.lost", "FATAL", "the process died without recording its end")

# Metrics
METRIC_RUN_DURATION = _define("metric", "metaflow.run.duration", "histogram, s", "duration of a run")
METRIC_TASK_DURATION = _define("metric", "metaflow.task.duration", "histogram, s", "duration of an attempt")
METRIC_TASK_QUEUE_DURATION = _define(
    "metric", "metaflow.task.queue.duration", "histogram, s", "from the end of its last input to its launch"
)
METRIC_TASK_RETRIES = _define("metric", "metaflow.task.retries", "counter, {retry}", "attempts after the first")
METRIC_TASK_CPU_TIME = _define("metric", "metaflow.task.cpu.time", "histogram, s", "CPU time of an attempt")
METRIC_TASK_MEMORY_PEAK = _define("metric", "metaflow.task.memory.peak", "histogram, By", "peak memory of an attempt")
METRIC_ARTIFACT_IO = _define("metric", "metaflow.artifact.io", "counter, By", "bytes of artifacts stored")
METRIC_TELEMETRY_DROPPED = _define(
    "metric", "metaflow.telemetry.dropped", "counter, {record}", "records that will not be exported"
)
SIGNAL = _define("metrics", "metaflow.telemetry.signal", "string", "logs, traces or metrics")
REASON = _define("metrics", "metaflow.telemetry.drop.reason", "string", "rejected, unconvertible, unwritten, corrupt")
DIRECTION = _define("metrics", "metaflow.artifact.io.direction", "string", "write")

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
