"""Resources are made once, as long as they are in use, and forgotten afterwards."""

from __future__ import annotations

import gc

from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert import resources
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.telemetry import Resource


def attempt(number: int) -> Attempt:
    return Attempt(AttemptKey("work", str(number), 0), start={"timeUnixNano": 1, "pid": number})


def test_records_of_one_attempt_share_one_resource_so_that_they_travel_together() -> None:
    """Sinks group by identity."""
    made = Resources(Run(RunKey("F", "1")))
    assert made.of_attempt(attempt(1)) is made.of_attempt(attempt(1))
    assert made.of_attempt(attempt(1)) is not made.of_attempt(attempt(2))
    assert made.of_step(attempt(1)) is made.of_step(attempt(2))


def test_a_tasks_own_facts_count_from_its_start_on() -> None:
    """The launcher may have read lines of it before."""
    made = Resources(Run(RunKey("F", "1")))
    before = made.of_attempt(Attempt(AttemptKey("work", "7", 0)))
    assert "process.pid" not in before.attributes
    assert made.of_attempt(attempt(7)).attributes["process.pid"] == 7


def test_a_run_of_any_number_of_attempts_keeps_few_resources() -> None:
    """Or a foreach of 50,000 would hold them all until its end."""
    made = Resources(Run(RunKey("F", "1")))
    before = _count()
    for number in range(2 * resources._MAX_SOURCES):
        made.of_attempt(attempt(number))
        made.of_step(attempt(number))
    assert _count() - before <= resources._MAX_SOURCES + 1


def _count() -> int:
    gc.collect()
    return sum(isinstance(each, Resource) for each in gc.get_objects())
