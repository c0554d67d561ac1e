"""A tour of the features: a foreach, a retry, a rescue by @catch, a failure, custom spans and logs.

    python examples/tour.py run
    otel-metaflow view TourFlow/RUN --open

It fails on purpose: one shard cannot be read.
"""

import logging
import time

from metaflow import FlowSpec, card, catch, otel, resources, retry, step
from opentelemetry import trace

log = logging.getLogger("train")
tracer = trace.get_tracer("tour")


class TourFlow(FlowSpec):
    @card(type="otel")
    @otel
    @step
    def start(self):
        logging.basicConfig(level=logging.INFO)
        print("looking for new rows")
        self.next(self.clean, self.fetch)

    @catch(var="problem")
    @otel
    @step
    def clean(self):
        raise KeyError("column price is missing")
        self.next(self.report)

    @otel
    @step
    def fetch(self):
        with tracer.start_as_current_span("list shards") as span:
            time.sleep(0.2)
            self.shards = list(range(6))
            span.set_attribute("shards", len(self.shards))
        self.next(self.train, foreach="shards")

    @card(type="otel")
    @resources(cpu=1, memory=2000)
    @retry(times=1, minutes_between_retries=0)
    @otel
    @step
    def train(self):
        logging.basicConfig(level=logging.INFO)
        with tracer.start_as_current_span("read shard"):
            log.info("reading shard %d", self.input)
            time.sleep(0.3)
            if self.input == 3:
                log.error("shard %d ends in the middle of a row", self.input)
                raise ValueError(f"shard {self.input} is damaged")
        with tracer.start_as_current_span("fit") as span:
            for epoch in range(1, 6):
                sum(number * number for number in range(300_000 * (1 + self.input)))
                log.info("epoch %d  loss=%.3f", epoch, 1 / epoch)
            log.warning("the loss has stopped falling")
            span.set_attribute("epochs", epoch)
        self.next(self.gather)

    @otel
    @step
    def gather(self, inputs):
        self.next(self.report)

    @otel
    @step
    def report(self, inputs):
        self.next(self.end)

    @card(type="otel")
    @otel
    @step
    def end(self):
        pass


if __name__ == "__main__":
    TourFlow()
