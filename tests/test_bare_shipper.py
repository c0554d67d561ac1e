"""A shipper in a Python that has nothing but the standard library, and this package's files on its path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from endpoint import Endpoint
from interpreters import interpreters
from journals import Journals
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

import otel_metaflow
from otel_metaflow.journal.delivery_status import DeliveryStatus

PYTHONS = interpreters()
SPAN = {
    "kind": "span", "name": "of user code", "traceId": "1" * 32, "spanId": "2" * 16, "spanKind": 1, "flags": 1,
    "startTimeUnixNano": "1790000000200000000", "endTimeUnixNano": "1790000000300000000",
    "timeUnixNano": 1_790_000_000_300_000_000, "scope": {"name": "library"}, "attributes": {"a": 1},
}  # fmt: skip


def run_of(home: Path) -> Journals:
    """A run with all that a journal may hold: lines, JSON, a record of logging, a span, a failure and a retry."""
    made = Journals(home)
    made.step("start", "end")
    made.step("end")
    lines = ["hello", '{"level": "error", "message": "structured", "seconds": 1.5}', "\u2713 " + "x" * 10_000]
    made.attempt("start", 1, 0.1, None, lines=["dies"])
    made.attempt("start", 1, 1.1, 0.9, attempt=1, lines=lines, records=[SPAN])
    made.attempt("end", 2, 2.1, 0.9, inputs=[("start", 1)], lines=["bye"])
    made.end(3.1)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this package's files and nothing else."""
    folder = tmp_path_factory.mktemp("files")
    package = Path(otel_metaflow.__file__).parent
    shutil.copytree(package, folder / "otel_metaflow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def shipped(made: Journals, command: list[str], env: dict[str, str]) -> tuple[Endpoint, DeliveryStatus]:
    """What a shipper in an environment of its own delivered of a run, and its status."""
    with Endpoint() as endpoint:
        environ = {
            "PATH": os.environ["PATH"],
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_METAFLOW_HOME": str(made.folder.parent.parent),
            "OTEL_METAFLOW_STANDBY": "0",
        }
        finished = subprocess.run(
            [*command, "-m", "otel_metaflow.shipper", str(made.folder)],
            env={**environ, **env}, cwd=made.folder, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
        return endpoint, DeliveryStatus.read(made.folder)


def metrics(endpoint: Endpoint) -> set[str]:
    return set(re.findall(r"metaflow\.[\w.]+", str(endpoint.of(ExportMetricsServiceRequest))))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[Endpoint, DeliveryStatus]:
    """The same run, delivered by the official exporters."""
    endpoint, status = shipped(run_of(tmp_path_factory.mktemp("official")), [sys.executable], {})
    assert {headers["user-agent"].partition("/")[0] for _, headers in endpoint.requests} == {
        "OTel-OTLP-Exporter-Python"
    }
    return endpoint, status


@pytest.mark.parametrize("version", PYTHONS)
def test_a_run_is_delivered_by_every_python(
    version: str, files: Path, official: tuple[Endpoint, DeliveryStatus], tmp_path: Path
) -> None:
    """The same records as by the official exporters, with no site-packages at all and every warning an error."""
    bare = [PYTHONS[version], "-S", "-s", "-W", "error"]
    endpoint, status = shipped(run_of(tmp_path), bare, {"PYTHONPATH": str(files)})
    assert {headers["user-agent"].partition("/")[0] for _, headers in endpoint.requests} == {"otel-metaflow"}
    expected, expected_status = official
    assert Counter(endpoint.bodies()) == Counter(expected.bodies())
    assert endpoint.span_ids == expected.span_ids
    assert metrics(endpoint) == metrics(expected)
    assert status.complete
    assert status.delivered == expected_status.delivered
    assert not status.dropped
