"""The fixture `otel_run`; in conftest.py: `pytest_plugins = ["otel_metaflow.testing.pytest_plugin"]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from otel_metaflow.testing.deterministic import deterministic
from otel_metaflow.testing.flows import run
from otel_metaflow.testing.telemetry import Telemetry

__all__ = ["OtelRun", "otel_run"]


class OtelRun(Protocol):
    """The type of the fixture: `otel_metaflow.testing.run`, with all files below `tmp_path`."""

    def __call__(
        self, flow: str | Path, *arguments: str, env: Mapping[str, str] | None = None, command: str = "run"
    ) -> Telemetry:
        """Run the flow in the file `flow` and return its telemetry, with deterministic ids and times.

        Raises:
            ValueError: the flow did not start a run; the message has its output.
        """


@pytest.fixture
def otel_run(tmp_path: Path) -> OtelRun:
    """Runs a flow and returns its telemetry, with deterministic ids and times; all files are below `tmp_path`."""
    variables = {
        "METAFLOW_HOME": str(tmp_path / "metaflow"),
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(tmp_path / "datastore"),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_USER": "tester",
    }

    def run_flow(
        flow: str | Path, *arguments: str, env: Mapping[str, str] | None = None, command: str = "run"
    ) -> Telemetry:
        made = run(flow, *arguments, env={**variables, **(env or {})}, command=command, home=tmp_path / "journals")
        return deterministic(made)

    return run_flow
