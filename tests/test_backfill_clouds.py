"""Runs of plain Metaflow with Google Cloud Storage and Azure as datastore, by emulators of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import clouds
import pytest
from endpoint import Endpoint
from running import Place
from test_backfill_datastore import elsewhere
from test_cli_backfill import FLOW, PRINTED, SPANS, Team, pathspec
from test_watch import arrived_once

NANO = 1_000_000_000
Cloud = Callable[[Path], AbstractContextManager[dict[str, str]]]


@pytest.fixture(params=["google", "azure"])
def cloud(request: pytest.FixtureRequest) -> Cloud:
    if request.param == "azure" and not clouds.AZURITE.exists():
        because = f"Azure cannot be tried without {clouds.AZURITE}, which `make test` installs by npm"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(because)
    return {"google": clouds.google, "azure": clouds.azure}[request.param]


def test_a_run_arrives_once(cloud: Cloud, place: Place, tmp_path: Path) -> None:
    """With its lines, retries and graph, and again nothing."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    with cloud(folder) as stored, Endpoint() as endpoint:
        run = place.run(FLOW, env=stored)
        assert run.code == 0, run.stdout + run.stderr
        team = Team(place, tmp_path / "team")
        env = {**stored, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        team("backfill", pathspec(run), env=env)
        assert "exported earlier" in team("backfill", "--all", env=env).stdout
        arrived_once(endpoint, PRINTED, SPANS)
        assert "graph start > work[3] > join > end" in team("view", pathspec(run), env=env).stdout


def test_a_run_of_another_machine_arrives_from_the_bucket_alone(cloud: Cloud, place: Place, tmp_path: Path) -> None:
    """With the ends of its attempts, which are when their artifacts were stored."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    with cloud(folder) as stored, Endpoint() as endpoint:
        run = place.run(FLOW, env=stored)
        assert run.code == 0, run.stdout + run.stderr
        env = {**stored, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        done = elsewhere(tmp_path)("backfill", "--all", env=env)
        assert "alone, without tags" in done.stderr
        arrived_once(endpoint, PRINTED, SPANS)
        spans = {span.name: span for span, _ in endpoint.spans()}
        whole, last = spans["RUN PlainFlow"], spans["end"]
        assert abs(whole.end_time_unix_nano - last.end_time_unix_nano) < NANO
        assert 0 < whole.end_time_unix_nano - int(run.run) * 1_000 < 120 * NANO


def test_a_datastore_that_is_not_there_is_one_line(cloud: Cloud, place: Place, tmp_path: Path) -> None:
    """And the run is left for another time."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    with Endpoint() as endpoint:
        with cloud(folder) as stored:
            run = place.run(FLOW, env=stored)
            assert run.code == 0, run.stdout + run.stderr
            (kind,) = (stored[name] for name in stored if name == "METAFLOW_DEFAULT_DATASTORE")
            root = next(value for name, value in stored.items() if "_SYSROOT_" in name)
            env = {**stored, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
            for file in (place.path / "datastore").rglob("sysmeta_ds-root*.json"):
                file.write_text(file.read_text().replace(root, root.replace("bucket", "elsewhere")))
            printed = Team(place, tmp_path / "team")("backfill", pathspec(run), env=env, code=1)
        assert f"cannot read {kind}:" in printed.stdout
        assert "elsewhere" in printed.stdout
        assert "Traceback" not in printed.stdout + printed.stderr
        assert not endpoint.seen
