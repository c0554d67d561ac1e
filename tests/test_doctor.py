"""`otel-metaflow doctor`: each fault shows on its leg, and ends with what to do."""

from __future__ import annotations

import json
import socket
import threading
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
    """What the doctor said, by leg; where a leg comes several times, the last that went wrong."""

    code: int
    legs: dict[str, dict[str, str]]
    text: str

    @property
    def failed(self) -> list[str]:
        return [leg for leg, found in self.legs.items() if found["state"] == "failed"]


def ask(place: Place, env: dict[str, str], *options: str) -> Report:
    done = place.cli("doctor", "--json", "--timeout", "2", *options, env=env)
    assert not done.stderr
    legs: dict[str, dict[str, str]] = {}
    for finding in json.loads(done.stdout)["legs"]:
        if legs.get(finding["leg"], {}).get("state") != "failed":
            legs[finding["leg"]] = finding
    assert json.loads(done.stdout)["ok"] is (done.returncode == 0)
    assert all(bool(found["fix"]) == (found["state"] in ("failed", "warning")) for found in legs.values())
    return Report(done.returncode, legs, done.stdout)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_way_without_faults_is_well(place: Place, protocol: str) -> None:
    """One marked record of each signal arrives, in one trace, whose id is told."""
    with Endpoint(protocol=protocol) as endpoint:
        report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **(GRPC if protocol == "grpc" else {})})
    assert (report.code, report.failed) == (0, [])
    assert sorted(path for path, _ in endpoint.requests) == ["/v1/logs", "/v1/metrics", "/v1/traces"]
    ((span, resource),) = endpoint.spans()
    assert span.trace_id.hex() in report.legs["look for"]["message"]
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
    ("fault", "says", "do"),
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
        ("blackhole", "no answer within 2 s", "--timeout"),
        ("slow", "no answer within 2 s", "--timeout"),
    ],
)
def test_a_fault_over_http(place: Place, fault: str, says: str, do: str) -> None:
    with Endpoint(fault, pace=1.0) as endpoint:
        report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    assert (report.code, report.failed) == (1, ["traces", "metrics", "logs"])
    for leg in report.failed:
        assert says in report.legs[leg]["message"]
        assert do in report.legs[leg]["fix"]
    assert "look for" not in report.legs


