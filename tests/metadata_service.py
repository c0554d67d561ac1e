"""A metadata service: what Metaflow's own provider asks for, in memory, with ids of any form; it fails on command.

Metaflow's service is not on PyPI, and `metaflow-local-service` takes no ids that are not numbers. Objects are those of
the provider (metaflow/plugins/metadata_providers/service.py), under their paths.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

from http_service import HttpService

_LISTS = ("flows", "runs", "steps", "tasks", "artifacts", "metadata")


class MetadataService(HttpService):
    """Listens on localhost while entered; `fault` (a status) and `pause` (seconds a request) may be changed."""

    def __init__(self) -> None:
        self.fault = 0
        self.pause = 0.0
        self.requests = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.answer(self, service.get)

            def do_POST(self) -> None:
                service.answer(self, service.post)

            def do_PATCH(self) -> None:
                service.answer(self, service.post)

        super().__init__(Handler)

    @property
    def environ(self) -> dict[str, str]:
        """What Metaflow needs to use it."""
        return {"METAFLOW_DEFAULT_METADATA": "service", "METAFLOW_SERVICE_URL": self.url}

    def of_step(self, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, in all runs."""
        return [each for path, each in self.objects.items() if path.rpartition("/")[0].endswith(f"/steps/{step}/tasks")]

    def answer(self, handler: BaseHTTPRequestHandler, act: Any) -> None:
        length = int(handler.headers.get("content-length") or 0)
        body = json.loads(handler.rfile.read(length) or b"{}")
        path = handler.path.partition("?")[0].rstrip("/")
        if self.pause:
            time.sleep(self.pause)
        with self._lock:
            self.requests += 1
            code, value = (self.fault, {}) if self.fault and path != "/ping" else act(path, body)
        data = json.dumps(value).encode()
        handler.send_response(code)
        handler.send_header("METADATA_SERVICE_VERSION", "2.5.0")
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def get(self, path: str, _body: Any) -> tuple[int, Any]:
        if path == "/ping":
            return 200, "pong"
        if path in self.objects:
            return 200, self.objects[path]
        if path.rpartition("/")[2] in _LISTS:
            depth = path.count("/") + 1
            below = [
                each for key, each in self.objects.items() if key.startswith(path + "/") and key.count("/") == depth
            ]
            return 200, below
        return 404, {}

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        if path.endswith("/heartbeat"):
            self.objects.get(path[: -len("/heartbeat")], {})["last_heartbeat_ts"] = int(time.time())
            return 200, json.dumps({"wait_time_in_seconds": 1})  # a string, as the service answers
        head, _, kind = path.rpartition("/")
        at = int(time.time() * 1000)
        if isinstance(body, list):
            kind = {"artifact": "artifacts"}.get(kind, kind)
            for each in body:
                self.objects[f"{head}/{kind}/{next(self._count)}"] = {**each, "ts_epoch": at}
            return 200, []
        found = re.fullmatch(r"/flows/([^/]+)(?:/runs/([^/]+))?(?:/steps/([^/]+))?(?:/(?:task|run|step))?", path)
        assert found is not None, path
        flow, run, step = found.groups()
        made = {"tags": [], "system_tags": [], **body, "flow_id": flow, "ts_epoch": at}
        if kind == "run":
            made["run_number"] = body.get("run_number") or next(self._count)
            key = f"{head}/runs/{made['run_number']}"
        elif kind == "task":
            made.update(run_number=run, step_name=step, task_id=str(body.get("task_id") or next(self._count)))
            key = f"{head}/tasks/{made['task_id']}"
        elif kind == "step":
            made.update(run_number=run, step_name=step)
            key = head
        else:
            key = path
            if run is not None:
                made["run_number"] = run
        if kind in ("run", "task"):  # as the service does for clients that send heartbeats
            made["last_heartbeat_ts"] = at // 1000
        is_new = key not in self.objects
        return 200 if is_new else 409, self.objects.setdefault(key, made)
