"""Steps that are pods of a cluster, launched from a laptop by `flow.py run`."""

from __future__ import annotations

from bed import Bed

FLOW = """
    import os, signal, subprocess, sys, logging
    from metaflow import FlowSpec, kubernetes, retry, step

    class PodFlow(FlowSpec):
        @kubernetes
        @step
        def start(self):
            print("hello from start")
            logging.warning("a logging record")
            subprocess.run(["echo", "from a subprocess"])
            self.xs = [1, 2]
            self.next(self.work, foreach="xs")

        @retry(times=1, minutes_between_retries=0)
        @kubernetes
        @step
        def work(self):
            from metaflow import current
            print("working on", self.input)
            if self.input == 2 and current.retry_count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.next(self.join)

        @kubernetes
        @step
        def join(self, inputs):
            print("joined", len(list(inputs)))
            self.next(self.end)

        @step
        def end(self):
            print("done")

    if __name__ == "__main__":
        PodFlow()
"""


def test_a_flow_without_otel_runs(bed: Bed) -> None:
    """The bed itself: foreach, join, and a pod that is killed and tried again."""
    finished = bed.run(FLOW)
    assert finished.code == 0, finished.stdout + finished.stderr
    assert "working on 2" in finished.stdout
