"""A foreach of very many: its trace is bounded, decided by the journals alone, and nothing in it points nowhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import wide_runs
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st
from running import Place, eventually
from wide_runs import FLOW, RUN, Planned, Shape

from otel_metaflow.core import ids, names, settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.model.run import Attempt
from otel_metaflow.model.span_limit import SLOWEST, Slowest, SpanLimit, summarized

LIMIT = 50
SHAPE = Shape(800, rate=0, spans=1, failures=2)


def span_id(one: Planned) -> str:
    return ids.attempt_span_id(FLOW, RUN, *one.key, "")


def expected(shape: Shape, limit: int) -> tuple[set[str], list[Planned]]:
    """The ids of attempts that have spans of their own, by the rule of docs/telemetry.md; and the other attempts."""
    work = [one for one in wide_runs.plan(shape) if one.key.step == "work"]
    shown = {one for one in work if one.result != "success" or one.key.attempt} | set(work[:limit])
    quick_first = sorted((one for one in work if one not in shown), key=lambda one: (round(lasted(one), 6), one.key))
    shown.update(quick_first[-SLOWEST:])
    others = [one for one in wide_runs.plan(shape) if one.key.step != "work"]
    return {span_id(one) for one in [*shown, *others]}, quick_first[:-SLOWEST]


def lasted(one: Planned) -> float:
    """Seconds until its task wrote that it was over, which it does a little before its process ends."""
    return (one.ends - one.begins) * 0.95


def delivered(place: Place, endpoint: Endpoint, shape: Shape, kills: int = 0) -> None:
    """Deliver a run that lies there; so many shippers are killed, each after it has delivered something."""
    with wide_runs.running(place.home, shape) as wide:
        wide.wait_written()
        wide.end()
    for _ in range(kills):
        before = len(endpoint.span_ids)
        shipper = place.start_shipper(wide.folder, endpoint.url, OTEL_METAFLOW_MAX_ATTEMPT_SPANS=str(LIMIT))
        eventually(lambda seen=before, one=shipper: len(endpoint.span_ids) > seen or one.poll() is not None, 60)
        shipper.kill()
        shipper.wait()
    shipper = place.start_shipper(wide.folder, endpoint.url, OTEL_METAFLOW_MAX_ATTEMPT_SPANS=str(LIMIT))
    assert shipper.wait(120) == 0
    assert DeliveryStatus.read(wide.folder).complete


def attributes(span: Any) -> dict[str, Any]:
    """The attributes of a span of the protocol; arrays as lists."""

    def value(of: Any) -> Any:
        if of.HasField("array_value"):
            return [value(each) for each in of.array_value.values]
        return getattr(of, of.WhichOneof("value"))

    return {each.key: value(each.value) for each in span.attributes}


@pytest.mark.parametrize("kills", [0, 3])
def test_first_failed_retried_and_slowest_attempts_have_spans_and_a_summary_stands_for_the_rest(
    place: Place, kills: int
) -> None:
    """Shippers that follow killed ones decide as those did; metrics and lines are complete."""
    with Endpoint() as endpoint:
        delivered(place, endpoint, SHAPE, kills)
    spans = {span.span_id.hex(): span for span, _ in endpoint.spans()}
    shown, rest = expected(SHAPE, LIMIT)
    (summary,) = (span for span in spans.values() if span.name == "work summary")
    run = ids.run_span_id(FLOW, RUN, "")
    mine = {span_id(one) for one in wide_runs.plan(SHAPE)}
    assert set(spans) & mine == shown
    assert {span.parent_span_id.hex() for span in spans.values()} <= {"", *spans}
    assert summary.parent_span_id.hex() == run
    found = attributes(summary)
    assert found[names.STEP_NAME] == "work"
    assert found[names.SUMMARY_ATTEMPT_COUNT] == len(rest) == sum(found[names.SUMMARY_DURATION_COUNTS])
    assert len(found[names.SUMMARY_DURATION_COUNTS]) == len(found[names.SUMMARY_DURATION_BOUNDS]) + 1
    assert found[names.SUMMARY_FAILED_COUNT] == 0
    assert found[names.SUMMARY_DURATION_SUM] == pytest.approx(sum(map(lasted, rest)))
    assert found[names.SUMMARY_DURATION_MAX] == pytest.approx(max(map(lasted, rest)))
    assert set(wide_runs.bodies(SHAPE)) <= set(endpoint.body_counts)
    if not kills:
        assert set(endpoint.span_ids.values()) == {1}
        assert endpoint.observations(names.METRIC_TASK_DURATION) == SHAPE.attempts


def test_a_step_within_the_limit_has_no_summary(place: Place) -> None:
    """Nothing changes for it."""
    shape = Shape(LIMIT, rate=0, spans=1)
    with Endpoint() as endpoint:
        delivered(place, endpoint, shape)
    assert endpoint.span_ids == Counter(wide_runs.span_ids(shape))


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0, 1, -9])), max_size=60), st.integers(0, 5))
def test_however_many_fail_the_spans_of_a_step_are_bounded(outcomes: list[tuple[int, int]], most: int) -> None:
    """At most twice the limit, and the slowest."""
    limit, slowest, attempts = SpanLimit(most), Slowest(), []
    for number, (retry, code) in enumerate(outcomes):
        attempt = Attempt(AttemptKey("work", str(number), retry))
        attempt.launch = {"timeUnixNano": number}
        limit.take(attempt, layout.LAUNCH)
        attempt.exit = {"timeUnixNano": number + 5, "code": code, "ok": code == 0}
        limit.take(attempt, layout.EXIT)
        attempts.append(attempt)
    own = [attempt for attempt in attempts if attempt.has_span]
    assert all(attempt.has_span for attempt in attempts[:most])
    assert len(own) <= 2 * most
    dropped = [slowest.offer(attempt) for attempt in attempts if not attempt.has_span]
    rest = [attempt.key for each in summarized(attempts).values() for attempt in each]
    assert sorted(key for key in dropped if key is not None) == sorted(rest)
    assert len(own) + len(slowest.take()) + len(rest) == len(attempts)


def test_an_invalid_limit_is_one_line_with_a_valid_example() -> None:
    """In one line; the run is recorded."""
    (problem,) = settings.read({"OTEL_METAFLOW_MAX_ATTEMPT_SPANS": "many"}).problems
    assert problem.startswith("OTEL_METAFLOW_MAX_ATTEMPT_SPANS is 'many', which is not a valid number; set it to")
