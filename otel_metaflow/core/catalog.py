"""What each exported name means: tools/names_page.py makes docs/names.md of it, and tests look names up in it."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

from otel_metaflow.core import names

_OURS, _STABLE, _DEVELOPMENT, _CANDIDATE = "ours", "stable", "development", "release candidate"


class Name(NamedTuple):
    """One attribute, event or metric; `on` is what it is recorded on, `form` its type or unit."""

    name: str
    on: str
    form: str
    text: str
    status: str = _OURS


CATALOG: List[Name] = [
    # Resource, conventions
    Name(names.SERVICE_NAME, "resource, metrics", "string", "`OTEL_SERVICE_NAME`, else `metaflow`", _STABLE),
    Name(names.SERVICE_NAMESPACE, "resource, metrics", "string", "the `@project`", _STABLE),
    Name(names.SERVICE_VERSION, "resource, metrics", "string", "if set in `OTEL_RESOURCE_ATTRIBUTES`", _STABLE),
    Name(
        names.SERVICE_INSTANCE_ID,
        "resource",
        "string",
        "a UUID derived from the attempt's span id: one process is one attempt",
        _STABLE,
    ),
    Name(
        names.DEPLOYMENT_ENVIRONMENT_NAME,
        "resource, metrics",
        "string",
        "`production` on a production branch, else the branch, else `dev`",
        _STABLE,
    ),
    Name(names.TELEMETRY_SDK_NAME, "resource, metrics", "string", "of the SDK in the shipper", _STABLE),
    Name(names.TELEMETRY_SDK_LANGUAGE, "resource, metrics", "string", "of the SDK in the shipper", _STABLE),
    Name(names.TELEMETRY_SDK_VERSION, "resource, metrics", "string", "of the SDK in the shipper", _STABLE),
    Name(names.TELEMETRY_DISTRO_NAME, "resource, metrics", "string", "`otel-metaflow`", _STABLE),
    Name(names.TELEMETRY_DISTRO_VERSION, "resource, metrics", "string", "its version", _STABLE),
    Name(names.HOST_NAME, "resource, metrics", "string", "", _DEVELOPMENT),
    Name(names.HOST_ARCH, "resource", "string", "", _DEVELOPMENT),
    Name(names.OS_TYPE, "resource", "string", "", _DEVELOPMENT),
    Name(
        names.PROCESS_PID,
        "resource, logs, user",
        "int",
        "of the attempt; on a record or span of user code, that of the child process that wrote it",
        _DEVELOPMENT,
    ),
    Name(names.PROCESS_RUNTIME_NAME, "resource", "string", "", _DEVELOPMENT),
    Name(names.PROCESS_RUNTIME_VERSION, "resource", "string", "", _DEVELOPMENT),
    Name(names.USER_NAME, "resource", "string", "Metaflow's user", _DEVELOPMENT),
    Name(names.CICD_PIPELINE_NAME, "resource", "string", "the flow", _CANDIDATE),
    Name(names.CICD_PIPELINE_RUN_ID, "resource", "string", "the run", _CANDIDATE),
    # Resource, ours
    Name(names.FLOW_NAME, "resource, metrics", "string", "the flow's class"),
    Name(names.RUN_ID, "resource, metrics", "string", ""),
    Name(
        names.STEP_NAME,
        "resource, metrics",
        "string",
        "also on a metric point, and on a line of the launcher about a step",
    ),
    Name(names.TASK_ID, "resource, logs", "string", ""),
    Name(names.ATTEMPT, "resource", "int", "counts from 0, as Metaflow's retry count"),
    Name(names.METAFLOW_VERSION, "resource", "string", ""),
    Name(names.PROJECT_NAME, "resource, metrics", "string", "of `@project`"),
    Name(names.BRANCH_NAME, "resource, metrics", "string", "of `@project`"),
    Name(names.NAMESPACE, "resource", "string", "Metaflow's namespace"),
    Name(names.ORIGIN_RUN_ID, "resource", "string", "the run that this one resumes"),
    Name(names.COMPUTE_NAME, "resource, metrics", "string", "where tasks run: `local`, `kubernetes`, `aws-batch`, …"),
    Name(
        names.ORCHESTRATOR_NAME,
        "resource",
        "string",
        "what starts tasks: `local`, `argo-workflows`, `step-functions`, `airflow`, …",
    ),
    # Resource, of a container that no launcher follows
    Name(names.CONTAINER_ID, "resource", "string", "if the container runtime exposes it", _DEVELOPMENT),
    Name(names.K8S_NAMESPACE_NAME, "resource", "string", "", _DEVELOPMENT),
    Name(names.K8S_POD_NAME, "resource", "string", "", _DEVELOPMENT),
    Name(names.K8S_POD_UID, "resource", "string", "", _DEVELOPMENT),
    Name(names.CLOUD_PROVIDER, "resource", "string", "`aws` of AWS Batch", _DEVELOPMENT),
    Name(names.CLOUD_PLATFORM, "resource", "string", "`aws_ecs` of AWS Batch", _DEVELOPMENT),
    Name(names.CLOUD_REGION, "resource", "string", "of AWS Batch", _DEVELOPMENT),
    Name(
        names.AWS_LOG_GROUP_NAMES, "resource", "string[]", "where AWS Batch keeps the container's output", _DEVELOPMENT
    ),
    Name(names.AWS_LOG_STREAM_NAMES, "resource", "string[]", "the stream with the container's output", _DEVELOPMENT),
    # Resource, of a run that was recorded afterwards, from what Metaflow had stored
    Name(names.SOURCE, "resource", "string", "`backfill` if it was made afterwards from what Metaflow stored"),
    Name(
        names.IN_DOUBT,
        "resource, logs",
        "boolean",
        "of a backfilled attempt with `@otel` that left no ledger, or of such a run: "
        "a part may have been exported before; on a line from CloudWatch, that line may",
    ),
    Name(names.RUN_TAGS, "resource", "string[]", "the run's own tags, if it was backfilled"),
    Name(names.CODE_PACKAGE, "resource", "string", "of Metaflow's code package, if backfilled"),
    Name(names.VCS_REVISION, "resource", "string", "the commit, if backfilled", _CANDIDATE),
    Name(names.VCS_URL, "resource", "string", "its repository, if backfilled", _CANDIDATE),
    # Spans, conventions
    Name(
        names.ERROR_TYPE,
        "attempt, run, metrics",
        "string",
        "the exception's class, the signal, or `_OTHER`; on metrics only Python's built-in exceptions, else `_OTHER`",
        _STABLE,
    ),
    Name(
        names.PROCESS_EXIT_CODE,
        "attempt, metaflow.task.lost",
        "int",
        "of a process that was killed, the negative number of the signal",
        _DEVELOPMENT,
    ),
    Name(names.CODE_FUNCTION_NAME, "attempt, logs", "string", "", _STABLE),
    Name(names.CODE_FILE_PATH, "attempt, logs", "string", "", _STABLE),
    Name(names.CODE_LINE_NUMBER, "attempt, logs", "int", "", _STABLE),
    Name(names.CICD_PIPELINE_ACTION_NAME, "run", "string", "`RUN`", _CANDIDATE),
    Name(names.CICD_PIPELINE_RESULT, "run", "string", "as `metaflow.run.result`", _CANDIDATE),
    Name(names.CICD_PIPELINE_TASK_NAME, "attempt", "string", "the step", _CANDIDATE),
    Name(names.CICD_PIPELINE_TASK_RUN_ID, "attempt", "string", "the task", _CANDIDATE),
    Name(names.CICD_PIPELINE_TASK_RUN_RESULT, "attempt", "string", "as `metaflow.task.result`", _CANDIDATE),
    # Spans of attempts, ours
    Name(names.PATHSPEC, "attempt", "string", "FLOW/RUN/STEP/TASK"),
    Name(
        names.TASK_RESULT,
        "attempt, metaflow.task.end, metrics",
        "string",
        "success, failure, error (the system failed: killed), timeout, cancellation, skip (cloned)",
    ),
    Name(names.TASK_SIGNAL, "attempt, metaflow.task.lost", "string", "the signal that ended the process: `SIGKILL`"),
    Name(names.FINAL, "attempt", "boolean", "whether no other attempt of the task followed"),
    Name(names.CAUGHT, "attempt", "boolean", "the step raised and `@catch` rescued the task"),
    Name(names.CLONED, "attempt", "boolean", "`resume` took the task over from an earlier run"),
    Name(
        names.PARTIAL,
        "attempt",
        "boolean",
        "its own journal has no end record, so the result is the launcher's, and code duration and usage are unknown",
    ),
    Name(names.FIRST_FAILURE, "attempt", "boolean", "the failure that made the run fail; later ones followed from it"),
    Name(names.STEP_TYPE, "attempt", "string", "start, linear, split, split-switch, foreach, join, end"),
    Name(names.FOREACH_INDEX, "attempt", "int[]", "the index in each enclosing foreach, innermost last"),
    Name(names.FOREACH_SIZE, "attempt", "int[]", "the size of each enclosing foreach; 0 if unknown"),
    Name(names.FOREACH_VALUE, "attempt", "string", "only with `@otel(foreach_value=True)`"),
    Name(names.JOIN_INPUT_COUNT, "attempt", "int", "the number of inputs of a join; at most 100 of them are linked"),
    Name(names.PARALLEL_NODE_INDEX, "attempt", "int", "of a `@parallel` step"),
    Name(names.PARALLEL_NODE_COUNT, "attempt", "int", "of a `@parallel` step"),
    Name(names.QUEUE_DURATION, "attempt", "double, s", "from the end of its last input to its launch"),
    Name(
        names.STARTUP_DURATION,
        "attempt",
        "double, s",
        "from its launch to Metaflow's first hook: process start and imports",
    ),
    Name(names.LOAD_DURATION, "attempt", "double, s", "from there to user code: other decorators' setup"),
    Name(names.CODE_DURATION, "attempt", "double, s", "user code"),
    Name(names.PERSIST_DURATION, "attempt", "double, s", "from the end of user code until its artifacts were stored"),
    Name(
        names.TASK_CPU_TIME,
        "attempt, metaflow.task.heartbeat",
        "double, s",
        "of the process and its ended children; in a heartbeat, so far",
    ),
    Name(
        names.TASK_MEMORY_PEAK,
        "attempt",
        "int, By",
        "resident, of the process or its largest child; of all of them together if samples of a long attempt show more",
    ),
    Name(
        names.TASK_GPU_MEMORY_PEAK,
        "attempt",
        "int, By",
        "of its devices, from samples of a long attempt, if `nvidia-smi` is available",
    ),
    Name(names.TASK_IO_READ, "attempt", "int, By", "from storage, if the kernel reports it"),
    Name(names.TASK_IO_WRITE, "attempt", "int, By", "to storage, if the kernel reports it"),
    Name(names.REQUESTED_CPU, "attempt", "double", "cores requested by `@resources`, `@kubernetes` or `@batch`"),
    Name(names.REQUESTED_GPU, "attempt", "double", "devices requested"),
    Name(names.REQUESTED_MEMORY, "attempt", "int, By", "memory requested"),
    Name(names.ARTIFACT_COUNT, "attempt", "int", "artifacts stored"),
    Name(names.ARTIFACT_SIZE, "attempt", "int, By", "their size before compression"),
    # Spans of runs, ours
    Name(
        names.RUN_RESULT,
        "run, metaflow.run.end, metrics",
        "string",
        "success, failure, cancellation, error (the launcher died)",
    ),
    Name(
        names.RUN_TASK_COUNT,
        "run, metaflow.run.summary",
        "int",
        "all tasks, including cloned ones and those of steps without `@otel`",
    ),
    Name(names.RUN_FAILED_COUNT, "run, metaflow.run.summary", "int", "attempts that failed, including retried ones"),
    Name(names.RUN_RETRIED_COUNT, "run, metaflow.run.summary", "int", "attempts after the first"),
    Name(names.RUN_CLONED_COUNT, "run, metaflow.run.summary", "int", "tasks taken over by `resume`"),
    Name(names.RUN_TRIGGER_TYPE, "run", "string", "`run` or `event` for a triggered run, `resume`, else `manual`"),
    Name(
        names.CRITICAL_STEPS,
        "run, metaflow.run.summary",
        "string[]",
        "the chain of attempts that determined when the run ended, as `step/task`, in order",
    ),
    Name(
        names.CRITICAL_DURATION,
        "run, metaflow.run.summary",
        "double, s",
        "from the run's start to the end of that chain",
    ),
    Name(
        names.CRITICAL_QUEUE,
        "run, metaflow.run.summary",
        "double, s",
        "the part of it during which none of the chain ran",
    ),
    Name(
        names.SAVED_DURATION,
        "run",
        "double, s",
        "the duration of the cloned tasks in the origin run, if its journals are available",
    ),
    # Spans that summarize a step, ours
    Name(names.SUMMARY_ATTEMPT_COUNT, "summary", "int", "the attempts that it stands for; those have no spans"),
    Name(names.SUMMARY_FAILED_COUNT, "summary", "int", "those of them that failed"),
    Name(names.SUMMARY_ERROR_TYPES, "summary", "string[]", "their `error.type`, the most frequent ten"),
    Name(names.SUMMARY_ERROR_COUNTS, "summary", "int[]", "how often each occurred"),
    Name(names.SUMMARY_DURATION_SUM, "summary", "double, s", "of the attempts, together"),
    Name(names.SUMMARY_DURATION_MIN, "summary", "double, s", "of the quickest"),
    Name(names.SUMMARY_DURATION_MAX, "summary", "double, s", "of the slowest"),
    Name(
        names.SUMMARY_DURATION_BOUNDS,
        "summary",
        "double[]",
        "the upper boundaries of the buckets of a histogram of their durations, in seconds",
    ),
    Name(
        names.SUMMARY_DURATION_COUNTS,
        "summary",
        "int[]",
        "how many attempts are in each bucket; the last one is beyond all boundaries",
    ),
    # Links
    Name(
        names.LINK_TYPE,
        "links",
        "string",
        "input (an attempt that it read from), retry (the previous attempt), clone, resume, trigger, "
        "first_failure (on the run), orchestrator (the span that the platform has of its container)",
    ),
    # Spans of user code, ours
    Name(names.SPAN_UNFINISHED, "user", "boolean", "it was never ended; closed with its attempt"),
    # Logs, conventions
    Name(names.LOG_IOSTREAM, "logs", "string", "stdout, stderr", _DEVELOPMENT),
    Name(
        names.LOG_RECORD_UID,
        "logs",
        "string",
        "the attempt's span id, the position in the journal or the id in Metaflow's log files: equal for copies",
        _DEVELOPMENT,
    ),
    Name(
        names.ORIGINAL_TIME,
        "attempt, run, logs",
        "string",
        "when it really was, of a record that was sent as if it were new (`backfill --date-now`)",
    ),
    Name(
        names.LOG_RECORD_ORIGINAL,
        "logs",
        "string",
        "the whole line, if the body is the last state of a progress bar",
        _DEVELOPMENT,
    ),
    Name(names.THREAD_NAME, "logs", "string", "", _DEVELOPMENT),
    Name(names.EXCEPTION_TYPE, "logs, metaflow.task.exception", "string", "", _STABLE),
    Name(names.EXCEPTION_MESSAGE, "logs, metaflow.task.exception", "string", "", _STABLE),
    Name(names.EXCEPTION_STACKTRACE, "logs, metaflow.task.exception", "string", "", _STABLE),
    # Logs, ours
    Name(names.LOG_TRUNCATED_LENGTH, "logs", "int", "full length in characters of a line truncated to 65,536"),
    Name(
        names.LOG_ATTRIBUTES_TRUNCATED, "logs", "int", "number of places where a logging record's `extra` was truncated"
    ),
    Name(names.LOG_SANITIZED, "logs", "boolean", "NUL or invalid UTF-8 was replaced"),
    Name(names.TASK_ELAPSED, "metaflow.task.heartbeat, metaflow.task.end", "double, s", "since the process started"),
    Name(names.TASK_MEMORY, "metaflow.task.heartbeat", "int, By", "resident, of the process and its descendants"),
    Name(names.TASK_GPU_MEMORY, "metaflow.task.heartbeat", "int, By", "of its devices, if `nvidia-smi` is available"),
    Name(names.TASK_GPU_UTILIZATION, "metaflow.task.heartbeat", "double", "of those devices, from 0 to 1"),
    # Events
    Name(names.EVENT_RUN_START, "event", "INFO", "the launcher has started"),
    Name(names.EVENT_RUN_END, "event", "INFO, ERROR", "the run has ended"),
    Name(names.EVENT_RUN_SUMMARY, "event", "INFO", "its counts and its critical path"),
    Name(names.EVENT_TASK_START, "event", "INFO", "an attempt has started"),
    Name(
        names.EVENT_TASK_HEARTBEAT, "event", "INFO", "it is still running: after 10 s, then every 60 s, by the shipper"
    ),
    Name(names.EVENT_TASK_RETRY, "event", "WARN", "another attempt follows a failed one"),
    Name(names.EVENT_TASK_END, "event", "INFO, ERROR", "an attempt has ended"),
    Name(names.EVENT_TASK_EXCEPTION, "event", "ERROR, WARN", "the step raised; WARN if `@catch` rescued it"),
    Name(names.EVENT_TASK_LOST, "event", "FATAL", "the process died without recording its end"),
    # Metrics
    Name(names.METRIC_RUN_DURATION, "metric", "histogram, s", "duration of a run"),
    Name(names.METRIC_TASK_DURATION, "metric", "histogram, s", "duration of an attempt"),
    Name(names.METRIC_TASK_QUEUE_DURATION, "metric", "histogram, s", "from the end of its last input to its launch"),
    Name(names.METRIC_TASK_RETRIES, "metric", "counter, {retry}", "attempts after the first"),
    Name(names.METRIC_TASK_CPU_TIME, "metric", "histogram, s", "CPU time of an attempt"),
    Name(names.METRIC_TASK_MEMORY_PEAK, "metric", "histogram, By", "peak memory of an attempt"),
    Name(names.METRIC_ARTIFACT_IO, "metric", "counter, By", "bytes of artifacts stored"),
    Name(names.METRIC_TELEMETRY_DROPPED, "metric", "counter, {record}", "records that will not be exported"),
    Name(names.SIGNAL, "metrics", "string", "logs, traces or metrics"),
    Name(names.REASON, "metrics", "string", "rejected, unconvertible, unwritten, corrupt"),
    Name(names.DIRECTION, "metrics", "string", "write"),
]

# Boundaries of the buckets of histograms, in the unit of the metric
BOUNDARIES: Dict[str, Tuple[float, ...]] = {
    names.METRIC_RUN_DURATION: names.RUN_DURATION_BOUNDARIES,
    names.METRIC_TASK_DURATION: names.TASK_DURATION_BOUNDARIES,
    names.METRIC_TASK_QUEUE_DURATION: names.QUEUE_BOUNDARIES,
    names.METRIC_TASK_CPU_TIME: names.TASK_DURATION_BOUNDARIES,
    names.METRIC_TASK_MEMORY_PEAK: names.MEMORY_BOUNDARIES,
}
