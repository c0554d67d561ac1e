"""The smallest flow with telemetry: three steps, prints and logging.

    python examples/hello.py run

Each step becomes a span, each line and each logging record a log record with the span's ids. Nothing
is exported until you set an endpoint:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/hello.py run
"""

import logging

from metaflow import FlowSpec, otel, step

logger = logging.getLogger("hello")


class HelloFlow(FlowSpec):
    @otel
    @step
    def start(self):
        print("Hello from the first step.")
        self.names = ["Ada", "Grace", "Edsger"]
        self.next(self.greet)

    @otel(attributes={"team": "greeters"})
    @step
    def greet(self):
        for name in self.names:
            logger.warning("greeting %s", name, extra={"guest": name, "letters": len(name)})
        self.next(self.end)

    @otel
    @step
    def end(self):
        print(f"Greeted {len(self.names)} guests.")


if __name__ == "__main__":
    HelloFlow()
