"""The settings of a run: environment variables, read once and checked before anything is started.

Standard `OTEL_*` variables keep the meaning that the OpenTelemetry specification gives them; the few of
our own begin with `OTEL_METAFLOW_`. An invalid value is a problem: one line that names the variable, what is
wrong with it and, after "; ", how to fix it. A problem never stops a run, it stops the export.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import MappingProxyType
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple
from urllib.parse import urlsplit

from otel_metaflow.core import sdk_variables, trace_links
from otel_metaflow.core.container import in_container

SIGNALS = ("traces", "metrics", "logs")
SAMPLERS = (
    "parentbased_always_on", "always_on", "always_off", "traceidratio", "parentbased_always_off",
    "parentbased_traceidratio",
)  # fmt: skip
LOG_SOURCES = ("stdout", "stderr", "logging")
PROTOCOLS = ("http/protobuf", "grpc")
COMPRESSIONS = ("none", "gzip", "deflate")
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")
_FILES = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")


class Destination(NamedTuple):
    """The destination of one signal.

    `endpoint` is as the user wrote it, for messages; the exporters resolve paths and headers themselves.
    """

    signal: str
    protocol: str
    endpoint: str
    variable: str

    @property
    def host(self) -> str:
        """Host and port, never the credentials that a URL may hold."""
        url = urlsplit(self.endpoint if "://" in self.endpoint else f"//{self.endpoint}")
        return url.netloc.rpartition("@")[2]


class Settings(NamedTuple):
    """The settings, parsed."""

    home: Path
    namespace: str = ""
    disabled: bool = False
    quiet: bool = False
    logs: Tuple[str, ...] = LOG_SOURCES
    flush_timeout: float = 0.0
    standby: float = 30.0
    detail: int = 1
    max_attempt_spans: int = 2_000
    sampler: str = "parentbased_always_on"
    sampler_ratio: float = 1.0
    keep_failed: bool = False
    redact: str = ""
    journal_max_bytes: int = 1024 << 20
    journal_max_days: float = 14.0
    destinations: Mapping[str, Destination] = MappingProxyType({})
    log_dir: Optional[Path] = None
    trace_url: str = ""
    problems: Tuple[str, ...] = ()
    notices: Tuple[str, ...] = ()  # invalid values that stop nothing

    @property
    def is_shipping(self) -> bool:
        """Whether telemetry is exported at all, over the network or to files."""
        return bool(self.destinations) or self.log_dir is not None

    @property
    def targets(self) -> str:
        """Where telemetry is exported to, for messages."""
        hosts = sorted({destination.host for destination in self.destinations.values()})
        return ", ".join([*hosts, *([str(self.log_dir)] if self.log_dir else [])])


def of_signal(signal: str, name: str, environ: Optional[Mapping[str, str]] = None) -> str:
    """The value of OTEL_EXPORTER_OTLP_…_`name` for a signal, or else for all signals; empty where neither is set."""
    env = os.environ if environ is None else environ
    return env.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}") or env.get(f"OTEL_EXPORTER_OTLP_{name}") or ""


def read(environ: Optional[Mapping[str, str]] = None) -> Settings:
    """Read the environment (`os.environ` unless one is given)."""
    env = os.environ if environ is None else environ
    problems: List[str] = []
    destinations: Dict[str, Destination] = {}
    for signal in SIGNALS:
        destination = _destination(signal, env, problems)
        if destination is not None:
            destinations[signal] = destination
    _check_values(env, problems, sending=bool(destinations))
    return Settings(
        home=_home(env),
        namespace=env.get("OTEL_METAFLOW_ID_NAMESPACE", ""),
        disabled=_flag(env, "OTEL_SDK_DISABLED", problems),
        quiet=_flag(env, "OTEL_METAFLOW_QUIET", problems),
        logs=_log_sources(env, problems),
        flush_timeout=_seconds(env, "OTEL_METAFLOW_FLUSH_TIMEOUT", 5.0 if in_container(env) else 0.0, problems),
        standby=_seconds(env, "OTEL_METAFLOW_STANDBY", 30.0, problems),
        detail=int(_chosen(env, "OTEL_METAFLOW_DETAIL", ("1", "2"), problems)),
        max_attempt_spans=_max_attempt_spans(env, problems),
        sampler=_chosen(env, "OTEL_TRACES_SAMPLER", SAMPLERS, problems),
        sampler_ratio=_ratio(env, problems),
        keep_failed=_flag(env, "OTEL_METAFLOW_KEEP_FAILED", problems),
        redact=_pattern(env, problems),
        journal_max_bytes=int(
            _number(env, "OTEL_METAFLOW_JOURNAL_MAX_MB", 1024.0, "a number of MiB, such as 1024", problems) * (1 << 20)
        ),
        journal_max_days=_number(env, "OTEL_METAFLOW_JOURNAL_MAX_DAYS", 14.0, "a number of days, such as 14", problems),
        destinations={} if problems else destinations,
        log_dir=_folder(env.get("OTEL_METAFLOW_LOG_DIR")),
        trace_url=_trace_url(env, problems),
        problems=tuple(dict.fromkeys(problems)),
        notices=sdk_variables.refused(env),
    )


def _home(env: Mapping[str, str]) -> Path:
    """The folder of the journals; XDG's state folder, because journals outlive a reboot and are no cache.

    In a container it is beside Metaflow's own log files: the home there may be read-only, or be nobody's.
    """
    chosen = _folder(env.get("OTEL_METAFLOW_HOME"))
    if chosen is not None:
        return chosen
    logs = env.get("MFLOG_STDOUT", "")
    if os.path.isabs(logs):
        return Path(logs).parent / "otel"
    state = env.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # by the specification a relative one is to be ignored
        state = os.path.expanduser("~/.local/state")
    if not os.path.isabs(state):  # no HOME, and a user without a passwd entry, as in a container
        import tempfile

        from otel_metaflow.core import private_folder

        return Path(tempfile.gettempdir()) / private_folder.name() / "state"
    return Path(state) / "otel-metaflow"


def _folder(text: Optional[str]) -> Optional[Path]:
    path = os.path.expanduser(text or "")
    # expanduser leaves `~` as it is where the home is unknown: not a folder to create.
    return None if not path or path.startswith("~") else Path(os.path.abspath(path))


def _destination(signal: str, env: Mapping[str, str], problems: List[str]) -> Optional[Destination]:
    """The destination of `signal`, or None if it is not exported.

    Exporting needs a configured endpoint: the specification's default, localhost, would make every run
    without a collector look for one.
    """
    upper = signal.upper()
    exporter = env.get(f"OTEL_{upper}_EXPORTER", "").strip() or "otlp"
    if exporter == "none":
        return None
    if exporter != "otlp":
        problems.append(_not_one_of(f"OTEL_{upper}_EXPORTER", exporter, ("otlp", "none")))
        return None
    endpoint_variable = _first(env, f"OTEL_EXPORTER_OTLP_{upper}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint_variable is None:
        return None
    protocol_variable = _first(env, f"OTEL_EXPORTER_OTLP_{upper}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = env[protocol_variable].strip() if protocol_variable else PROTOCOLS[0]
    if protocol not in PROTOCOLS:
        problems.append(_not_one_of(str(protocol_variable), protocol, PROTOCOLS))
    endpoint = env[endpoint_variable].strip()
    if not is_endpoint(endpoint, protocol):
        example = "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
        problems.append(
            f"{endpoint_variable} is {_shown(endpoint)!r}, which is not a URL; set it to one, such as {example}"
        )
    else:
        path = _signal_path(endpoint)
        if path and endpoint_variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
            why = "gRPC takes no path" if protocol == "grpc" else "each signal's own path is appended to it"
            problems.append(f"{endpoint_variable} ends in {path}, but {why}; drop {path}")
        elif path and protocol == "grpc" and "://" not in endpoint:  # with a scheme the exporter drops it itself
            problems.append(f"{endpoint_variable} ends in {path}, but gRPC takes no path; drop {path}")
    for name in _FILES:
        file_variable = _first(env, f"OTEL_EXPORTER_OTLP_{upper}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        if file_variable and not os.path.isfile(env[file_variable]):
            problems.append(f"{file_variable} is {env[file_variable]!r}, which is not a file; set it to a PEM file")
    return Destination(signal, protocol, endpoint, endpoint_variable)


def _check_values(env: Mapping[str, str], problems: List[str], *, sending: bool) -> None:
    """Check the values that the exporters themselves only reject at the first export."""
    if not sending:
        return
    for infix in ("", *(f"{signal.upper()}_" for signal in SIGNALS)):
        timeout = f"OTEL_EXPORTER_OTLP_{infix}TIMEOUT"
        if env.get(timeout):
            _seconds(env, timeout, 10.0, problems)
        compression = f"OTEL_EXPORTER_OTLP_{infix}COMPRESSION"
        value = env.get(compression, "").strip().lower()
        if value and value not in COMPRESSIONS:
            problems.append(_not_one_of(compression, value, COMPRESSIONS))


def _first(env: Mapping[str, str], *variables: str) -> Optional[str]:
    """The first variable that is set and not empty: a signal's own takes precedence over the general one."""
    return next((name for name in variables if env.get(name, "").strip()), None)


