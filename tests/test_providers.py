"""User code that uses the OpenTelemetry API inside a step: spans, metrics and logs that leave by the journal."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from running import Finished, Place
from unmasked import Unmasked

import otel_metaflow
from otel_metaflow.core import ids
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail, parse
from otel_metaflow.model.run import Attempt
from otel_metaflow.shipper.convert import user_telemetry
from otel_metaflow.shipper.sinks import sdk_objects
from otel_metaflow.shipper.telemetry import Resource
from otel_metaflow.shipper.user_records import UserRecord
from otel_metaflow.task.otel_api import attempt_recorder, sdk_metrics, sdk_spans
from otel_metaflow.testing import run

pytestmark = pytest.mark.range

SECRET = "correct-horse-battery"
TOKEN = "ghp_" + "a1B2" * 9
USING = """
    import asyncio, multiprocessing, os, subprocess, sys, threading
    from metaflow import FlowSpec, otel, parallel_map, step
    from opentelemetry import _logs, metrics, trace

    # As most flows do: before any step, before anybody could know of an attempt.
    tracer = trace.get_tracer("flow", "1.2", schema_url="https://example.com/1", attributes={"kind": "user"})
    items = metrics.get_meter("flow", "1.2").create_counter("items", unit="{item}", description="What was made.")

    def forked(number):
        with tracer.start_as_current_span(f"parallel {number}"):
            items.add(10, {"from": "child"})
        return number

    def observed(options):
        yield metrics.Observation(7, {"at": "end"})

    class UsingFlow(FlowSpec):
        @otel
        @step
        def start(self):
            print("sdk loaded:", "opentelemetry.sdk" in sys.modules)
            with tracer.start_as_current_span("outer", kind=trace.SpanKind.CLIENT) as outer:
                outer.set_attribute("int", 1)
                outer.set_attribute("float", 1.0)
                outer.set_attribute("list", [1, 2])
                outer.set_attribute("place", os.environ["MY_PASSWORD"])
                outer.add_event("moment", {"note": os.environ["SHAPED"]})
                with tracer.start_as_current_span("inner"):
                    items.add(3, {"from": "parent"})
                    _logs.get_logger("flow.logs").emit(
                        body={"deep": [1, {"er": os.environ["MY_PASSWORD"]}]},
                        severity_number=_logs.SeverityNumber.WARN,
                        attributes={"answer": 42},
                        event_name="flow.event",
                    )
            threads = [threading.Thread(target=self.in_thread) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            asyncio.run(self.in_tasks())
            with tracer.start_as_current_span("forking"):
                parallel_map(forked, [1, 2])
                child = multiprocessing.get_context("fork").Process(target=forked, args=(3,))
                child.start()
                child.join()
            try:
                with tracer.start_as_current_span("failing"):
                    raise ValueError("no luck")
            except ValueError:
                pass
            first = tracer.start_span("first of a circle")
            second = tracer.start_span("second of a circle", links=[trace.Link(first.get_span_context(), {"a": 1})])
            first.add_link(second.get_span_context())
            first.add_link(first.get_span_context())
            second.end()
            first.end()
            with tracer.start_as_current_span("wide") as wide:
                for number in range(10_000):
                    wide.set_attribute(f"attribute {number}", number)
            tracer.start_span("unfinished")
            metrics.get_meter("flow").create_histogram("sizes", unit="By").record(2.5)
            metrics.get_meter("flow").create_up_down_counter("level").add(-2)
            metrics.get_meter("flow").create_observable_gauge("seen", [observed])
            subprocess.run([sys.executable, "-c", "import os; print('subprocess sees', os.environ['TRACEPARENT'])"])
            print("threads:", threading.active_count())
            self.next(self.end)

        def in_thread(self):
            with tracer.start_as_current_span("in thread"):
                pass

        async def in_tasks(self):
            async def task(number):
                with tracer.start_as_current_span(f"task {number}"):
                    await asyncio.sleep(0)
            with tracer.start_as_current_span("gathering"):
                await asyncio.gather(task(1), task(2))

        @step
        def end(self):
            pass

    if __name__ == "__main__":
        UsingFlow()
    """


def flow(body: str, top: str = "") -> str:
    """The source of a flow whose first step, under @otel, is `body`."""
    lines = "\n".join(f"            {line}" for line in inspect.cleandoc(body).splitlines())
    head = "\n".join(f"    {line}" for line in inspect.cleandoc(top).splitlines())
    return f"""
    import os, sys
    from metaflow import FlowSpec, otel, step
{head}
    class OneFlow(FlowSpec):
        @otel
        @step
        def start(self):
{lines}
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        OneFlow()
    """


@dataclass(frozen=True)
class Received:
    """What arrived of a run, by name."""

    finished: Finished
    messages: list[Any]

    @property
    def attempt_id(self) -> str:
        return ids.attempt_span_id(self.finished.flow, self.finished.run, "start", "1", 0)

    def scoped_spans(self) -> Iterator[tuple[Any, Any, Any]]:
        for message in self.messages:
            if isinstance(message, ExportTraceServiceRequest):
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            yield span, scope, resource.resource

    def spans(self, name: str) -> list[Any]:
        return [span for span, _, _ in self.scoped_spans() if span.name == name]

    def span(self, name: str) -> Any:
        (found,) = self.spans(name)
        return found

    def records(self, scope_name: str) -> list[tuple[Any, Any]]:
        return [
            (record, resource.resource)
            for message in self.messages
            if isinstance(message, ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            if scope.scope.name == scope_name
            for record in scope.log_records
        ]

    def metrics(self, name: str) -> list[tuple[Any, Any, Any]]:
        return [
            (metric, scope, resource.resource)
            for message in self.messages
            if isinstance(message, ExportMetricsServiceRequest)
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]


def values(attributes: Any) -> dict[str, Any]:
    """Attributes of a message as a dictionary; lists and maps as they are."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def recorded(finished: Finished, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in the journal of the first attempt."""
    path = layout.attempt_file(finished.folder, AttemptKey("start", "1", 0))
    return [entry.record for entry in Tail(path, only=kind).read(1 << 26)]


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Received:
    """A run whose step uses all of the API, and what an endpoint received of it."""
    place = Place(tmp_path_factory.mktemp("using"))
    with Endpoint() as endpoint:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "MY_PASSWORD": SECRET, "SHAPED": TOKEN}
        finished = place.run(USING, env=variables)
        assert finished.code == 0, finished.stdout + finished.stderr
        finished.wait_delivered()
    return Received(finished, endpoint.messages)


