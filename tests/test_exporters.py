"""What the delivery takes from the official exporters, and what it makes of any sequence of answers."""

from __future__ import annotations

import email.utils
import gzip
import importlib
import inspect
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_metaflow.core.settings import Destination
from otel_metaflow.shipper import signal_worker
from otel_metaflow.shipper.signal_worker import Batch, SignalWorker, Unfit
from otel_metaflow.shipper.sinks import answers, otlp, sdk_objects
from otel_metaflow.shipper.sinks.answers import Answer, Verdict
from otel_metaflow.shipper.telemetry import Record, Resource, Scope

SIGNALS = ("traces", "metrics", "logs")
OK = Answer(Verdict.DELIVERED)
BAD = Answer(Verdict.SPLIT, "answered 400")
LATER = Answer(Verdict.RETRY, "answered 503", wait=0.0)
LATE = Answer(Verdict.RETRY, "did not answer in time", wait=0.0, is_late=True)
NEVER = Answer(Verdict.REFUSED, "answered 401")
UNFIT = Answer(Verdict.UNFIT, "TypeError")


# The seams of the official exporters


@pytest.mark.parametrize("signal", SIGNALS)
def test_http_exporters_send_through_the_session_that_they_are_given(signal: str) -> None:
    """The public argument `session`, and of it the method `request`: it sees what was answered."""
    module, name, _, _ = otlp._CLASSES[signal]
    made = getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.http.{module}"), name)
    assert "session" in inspect.signature(made).parameters
    exporter = otlp.build(Destination(signal, "http/protobuf", "http://127.0.0.1:1", ""))
    answer = exporter([])
    assert answer == Answer(Verdict.RETRY, "refused the connection")


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_the_http_exporter_of_logs_sends_what_it_would_have_encoded(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the SDK's own attributes, and compressed as it compresses."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    data: Any = {"timeUnixNano": 1, "observedTimeUnixNano": 2, "body": "b", "traceId": "1" * 32, "spanId": "2" * 16}
    record = Record(Resource({"service.name": "s"}), Scope("s"), data)
    sent: list[requests.PreparedRequest] = []

    def answered(_: Any, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        sent.append(request)
        response = requests.Response()
        response.status_code, response._content, response._content_consumed = 200, b"", True
        return response

    monkeypatch.setattr(requests.Session, "send", answered)
    assert otlp.build(Destination("logs", "http/protobuf", "http://127.0.0.1:1", ""))([record]).verdict is OK.verdict
    (request,) = sent
    assert request.headers.get("content-encoding") == {"none": None}.get(compression, compression)
    body = {"none": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[compression](request.body)
    assert ExportLogsServiceRequest.FromString(body) == encode_logs(sdk_objects.logs([record]))


@pytest.mark.parametrize("signal", SIGNALS)
def test_grpc_exporters_send_through_the_stub_that_they_keep_as_client(
    signal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private name, `_client`, of which `Export` is called with keywords."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
    exporter = otlp.build(Destination(signal, "grpc", "http://127.0.0.1:1", ""))
    answer = exporter([])
    assert answer == Answer(Verdict.RETRY, "refused the connection")


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_record_that_cannot_be_encoded_is_dropped_without_a_request(signal: str, protocol: str) -> None:
    """A span without a name, a point without a value, a time before 1970 with a body of an unknown type."""
    wrong: dict[str, Any] = {
        "traces": {"traceId": "1" * 32, "spanId": "2" * 16},
        "metrics": {"name": "m", "gauge": {"dataPoints": [{"timeUnixNano": 1}]}},
        "logs": {"timeUnixNano": -1, "body": object()},
    }
    exporter = otlp.build(Destination(signal, protocol, "http://127.0.0.1:1", ""))
    answer = exporter([Record(Resource({}), Scope("s"), wrong[signal])])
    assert answer.verdict is Verdict.UNFIT


def test_an_invalid_header_is_refused_without_its_value() -> None:
    """A header that HTTP does not allow: a retry is useless, and its value must not be shown."""
    error = requests.exceptions.InvalidHeader("api-key: secret\n is not a header")
    answer = otlp._unanswered(error)
    assert answer.verdict is Verdict.REFUSED
    assert "OTEL_EXPORTER_OTLP_HEADERS" in answer.reason
    assert "secret" not in answer.reason


# Answers


@given(st.integers(100, 599), st.sampled_from(["", "application/x-protobuf", "text/html; charset=utf-8"]))
def test_every_status_has_one_meaning(status: int, content_type: str) -> None:
    """Only a success that is no web page delivers; only a retryable one is tried again; all others are named."""
    answer = answers.from_http(status, content_type, None, "Reason")
    if 200 <= status < 300 and "html" not in content_type:
        assert answer is answers.DELIVERED
    else:
        assert answer.verdict is not Verdict.DELIVERED
        assert answer.reason
    assert (answer.verdict is Verdict.RETRY) == (status in {408, 425, 429, 502, 503, 504})


@given(st.sampled_from(list(grpc.StatusCode)), st.text(max_size=400), st.none() | st.floats(0, 100))
def test_every_grpc_status_has_one_meaning(code: grpc.StatusCode, details: str, wait: float | None) -> None:
    """By https://opentelemetry.io/docs/specs/otlp/#failures; OK never comes as an error."""
    answer = answers.from_grpc(code.name, details, wait)
    assert answer.verdict is not Verdict.DELIVERED
    assert answer.reason.startswith(f"answered {code.name}")
    retryable = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
    if code.name in retryable:
        assert (answer.verdict, answer.wait) == (Verdict.RETRY, wait)


@pytest.mark.parametrize("text", ["", "soon", "-", "Wed, 99 Foo 2026", "1e400", "nan"])
def test_an_invalid_retry_after_is_ignored(text: str) -> None:
    assert answers.from_http(503, "", text, "").wait is None


def test_a_retry_after_is_seconds_or_a_date() -> None:
    """Never negative: a date that has passed means now."""
    assert answers.from_http(429, "", "7", "").wait == 7
    assert answers.from_http(429, "", "-7", "").wait == 0
    wait = answers.from_http(503, "", email.utils.formatdate(time.time() + 60, usegmt=True), "").wait
    assert wait is not None
    assert 55 < wait <= 61
    assert answers.from_http(503, "", email.utils.formatdate(time.time() - 60, usegmt=True), "").wait == 0


# The worker: real threads and queues, the answers of a script, no backoff


class Ledger:
    """What became of each record that a worker was given."""

    def __init__(self) -> None:
        self.taken: Counter[int] = Counter()
        self.settled: Counter[int] = Counter()
        self.bad = 0
        self.unfit: Counter[int] = Counter()
        self.requests = 0

    def batch(self, records: Sequence[int]) -> Batch:
        def settled(bad: int, unfit: list[Unfit]) -> None:
            self.settled.update(records)
            self.bad += bad + len(unfit)
            self.unfit.update(one.record for one in unfit)

        return Batch(records, settled)


def run(exporter: Callable[[Sequence[int]], Answer], batches: Sequence[Sequence[int]]) -> tuple[Ledger, SignalWorker]:
    """Deliver `batches` through a worker to its end; fails after more requests than any end can need."""
    ledger = Ledger()
    wake = threading.Event()

    def counted(records: Sequence[int]) -> Answer:
        ledger.requests += 1
        answer = exporter(records)
        if answer.verdict is Verdict.DELIVERED:
            ledger.taken.update(records)
        return answer

    made = SignalWorker("logs", lambda: counted, wake)
    waiting = list(batches)
    most = 20 * sum(map(len, batches)) + 200
    while waiting or made.is_busy:
        wake.clear()
        made.step()
        if made.is_parked:
            break
        if made.is_idle and waiting:
            made.submit(ledger.batch(waiting.pop(0)))
        if made.is_busy:
            wake.wait(0.1)
        assert ledger.requests < most, "an endless loop"
    made.finish()
    made.close()
    return ledger, made


@pytest.fixture(autouse=True)
def without_backoff(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Waits are the answers' own, which are none here."""
    monkeypatch.setattr(signal_worker, "_INITIAL_WAIT", 0.0)
    return


def numbered(sizes: Sequence[int]) -> list[list[int]]:
    batches, start = [], 0
    for size in sizes:
        batches.append(list(range(start, start + size)))
        start += size
    return batches


@given(st.sets(st.integers(0, 59)), st.lists(st.integers(1, 30), min_size=1, max_size=4))
@settings(deadline=None)
def test_unencodable_records_are_dropped_one_by_one_and_not_blamed_on_the_endpoint(
    broken: set[int], sizes: list[int]
) -> None:
    """However many in a row: the worker goes on, and all others are delivered."""

    def exporter(records: Sequence[int]) -> Answer:
        return UNFIT if broken & set(records) else OK

    ledger, made = run(exporter, [*numbered(sizes), [-1]])
    assert not made.is_parked
    assert made.is_done
    assert set(ledger.unfit) == broken & set(range(sum(sizes)))
    assert set(ledger.taken) == {*range(sum(sizes)), -1} - broken
    assert set(ledger.taken.values()) == {1}


def test_where_nothing_at_all_can_be_encoded_everything_is_kept() -> None:
    """It is the installation or the environment then, not the records."""
    ledger, made = run(lambda _: UNFIT, numbered([20, 3]))
    assert not ledger.settled
    assert not made.is_done
    assert made.trouble == "cannot be encoded: TypeError"


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.lists(st.sampled_from([OK, BAD, LATER, LATE, NEVER, UNFIT])),
)
@settings(deadline=None, max_examples=200)
def test_whatever_is_answered_each_record_is_settled_once_or_kept(sizes: list[int], script: list[Answer]) -> None:
    """Any sequence of answers, then successes: delivered or bad, exactly once, and in order; or not settled at all."""
    given_answers = iter(script)
    ledger, made = run(lambda _: next(given_answers, OK), numbered(sizes))
    total = sum(sizes)
    assert set(ledger.settled.values()) <= {1}
    assert sorted(ledger.settled) == list(range(len(ledger.settled)))
    settled_and_taken = sum(1 for record in ledger.settled if ledger.taken[record])
    assert len(ledger.settled) == settled_and_taken + ledger.bad
    if made.is_done:
        assert len(ledger.settled) == total
    else:
        assert made.is_parked or not ledger.taken
    assert max(ledger.taken.values(), default=0) <= 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.data())
@settings(deadline=None, max_examples=200)
def test_bad_records_never_block_the_others(sizes: list[int], data: st.DataObject) -> None:
    """Fewer than ten of them, wherever they stand, also as the very first batch: all others are delivered."""
    records = list(range(sum(sizes)))
    bad = data.draw(st.sets(st.sampled_from(records), max_size=min(9, len(records) - 1)))
    ledger, made = run(lambda batch: BAD if bad & set(batch) else OK, numbered(sizes))
    assert made.is_done
    assert not made.is_parked
    assert ledger.taken == Counter(set(records) - bad)
    assert ledger.bad == len(bad)
    assert len(ledger.settled) == len(records)


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [1000], [1] * 50, [3, 1000, 5]])
def test_an_endpoint_that_blames_everything_costs_few_requests_and_nothing_is_dropped(sizes: list[int]) -> None:
    ledger, made = run(lambda _: BAD, numbered(sizes))
    assert not ledger.settled
    assert not made.is_done
    assert ledger.requests < 50


def test_an_endpoint_that_turns_bad_after_a_success_costs_nothing_but_time() -> None:
    """500 for all that comes, from one moment on: that is an outage of theirs, not records of ours."""
    ledger, made = run(lambda batch: OK if batch[-1] < 5 else BAD, numbered([5] + [1] * 40))
    assert made.is_parked
    assert sorted(ledger.settled) == [0, 1, 2, 3, 4]
    assert ledger.bad == 0


def test_ten_bad_records_in_a_row_are_no_bad_endpoint() -> None:
    """The rest of the batch is tried before the endpoint is blamed."""
    ledger, made = run(lambda batch: BAD if min(batch) < 30 else OK, numbered([1000]))
    assert made.is_done
    assert ledger.bad == 30
    assert len(ledger.taken) == 970


@pytest.mark.parametrize("capacity", [1, 7, 100])
def test_a_slow_endpoint_gets_requests_that_it_answers_in_time(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that answers after its client has gone would get the same request for ever."""
    monkeypatch.setattr(signal_worker, "_QUICK", 0.0)  # no answer is quick beside one that comes too late
    requests_made: list[int] = []

    def slow(batch: Sequence[int]) -> Answer:
        requests_made.append(len(batch))
        return LATE if len(batch) > capacity else OK

    ledger, made = run(slow, numbered([1000] * 3))
    assert made.is_done
    assert set(ledger.taken.values()) == {1}
    assert len(ledger.taken) == 3000
    assert sum(size > capacity for size in requests_made) < 20


def test_after_a_black_hole_requests_grow_again() -> None:
    """Halved down to single records while nothing answered, a worker is soon back at full size."""
    requests_made: list[int] = []

    def hole(batch: Sequence[int]) -> Answer:
        requests_made.append(len(batch))
        if len(requests_made) <= 10:
            time.sleep(0.2)  # the patience of the client
            return LATE
        return OK

    ledger, made = run(hole, numbered([1000] * 3))
    assert made.is_done
    assert len(ledger.taken) == 3000
    assert requests_made[9] == 1
    assert len(requests_made) < 60


def test_a_lane_whose_exporter_never_returns_goes_on_with_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a second keeps a client's timeout from ever passing; the worker's own patience ends it."""
    monkeypatch.setattr(signal_worker, "_TIMEOUT", 0.3)
    stuck = threading.Event()
    calls: list[int] = []

    def exporter(batch: Sequence[int]) -> Answer:
        calls.append(len(batch))
        if len(calls) == 1:
            stuck.wait(30)
        return OK

    wake = threading.Event()
    ledger = Ledger()
    made = SignalWorker("logs", lambda: exporter, wake)
    made.submit(ledger.batch(range(10)))
    deadline = time.monotonic() + 30
    while made.is_busy and time.monotonic() < deadline:
        wake.wait(0.05)
        wake.clear()
        made.step()
    stuck.set()
    made.close()
    assert set(ledger.settled) == set(range(10))
    assert calls == [10, 5, 5]


def test_an_exporter_that_cannot_be_built_parks_its_worker_and_reports_why() -> None:
    def build() -> Callable[[Sequence[int]], Answer]:
        raise ValueError("OTEL_EXPORTER_OTLP_TIMEOUT is no number")

    wake = threading.Event()
    ledger = Ledger()
    made = SignalWorker("logs", build, wake)
    made.submit(ledger.batch([1]))
    assert wake.wait(10)
    made.step()
    made.close()
    assert made.is_parked
    assert "OTEL_EXPORTER_OTLP_TIMEOUT" in made.trouble
    assert not ledger.settled


def test_a_lane_that_leaves_waits_for_the_answer_that_is_due_and_sends_nothing_more() -> None:
    """Or what was on its way would be sent again by the next shipper, and come twice."""
    wake, go = threading.Event(), threading.Event()
    calls: list[int] = []

    def exporter(batch: Sequence[int]) -> Answer:
        calls.append(len(batch))
        go.wait(30)
        return LATER

    ledger = Ledger()
    made = SignalWorker("logs", lambda: exporter, wake)
    made.submit(ledger.batch(range(10)))
    made.is_leaving = True
    assert made.is_sending
    go.set()
    assert wake.wait(30)
    made.step()
    made.close()
    assert not made.is_sending
    assert not made.is_done
    assert calls == [10]
