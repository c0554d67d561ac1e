"""Steps that are pods of a workflow: nobody launched them, and nobody watches."""

from __future__ import annotations

from bed import Bed
from test_kubernetes import FLOW


def test_a_workflow_without_otel_runs(bed: Bed) -> None:
    """The bed itself: foreach, join, a pod that is killed and tried again."""
    workflow = bed.deploy(FLOW)
    assert workflow.run() == "Succeeded", workflow.failures
    assert [failure["message"] for failure in workflow.failures] == ["Error (exit code 137)"]
    (end,) = workflow.pods["end", 0]
    assert "done" in bed.kubelet.output(end)
