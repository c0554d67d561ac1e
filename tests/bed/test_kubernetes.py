"""Steps that are pods of a cluster, launched from a laptop by `flow.py run`."""

from __future__ import annotations

from collections import Counter

import pytest
from bed import Bed
from deaths import FLOW, expected, how
from endpoint import Endpoint
from running import eventually


def test_a_flow_without_otel_runs(bed: Bed) -> None:
    """The bed itself: foreach, join, and a pod that is killed and tried again."""
    finished = bed.run(FLOW, "--with", how("kill -9"))
    assert finished.code == 0, finished.stdout + finished.stderr
    assert sum(name.endswith(".work") for name in bed.outputs) == 3


@pytest.mark.parametrize("death", ["", "kill -9", "out of memory"])
def test_each_line_arrives_once_and_each_attempt_has_a_span(bed: Bed, receiver: Endpoint, death: str) -> None:
    finished = bed.run(FLOW, "--with", "otel", "--with", how(death), env=bed.sends_to(receiver))
    assert finished.code == 0, finished.stdout + finished.stderr
    found = eventually(lambda: bed.arrived(receiver, "RUN PodFlow"))
    assert (found.lost, found.twice) == ([], [])
    assert found.results() == expected(death) + Counter([("RUN PodFlow", "")])