def is_endpoint(text: str, protocol: str) -> bool:
    """Whether `text` names a host: a URL, or for gRPC also `host:port` as its exporter accepts."""
    try:
        url = urlsplit(text if "://" in text or protocol != "grpc" else f"http://{text}")
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return False


def _signal_path(endpoint: str) -> str:
    """The signal path at the end of an endpoint, such as /v1/traces, or an empty string.

    By the specification it is appended to the general endpoint, while a signal's own endpoint is used as it is
    (https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp).
    """
    path = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").path
    found = re.search(r"/v1/(?:traces|metrics|logs)(?=/*$)", path)
    return found.group() if found else ""


def _shown(endpoint: str) -> str:
    """The endpoint without credentials."""
    before, at, after = endpoint.rpartition("@")
    return f"{before.partition('://')[0]}://…@{after}" if at else endpoint


def _not_one_of(variable: str, value: str, allowed: Tuple[str, ...]) -> str:
    *others, last = allowed
    return f"{variable} is {value!r}, which is not supported; set it to {', '.join(others)} or {last}"


def _flag(env: Mapping[str, str], variable: str, problems: List[str]) -> bool:
    value = env.get(variable, "").strip().lower()
    if value not in _TRUE and value not in _FALSE:
        problems.append(_not_one_of(variable, value, ("true", "false")))
    return value in _TRUE


