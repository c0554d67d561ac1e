"""`otel-metaflow doctor`: each fault is reported for its hop, with how to fix it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from collectors import Collector, Vendors, free_ports
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from running import Place

from otel_metaflow.diagnose import doctor

GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@dataclass(frozen=True)
class Report:
    """The findings by hop; if a hop has several, the first that failed or else the last."""

    code: int
    hops: dict[str, dict[str, str]]
    text: str

    @property
    def failed(self) -> list[str]:
        return [hop for hop, found in self.hops.items() if found["state"] == "failed"]


@pytest.fixture(scope="module", autouse=True)
def stand_in() -> Iterator[None]:
    """A collector that is healthy and has no exporters: at the default ports there may be one of another test run."""
    with _Collector() as url:
        STAND_IN[:] = ["--health", url, "--metrics", url]
        yield


STAND_IN: list[str] = []


def diagnose(place: Place, env: dict[str, str], *options: str) -> Report:
    done = place.cli("doctor", "--json", "--timeout", "2", *STAND_IN, *options, env=env)
    assert not done.stderr
    hops: dict[str, dict[str, str]] = {}
    for finding in json.loads(done.stdout)["hops"]:
        if hops.get(finding["hop"], {}).get("state") != "failed":
            hops[finding["hop"]] = finding
    assert json.loads(done.stdout)["ok"] is (done.returncode == 0)
    assert all(bool(found["fix"]) == (found["state"] in ("failed", "warning")) for found in hops.values())
    return Report(done.returncode, hops, done.stdout)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_path_without_faults_passes(place: Place, protocol: str) -> None:
    """One test record of each signal arrives, in one trace, whose id is reported."""
    with Endpoint(protocol=protocol) as endpoint:
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **(GRPC if protocol == "grpc" else {})})
    assert (report.code, report.failed) == (0, [])
    assert sorted(path for path, _ in endpoint.requests) == ["/v1/logs", "/v1/metrics", "/v1/traces"]
    ((span, resource),) = endpoint.spans()
    assert span.trace_id.hex() in report.hops["look for"]["message"]
    (record,) = (
        record
        for message in endpoint.of(ExportLogsServiceRequest)
        for logs in message.resource_logs
        for scope in logs.scope_logs
        for record in scope.log_records
    )
    assert (record.trace_id, record.body.string_value) == (span.trace_id, "otel-metaflow doctor was here")
    named = {each.key: each.value.string_value for each in resource.attributes}
    assert named["metaflow.flow.name"] == "otel-metaflow-doctor"


@pytest.mark.parametrize(
    ("fault", "message", "fix"),
    [
        ("401", "answered 401", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("403", "answered 403", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("404", "answered 404", "the path in OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("302", "answered 302", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("html", "a web page", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("400", "answered 400", "log of the endpoint"),
        ("413", "answered 413", "log of the endpoint"),
        ("500", "answered 500", "log of the endpoint"),
        ("429", "answered 429", "wait"),
        ("502", "answered 502", "wait"),
        ("503", "answered 503", "wait"),
        ("504", "answered 504", "wait"),
        ("reset", "broke the connection", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("blackhole", "no response within 2 s", "--timeout"),
        ("slow", "no response within 2 s", "--timeout"),
    ],
)
def test_a_fault_over_http(place: Place, fault: str, message: str, fix: str) -> None:
    with Endpoint(fault, pace=1.0) as endpoint:
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    assert (report.code, report.failed) == (1, ["traces", "metrics", "logs"])
    for hop in report.failed:
        assert message in report.hops[hop]["message"]
        assert fix in report.hops[hop]["fix"]
    assert "look for" not in report.hops


@pytest.mark.parametrize(
    ("fault", "fix"),
    [
        ("UNAUTHENTICATED", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("PERMISSION_DENIED", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("UNIMPLEMENTED", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("INVALID_ARGUMENT", "log of the endpoint"),
        ("UNAVAILABLE", "wait"),
        ("RESOURCE_EXHAUSTED", "wait"),
    ],
)
def test_a_fault_over_grpc(place: Place, fault: str, fix: str) -> None:
    with Endpoint(fault, protocol="grpc") as endpoint:
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **GRPC})
    assert report.failed == ["traces", "metrics", "logs"]
    for hop in report.failed:
        assert fault in report.hops[hop]["message"]
        assert fix in report.hops[hop]["fix"]


def test_a_rejected_record_is_a_failure(place: Place) -> None:
    with Endpoint("partial") as endpoint:
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    assert report.failed == ["logs"]
    assert "too old" in report.hops["logs"]["message"]


@pytest.mark.parametrize(("protocol", "actual"), [("grpc", "http"), ("http/protobuf", "grpc")])
def test_the_port_of_the_other_protocol_is_recognized(place: Place, protocol: str, actual: str) -> None:
    """The most common mistake: 4317 instead of 4318."""
    with Endpoint(protocol=actual) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        report = diagnose(place, env)
    expected = {"http": "http/protobuf", "grpc": "grpc"}[actual]
    assert f"export OTEL_EXPORTER_OTLP_PROTOCOL={expected}" in report.hops["traces"]["fix"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls(place: Place, protocol: str) -> None:
    """A trusted, an untrusted and another host's certificate; TLS against a plain port, and the other way round."""
    authority = trustme.CA()
    file = place.path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    env = GRPC if protocol == "grpc" else {}
    trusting = {**env, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
    with Endpoint(protocol=protocol, tls=authority.issue_cert("127.0.0.1")) as endpoint:
        assert diagnose(place, {**trusting, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}).code == 0
        stranger = diagnose(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        plain = diagnose(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("https", "http")})
        renamed = endpoint.url.replace("127.0.0.1", "localhost")
        other = diagnose(place, {**trusting, "OTEL_EXPORTER_OTLP_ENDPOINT": renamed})
    assert stranger.failed == ["tls"]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in stranger.hops["tls"]["fix"]
    assert stranger.hops["traces"]["message"] == "not tried"
    assert plain.failed == ["traces", "metrics", "logs"]
    assert "to https://" in plain.hops["traces"]["fix"]
    assert other.failed == ["tls"]
    assert "a name that the certificate covers" in other.hops["tls"]["fix"]
    with Endpoint(protocol=protocol) as endpoint:
        report = diagnose(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("http:", "https:")})
    assert report.failed == ["tls"]
    assert "to http://" in report.hops["tls"]["fix"]


