"""Your own spans and metrics, without any setup.

    python examples/own_telemetry.py run

They nest under the step's attempt. The flow imports only the OpenTelemetry API; the SDK is loaded by the first span.
"""

import random

from metaflow import FlowSpec, otel, step
from opentelemetry import metrics, trace

tracer = trace.get_tracer("training")
meter = metrics.get_meter("training")
rows_read = meter.create_counter("training.rows", unit="{row}")
loss_of_epoch = meter.create_histogram("training.loss")


class OwnTelemetryFlow(FlowSpec):
    @otel
    @step
    def start(self):
        with tracer.start_as_current_span("load", attributes={"format": "parquet"}):
            rows = [random.random() for _ in range(1_000)]
            rows_read.add(len(rows))
        for epoch in range(3):
            with tracer.start_as_current_span("epoch") as span:
                loss = sum(rows) / len(rows) / (epoch + 1)
                loss_of_epoch.record(loss)
                span.set_attribute("loss", loss)
        self.next(self.end)

    @otel
    @step
    def end(self):
        pass


if __name__ == "__main__":
    OwnTelemetryFlow()
