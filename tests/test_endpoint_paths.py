"""Which path telemetry is sent to: appended to the general endpoint, taken as it is from that of a signal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from collectors import ROOT
from running import Place

from otel_metaflow.core import settings
from otel_metaflow.core.settings import Destination
from otel_metaflow.shipper.sinks import answers, otlp, otlp_http
from otel_metaflow.shipper.sinks.answers import Exporter

SIGNALS = settings.SIGNALS
GENERAL = "OTEL_EXPORTER_OTLP_ENDPOINT"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("slashes", ["", "/", "//"])
@pytest.mark.parametrize("before", ["http://box:4318", "https://box/otlp", "http://user:key@[::1]:4318"])
def test_a_general_endpoint_with_the_path_of_a_signal_is_refused(before: str, signal: str, slashes: str) -> None:
    """One line for all signals, which names what to drop and nothing secret; and nothing is sent."""
    found = settings.read({GENERAL: f"{before}/v1/{signal}{slashes}"})
    assert found.problems == (
        f"{GENERAL} ends in /v1/{signal}, but each signal's own path is appended to it; drop /v1/{signal}",
    )
    assert not found.is_shipping


@pytest.mark.parametrize("endpoint", ["http://box:4317/v1/traces", "box:4317/v1/traces/", "https://box/v1/traces"])
def test_grpc_takes_no_path(endpoint: str) -> None:
    found = settings.read({GENERAL: endpoint, **GRPC})
    assert found.problems == (f"{GENERAL} ends in /v1/traces, but gRPC takes no path; drop /v1/traces",)


def test_of_one_signal_grpc_drops_the_path_of_a_url_but_not_of_a_target() -> None:
    variable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    assert settings.read({variable: "http://box:4317/v1/traces", **GRPC}).problems == ()
    (problem,) = settings.read({variable: "box:4317/v1/traces", **GRPC}).problems
    assert problem == f"{variable} ends in /v1/traces, but gRPC takes no path; drop /v1/traces"


@pytest.mark.parametrize(
    "environ",
    [
        {GENERAL: "http://box:4318"},
        {GENERAL: "http://box:4318/"},
        {GENERAL: "http://box:4318/v1"},
        {GENERAL: "http://box:4318/v1/traces/eu"},
        {GENERAL: "http://box:4318/api/v1/tracesx"},
        {GENERAL: "http://v1/traces.example"},
        {GENERAL: "box:4317", **GRPC},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://box:4318/v1/traces"},
        # Each signal has its own: the general one is not used.
        {GENERAL: "http://box/v1/traces", **{f"OTEL_EXPORTER_OTLP_{s.upper()}_ENDPOINT": "http://b" for s in SIGNALS}},
    ],
)
def test_other_endpoints_are_taken(environ: dict[str, str]) -> None:
    assert settings.read(environ).problems == ()


@pytest.fixture
def paths() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that takes everything, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("build", [otlp.build, otlp_http.build])
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("variable", "path", "sent_to"),
    [
        (GENERAL, "", "/v1/{signal}"),
        (GENERAL, "/", "/v1/{signal}"),
        (GENERAL, "/otlp", "/otlp/v1/{signal}"),
        (GENERAL, "/otlp/", "/otlp/v1/{signal}"),
        ("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT", "", "/"),
        ("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT", "/", "/"),
        ("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT", "/v1/{signal}", "/v1/{signal}"),
        ("OTEL_EXPORTER_OTLP_{upper}_ENDPOINT", "/intake/", "/intake/"),
    ],
)
def test_where_it_is_sent_to(
    paths: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    build: Callable[[Destination], Exporter],
    signal: str,
    variable: str,
    path: str,
    sent_to: str,
) -> None:
    """By either exporter."""
    url, asked = paths
    name = variable.format(upper=signal.upper())
    monkeypatch.setenv(name, url + path.format(signal=signal))
    destination = settings.read().destinations[signal]
    assert destination.variable == name
    assert build(destination)([]) == answers.DELIVERED
    assert asked == [sent_to.format(signal=signal)]


def test_a_run_prints_the_line_and_goes_on(place: Place) -> None:
    finished = place.run(ROOT / "examples/hello.py", env={GENERAL: "http://localhost:4318/v1/traces"})
    assert finished.code == 0
    ours = [line for line in finished.stderr.splitlines() if line.startswith("otel: ")]
    assert "drop /v1/traces" in ours[0]
