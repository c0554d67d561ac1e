"""Runs a flow and collects its telemetry."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.shipper.delivery import Delivery
from otel_metaflow.shipper.sinks import answers, sdk_objects
from otel_metaflow.shipper.sinks.answers import Exporter
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.testing.telemetry import Telemetry

_RUN_ID = re.compile(r"run-id ([^)\s]+)")


def run(
    flow: str | Path,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    command: str = "run",
    home: str | Path | None = None,
) -> Telemetry:
    """Run the flow in the file `flow` and return its telemetry.

    `arguments` follow `run`, or another `command` such as `resume`. `env` is added to the environment, from which
    variables of OpenTelemetry are removed. `home` is where journals are kept; by default they are deleted.

    Raises:
        ValueError: the flow did not start a run; the message has its output.
    """
    with tempfile.TemporaryDirectory() as temporary:
        journals = Path(home or temporary)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        clean.pop("PYTEST_CURRENT_TEST", None)
        clean["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), clean.get("PATH", "")))
        finished = subprocess.run(
            [sys.executable, str(flow), "--no-pylint", command, "--with", "otel", *arguments],
            env={**clean, "OTEL_METAFLOW_HOME": str(journals), **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        known = re.search(r"executing (\w+)", finished.stderr + finished.stdout)
        found = _RUN_ID.search(finished.stdout)
        if not known or not found:
            raise ValueError(f"{flow} did not start a run: {finished.stdout}{finished.stderr}")
        made = Telemetry(finished.returncode, finished.stdout, finished.stderr, known.group(1), found.group(1))
        environ = {"OTEL_METAFLOW_HOME": str(journals), **(env or {})}
        key = RunKey(made.flow, made.run, environ.get("OTEL_METAFLOW_ID_NAMESPACE", ""))
        _read(journals, key, made, environ)
        return made


def _read(home: Path, key: RunKey, into: Telemetry, environ: Mapping[str, str]) -> None:
    """Deliver the run to `into` instead of to an endpoint."""
    environment = settings.read({**environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"})

    def build(destination: settings.Destination) -> Exporter:
        def take(records: Sequence[Record]) -> answers.Answer:
            if destination.signal == "traces":
                into.spans += sdk_objects.spans(records)
            elif destination.signal == "logs":
                into.logs += sdk_objects.logs(records)
            else:
                into.metrics.append(sdk_objects.metrics(records))
            return answers.DELIVERED

        return take

    Delivery(home, layout.run_folder(home, key), environment, threading.Event(), build).work(linger=0.0)