def test_a_port_that_hangs_up_when_greeted_by_tls(place: Place) -> None:
    """As services do that speak another protocol."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # the test is over
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{listening.getsockname()[1]}"})
        listening.shutdown(socket.SHUT_RDWR)
    assert report.failed == ["tls"]
    assert report.hops["tls"]["message"].startswith("handshake failed: ")
    assert "OTEL_EXPORTER_OTLP_" in report.hops["tls"]["fix"]


def test_an_endpoint_that_does_not_exist(place: Place) -> None:
    (port,) = free_ports(1)
    refused = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    assert refused.failed == ["tcp"]
    assert "refused" in refused.hops["tcp"]["message"]
    assert "start the collector" in refused.hops["tcp"]["fix"]
    unknown = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://no-such-host.invalid:4318"})
    assert unknown.failed == ["name"]
    assert "host in OTEL_EXPORTER_OTLP_ENDPOINT" in unknown.hops["name"]["fix"]
    assert [unknown.hops[hop]["message"] for hop in ("tcp", "tls", "logs")] == ["not tried"] * 3


def test_a_port_that_swallows_connections(place: Place) -> None:
    """A full backlog: the kernel does not respond."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        clients = [socket.socket() for _ in range(8)]
        for each in clients:
            each.setblocking(False)
            each.connect_ex(address)
        report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{address[1]}"})
        for each in clients:
            each.close()
    assert report.failed == ["tcp"]
    assert "firewall" in report.hops["tcp"]["fix"]


def test_variables_are_shown_without_secrets(place: Place) -> None:
    with Endpoint() as endpoint:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("//", "//user:hunter2@"),
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2,x-tenant=hunter3",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
        }
        report = diagnose(place, env)
    assert report.code == 0
    assert "hunter" not in report.text
    assert "authorization=****,x-tenant=****" in report.text
    assert report.hops["temporality"]["state"] == "warning"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HEADERS", "dd-api-key=hunter2", "dd-api-key=****"),
        ("HEADERS", "authorization: Bearer hunter2", "****"),
        ("HEADERS", "authorization=Basic hunter2==", "authorization=****"),
        ("HEADERS", "x-tenant=a,hunter2", "x-tenant=****,****"),
        ("HEADERS", "hunter2==", "****"),
        ("TRACES_HEADERS", "hunter2", "****"),
        ("ENDPOINT", "https://hunter2@host:4318/x", "https://****@host:4318/x"),
        ("ENDPOINT", "user:hunter2@host:4317", "****@host:4317"),
        ("LOGS_ENDPOINT", "http://host/v1/logs?key=hunter2", "http://host/v1/logs?****"),
        ("ENDPOINT", "http://host:4318", "http://host:4318"),
    ],
)
def test_no_secret_is_shown_however_it_was_mistyped(name: str, value: str, shown: str) -> None:
    assert doctor.shown(f"OTEL_EXPORTER_OTLP_{name}", value) == shown


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "[::1", "a b", "xn--a"])
def test_an_invalid_host_is_reported_without_a_traceback(place: Place, host: str) -> None:
    report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:4318"})
    assert report.code != 0
    (hop,) = report.failed
    assert hop in ("variables", "name")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in report.hops[hop]["message"] + report.hops[hop]["fix"]


