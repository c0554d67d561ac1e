"""Each example is run by the command in its docstring, and shows what it is meant to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from collectors import ROOT, Vendors, free_ports
from endpoint import Endpoint
from running import Place

from otel_metaflow.testing import Telemetry, run

EXAMPLES = ROOT / "examples"


def telemetry_of(name: str, place: Place) -> Telemetry:
    made = run(EXAMPLES / name, env=metaflow(place), home=place.home)
    assert made.exit_code == 0, made.stderr
    return made


def metaflow(place: Place) -> dict[str, str]:
    return {name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")}


def test_spans_and_metrics_of_the_flow_itself(place: Place) -> None:
    made = telemetry_of("own_telemetry.py", place)
    attempt = made.span("start").context.span_id
    own = [span for span in made.spans if span.name in ("load", "epoch")]
    assert sorted(span.name for span in own) == ["epoch", "epoch", "epoch", "load"]
    assert {span.parent and span.parent.span_id for span in own} == {attempt}
    names = {
        metric.name for data in made.metrics for each in data.resource_metrics for scope in each.scope_metrics
        for metric in scope.metrics
    }  # fmt: skip
    assert {"training.rows", "training.loss"} <= names


def test_a_request_of_an_instrumented_library(place: Place) -> None:
    made = telemetry_of("instrumented_library.py", place)
    assert made.span("GET").parent.span_id == made.span("start").context.span_id
    assert made.bodies("stdout") == ["The price is 42."]


def test_the_same_under_opentelemetry_instrument(place: Place) -> None:
    """Without a line in the flow; the instrumentation's own exporter sends its spans."""
    source = (EXAMPLES / "instrumented_library.py").read_text()
    by_hand = r"^(from opentelemetry\.instrumentation.*|RequestsInstrumentor\(\).*)\n"
    bare = re.sub(by_hand, "", source, flags=re.MULTILINE)
    assert "Instrumentor" not in bare.partition('"""')[2].partition('"""')[2]
    flow = place.write(bare)
    with Endpoint() as endpoint:
        finished = subprocess.run(
            [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, flow, "--no-pylint", "run"],
            cwd=place.path,
            env=place.environ(
                {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
            ),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        endpoint.wait_for(
            lambda: {"GET", "start", "RUN InstrumentedLibraryFlow"} <= {s.name for s, _ in endpoint.spans()}
        )
        by_name = {span.name: span for span, _ in endpoint.spans()}
    assert by_name["GET"].parent_span_id == by_name["start"].span_id
    assert by_name["GET"].trace_id == by_name["RUN InstrumentedLibraryFlow"].trace_id


def test_a_run_within_the_trace_of_its_caller(place: Place) -> None:
    with Endpoint() as endpoint:
        finished = subprocess.run(
            [sys.executable, EXAMPLES / "within_a_trace.py"],
            cwd=place.path,
            env=place.environ({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        endpoint.wait_for(lambda: "RUN HelloFlow" in {span.name for span, _ in endpoint.spans()})
        spans = [span for span, _ in endpoint.spans()]
    trace_id = re.search(r"trace_id (\w{32})", finished.stdout)
    assert trace_id
    assert {span.trace_id.hex() for span in spans} == {trace_id.group(1)}


def test_events_of_structlog_arrive_by_their_fields(place: Place) -> None:
    made = telemetry_of("structured_logging.py", place)
    records = {log.log_record.body: log.log_record for log in made.logs}
    assert records["rows loaded"].attributes["rows"] == 1_000
    assert records["column is empty"].attributes["column"] == "discount"
    assert records["column is empty"].severity_text.lower() == "warning"


@pytest.mark.collector
@pytest.mark.parametrize("vendor", ["datadog", "splunk"])
def test_a_run_beside_the_collector(place: Place, tmp_path_factory: pytest.TempPathFactory, vendor: str) -> None:
    """The collector is started with one vendor's variables, and ends with the run, when all is delivered."""
    ports = dict(
        zip(
            (
                "COLLECTOR_OTLP_GRPC_PORT",
                "COLLECTOR_OTLP_HTTP_PORT",
                "COLLECTOR_HEALTH_PORT",
                "COLLECTOR_TELEMETRY_PORT",
            ),
            map(str, free_ports(4)),
            strict=True,
        )
    )
    with Vendors(tmp_path_factory.mktemp("vendors")) as vendors:
        environment = getattr(vendors, f"{vendor}_environment")
        finished = subprocess.run(
            [EXAMPLES / "with_collector.sh", sys.executable, EXAMPLES / "fanout.py", "--no-pylint", "run"],
            cwd=place.path,
            env=place.environ({**ports, **environment, "COLLECTOR_QUEUE_DIR": str(place.path / "queue")}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        received = getattr(vendors, vendor)
        vendors.wait_for(lambda: len(received.spans()) == 9)


def test_every_example_is_in_the_table_and_in_a_test() -> None:
    """What stands in examples/ is explained in its README and run by some test."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    table = (EXAMPLES / "README.md").read_text()
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert names
    for name in names:
        assert f"]({name})" in table, name
        assert name in tests or name in (ROOT / "Makefile").read_text(), name
