"""A run that fails in one branch, to show what a trace explains.

    python examples/branch.py run --with otel
    otel-metaflow view BranchFlow/RUN

Another branch is rescued by @catch, the failing task is retried, and its step requests resources.
"""

import time

from metaflow import FlowSpec, catch, resources, retry, step


class BranchFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.clean, self.fetch)

    @catch(var="problem")
    @step
    def clean(self):
        raise KeyError("column price is missing")
        self.next(self.join)

    @step
    def fetch(self):
        self.shards = [1, 2, 3]
        self.next(self.train, foreach="shards")

    @resources(cpu=2, memory=4000)
    @retry(times=1, minutes_between_retries=0)
    @step
    def train(self):
        time.sleep(0.5)
        if self.input == 3:
            raise ValueError("shard 3 holds no rows")
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BranchFlow()