def test_spans_nest_under_the_attempt(received: Received) -> None:
    """In the run's trace, with the scope that user code gave and the attempt's resource."""
    outer, inner = received.span("outer"), received.span("inner")
    assert outer.parent_span_id.hex() == received.attempt_id
    assert inner.parent_span_id == outer.span_id
    assert {span.trace_id.hex() for span, _, _ in received.scoped_spans()} == {
        ids.trace_id("UsingFlow", received.finished.run)
    }
    (scope,) = [scope for span, scope, _ in received.scoped_spans() if span.name == "outer"]
    assert (scope.scope.name, scope.scope.version, scope.schema_url) == ("flow", "1.2", "https://example.com/1")
    assert values(scope.scope.attributes) == {"kind": "user"}
    (resource,) = [values(resource.attributes) for span, _, resource in received.scoped_spans() if span.name == "outer"]
    (own,) = [values(resource.attributes) for span, _, resource in received.scoped_spans() if span.name == "start"]
    assert resource == own
    assert resource["metaflow.step.name"] == "start"


def test_a_span_keeps_all_its_fields(received: Received) -> None:
    """Kind, attributes with their types, events, status and exceptions."""
    outer, failing = received.span("outer"), received.span("failing")
    assert outer.kind == outer.SPAN_KIND_CLIENT
    attributes = values(outer.attributes)
    assert (attributes["int"], attributes["float"]) == (1, 1.0)
    assert isinstance(attributes["float"], float)
    assert [each.int_value for each in attributes["list"].values] == [1, 2]
    assert outer.events[0].name == "moment"
    assert failing.status.code == failing.status.STATUS_CODE_ERROR
    assert failing.status.message == "ValueError: no luck"
    assert values(failing.events[0].attributes)["exception.type"] == "ValueError"
    assert outer.start_time_unix_nano < outer.events[0].time_unix_nano < outer.end_time_unix_nano


def test_spans_of_threads_and_tasks_nest_too(received: Received) -> None:
    """A thread inherits no context, so the attempt is its spans' parent; a task inherits its creator's."""
    assert [span.parent_span_id.hex() for span in received.spans("in thread")] == [received.attempt_id] * 2
    gathering = received.span("gathering")
    assert gathering.parent_span_id.hex() == received.attempt_id
    assert {received.span(f"task {number}").parent_span_id for number in (1, 2)} == {gathering.span_id}


def test_spans_and_metrics_of_forked_children_arrive(received: Received) -> None:
    """Of Metaflow's parallel_map and of multiprocessing, which leave by os._exit; no count of the parent's twice."""
    forking = received.span("forking")
    children = [received.span(f"parallel {number}") for number in (1, 2, 3)]
    assert {span.parent_span_id for span in children} == {forking.span_id}
    pids = {values(span.attributes)["process.pid"] for span in children}
    assert len(pids) == 3
    counts = Counter()
    for metric, _, _ in received.metrics("items"):
        for point in metric.sum.data_points:
            counts[values(point.attributes)["from"]] += point.as_int
    assert counts == {"parent": 3, "child": 30}