def test_a_file_without_certificates_is_named(place: Place) -> None:
    file = place.path / "authority.pem"
    file.write_text("no certificate")
    with Endpoint(tls=trustme.CA().issue_cert("127.0.0.1")) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
        report = diagnose(place, env)
    assert report.failed == ["tls"]
    assert str(file) in report.hops["tls"]["message"]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in report.hops["tls"]["fix"]


@pytest.mark.parametrize(
    ("env", "fix"),
    [
        ({}, "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere"}, "set it to one, such as http://localhost:4318"),
        ({"OTEL_SDK_DISABLED": "true"}, "unset OTEL_SDK_DISABLED"),
    ],
)
def test_variables_without_which_nothing_is_sent(place: Place, env: dict[str, str], fix: str) -> None:
    report = diagnose(place, env)
    assert (report.code, report.failed) == (1, ["variables"])
    assert fix in report.hops["variables"]["fix"]


def test_a_signal_with_its_own_endpoint_is_checked_there(place: Place) -> None:
    with Endpoint() as endpoint, Endpoint("401") as other:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{other.url}/v1/logs"}
        report = diagnose(place, env)
    assert report.failed == ["logs"]
    assert sorted(path for path, _ in endpoint.requests) == ["/v1/metrics", "/v1/traces"]
    assert other.seen == 1


def bundled(collector: Collector) -> tuple[dict[str, str], list[str]]:
    addresses = ["--health", collector.health, "--metrics", collector.telemetry]
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http}, addresses


def test_the_exporters_of_the_bundled_collector_are_checked(place: Place, tmp_path: Path, vendors: Vendors) -> None:
    """To each of its exporters, over both vendors."""
    with Collector(tmp_path, vendors.environment) as collector:
        env, addresses = bundled(collector)
        report = diagnose(place, env, *addresses)
    assert (report.code, report.failed) == (0, [])
    assert {hop for hop in report.hops if hop.startswith("to ")} == {
        "to metaflow_ack_gate/datadog",
        "to splunk_hec",
        "to splunk_hec/metrics",
    }
    assert any("otel-metaflow doctor was here" in log.body for log in vendors.splunk.logs())


@pytest.mark.parametrize("answer", ["none", "403"])
def test_a_vendor_that_accepts_nothing_is_reported(place: Place, tmp_path: Path, answer: str) -> None:
    """The collector has accepted everything; the variable to check is one of the collector's."""
    with _Refusing() as refusing:
        url = "http://localhost:1" if answer == "none" else refusing
        with Collector(tmp_path, {"SPLUNK_HEC_URL": url, "SPLUNK_HEC_TOKEN": "x"}) as collector:
            env, addresses = bundled(collector)
            report = diagnose(place, env, *addresses)
    assert report.failed == ["to splunk_hec", "to splunk_hec/metrics"]
    assert "SPLUNK_HEC_TOKEN" in report.hops["to splunk_hec"]["fix"]
    found = report.hops["to splunk_hec"]["message"]
    assert ("queued" if answer == "none" else "permanently rejected") in found


def test_an_unhealthy_collector_is_reported(place: Place) -> None:
    """Its URL is wrong, or the response is not a health check's."""
    with Endpoint() as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        wrong = diagnose(place, env, "--health", "http://127.0.0.1:1/")
        assert (wrong.failed, wrong.hops["collector"]["fix"]) == (["collector"], "check the URL of --health")
        unhealthy = diagnose(place, env, "--health", f"{endpoint.url}/health")
        assert unhealthy.failed == ["collector"]


def test_without_json_each_hop_is_a_line(place: Place) -> None:
    with Endpoint("404") as endpoint:
        done = place.cli("doctor", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    lines = done.stdout.splitlines()
    assert "fail  traces        answered 404 Not Found" in lines
    assert "                    fix: check the path in OTEL_EXPORTER_OTLP_ENDPOINT" in lines
    assert done.returncode == 1


def test_a_proxy_is_reported_and_checked_first(place: Place) -> None:
    """The proxy that the exporter would use."""
    proxy = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:1")
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
    report = diagnose(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318", **proxy, **direct})
    assert "127.0.0.1:1, for collector.example:4318" in report.hops["proxy"]["message"]
    assert report.failed == ["tcp"]


class _Server:
    """An HTTP server that always sends the same response."""

    status = 200

    def __enter__(self) -> str:
        status = self.status

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - as the base class names it

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refusing(_Server):
    """An intake that rejects every request."""

    status = 403


class _Collector(_Server):
    """A collector that is healthy; its metrics are empty."""
