"""A program with its own trace starts a flow: the run becomes part of that trace.

    python examples/within_a_trace.py

The run's span is a child of "nightly". Anything that sets TRACEPARENT for `flow.py run`, such as a scheduler or a CI
system, has the same effect.
"""

import os
import subprocess
import sys
from pathlib import Path

from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider

FLOW = Path(__file__).with_name("hello.py")

trace.set_tracer_provider(TracerProvider())  # yours exports to somewhere
tracer = trace.get_tracer("scheduler")

with tracer.start_as_current_span("nightly") as span:
    carrier = {}
    propagate.inject(carrier)
    environment = {**os.environ, "TRACEPARENT": carrier["traceparent"]}
    print(f"trace_id {span.get_span_context().trace_id:032x}", flush=True)
    subprocess.run([sys.executable, str(FLOW), "run"], env=environment, check=True)
