"""What an attempt, and a line of one, cost the shipper, which sends them by the official exporters."""

from __future__ import annotations

import tempfile
from pathlib import Path

import wide_runs
from callgrind import ENVIRONMENT, counted
from endpoint import Endpoint
from environments import Environment
from places import variables
from row import Row
from wide_runs import UNLIMITED, Shape

_FEW, _MANY = 100, 400
_LINES = 20


def rows(installed: dict[str, Environment]) -> list[Row]:
    """An attempt more of a run on disk, without lines, and a line more of each."""
    python = str(installed["otel"].python)
    few = _delivered(python, Shape(_FEW, rate=0, lines=0))
    attempt = (_delivered(python, Shape(_MANY, rate=0, lines=0)) - few) / (_MANY - _FEW)
    line = (_delivered(python, Shape(_FEW, rate=0, lines=_LINES)) - few) / (_FEW * _LINES)
    return [Row("the shipper, an attempt", 0, attempt), Row("the shipper, a line", 0, line)]


def _delivered(python: str, shape: Shape) -> int:
    """Instructions of a shipper that delivers the whole run."""
    with tempfile.TemporaryDirectory() as name, Endpoint(keeps_messages=False) as endpoint:
        place = Path(name)
        env = variables(place, "counted", inherited=ENVIRONMENT) | UNLIMITED
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "OTEL_METAFLOW_STANDBY": "0"}
        home = Path(env["OTEL_METAFLOW_HOME"])
        with wide_runs.running(home, shape) as wide:
            wide.wait_written()
            wide.end()
        count = counted([python, "-m", "otel_metaflow.shipper", str(wide.folder)], env, place)
        if len(endpoint.span_ids) != len(wide_runs.span_ids(shape)):
            raise RuntimeError("the run was not delivered")
        return count
