"""The names of everything that is exported. What they mean stands in `catalog.py`, for documentation and tests.

Names of the semantic conventions are literals here, because the launcher, which must not import OpenTelemetry, uses
them too; `tests/test_names.py` compares them with the conventions' package.
"""

from __future__ import annotations

# Resource, conventions
SERVICE_NAME = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE_ID = "service.instance.id"
DEPLOYMENT_ENVIRONMENT_NAME = "deployment.environment.name"
TELEMETRY_SDK_NAME = "telemetry.sdk.name"
TELEMETRY_SDK_LANGUAGE = "telemetry.sdk.language"
TELEMETRY_SDK_VERSION = "telemetry.sdk.version"
TELEMETRY_DISTRO_NAME = "telemetry.distro.name"
TELEMETRY_DISTRO_VERSION = "telemetry.distro.version"
HOST_NAME = "host.name"
HOST_ARCH = "host.arch"
OS_TYPE = "os.type"
PROCESS_PID = "process.pid"
PROCESS_RUNTIME_NAME = "process.runtime.name"
PROCESS_RUNTIME_VERSION = "process.runtime.version"
USER_NAME = "user.name"
CICD_PIPELINE_NAME = "cicd.pipeline.name"
CICD_PIPELINE_RUN_ID = "cicd.pipeline.run.id"

# Resource, ours
FLOW_NAME = "metaflow.flow.name"
RUN_ID = "metaflow.run.id"
STEP_NAME = "metaflow.step.name"
TASK_ID = "metaflow.task.id"
ATTEMPT = "metaflow.attempt"
METAFLOW_VERSION = "metaflow.version"
PROJECT_NAME = "metaflow.project.name"
BRANCH_NAME = "metaflow.branch.name"
NAMESPACE = "metaflow.namespace"
ORIGIN_RUN_ID = "metaflow.origin_run.id"
COMPUTE_NAME = "metaflow.compute.name"
ORCHESTRATOR_NAME = "metaflow.orchestrator.name"

# Resource, of a container that no launcher follows
CONTAINER_ID = "container.id"
K8S_NAMESPACE_NAME = "k8s.namespace.name"
K8S_POD_NAME = "k8s.pod.name"
K8S_POD_UID = "k8s.pod.uid"
CLOUD_PROVIDER = "cloud.provider"
CLOUD_PLATFORM = "cloud.platform"
CLOUD_REGION = "cloud.region"
AWS_LOG_GROUP_NAMES = "aws.log.group.names"
AWS_LOG_STREAM_NAMES = "aws.log.stream.names"

# Resource, of a run that was recorded afterwards, from what Metaflow had stored
SOURCE = "metaflow.telemetry.source"
IN_DOUBT = "metaflow.telemetry.in_doubt"
RUN_TAGS = "metaflow.run.tags"
CODE_PACKAGE = "metaflow.code_package.sha"
VCS_REVISION = "vcs.ref.head.revision"
VCS_URL = "vcs.repository.url.full"

# Spans, conventions
ERROR_TYPE = "error.type"
PROCESS_EXIT_CODE = "process.exit.code"
CODE_FUNCTION_NAME = "code.function.name"
CODE_FILE_PATH = "code.file.path"
CODE_LINE_NUMBER = "code.line.number"
CICD_PIPELINE_ACTION_NAME = "cicd.pipeline.action.name"
CICD_PIPELINE_RESULT = "cicd.pipeline.result"
CICD_PIPELINE_TASK_NAME = "cicd.pipeline.task.name"
CICD_PIPELINE_TASK_RUN_ID = "cicd.pipeline.task.run.id"
CICD_PIPELINE_TASK_RUN_RESULT = "cicd.pipeline.task.run.result"

# Spans of attempts, ours
PATHSPEC = "metaflow.task.pathspec"
TASK_RESULT = "metaflow.task.result"
TASK_SIGNAL = "metaflow.task.signal"
FINAL = "metaflow.attempt.final"
CAUGHT = "metaflow.task.caught"
CLONED = "metaflow.task.cloned"
PARTIAL = "metaflow.telemetry.partial"
FIRST_FAILURE = "metaflow.failure.first"
STEP_TYPE = "metaflow.step.type"
FOREACH_INDEX = "metaflow.foreach.index"
FOREACH_SIZE = "metaflow.foreach.size"
FOREACH_VALUE = "metaflow.foreach.value"
JOIN_INPUT_COUNT = "metaflow.join.input.count"
PARALLEL_NODE_INDEX = "metaflow.parallel.node.index"
PARALLEL_NODE_COUNT = "metaflow.parallel.node.count"
QUEUE_DURATION = "metaflow.task.queue.duration"
STARTUP_DURATION = "metaflow.task.startup.duration"
LOAD_DURATION = "metaflow.task.load.duration"
CODE_DURATION = "metaflow.task.code.duration"
PERSIST_DURATION = "metaflow.task.persist.duration"
TASK_CPU_TIME = "metaflow.task.cpu.time"
TASK_MEMORY_PEAK = "metaflow.task.memory.peak"
TASK_GPU_MEMORY_PEAK = "metaflow.task.gpu.memory.peak"
TASK_IO_READ = "metaflow.task.io.read"
TASK_IO_WRITE = "metaflow.task.io.write"
REQUESTED_CPU = "metaflow.task.requested.cpu"
REQUESTED_GPU = "metaflow.task.requested.gpu"
REQUESTED_MEMORY = "metaflow.task.requested.memory"
ARTIFACT_COUNT = "metaflow.artifact.count"
ARTIFACT_SIZE = "metaflow.artifact.size"