def _seconds(env: Mapping[str, str], variable: str, default: float, problems: List[str]) -> float:
    return _number(env, variable, default, "a number of seconds, such as 10", problems)


def _chosen(env: Mapping[str, str], variable: str, allowed: Tuple[str, ...], problems: List[str]) -> str:
    """One of `allowed`; the first is the default."""
    value = env.get(variable, "").strip().lower() or allowed[0]
    if value not in allowed:
        problems.append(_not_one_of(variable, value, allowed))
        return allowed[0]
    return value


def _ratio(env: Mapping[str, str], problems: List[str]) -> float:
    form = "a fraction of all runs between 0 and 1, such as 0.1"
    ratio = _number(env, "OTEL_TRACES_SAMPLER_ARG", 1.0, form, problems)
    if ratio > 1:
        problems.append(f"OTEL_TRACES_SAMPLER_ARG is {ratio:g}, which is more than 1; set it to {form}")
        return 1.0
    return ratio


def _max_attempt_spans(env: Mapping[str, str], problems: List[str]) -> int:
    form = "a number of spans, such as 2000"
    return int(_number(env, "OTEL_METAFLOW_MAX_ATTEMPT_SPANS", 2000.0, form, problems))


def _pattern(env: Mapping[str, str], problems: List[str]) -> str:
    text = env.get("OTEL_METAFLOW_REDACT", "")
    try:
        re.compile(text)
    except re.error as error:
        problems.append(f"OTEL_METAFLOW_REDACT is {text!r}, which is not a valid regular expression ({error})")
        return ""
    return text


def _trace_url(env: Mapping[str, str], problems: List[str]) -> str:
    template = env.get(trace_links.VARIABLE, "").strip()
    problem = trace_links.problem(template)
    if problem is not None:
        problems.append(problem)
        return ""
    return template


def _number(env: Mapping[str, str], variable: str, default: float, form: str, problems: List[str]) -> float:
    text = env.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        problems.append(f"{variable} is {text!r}, which is not a valid number; set it to {form}")
        return default
    return value


def _log_sources(env: Mapping[str, str], problems: List[str]) -> Tuple[str, ...]:
    text = env.get("OTEL_METAFLOW_LOGS", "").strip()
    if not text:
        return LOG_SOURCES
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if names == ("none",):
        return ()
    unknown = [name for name in names if name not in LOG_SOURCES]
    if unknown:
        allowed = ", ".join(LOG_SOURCES)
        problems.append(
            f"OTEL_METAFLOW_LOGS contains {unknown[0]!r}, which is not supported; "
            f"set it to a comma-separated list of {allowed}, or to none"
        )
        return LOG_SOURCES
    return names
