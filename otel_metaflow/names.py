"""The names of everything that leaves: attributes, events, metrics, with their units.

Names of the semantic conventions are spelled here as strings, because the task side, which must not
import OpenTelemetry, uses them too; `tests/test_names.py` holds them against the conventions' package.
"""

from __future__ import annotations

# Resource: conventions
SERVICE_NAME = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE_ID = "service.instance.id"
DEPLOYMENT_ENVIRONMENT_NAME = "deployment.environment.name"
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

# Resource: ours
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

# Spans: conventions
ERROR_TYPE = "error.type"
PROCESS_EXIT_CODE = "process.exit.code"
CICD_PIPELINE_ACTION_NAME = "cicd.pipeline.action.name"
CICD_PIPELINE_RESULT = "cicd.pipeline.result"
CICD_PIPELINE_TASK_NAME = "cicd.pipeline.task.name"
CICD_PIPELINE_TASK_RUN_ID = "cicd.pipeline.task.run.id"
CICD_PIPELINE_TASK_RUN_RESULT = "cicd.pipeline.task.run.result"

# Spans: ours
PATHSPEC = "metaflow.task.pathspec"
TASK_RESULT = "metaflow.task.result"
TASK_SIGNAL = "metaflow.task.signal"
CAUGHT = "metaflow.task.caught"
TASK_CPU_TIME = "metaflow.task.cpu.time"
TASK_MEMORY_PEAK = "metaflow.task.memory.peak"
RUN_RESULT = "metaflow.run.result"
RUN_TASK_COUNT = "metaflow.run.task.count"
RUN_FAILED_COUNT = "metaflow.run.failed.count"
RUN_RETRIED_COUNT = "metaflow.run.retried.count"

# Spans of user code
SPAN_UNFINISHED = "metaflow.span.unfinished"

# Logs
LOG_IOSTREAM = "log.iostream"
LOG_RECORD_UID = "log.record.uid"
LOG_RECORD_ORIGINAL = "log.record.original"
THREAD_NAME = "thread.name"
CODE_FILE_PATH = "code.file.path"
CODE_LINE_NUMBER = "code.line.number"
CODE_FUNCTION_NAME = "code.function.name"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"
LOG_TRUNCATED_LENGTH = "metaflow.log.truncated.length"
LOG_SANITIZED = "metaflow.log.sanitized"

# Events
EVENT_TASK_EXCEPTION = "metaflow.task.exception"
EVENT_TASK_LOST = "metaflow.task.lost"

# Metrics
METRIC_RUN_DURATION = "metaflow.run.duration"
METRIC_TASK_DURATION = "metaflow.task.duration"
METRIC_TASK_CPU_TIME = "metaflow.task.cpu.time"
METRIC_TASK_MEMORY_PEAK = "metaflow.task.memory.peak"
METRIC_TELEMETRY_DROPPED = "metaflow.telemetry.dropped"

RUN_DURATION_BOUNDARIES = (1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400)
TASK_DURATION_BOUNDARIES = (0.1, 0.5, *RUN_DURATION_BOUNDARIES)
MEMORY_BOUNDARIES = tuple(2**power for power in range(26, 40))  # 64 MiB … 512 GiB

# Scopes
SCOPE = "otel_metaflow"
SCOPE_STDIO = "otel_metaflow.stdio"
SCOPE_LAUNCHER = "otel_metaflow.launcher"
DISTRO = "otel-metaflow"
