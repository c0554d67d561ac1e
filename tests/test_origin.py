"""What a run comes from: the run that triggered it, the trace it was started in."""

from __future__ import annotations

from pathlib import Path

import pytest

from otel_metaflow.core import ids, names
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.launcher import provenance
from otel_metaflow.model.run import Run
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.convert.spans import Spans
from otel_metaflow.shipper.usage_sampler import UsageSampler

UPSTREAM = [
    {"type": "run", "timestamp": 2, "name": "metaflow.UpFlow.end", "id": "UpFlow/argo-up-x7/end/t-9"},
    {"type": "event", "timestamp": 1, "name": "new rows", "id": "an-event"},
]


# Metaflow warns of its own imports, and is imported here, in the process of the tests.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_triggered_run_names_the_run_whose_end_triggered_it() -> None:
    """Metaflow's own object, as `@trigger_on_finish` leaves it; an event that is no run is no link."""
    from metaflow import current
    from metaflow.events import Trigger

    before = current.get("trigger")
    current._update_env({"trigger": Trigger(UPSTREAM)})
    try:
        assert provenance.describe({}) == {"triggers": ["UpFlow/argo-up-x7"]}
    finally:
        current._update_env({"trigger": before})


def test_the_span_of_a_triggered_run_is_linked_to_the_triggering_run(tmp_path: Path) -> None:
    """By ids that need not be handed on: the upstream run computed the same."""
    start = {"timeUnixNano": 1, "triggers": ["UpFlow/argo-up-x7"]}
    run = Run(RunKey("DownFlow", "argo-down-1"), start=start, end={"timeUnixNano": 2, "result": "success"})
    span = Spans(tmp_path, run, Resources(run), Redaction(), UsageSampler(), detail=1).of_run().data
    (link,) = span["links"]
    assert link["traceId"] == ids.trace_id("UpFlow", "argo-up-x7")
    assert link["spanId"] == ids.run_span_id("UpFlow", "argo-up-x7")
    assert link["attributes"][names.LINK_TYPE] == "trigger"
    assert span["attributes"][names.RUN_TRIGGER_TYPE] == "run"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
    ],
)
def test_an_invalid_traceparent_is_ignored(text: str) -> None:
    """By the W3C's rules a new trace begins."""
    assert "traceparent" not in provenance.describe({"TRACEPARENT": text})
