"""An HTTP server for tests, in a thread."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import Self


class HttpService:
    """Answers on localhost while entered; its address, `url`, is known before."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        """Whatever makes `handler` answer; what that prints of each request is left out."""

        class Quiet(handler):  # type: ignore[valid-type, misc]
            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
