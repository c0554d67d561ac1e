"""A library that OpenTelemetry instruments: each request by `requests` becomes a child span of the attempt.

    pip install opentelemetry-instrumentation-requests
    python examples/instrumented_library.py run

Or instrument every installed library without changing the flow (then delete the two lines about the
instrumentor):

    pip install opentelemetry-distro
    opentelemetry-instrument python examples/instrumented_library.py run
"""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import requests
from metaflow import FlowSpec, otel, step
from opentelemetry.instrumentation.requests import RequestsInstrumentor

RequestsInstrumentor().instrument()


class Prices(BaseHTTPRequestHandler):
    """Stands for a service of yours, so that the example needs no network."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"42")

    def log_message(self, *args):
        pass


class InstrumentedLibraryFlow(FlowSpec):
    @otel
    @step
    def start(self):
        server = HTTPServer(("127.0.0.1", 0), Prices)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.price = int(requests.get(f"http://127.0.0.1:{server.server_port}/price", timeout=5).text)
        self.next(self.end)

    @otel
    @step
    def end(self):
        print(f"The price is {self.price}.")


if __name__ == "__main__":
    InstrumentedLibraryFlow()
