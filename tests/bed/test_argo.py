"""Steps that are pods of a workflow: nobody launched them, and nobody watches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from bed import Bed
from deaths import FLOW, LINES, expected, how
from endpoint import Endpoint
from running import eventually


def test_a_workflow_without_otel_runs(bed: Bed) -> None:
    """The bed itself: foreach, join, a pod that is killed and tried again."""
    workflow = bed.deploy(FLOW, "--with", how("kill -9"))
    assert workflow.run() == "Succeeded", workflow.failures
    assert [failure["message"] for failure in workflow.failures] == ["Error (exit code 137)"]
    assert set(workflow.pods) == {("start", 0), ("work", 0), ("work", 1), ("join", 0), ("end", 0)}


@pytest.mark.parametrize("death", ["", "kill -9", "out of memory"])
def test_each_line_arrives_once_and_each_attempt_has_a_span(bed: Bed, receiver: Endpoint, death: str) -> None:
    workflow = bed.deploy(FLOW, "--with", "otel", "--with", how(death), env=bed.sends_to(receiver))
    assert workflow.run() == "Succeeded", workflow.failures
    found = eventually(lambda: bed.arrived(receiver, "end"))
    assert (found.lost, found.twice) == ([], [])
    assert found.results() == expected(death)


def test_what_a_container_printed_before_it_was_killed_at_once_arrives(bed: Bed, receiver: Endpoint) -> None:
    """But for what it printed in the last tenth of a second, which nobody had the time to read."""
    workflow = bed.deploy(FLOW, "--with", "otel", "--with", how("container"), env=bed.sends_to(receiver))
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(workflow.run)
        victim = eventually(lambda: next((n for n, text in bed.outputs.items() if "/0 now" in text), None), 120)
        eventually(lambda: bed.outputs[victim].count("\n") > 2 * LINES)
        bed.kubelet.kill(victim.partition(".")[0])
        assert ended.result() == "Succeeded", workflow.failures
    found = eventually(lambda: bed.arrived(receiver, "end"))
    assert found.twice == []
    assert len(found.lost) <= 20
    assert all(line in bed.outputs[victim] for line in found.lost)