def test_a_span_that_nobody_ends_is_closed_with_the_attempt_and_marked(received: Received) -> None:
    """And only that one."""
    unfinished, attempt = received.span("unfinished"), received.span("start")
    assert values(unfinished.attributes) == {"metaflow.span.unfinished": True}
    assert unfinished.start_time_unix_nano <= unfinished.end_time_unix_nano <= attempt.end_time_unix_nano
    marked = [span.name for span, _, _ in received.scoped_spans() if "metaflow.span.unfinished" in str(span)]
    assert marked == ["unfinished"]


def test_links_in_a_circle_and_too_many_attributes_do_no_harm(received: Received) -> None:
    """The SDK's limits hold, and count what they dropped."""
    first, second = received.span("first of a circle"), received.span("second of a circle")
    assert [link.span_id for link in first.links] == [second.span_id, first.span_id]
    assert [link.span_id for link in second.links] == [first.span_id]
    wide = received.span("wide")
    assert (len(wide.attributes), wide.dropped_attributes_count) == (128, 9_872)


def test_metrics_arrive_with_scope_and_resource(received: Received) -> None:
    """Sums by delta, a histogram, a level, and what is observed at the attempt's end, once."""
    items = received.metrics("items")
    metric, scope, resource = items[0]
    assert (metric.unit, metric.description) == ("{item}", "What was made.")
    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == 1
    assert (scope.scope.name, scope.scope.version) == ("flow", "1.2")
    assert values(resource.attributes)["metaflow.step.name"] == "start"
    ((sizes, _, _),) = received.metrics("sizes")
    assert (sizes.histogram.data_points[0].count, sizes.histogram.data_points[0].sum) == (1, 2.5)
    ((level, _, _),) = received.metrics("level")
    assert level.sum.data_points[0].as_int == -2
    ((seen, _, _),) = received.metrics("seen")
    assert values(seen.gauge.data_points[0].attributes) == {"at": "end"}


def test_records_of_the_logs_api_arrive(received: Received) -> None:
    """With severity, event name, nested body, and the span that was current."""
    ((record, resource),) = received.records("flow.logs")
    assert record.severity_number == 13
    assert record.event_name == "flow.event"
    assert record.span_id == received.span("inner").span_id
    attributes = values(record.attributes)
    assert attributes["answer"] == 42
    assert attributes["log.record.uid"].startswith(received.attempt_id)
    deep = {each.key: each.value for each in record.body.kvlist_value.values}["deep"]
    assert deep.array_value.values[0].int_value == 1
    assert values(resource.attributes)["metaflow.task.id"] == "1"


def test_a_subprocess_sees_the_attempt_as_its_parent(received: Received) -> None:
    """By TRACEPARENT, sampled."""
    trace_id = ids.trace_id("UsingFlow", received.finished.run)
    assert f"subprocess sees 00-{trace_id}-{received.attempt_id}-01" in received.finished.stdout


def test_the_sdk_is_loaded_by_the_first_span_and_starts_no_thread(received: Received) -> None:
    """Asking for a tracer and for an instrument, as modules do when they are imported, loads nothing of it."""
    assert "sdk loaded: False" in received.finished.stdout
    assert "threads: 1" in received.finished.stdout


def test_no_secret_leaves_with_telemetry_of_user_code(received: Received) -> None:
    """What is known to be one does not reach the disk, what looks like one does not leave."""
    journal = layout.attempt_file(received.finished.folder, AttemptKey("start", "1", 0)).read_text()
    assert SECRET not in journal
    assert values(received.span("outer").attributes)["place"] == "[REDACTED]"
    assert values(received.span("outer").events[0].attributes)["note"] == "[REDACTED]"
    assert not [message for message in received.messages if SECRET in str(message) or TOKEN in str(message)]


def test_nothing_arrives_twice(received: Received) -> None:
    """No span, whoever wrote it."""
    assert set(Counter(span.span_id for span, _, _ in received.scoped_spans()).values()) == {1}