# Spans of runs, ours
RUN_RESULT = "metaflow.run.result"
RUN_TASK_COUNT = "metaflow.run.task.count"
RUN_FAILED_COUNT = "metaflow.run.failed.count"
RUN_RETRIED_COUNT = "metaflow.run.retried.count"
RUN_CLONED_COUNT = "metaflow.run.cloned.count"
RUN_TRIGGER_TYPE = "metaflow.run.trigger.type"
CRITICAL_STEPS = "metaflow.run.critical_path.steps"
CRITICAL_DURATION = "metaflow.run.critical_path.duration"
CRITICAL_QUEUE = "metaflow.run.critical_path.queue.duration"
SAVED_DURATION = "metaflow.resume.saved.duration"

# Spans that summarize a step, ours
SUMMARY_ATTEMPT_COUNT = "metaflow.summary.attempt.count"
SUMMARY_FAILED_COUNT = "metaflow.summary.failed.count"
SUMMARY_ERROR_TYPES = "metaflow.summary.error.types"
SUMMARY_ERROR_COUNTS = "metaflow.summary.error.counts"
SUMMARY_DURATION_SUM = "metaflow.summary.duration.sum"
SUMMARY_DURATION_MIN = "metaflow.summary.duration.min"
SUMMARY_DURATION_MAX = "metaflow.summary.duration.max"
SUMMARY_DURATION_BOUNDS = "metaflow.summary.duration.bounds"
SUMMARY_DURATION_COUNTS = "metaflow.summary.duration.bucket_counts"

# Links
LINK_TYPE = "metaflow.link.type"

# Spans of user code, ours
SPAN_UNFINISHED = "metaflow.span.unfinished"

# Logs, conventions
LOG_IOSTREAM = "log.iostream"
LOG_RECORD_UID = "log.record.uid"
ORIGINAL_TIME = "metaflow.telemetry.original_time"
LOG_RECORD_ORIGINAL = "log.record.original"
THREAD_NAME = "thread.name"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

# Logs, ours
LOG_TRUNCATED_LENGTH = "metaflow.log.truncated.length"
LOG_ATTRIBUTES_TRUNCATED = "metaflow.log.attributes.truncated.count"
LOG_SANITIZED = "metaflow.log.sanitized"
TASK_ELAPSED = "metaflow.task.elapsed"
TASK_MEMORY = "metaflow.task.memory.usage"
TASK_GPU_MEMORY = "metaflow.task.gpu.memory.usage"
TASK_GPU_UTILIZATION = "metaflow.task.gpu.utilization"

# Events
EVENT_RUN_START = "metaflow.run.start"
EVENT_RUN_END = "metaflow.run.end"
EVENT_RUN_SUMMARY = "metaflow.run.summary"
EVENT_TASK_START = "metaflow.task.start"
EVENT_TASK_HEARTBEAT = "metaflow.task.heartbeat"
EVENT_TASK_RETRY = "metaflow.task.retry"
EVENT_TASK_END = "metaflow.task.end"
EVENT_TASK_EXCEPTION = "metaflow.task.exception"
EVENT_TASK_LOST = "metaflow.task.lost"

# Metrics
METRIC_RUN_DURATION = "metaflow.run.duration"
METRIC_TASK_DURATION = "metaflow.task.duration"
METRIC_TASK_QUEUE_DURATION = "metaflow.task.queue.duration"
METRIC_TASK_RETRIES = "metaflow.task.retries"
METRIC_TASK_CPU_TIME = "metaflow.task.cpu.time"
METRIC_TASK_MEMORY_PEAK = "metaflow.task.memory.peak"
METRIC_ARTIFACT_IO = "metaflow.artifact.io"
METRIC_TELEMETRY_DROPPED = "metaflow.telemetry.dropped"
SIGNAL = "metaflow.telemetry.signal"
REASON = "metaflow.telemetry.drop.reason"
DIRECTION = "metaflow.artifact.io.direction"

# Bucket boundaries, in the unit of the metric
RUN_DURATION_BOUNDARIES = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
TASK_DURATION_BOUNDARIES = (0.1, 0.5, *RUN_DURATION_BOUNDARIES)
QUEUE_BOUNDARIES = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 21600)
MEMORY_BOUNDARIES = tuple(2**power for power in range(26, 40))  # 64 MiB … 512 GiB

# Scopes
SCOPE = "otel_metaflow"
SCOPE_STDIO = "otel_metaflow.stdio"
SCOPE_LAUNCHER = "otel_metaflow.launcher"
DISTRO = "otel-metaflow"