@pytest.mark.parametrize(
    ("fault", "do"),
    [
        ("UNAUTHENTICATED", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("PERMISSION_DENIED", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("UNIMPLEMENTED", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("INVALID_ARGUMENT", "log of the endpoint"),
        ("UNAVAILABLE", "wait"),
        ("RESOURCE_EXHAUSTED", "wait"),
    ],
)
def test_a_fault_over_grpc(place: Place, fault: str, do: str) -> None:
    with Endpoint(fault, protocol="grpc") as endpoint:
        report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **GRPC})
    assert report.failed == ["traces", "metrics", "logs"]
    for leg in report.failed:
        assert fault in report.legs[leg]["message"]
        assert do in report.legs[leg]["fix"]


def test_a_rejected_record_is_not_well(place: Place) -> None:
    with Endpoint("partial") as endpoint:
        report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    assert report.failed == ["logs"]
    assert "too old" in report.legs["logs"]["message"]


@pytest.mark.parametrize(("protocol", "spoken"), [("grpc", "http"), ("http/protobuf", "grpc")])
def test_the_other_protocols_port_is_told(place: Place, protocol: str, spoken: str) -> None:
    """The commonest mistake of all: 4317 for 4318."""
    with Endpoint(protocol=spoken) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        report = ask(place, env)
    expected = {"http": "http/protobuf", "grpc": "grpc"}[spoken]
    assert f"export OTEL_EXPORTER_OTLP_PROTOCOL={expected}" in report.legs["traces"]["fix"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls(place: Place, protocol: str) -> None:
    """Trusted, not trusted, of another name, spoken where it is not, and not spoken where it is."""
    authority = trustme.CA()
    file = place.path / "authority.pem"
    authority.cert_pem.write_to_path(str(file))
    env = GRPC if protocol == "grpc" else {}
    trusting = {**env, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
    with Endpoint(protocol=protocol, tls=authority.issue_cert("127.0.0.1")) as endpoint:
        assert ask(place, {**trusting, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}).code == 0
        stranger = ask(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        plain = ask(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("https", "http")})
        renamed = endpoint.url.replace("127.0.0.1", "localhost")
        other = ask(place, {**trusting, "OTEL_EXPORTER_OTLP_ENDPOINT": renamed})
    assert stranger.failed == ["tls"]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in stranger.legs["tls"]["fix"]
    assert stranger.legs["traces"]["message"] == "not tried"
    assert plain.failed == ["traces", "metrics", "logs"]
    assert "to https://" in plain.legs["traces"]["fix"]
    assert other.failed == ["tls"]
    assert "a name that the certificate covers" in other.legs["tls"]["fix"]
    with Endpoint(protocol=protocol) as endpoint:
        report = ask(place, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("http:", "https:")})
    assert report.failed == ["tls"]
    assert "to http://" in report.legs["tls"]["fix"]


def test_where_nobody_is(place: Place) -> None:
    (port,) = free_ports(1)
    refused = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    assert refused.failed == ["tcp"]
    assert "refused" in refused.legs["tcp"]["message"]
    assert "start the collector" in refused.legs["tcp"]["fix"]
    unknown = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://no-such-host.invalid:4318"})
    assert unknown.failed == ["name"]
    assert "host in OTEL_EXPORTER_OTLP_ENDPOINT" in unknown.legs["name"]["fix"]
    assert [unknown.legs[leg]["message"] for leg in ("tcp", "tls", "logs")] == ["not tried"] * 3


def test_a_port_that_swallows_connections(place: Place) -> None:
    """A full backlog: the kernel answers nobody."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        waiting = [socket.socket() for _ in range(8)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{address[1]}"})
        for each in waiting:
            each.close()
    assert report.failed == ["tcp"]
    assert "firewalls" in report.legs["tcp"]["fix"]


def test_variables_are_told_without_what_is_secret(place: Place) -> None:
    with Endpoint() as endpoint:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url.replace("//", "//user:hunter2@"),
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2,x-tenant=hunter3",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
        }
        report = ask(place, env)
    assert report.code == 0
    assert "hunter" not in report.text
    assert "authorization=****,x-tenant=****" in report.text
    assert report.legs["temporality"]["state"] == "warning"


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
def test_a_host_that_is_none_is_told_without_a_traceback(place: Place, host: str) -> None:
    report = ask(place, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:4318"})
    assert report.code != 0
    (leg,) = report.failed
    assert leg in ("variables", "name")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in report.legs[leg]["message"] + report.legs[leg]["fix"]


def test_a_file_without_certificates_is_told(place: Place) -> None:
    file = place.path / "authority.pem"
    file.write_text("no certificate")
    with Endpoint(tls=trustme.CA().issue_cert("127.0.0.1")) as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}
        report = ask(place, env)
    assert report.failed == ["tls"]
    assert str(file) in report.legs["tls"]["message"]
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in report.legs["tls"]["fix"]


@pytest.mark.parametrize(
    ("env", "do"),
    [
        ({}, "export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere"}, "set it to one, such as http://localhost:4318"),
        ({"OTEL_SDK_DISABLED": "true"}, "unset OTEL_SDK_DISABLED"),
    ],
)
def test_variables_that_send_nothing(place: Place, env: dict[str, str], do: str) -> None:
    report = ask(place, env)
    assert (report.code, report.failed) == (1, ["variables"])
    assert do in report.legs["variables"]["fix"]


def test_a_signal_with_an_endpoint_of_its_own_is_a_way_of_its_own(place: Place) -> None:
    with Endpoint() as endpoint, Endpoint("401") as other:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{other.url}/v1/logs"}
        report = ask(place, env)
    assert report.failed == ["logs"]
    assert sorted(path for path, _ in endpoint.requests) == ["/v1/metrics", "/v1/traces"]
    assert other.seen == 1


def bundled(collector: Collector) -> tuple[dict[str, str], list[str]]:
    addresses = ["--health", collector.health, "--metrics", collector.telemetry]
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http}, addresses


def test_the_bundled_collector_says_what_it_sent_on(place: Place, tmp_path: Path, vendors: Vendors) -> None:
    """To each of its exporters, over both vendors."""
    with Collector(tmp_path, vendors.environment) as collector:
        env, addresses = bundled(collector)
        report = ask(place, env, *addresses)
    assert (report.code, report.failed) == (0, [])
    assert {leg for leg in report.legs if leg.startswith("to ")} == {
        "to metaflow_ack_gate/datadog",
        "to splunk_hec",
        "to splunk_hec/metrics",
    }
    assert any("otel-metaflow doctor was here" in log.body for log in vendors.splunk.logs())


@pytest.mark.parametrize("answer", ["nobody", "403"])
def test_a_vendor_that_takes_nothing_is_told(place: Place, tmp_path: Path, answer: str) -> None:
    """The collector took it all, and that is where it stays; the variable is one of the collector's."""
    with _Refusing() as refusing:
        url = "http://localhost:1" if answer == "nobody" else refusing
        with Collector(tmp_path, {"SPLUNK_HEC_URL": url, "SPLUNK_HEC_TOKEN": "x"}) as collector:
            env, addresses = bundled(collector)
            report = ask(place, env, *addresses)
    assert report.failed == ["to splunk_hec", "to splunk_hec/metrics"]
    assert "SPLUNK_HEC_TOKEN" in report.legs["to splunk_hec"]["fix"]
    found = report.legs["to splunk_hec"]["message"]
    assert ("queued" if answer == "nobody" else "permanently rejected") in found


def test_an_unwell_collector_is_told(place: Place) -> None:
    """Its address is wrong, or what answers is no health."""
    with Endpoint() as endpoint:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        wrong = ask(place, env, "--health", "http://127.0.0.1:1/")
        assert (wrong.failed, wrong.legs["collector"]["fix"]) == (["collector"], "check the address after --health")
        unwell = ask(place, env, "--health", f"{endpoint.url}/health")
        assert unwell.failed == ["collector"]


def test_for_people_each_leg_is_a_line(place: Place) -> None:
    with Endpoint("404") as endpoint:
        done = place.cli("doctor", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    lines = done.stdout.splitlines()
    assert "fail  traces        answered 404 Not Found" in lines
    assert "                    fix: check the path in OTEL_EXPORTER_OTLP_ENDPOINT" in lines
    assert done.returncode == 1


def test_a_proxy_is_told_and_reached_first(place: Place) -> None:
    """What the exporter would go through, too."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.example:4318", "HTTP_PROXY": "http://127.0.0.1:1"}
    report = ask(place, {**env, "http_proxy": "http://127.0.0.1:1", "NO_PROXY": "", "no_proxy": ""})
    assert "127.0.0.1:1, for collector.example:4318" in report.legs["proxy"]["message"]
    assert report.failed == ["tcp"]


class _Refusing:
    """An intake that refuses everybody."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.send_response(403)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