def test_a_span_that_ended_survives_a_kill(place: Place) -> None:
    """The one that was open dies with the process; the trace still holds together by the attempt."""
    body = """
        from opentelemetry import trace
        tracer = trace.get_tracer("killed")
        with tracer.start_as_current_span("open"):
            with tracer.start_as_current_span("ended"):
                pass
            os.kill(os.getpid(), 9)
        """
    with Endpoint() as endpoint:
        finished = place.run(flow(body), env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        finished.wait_delivered()
        assert finished.code == 1
        (ended,) = recorded(finished, layout.SPAN)
        assert ended["name"] == "ended"
        assert endpoint.span_ids[ended["spanId"]] == 1
        assert endpoint.span_ids[ids.attempt_span_id("OneFlow", finished.run, "start", "1", 0)] == 1


def test_spans_are_sent_once_over_an_outage_and_a_second_shipper(place: Place) -> None:
    """What was acknowledged is in the ledger by its place in the journal."""
    body = """
        from opentelemetry import metrics, trace
        for number in range(1500):  # more than goes into one request
            trace.get_tracer("many").start_span(f"span {number}").end()
        metrics.get_meter("many").create_counter("many").add(1)
        """
    with Endpoint("503") as endpoint:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        finished = place.run(flow(body), env=variables)
        endpoint.wait_for(lambda: endpoint.seen > 0)
        endpoint.fault = "ok"
        status = finished.wait_delivered()
        assert len(recorded(finished, layout.SPAN)) == 1500
        expected = {record["spanId"] for record in recorded(finished, layout.SPAN)}
        assert expected <= set(endpoint.span_ids)
        assert set(endpoint.span_ids.values()) == {1}
        assert status.delivered["traces"] == 1500 + 2
        again = place.cli("ship", f"OneFlow/{finished.run}", env=variables)
        assert again.returncode == 0, again.stderr
        assert set(endpoint.span_ids.values()) == {1}


OWN = """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    """
SET = """
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), "as if nobody had set one"
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    assert trace.get_tracer_provider() is provider
    """
LIBRARY = """
    library = trace.get_tracer("library")
    counter = metrics.get_meter("library").create_counter("library.calls")
    """
CHECKED = """
    import threading
    with library.start_as_current_span("by the library"):
        counter.add(1)
    def work():
        with library.start_as_current_span("in a thread"):
            pass
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for span in exporter.get_finished_spans():
        print("span", span.name, f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}")
    data = reader.get_metrics_data()
    measured = [metric.name for r in data.resource_metrics for s in r.scope_metrics for metric in s.metrics]
    print("measured", [name for name in measured if not name.startswith("otel.sdk.")])  # older SDKs measure themselves
    """


def parts(*sources: str) -> str:
    return "\n".join(inspect.cleandoc(source) for source in sources)


@pytest.mark.parametrize(
    ("top", "body"),
    [
        (parts(OWN, SET, LIBRARY), CHECKED),
        (parts(OWN, LIBRARY), parts(SET, CHECKED)),
        ("", parts(OWN, SET, LIBRARY, CHECKED)),
        ("", parts(OWN, LIBRARY, SET, CHECKED)),
        ("", parts(OWN, LIBRARY, "library.start_span('ours').end(); counter.add(5)", SET, CHECKED)),
    ],
    ids=["set above the flow", "asked above, set in the step", "set first", "asked first", "used first"],
)
def test_a_provider_that_user_code_sets_wins(place: Place, top: str, body: str) -> None:
    """Without a warning, for libraries that had asked before too, with the attempt as the parent of its spans."""
    finished = place.run(flow(body, top))
    assert finished.code == 0, finished.stderr + finished.stdout
    trace_id = ids.trace_id("OneFlow", finished.run)
    attempt = ids.attempt_span_id("OneFlow", finished.run, "start", "1", 0)
    assert f"span by the library {trace_id} {attempt}" in finished.stdout
    assert f"span in a thread {trace_id} {attempt}" in finished.stdout
    assert "measured ['library.calls']" in finished.stdout
    assert "Overriding" not in finished.stdout + finished.stderr
    used = "'ours'" in body
    assert [record["name"] for record in recorded(finished, layout.SPAN)] == ["ours"] * used
    assert [record["sum"]["dataPoints"][0]["asInt"] for record in recorded(finished, layout.METRIC)] == [5] * used


def test_a_second_provider_of_user_code_is_refused_as_ever(place: Place) -> None:
    """The API's rule stays: one provider, and a warning for the next."""
    body = parts(
        OWN, SET, "trace.set_tracer_provider(TracerProvider())", "assert trace.get_tracer_provider() is provider"
    )
    finished = place.run(flow(body))
    assert finished.code == 0, finished.stderr + finished.stdout
    assert finished.stdout.count("Overriding of current TracerProvider is not allowed") == 1


def test_a_provider_named_by_the_users_variable_wins(place: Place) -> None:
    """OTEL_PYTHON_TRACER_PROVIDER is the user's word."""
    body = """
        from opentelemetry import trace
        print("provider", type(trace.get_tracer_provider()).__module__)
        """
    finished = place.run(flow(body), env={"OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"})
    assert "provider opentelemetry.sdk.trace" in finished.stdout


def test_a_subprocess_gets_no_provider_from_us(place: Place) -> None:
    """Its environment may hold the API and not us: a provider named in a variable would end it."""
    body = """
        import subprocess
        code = "from opentelemetry import trace; print('subprocess:', type(trace.get_tracer_provider()).__name__)"
        subprocess.run([sys.executable, "-c", code])
        print("variables:", sorted(name for name in os.environ if name.startswith("OTEL_PYTHON")))
        """
    finished = place.run(flow(body))
    assert "subprocess: ProxyTracerProvider" in finished.stdout
    assert "variables: []" in finished.stdout


@pytest.mark.parametrize("top", ["", "import opentelemetry.trace, opentelemetry.metrics, opentelemetry._logs"])
def test_a_task_without_telemetry_of_its_own_loads_no_sdk(place: Place, top: str) -> None:
    """Nothing of OpenTelemetry where nobody imports it, nothing but the API where somebody imports that."""
    body = "print('loaded', *sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    finished = place.run(flow(body, top))
    (line,) = [line for line in finished.stdout.splitlines() if "loaded" in line]
    loaded = line.partition("loaded")[2].split()
    assert bool(loaded) == bool(top)
    assert not [name for name in loaded if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]


def test_a_limit_that_is_no_number_costs_the_spans_and_not_the_step(place: Place) -> None:
    """The SDK refuses it with an exception, which user code does not see."""
    body = """
        from opentelemetry import trace
        with trace.get_tracer("x").start_as_current_span("y"):
            print("went on")
        """
    finished = place.run(flow(body), env={"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"})
    assert finished.code == 0
    assert "went on" in finished.stdout
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be a non-negative integer but got many" in finished.stderr


def test_looking_for_the_api_is_not_importing_it(place: Place) -> None:
    """Libraries ask whether it is there before they use it."""
    body = """
        import importlib.util
        assert importlib.util.find_spec("opentelemetry.trace") is not None
        assert not importlib.util.find_spec("opentelemetry.no_such_module")
        from opentelemetry import trace
        trace.get_tracer("x").start_span("found").end()
        """
    finished = place.run(flow(body))
    assert finished.code == 0, finished.stderr + finished.stdout
    assert [record["name"] for record in recorded(finished, layout.SPAN)] == ["found"]


def test_the_same_seed_gives_other_ids(place: Place) -> None:
    """`random.seed(42)` belongs to the user's model."""
    body = """
        import random
        from opentelemetry import trace
        for _ in range(2):
            random.seed(42)
            trace.get_tracer("x").start_span("y").end()
        """
    finished = place.run(flow(body))
    first, second = recorded(finished, layout.SPAN)
    assert first["spanId"] != second["spanId"]


def test_a_logging_handler_of_opentelemetry_repeats_nothing(place: Place) -> None:
    """The record was journaled when it was logged; the handler's is the same one again."""
    body = """
        import logging
        from opentelemetry import _logs
        from opentelemetry.instrumentation.logging.handler import LoggingHandler
        logging.getLogger().addHandler(LoggingHandler(logger_provider=_logs.get_logger_provider()))
        logging.getLogger("mine").warning("logged once")
        _logs.get_logger("api").emit(body="emitted once")
        """
    finished = place.run(flow(body))
    assert finished.code == 0, finished.stderr + finished.stdout
    assert [record["body"] for record in recorded(finished, layout.LOG)] == ["logged once"]
    assert [record["body"] for record in recorded(finished, layout.RECORD)] == ["emitted once"]


def test_metaflows_own_tracing_and_ours_make_one_trace(place: Place) -> None:
    """METAFLOW_OTEL_ENDPOINT sets a provider first: it is left alone, and spans of user code nest in our attempt."""
    body = """
        from opentelemetry import trace
        with trace.get_tracer("x").start_as_current_span("by user code"):
            pass
        print("provider", type(trace.get_tracer_provider()).__module__)
        print("handed on", os.environ["traceparent"])  # to what parallel_map forks
        """
    with Endpoint() as endpoint:
        variables = {
            "METAFLOW_OTEL_ENDPOINT": f"{endpoint.url}/v1/traces",
            "METAFLOW_SERVICE_AUTH_KEY": "any, or Metaflow sends nothing",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        }
        finished = place.run(flow(body), env=variables)
        assert finished.code == 0, finished.stderr + finished.stdout
        finished.wait_delivered()
    received = Received(finished, endpoint.messages)
    assert "provider opentelemetry.sdk.trace" in finished.stdout
    assert received.span("by user code").parent_span_id.hex() == received.attempt_id
    assert f"handed on 00-{ids.trace_id('OneFlow', finished.run)}-{received.attempt_id}-01" in finished.stdout
    run_id = ids.run_span_id("OneFlow", finished.run)
    assert {span.parent_span_id.hex() for span in received.spans("cli/step")} == {run_id}
    ours = ids.trace_id("OneFlow", finished.run)
    elsewhere = {span.name for span, _, _ in received.scoped_spans() if span.trace_id.hex() != ours}
    assert elsewhere == {"cli/run"}, "which began before there was a run"
    assert recorded(finished, layout.SPAN) == []
    assert set(Counter(span.span_id for span, _, _ in received.scoped_spans()).values()) == {1}


def test_opentelemetry_instrument_and_ours_make_one_trace_and_export_nothing_twice(place: Place) -> None:
    """Its providers are left alone; of a logging record that both would send, ours is sent, which survives a kill.

    Older releases wrap the launcher alone, and then the task's provider is ours.
    """
    file = place.write(
        flow("""
            import logging
            from opentelemetry import trace
            with trace.get_tracer("x").start_as_current_span("by user code"):
                logging.getLogger("mine").warning("logged once")
            """)
    )
    wrapper = Path(sys.executable).parent / "opentelemetry-instrument"
    with Endpoint() as endpoint:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        process = subprocess.Popen(
            [wrapper, sys.executable, file, "--no-pylint", "run"],
            cwd=place.path,
            env=place.environ(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        finished = place.finish(process)
        assert finished.code == 0, finished.stderr + finished.stdout
        finished.wait_delivered()
    received = Received(finished, endpoint.messages)
    span = received.span("by user code")
    assert span.parent_span_id.hex() == received.attempt_id
    assert span.trace_id == received.span("start").trace_id
    assert endpoint.body_counts["logged once"] == 1
    assert set(endpoint.span_ids.values()) == {1}


def test_spans_of_user_code_are_part_of_the_tree(place: Place) -> None:
    """Golden, and below the caller's span where the launcher was started in one."""
    source = """
        from opentelemetry import trace
        tracer = trace.get_tracer("tree")
        with tracer.start_as_current_span("load") as load:
            with tracer.start_as_current_span("read"):
                pass
        with tracer.start_as_current_span("train", links=[trace.Link(load.get_span_context())]):
            raise ValueError("no luck")
        """
    caller = "0af7651916cd43dd8448eb211c80319c"
    metaflow = {name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")}
    telemetry = run(place.write(flow(source)), env={**metaflow, "TRACEPARENT": f"00-{caller}-b7ad6b7169203331-01"})
    assert telemetry.tree() == inspect.cleandoc("""
        RUN OneFlow failure ValueError ERROR < start (first_failure)
          start failure ValueError ERROR failed-first
            load
              read
            train ERROR < load
        """)
    assert {span.context.trace_id for span in telemetry.spans} == {int(caller, 16)}


@pytest.mark.parametrize(("sampler", "arrive"), [("always_off", 0), ("always_on", 1)])
def test_spans_of_user_code_follow_the_runs_sampling(place: Place, sampler: str, arrive: int) -> None:
    """Decided by the shipper, for the run as a whole."""
    source = """
        from opentelemetry import trace
        trace.get_tracer("x").start_span("of user code").end()
        """
    metaflow = {name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")}
    telemetry = run(place.write(flow(source)), env={**metaflow, "OTEL_TRACES_SAMPLER": sampler})
    assert [span.name for span in telemetry.spans].count("of user code") == arrive


def test_a_record_that_cannot_be_read_costs_itself_alone(place: Place) -> None:
    """Of a later version, or made by a program of somebody's own that knows the format by half."""
    body = """
        from opentelemetry import metrics, trace
        trace.get_tracer("x").start_span("before").end()
        with open(os.environ["OTEL_METAFLOW_WITHIN"], "a") as journal:
            for kind in ("span", "metric", "record"):
                journal.write('{"kind":"%s","timeUnixNano":1,"severityNumber":99,"body":{"odd":true}}\\n' % kind)
                journal.write('{"kind":"%s","timeUnixNano":1,"scope":{"name":7},"spanId":"zz"}\\n' % kind)
        trace.get_tracer("x").start_span("after").end()
        metrics.get_meter("x").create_counter("counted").add(1)
        """
    metaflow = {name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")}
    telemetry = run(place.write(flow(body)), env=metaflow)
    assert telemetry.exit_code == 0, telemetry.stderr + telemetry.stdout
    assert {"before", "after"} <= {span.name for span in telemetry.spans}
    names = {
        metric.name
        for data in telemetry.metrics
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert "counted" in names


def test_metrics_survive_an_exit_that_runs_no_handlers(place: Place) -> None:
    """os._exit, by which forked children leave, and sometimes a step."""
    body = """
        from opentelemetry import metrics
        metrics.get_meter("x").create_counter("counted").add(2)
        os._exit(3)
        """
    finished = place.run(flow(body))
    assert finished.code == 1
    (counted,) = recorded(finished, layout.METRIC)
    assert counted["sum"]["dataPoints"][0]["asInt"] == 2


# From the SDK to the journal and back

ATTRIBUTES = st.dictionaries(
    st.text(min_size=1),
    st.one_of(
        st.text(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.booleans(),
        st.lists(st.text()),
        st.lists(st.integers(-(2**63), 2**63 - 1)),
    ),
    max_size=8,
)


class Written:
    """A journal in memory, and what a shipper makes of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.recorder = attempt_recorder.AttemptRecorder(
            f"00-{1:032x}-{2:016x}-01", self.lines.extend, str, lambda: False, os.getpid()
        )

    def records(self) -> list[dict[str, Any]]:
        return [parse(line.encode()) for line in self.lines]


@given(ATTRIBUTES, ATTRIBUTES, st.text(), st.sampled_from(list(trace.SpanKind)))
def test_a_span_comes_out_of_the_journal_as_it_went_in(
    attributes: dict[str, Any], more: dict[str, Any], name: str, kind: trace.SpanKind
) -> None:
    """Whatever it is called and holds."""
    written = Written()
    provider = sdk_spans.provider(written.recorder)
    plain = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(plain))
    tracer = provider.get_tracer("library", "1", attributes={"of": "scope"})
    with tracer.start_as_current_span("parent") as parent:
        span = tracer.start_span(name, kind=kind, attributes=attributes, links=[trace.Link(parent.context, more)])
        span.add_event(name, more)
        span.set_status(trace.StatusCode.ERROR, name)
        span.end()
    (original, _) = plain.get_finished_spans()
    record = UserRecord(Attempt(AttemptKey("start", "1", 0)), written.records()[0], 0)
    (made,) = sdk_objects.spans([user_telemetry.of_span(record, lambda _: Resource({}), Unmasked())])
    assert json.loads(made.to_json()) == {**json.loads(original.to_json()), "resource": ANY}
    assert made.instrumentation_scope == original.instrumentation_scope


@pytest.mark.parametrize("preference", ["delta", "cumulative", "lowmemory"])
@pytest.mark.parametrize("buckets", ["explicit_bucket_histogram", "base2_exponential_bucket_histogram"])
def test_metrics_come_out_of_the_journal_as_they_went_in(
    monkeypatch: pytest.MonkeyPatch, preference: str, buckets: str
) -> None:
    """Each kind of instrument, by the standard variables."""
    monkeypatch.setattr(os, "_exit", os._exit)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", buckets)
    written = Written()
    journal = sdk_metrics.JournalMetrics(written.recorder, lambda: None)
    meter = journal.provider.get_meter("library", "1")
    parent = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1)))
    with trace.use_span(parent):  # for exemplars
        meter.create_counter("counter", unit="1").add(3, {"a": "b"})
        meter.create_up_down_counter("level").add(-1.5)
        meter.create_gauge("gauge").set(7)
        for size in (0, 0.5, 3, 1e9):
            meter.create_histogram("histogram", description="sizes").record(size, {"n": 1})
    meter.create_observable_counter("seen", [lambda _: [metrics.Observation(4, {"x": 1.5})]])
    originals: list[Any] = []
    read = journal._reader.get_metrics_data
    monkeypatch.setattr(journal._reader, "get_metrics_data", lambda: originals.append(read()) or originals[-1])
    journal.write()
    (original,) = originals
    records_of = [UserRecord(Attempt(AttemptKey("start", "1", 0)), record, 0) for record in written.records()]
    assert len(records_of) == 5
    resource = Resource({})
    made = encode_metrics(
        sdk_objects.metrics(
            [user_telemetry.of_metric(record, lambda _: resource, Redaction()) for record in records_of]
        )
    )
    assert made.resource_metrics[0].scope_metrics == encode_metrics(original).resource_metrics[0].scope_metrics


# Drift guards: what we stand on is partly the API's private affair.


def test_our_classes_implement_all_that_the_api_declares() -> None:
    """A new abstract method of the API, or a class that we cannot make any more, is seen here first."""
    from opentelemetry import _logs, metrics, trace
    from opentelemetry.context.context import _RuntimeContext

    from otel_metaflow.task.otel_api import context, logger_provider, tracer_provider
    from otel_metaflow.task.otel_api import meter_provider as ours

    pairs = [
        (trace.TracerProvider, tracer_provider.AttemptTracerProvider),
        (trace.Tracer, tracer_provider.AttemptTracer),
        (metrics.MeterProvider, ours.AttemptMeterProvider),
        (metrics.Meter, ours.AttemptMeter),
        (_logs.LoggerProvider, logger_provider.AttemptLoggerProvider),
        (_logs.Logger, logger_provider.AttemptLogger),
        (_RuntimeContext, context.AttemptContext),
    ]
    for theirs, mine in pairs:
        assert issubclass(mine, theirs)
        assert not inspect.isabstract(mine), f"{mine.__name__} lacks {mine.__abstractmethods__}"
    factories = {name for name in metrics.Meter.__abstractmethods__ if name.startswith("create_")}
    assert factories <= set(vars(ours.AttemptMeter)), "an instrument that we do not know"


def test_the_api_still_keeps_its_providers_where_we_look() -> None:
    """Private names, without which a provider of the user's would be refused after ours."""
    import opentelemetry._logs._internal as logs
    import opentelemetry.metrics._internal as metrics
    from opentelemetry import context, trace
    from opentelemetry.util._once import Once

    for module, signal in ((trace, "TRACER"), (metrics, "METER"), (logs, "LOGGER")):
        assert isinstance(getattr(module, f"_{signal}_PROVIDER_SET_ONCE"), Once)
        assert hasattr(module, f"_{signal}_PROVIDER")
        source = inspect.getsource(getattr(module, f"_set_{signal.lower()}_provider"))
        assert f"_{signal}_PROVIDER_SET_ONCE.do_once" in source
    assert context._RUNTIME_CONTEXT is not None
    for name in ("_meters", "_lock", "_real_meter_provider"):
        assert hasattr(metrics._ProxyMeterProvider(), name)
    meter = metrics._ProxyMeter("x")
    for name in ("_instruments", "_lock", "_real_meter", "_name", "_version", "_schema_url"):
        assert hasattr(meter, name)
    assert hasattr(meter.create_counter("x"), "_real_instrument")


def test_a_fork_runs_nothing_of_the_sdks_resource_detection() -> None:
    """It may hang in a pool of threads inside the child (opentelemetry-python#5533)."""
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    from otel_metaflow.task.otel_api import sdk_logs, sdk_metrics, sdk_spans

    for theirs, mine in (
        (TracerProvider, sdk_spans._Provider),
        (MeterProvider, sdk_metrics._Provider),
        (LoggerProvider, sdk_logs._Provider),
    ):
        assert issubclass(mine, theirs)
        registering = inspect.getsource(theirs.__init__)
        assert "register_at_fork" not in registering or "self._handle_fork" in registering
        assert "_handle_fork" in vars(mine)


def test_the_entry_points_name_our_providers() -> None:
    """For who sets OTEL_PYTHON_TRACER_PROVIDER=otel_metaflow and its sisters."""
    for signal in ("tracer", "meter", "logger"):
        (found,) = entry_points(group=f"opentelemetry_{signal}_provider", name="otel_metaflow")
        assert found.load().__name__ == "provider"
    code = """
from opentelemetry import metrics, trace, _logs
with trace.get_tracer("x").start_as_current_span("y"):
    metrics.get_meter("x").create_counter("y").add(1)
    _logs.get_logger("x").emit(body="y")
print("no attempt, no harm")
"""
    variables = {f"OTEL_PYTHON_{signal}_PROVIDER": "otel_metaflow" for signal in ("TRACER", "METER", "LOGGER")}
    finished = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert (finished.stdout.strip(), finished.stderr) == ("no attempt, no harm", "")


def test_the_providers_know_nothing_that_sends() -> None:
    """Import contracts cannot name a part of a foreign package, so the sources are read here."""
    folder = Path(inspect.getfile(otel_metaflow)).parent / "task/otel_api"
    imported = {
        name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "opentelemetry.sdk.trace.TracerProvider" in imported
    assert not [name for name in imported if name.startswith(("opentelemetry.exporter", "opentelemetry.proto"))]
    assert not [name for name in imported if "Batch" in name or "Periodic" in name]


def test_journal_records_are_as_documented(received: Received) -> None:
    """Each kind and each of its names stands in docs/journal.md."""
    documented = (Path(__file__).parent.parent / "docs/journal.md").read_text()
    for kind in (layout.SPAN, layout.METRIC, layout.RECORD):
        records = recorded(received.finished, kind)
        assert records
        names = {name for record in records for name in record} - {"kind"}
        missing = [name for name in names if f"`{name}`" not in documented]
        assert not missing, f"{kind}: {json.dumps(missing)}"
