"""How much a vendor is sent, and how old it may be."""

from __future__ import annotations

import socket
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from collectors import Collector, Vendors
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from test_collector import send
from test_collector_refusals import post

if TYPE_CHECKING:
    from pathlib import Path

    from running import Place

FLOW = """
    from metaflow import FlowSpec, step


    class ManyFlow(FlowSpec):
        @step
        def start(self):
            self.shards = [1, 2, 3]
            self.next(self.work, foreach="shards")

        @step
        def work(self):
            self.rows = list(range(1000))
            self.next(self.join)

        @step
        def join(self, inputs):
            self.next(self.end)

        @step
        def end(self):
            pass


    if __name__ == "__main__":
        ManyFlow()
"""


@pytest.mark.parametrize("buckets", ["", "true"])
def test_an_attempt_is_at_most_twelve_metric_events_at_splunk_and_they_name_its_host(
    tmp_path: Path, vendors: Vendors, place: Place, buckets: str
) -> None:
    """A real run of six attempts; the buckets of its histograms are to be had, and the sums are right without."""
    environment = vendors.environment | {"COLLECTOR_SPLUNK_HISTOGRAM_BUCKETS": buckets}
    with Collector(tmp_path, environment) as collector:
        finished = place.run(FLOW, "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.http})
        assert finished.code == 0
        vendors.wait_for(lambda: any(each.name == "metaflow.run.duration" for each in vendors.splunk.metrics()))
        vendors.wait_for(
            lambda: sum(each.count for each in vendors.splunk.metrics() if each.name == "metaflow.task.duration") == 6
        )
        vendors.wait_for(lambda: sum(each.name == "metaflow.task.duration" for each in vendors.datadog.metrics()) >= 4)
    events = vendors.splunk.metric_events()
    assert bool(buckets) == any("le" in attributes for attributes in events)
    if not buckets:
        assert len(events) <= 6 * 12
    assert {attributes["host.name"] for attributes in events} == {socket.gethostname()}
    # What is paid for by dimension has no host of its own for each pod.
    assert not any(each.attributes.get("host.name") == socket.gethostname() for each in vendors.datadog.metrics())


@pytest.mark.parametrize("late", ["", "keep", "now"])
@pytest.mark.parametrize("route", ["datadog", "datadog_otlp"])
def test_a_log_record_that_datadog_would_drop_for_its_age_carries_its_true_time(
    tmp_path: Path, vendors: Vendors, route: str, late: str
) -> None:
    """And is dated now where that is asked for; one of an hour ago stays as it is."""
    now = datetime.now(tz=timezone.utc)
    ages = {"old": timedelta(days=3), "at the edge": timedelta(hours=17, minutes=45), "young": timedelta(hours=1)}
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for name, age in ages.items():
        scope.log_records.add(time_unix_nano=int((now - age).timestamp()) * 10**9, body=AnyValue(string_value=name))
    environment = getattr(vendors, f"{route}_environment") | {"COLLECTOR_DATADOG_LATE_LOGS": late}
    vendor = getattr(vendors, route)
    with Collector(tmp_path, environment) as collector:
        post(collector, request)
        vendors.wait_for(lambda: len(vendor.logs()) == len(ages))
    found = {log.body: log for log in vendor.logs()}
    for name, age in ages.items():
        true = (now - age).replace(microsecond=0)
        original = found[name].attributes.get("log.original_time", "")
        assert original.startswith(true.strftime("%Y-%m-%dT%H:%M:%S")) == (name != "young")
        dated = found[name].time / 1000
        expected = time.time() if late == "now" and name != "young" else true.timestamp()
        assert abs(dated - expected) < 60, name


def test_the_sums_of_users_histograms_are_right_without_buckets(tmp_path: Path, vendors: Vendors) -> None:
    """The same rule for every histogram."""
    with Collector(tmp_path, vendors.splunk_environment) as collector:
        send(collector, "grpc")
        vendors.wait_for(vendors.splunk.metrics)
    (duration,) = (each for each in vendors.splunk.metrics() if each.name == "metaflow.task.duration")
    assert (duration.count, duration.value) == (1, 1.5)
    assert len(vendors.splunk.metric_events()) == 3
