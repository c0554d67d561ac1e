"""Which variables reach containers: what configures telemetry, and nothing that is secret or of this machine alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_metaflow.core import launch_context, trace_context
from otel_metaflow.launcher import remote_environment
from otel_metaflow.launcher.remote_environment import of

ENDPOINT = "http://collector.monitoring:4318"
SENDING = {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
NEVER = {
    # One run's, and in a template for ever.
    "TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "TRACESTATE": "a=b",
    "BAGGAGE": "user=somebody",
    # Secrets, and where they lie.
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=abc",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=abc",
    "DD_API_KEY": "abc",
    "SPLUNK_HEC_TOKEN": "abc",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/home/me/ca.pem",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/home/me/key.pem",
    "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE": "/home/me/cert.pem",
    # Folders and processes of this machine.
    "OTEL_METAFLOW_HOME": "/home/me/journals",
    "OTEL_METAFLOW_LOG_DIR": "/var/log/here",
    "OTEL_METAFLOW_STANDBY": "30",
    "OTEL_METAFLOW_QUIET": "true",
    "OTEL_METAFLOW_BROKEN": "1",
    "OTEL_METAFLOW_WITNESS": "/logs/otel-witness-7",
    launch_context.VARIABLE: "[]",
    launch_context.LAUNCHER_EXPORTS: "true",
    launch_context.HAS_LAUNCHER: "true",
    remote_environment.REMOTE_HOME: "",
    remote_environment.BATCH_LOG_GROUP: "/metaflow/otel",
    launch_context.WITHIN: "/home/me/journals/F/1/start.1.0.jsonl",
    "XDG_STATE_HOME": "/home/me/state",
    # How this machine's Python is instrumented; Metaflow's own tracing.
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests",
    "OTEL_PYTHON_TRACER_PROVIDER": "otel_metaflow",
    "OTEL_CONFIG_FILE": "/etc/otel.yaml",
    "METAFLOW_OTEL_ENDPOINT": ENDPOINT,
    remote_environment.REMOTE_ENDPOINT: "",
}


@pytest.mark.parametrize("name", sorted(remote_environment.TRAVELS))
def test_settings_of_telemetry_travel(name: str) -> None:
    value = ENDPOINT if name.endswith("ENDPOINT") else "team=a" if name.endswith("ATTRIBUTES") else "grpc"
    found = of({name: value})
    assert found.variables[name] == value
    assert found.notices == ()


@pytest.mark.parametrize("name", NEVER)
def test_secrets_and_settings_of_this_machine_never_travel(name: str) -> None:
    assert of({**SENDING, name: NEVER[name]}) == (SENDING, ())


def test_every_variable_of_ours_is_on_one_of_the_two_lists() -> None:
    """A new one has to be put on either."""
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    documented = set(re.findall(r"OTEL_METAFLOW_[A-Z_]+", page.read_text())) - {"OTEL_METAFLOW_JOURNAL_MAX_DAYS"}
    assert remote_environment.TRAVELS | NEVER.keys() >= documented


def test_the_endpoint_for_containers_replaces_all_others() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://logs.example.com/v1/logs",
        remote_environment.REMOTE_ENDPOINT: ENDPOINT,
    }
    assert of(env) == (SENDING, ())


def test_the_protocol_always_goes_with_the_endpoint() -> None:
    """Argo Workflows' own executor reads both, and speaks gRPC by default."""
    assert of({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}).variables == SENDING
    grpc = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert of(grpc).variables == grpc
    assert of({"OTEL_SERVICE_NAME": "a"}).variables == {"OTEL_SERVICE_NAME": "a"}


@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost:4318", "http://127.0.0.1:4318", "https://127.1.2.3", "http://[::1]:4318", "http://0.0.0.0:4318",
     "localhost:4317", "http://collector.localhost:4318"],
)  # fmt: skip
def test_a_loopback_address_never_travels_and_one_line_names_the_variable_to_set(endpoint: str) -> None:
    found = of({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "a"})
    assert found.variables == {"OTEL_SERVICE_NAME": "a"}
    (notice,) = found.notices
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in notice
    assert "set OTEL_METAFLOW_REMOTE_ENDPOINT" in notice
    other = of({remote_environment.REMOTE_ENDPOINT: endpoint})
    assert not other.variables
    assert "OTEL_METAFLOW_REMOTE_ENDPOINT is" in other.notices[0]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", remote_environment.REMOTE_ENDPOINT])
