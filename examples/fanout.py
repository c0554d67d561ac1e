"""A foreach of four tasks and a join; one task fails at its first attempt and is retried.

    python examples/fanout.py run

The trace shows five steps, the failed attempt with its exception next to the one that succeeded, and
how long each branch took:

    otel-metaflow view FanoutFlow/RUN
"""

import logging
import time

from metaflow import FlowSpec, current, otel, retry, step

logger = logging.getLogger("fanout")


class FanoutFlow(FlowSpec):
    @otel
    @step
    def start(self):
        self.shards = [1, 2, 3, 4]
        print(f"{len(self.shards)} shards to work on")
        self.next(self.work, foreach="shards")

    @otel(attributes={"team": "sharding"})
    @retry(times=2, minutes_between_retries=0)
    @step
    def work(self):
        shard = self.input
        print(f"working on shard {shard}")
        if shard == 3 and current.retry_count == 0:
            logger.error("shard %d is locked", shard, extra={"shard": shard})
            raise RuntimeError(f"shard {shard} is locked by another process")
        time.sleep(0.05 * shard)
        self.rows = shard * 100
        logger.warning("shard %d gave %d rows", shard, self.rows, extra={"shard": shard, "rows": self.rows})
        self.next(self.collect)

    @otel
    @step
    def collect(self, inputs):
        self.rows = sum(each.rows for each in inputs)
        self.next(self.end)

    @otel
    @step
    def end(self):
        print(f"{self.rows} rows in all")


if __name__ == "__main__":
    FanoutFlow()
