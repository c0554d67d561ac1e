"""Names that are not ours are those of the semantic conventions, held against the conventions' own package."""

from __future__ import annotations

import importlib
import pkgutil

import names_page
import pytest
from collectors import ROOT
from running import Place

from otel_metaflow.core import catalog, names
from otel_metaflow.testing import run

OURS = ("metaflow.", "otel_metaflow", "otel-metaflow")


def conventional() -> set[str]:
    """Every attribute name of the conventions, stable and not."""
    found: set[str] = set()
    for package in ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating.attributes"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            loaded = importlib.import_module(module.name)
            found.update(value for value in vars(loaded).values() if isinstance(value, str))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_name_is_ours_or_the_conventions() -> None:
    """Nothing invented under a name space that belongs to others."""
    defined = {
        value for name, value in vars(names).items() if name.isupper() and name[0] != "_" and isinstance(value, str)
    }
    foreign = {value for value in defined if not value.startswith(OURS)}
    assert len(foreign) > 20
    assert foreign - conventional() == set()


def test_the_page_of_names_is_up_to_date() -> None:
    """`python tools/names_page.py > docs/names.md` updates it."""
    assert (ROOT / "docs/names.md").read_text() == names_page.page()


def forms(value: object) -> set[str]:
    """What the page may call the type of a value."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"int", "int, By"}
    if isinstance(value, float):
        return {"double", "double, s"}
    if isinstance(value, (list, tuple)):
        return {"int[]"} if value and isinstance(value[0], int) else {"string[]"}
    return {"string"}


# What this run cannot show: it is not killed, resumed, triggered, long, asked for a value, damaged or recorded in part.
ELSEWHERE = {
    names.SERVICE_NAMESPACE, names.SERVICE_VERSION, names.PROJECT_NAME, names.BRANCH_NAME, names.ORIGIN_RUN_ID,
    names.NAMESPACE, names.TASK_SIGNAL, names.CLONED, names.FOREACH_VALUE, names.SAVED_DURATION,
    names.LOG_RECORD_ORIGINAL, names.LOG_TRUNCATED_LENGTH, names.LOG_SANITIZED, names.LOG_ATTRIBUTES_TRUNCATED,
    names.TASK_MEMORY,
    names.EVENT_TASK_HEARTBEAT,
    names.EVENT_TASK_LOST, names.METRIC_TELEMETRY_DROPPED, names.SIGNAL, names.REASON, names.REQUESTED_GPU,
    *(name.name for name in catalog.CATALOG if name.on == "summary"),  # tests/test_span_limit.py
    names.TASK_GPU_MEMORY, names.TASK_GPU_MEMORY_PEAK, names.TASK_GPU_UTILIZATION, names.PARTIAL,
    names.CONTAINER_ID, names.K8S_NAMESPACE_NAME, names.K8S_POD_NAME, names.K8S_POD_UID, names.CLOUD_PROVIDER,
    names.CLOUD_PLATFORM, names.CLOUD_REGION, names.AWS_LOG_GROUP_NAMES, names.AWS_LOG_STREAM_NAMES,
    names.SOURCE, names.IN_DOUBT, names.RUN_TAGS, names.ORIGINAL_TIME, names.CODE_PACKAGE, names.VCS_REVISION,
    names.VCS_URL,
}  # fmt: skip


def test_a_run_exports_the_names_that_the_page_lists(place: Place) -> None:
    """Every name and type that leaves is in the table, at its place; and the table has no name that nothing sends."""
    flow = place.write("""
        import logging
        from metaflow import FlowSpec, catch, current, parallel, resources, retry, step
        from opentelemetry import trace
        class NamesFlow(FlowSpec):
            @step
            def start(self):
                self.items = [1, 2]
                self.next(self.work, foreach="items")
            @resources(cpu=2, memory=1000)
            @retry(times=1, minutes_between_retries=0)
            @step
            def work(self):
                logging.getLogger("work").error("it is %s", self.input, exc_info=ValueError("raised"))
                if current.retry_count == 0:
                    raise ValueError("once")
                self.next(self.join)
            @catch(var="failure")
            @step
            def join(self, inputs):
                raise KeyError("rescued")
                self.next(self.spread)
            @step
            def spread(self):
                self.next(self.train, num_parallel=2)
            @parallel
            @step
            def train(self):
                self.next(self.gather)
            @step
            def gather(self, inputs):
                self.next(self.end)
            @step
            def end(self):
                trace.get_tracer("user").start_span("left open")
                raise RuntimeError("at last")
        if __name__ == "__main__":
            NamesFlow()
        """)
    telemetry = run(flow, env={name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")})
    places = {(name.name, part): name for name in catalog.CATALOG for part in name.on.split(", ")}
    sent: set[tuple[str, str]] = set()

    def look(part: str, attributes: object) -> None:
        for name, value in dict(attributes or {}).items():
            if name.startswith(("metaflow.link", "exception.")) or (name, part) in places:
                known = places.get((name, part))
                assert known is None or known.form in forms(value), (name, value, known)
                sent.add((name, part))
            else:
                assert (name, part) in places, f"{name} on {part} is not on the page"

    for span in telemetry.spans:
        look("resource", span.resource.attributes)
        # A span repeats who it is, for back ends that show no resources.
        own = {
            name: value
            for name, value in span.attributes.items()
            if name not in (names.STEP_NAME, names.TASK_ID, names.ATTEMPT)
        }
        is_ours = span.instrumentation_scope.name == names.SCOPE
        look(("run" if span.name.startswith("RUN ") else "attempt") if is_ours else "user", own)
        for link in span.links:
            look("links", {names.LINK_TYPE: link.attributes[names.LINK_TYPE]})
    for log in telemetry.logs:
        event = log.log_record.event_name
        attributes = {name: value for name, value in log.log_record.attributes.items() if name != names.LOG_RECORD_UID}
        look(event or "logs", {name: value for name, value in attributes.items() if name != names.STEP_NAME})
        assert names.LOG_RECORD_UID in log.log_record.attributes
        if event:
            sent.add((event, "event"))
    for data in telemetry.metrics:
        for resource in data.resource_metrics:
            look("metrics", resource.resource.attributes)
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                sent.add((metric.name, "metric"))
                for point in metric.data.data_points:
                    look("metrics", point.attributes)
    missing = {name for name, _ in places} - {name for name, _ in sent} - ELSEWHERE - {names.LOG_RECORD_UID}
    assert missing == set()
