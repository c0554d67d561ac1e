"""Steps that are pods of a cluster, launched from a laptop by `flow.py run`."""

from __future__ import annotations

from bed import Bed
from deaths import FLOW, how


def test_a_flow_without_otel_runs(bed: Bed) -> None:
    """The bed itself: foreach, join, and a pod that is killed and tried again."""
    finished = bed.run(FLOW, "--with", how("kill -9"))
    assert finished.code == 0, finished.stdout + finished.stderr
    assert sum(name.endswith(".work") for name in bed.outputs) == 3