def test_a_password_in_an_address_never_travels(variable: str) -> None:
    found = of({variable: "https://me:hunter2@intake.example.com"})
    assert not found.variables
    (notice,) = found.notices
    assert variable in notice
    assert "hunter2" not in notice


@pytest.mark.parametrize("value", ["/v1/traces", "ftp://x", "http://", "http://collector:port"])
def test_an_invalid_address_never_travels(value: str) -> None:
    found = of({remote_environment.REMOTE_ENDPOINT: value})
    assert not found.variables
    assert found.notices[0].startswith("OTEL_METAFLOW_REMOTE_ENDPOINT is not passed to containers: it is not a URL")


@pytest.mark.parametrize("value", ["$.a", "$$.a", "a$(HOME)b", "a{{b}}", "{%if%}"])
def test_text_that_a_platform_would_replace_is_refused_by_the_variables_name(value: str) -> None:
    found = of({**SENDING, "OTEL_SERVICE_NAME": value})
    assert found.variables == SENDING
    (notice,) = found.notices
    assert notice.startswith("OTEL_SERVICE_NAME is not passed to containers: it holds ")


def test_the_address_of_a_node_is_refused_with_what_to_type_instead() -> None:
    found = of({remote_environment.REMOTE_ENDPOINT: "http://$(NODE_IP):4318"})
    assert found.variables == {}
    (notice,) = found.notices
    assert notice.startswith("OTEL_EXPORTER_OTLP_ENDPOINT is not passed to containers: it holds '$(NODE_IP)'")
    assert notice.endswith("the address of a service with internalTrafficPolicy: Local")


def test_the_folder_on_a_volume_travels_and_the_folder_of_this_machine_does_not() -> None:
    here = {"OTEL_METAFLOW_HOME": "/home/me/journals"}
    assert of({**here, remote_environment.REMOTE_HOME: "/mnt/otel"}) == ({"OTEL_METAFLOW_HOME": "/mnt/otel"}, ())
    refused = of({**here, remote_environment.REMOTE_HOME: "otel"})
    assert (refused.variables, len(refused.notices)) == ({}, 1)


@pytest.mark.parametrize("value", ["$HOME", "a$", r"^\d{2}$", '{"a":{"b":1}}', "$(", "50%"])
def test_text_that_no_platform_replaces_travels(value: str) -> None:
    assert of({"OTEL_METAFLOW_REDACT": value}) == ({"OTEL_METAFLOW_REDACT": value}, ())


def test_a_container_that_cannot_get_the_redaction_pattern_sends_nothing() -> None:
    found = of({**SENDING, "OTEL_METAFLOW_REDACT": r"secret{{\d+}}"})
    assert not found.variables.keys() & SENDING.keys() - {"OTEL_EXPORTER_OTLP_PROTOCOL"}
    assert len(found.notices) == 2


def test_resource_attributes_of_this_machine_stay_here() -> None:
    attributes = "team=a,host.name=laptop, process.pid=7,os.type=linux,k8s.pod.name=x,container.id=y,deployment.id=z"
    assert of({"OTEL_RESOURCE_ATTRIBUTES": attributes}).variables == {
        "OTEL_RESOURCE_ATTRIBUTES": "team=a,deployment.id=z"
    }
    assert of({"OTEL_RESOURCE_ATTRIBUTES": "host.name=laptop"}).variables == {}


def test_the_trace_that_a_run_was_started_in_goes_to_the_containers_of_that_run() -> None:
    parent = NEVER["TRACEPARENT"]
    assert remote_environment.of_run({"TRACEPARENT": parent}) == {trace_context.HANDED_ON: parent}
    assert remote_environment.of_run({"TRACEPARENT": "none"}) == {}
