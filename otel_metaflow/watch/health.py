"""`/healthz` and `/metrics`, over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from otel_metaflow.watch.metrics import Metrics

# Without a step forward for so long, in seconds, it hangs. A service that fails is no reason to start it again.
_HANGS = 900.0
# How long a client may take for its request, in seconds.
_TIMEOUT = 5.0


@contextmanager
def serving(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Answer on HOST:PORT, from a thread of its own; yields the port, which the system chooses for 0.

    Raises:
        OSError: it cannot be listened there.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                code, text = _health(metrics)
                self._answer(code, "application/json", text)
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.page())
            else:
                self._answer(404, "text/plain", "there are /healthz and /metrics\n")

        def _answer(self, code: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: probes come every few seconds."""

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def _health(metrics: Metrics) -> tuple[int, str]:
    still = time.monotonic() - metrics.moved_at
    hangs = still > _HANGS
    state = {
        "status": "hanging" if hangs else "failing" if metrics.trouble else "ok",
        "reason": f"nothing has happened for {still:.0f} s" if hangs else metrics.trouble,
        "open_runs": metrics.open_runs,
    }
    return (503 if hangs else 200), json.dumps(state) + "\n"
