"""structlog in a flow: the fields of each event become attributes.

    pip install structlog
    python examples/structured_logging.py run

It does not matter whether structlog prints JSON itself, as here, or hands its events to `logging`.
"""

import structlog
from metaflow import FlowSpec, otel, step

structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.JSONRenderer(),
    ]
)
log = structlog.get_logger()


class StructuredLoggingFlow(FlowSpec):
    @otel
    @step
    def start(self):
        log.info("rows loaded", table="orders", rows=1_000)
        log.warning("column is empty", table="orders", column="discount")
        self.next(self.end)

    @otel
    @step
    def end(self):
        pass


if __name__ == "__main__":
    StructuredLoggingFlow()
