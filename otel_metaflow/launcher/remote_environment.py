"""Which variables reach the containers of remote steps, and as what.

They stand in pod specs, job definitions and workflow templates, in clear and for as long as those live. So what
configures telemetry travels, and nothing that is secret, that names a file or a process of this machine, or that
belongs to one run: a trace that a deployment was made in is not that of its runs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from otel_metaflow.core import settings, trace_context

REMOTE_ENDPOINT = "OTEL_METAFLOW_REMOTE_ENDPOINT"
REMOTE_HOME, _HOME = "OTEL_METAFLOW_REMOTE_HOME", "OTEL_METAFLOW_HOME"
BATCH_LOG_GROUP = "OTEL_METAFLOW_BATCH_LOG_GROUP"
_ENDPOINT, _PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
_REDACT, _RESOURCE = "OTEL_METAFLOW_REDACT", "OTEL_RESOURCE_ATTRIBUTES"
_SIGNALS = ("", "TRACES_", "METRICS_", "LOGS_")
ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in _SIGNALS)

TRAVELS = frozenset(
    [
        *ENDPOINTS,
        *(f"OTEL_EXPORTER_OTLP_{signal}{name}" for signal in _SIGNALS
          for name in ("PROTOCOL", "TIMEOUT", "COMPRESSION", "INSECURE")),
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", _RESOURCE, "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_PROPAGATORS",
        "OTEL_METRICS_EXEMPLAR_FILTER", "OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_METAFLOW_DETAIL", "OTEL_METAFLOW_FLUSH_TIMEOUT", "OTEL_METAFLOW_ID_NAMESPACE",
        "OTEL_METAFLOW_JOURNAL_MAX_MB", "OTEL_METAFLOW_KEEP_FAILED", "OTEL_METAFLOW_LOGS",
        "OTEL_METAFLOW_MAX_ATTEMPT_SPANS", _REDACT, "OTEL_METAFLOW_TRACE_URL",
    ]
)  # fmt: skip
"""The variables that travel as they are; no other does."""

# Of this machine and its processes; a container has its own.
_OURS_ALONE = ("host.", "process.", "os.", "k8s.", "container.")
# What Kubernetes puts another variable in place of, what Argo Workflows and Airflow take for templates, and what
# Step Functions takes for a JSONPath. A value that is none on one of them may be one on the next.
_EXPANDED = re.compile(r"\$\([^)]*\)|\{\{|\{%|^\$\$?\.")
_EXAMPLE = "http://otel-collector.monitoring:4318"
# Metaflow lists the variables of a pod's node after all others, and Kubernetes replaces only what is listed before.
_OF_NODE = "for a collector on each node, type the address of a service with internalTrafficPolicy: Local"
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


class RemoteEnvironment(NamedTuple):
    """What containers get, and a line about each thing that they do not get, though somebody may expect it."""

    variables: dict[str, str]
    notices: tuple[str, ...]

    @property
    def exports(self) -> bool:
        """Whether containers export themselves: whether an endpoint travels to them."""
        return not self.variables.keys().isdisjoint(ENDPOINTS)


def of(environ: Mapping[str, str]) -> RemoteEnvironment:
    """What `environ` says to containers."""
    notices: list[str] = []
    found = {name: environ[name].strip() for name in sorted(TRAVELS & environ.keys()) if environ[name].strip()}
    endpoints = dict(_endpoints(environ, notices))
    for name in ENDPOINTS:
        found.pop(name, None)
    found.update(endpoints)
    found.update(_home(environ, notices))
    if _RESOURCE in found:
        found[_RESOURCE] = _portable(found[_RESOURCE])
    for name in [name for name, value in found.items() if _EXPANDED.search(value)]:
        instead = _OF_NODE if name in endpoints and "NODE_IP" in found[name] else "choose a value without it"
        notices.append(
            f"{name} is not passed to containers: it holds {_mark(found.pop(name))!r}, which Kubernetes, "
            f"Argo Workflows, Airflow or Step Functions would replace; {instead}"
        )
        if name == _REDACT:  # what it is to keep in must not leave
            endpoints = {}
            notices.append(f"containers of remote steps send nothing: they do not know {_REDACT}")
    sending = {name: value for name, value in found.items() if name in endpoints}
    found = {name: value for name, value in found.items() if name not in ENDPOINTS or name in sending}
    if sending:
        # Always with the endpoint: Argo Workflows' own executor reads these variables too, and would speak gRPC.
        found.setdefault(_PROTOCOL, "http/protobuf")
    return RemoteEnvironment({name: value for name, value in found.items() if value}, tuple(notices))


def _home(environ: Mapping[str, str], notices: list[str]) -> dict[str, str]:
    """Where containers keep their journals: a folder on a volume of theirs."""
    home = environ.get(REMOTE_HOME, "").strip()
    if home and not home.startswith("/"):
        notices.append(f"{REMOTE_HOME} is {home!r}, which is no absolute path; type one on a volume, such as /mnt/otel")
        return {}
    return {_HOME: home} if home else {}


def of_run(environ: Mapping[str, str]) -> dict[str, str]:
    """What the containers of one run get besides: the trace that it was started in."""
    joined = trace_context.read(environ)
    return {trace_context.HANDED_ON: joined} if joined else {}


def _endpoints(environ: Mapping[str, str], notices: list[str]) -> Iterator[tuple[str, str]]:
    remote = environ.get(REMOTE_ENDPOINT, "").strip()
    given = (
        {_ENDPOINT: (REMOTE_ENDPOINT, remote)}
        if remote
        else {name: (name, environ.get(name, "")) for name in ENDPOINTS}
    )
    for name, (said_by, text) in given.items():
        value = text.strip()
        if not value:
            continue
        if not settings.is_endpoint(value, "grpc"):
            notices.append(f"{said_by} is not passed to containers: it is not a URL; type one such as {_EXAMPLE}")
            continue
        url = urlsplit(value if "://" in value else f"//{value}")
        if url.username or url.password:
            notices.append(
                f"{said_by} is not passed to containers: it holds a password, which a pod's specification would show; "
                "type it without, and put a header into a Kubernetes secret or @secrets"
            )
        elif _is_loopback(url.hostname or ""):
            notices.append(
                f"containers of remote steps send nothing: {said_by} is {url.netloc}, which is another machine there; "
                f"set {REMOTE_ENDPOINT} to an address that they reach, such as {_EXAMPLE}"
            )
        else:
            yield name, value


def _is_loopback(host: str) -> bool:
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _portable(attributes: str) -> str:
    """OTEL_RESOURCE_ATTRIBUTES without what is true of this machine alone."""
    pairs = [pair for pair in attributes.split(",") if not pair.strip().startswith(_OURS_ALONE)]
    return ",".join(pairs)


def _mark(value: str) -> str:
    found = _EXPANDED.search(value)
    return found.group() if found else ""
