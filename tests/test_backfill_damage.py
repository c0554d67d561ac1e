"""What Metaflow stored of a run, damaged in one way or the other: the rest is exported, and no error is a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from metadata_service import MetadataService
from running import Finished, Place
from test_cli_backfill import FLOW, SPANS, Team, copied, pathspec, plain

__all__ = ["copied", "plain"]  # fixtures

Damage = Callable[[Path], object]


def changed(pattern: str, **values: Any) -> Damage:
    """Change fields of JSON files."""

    def damage(stored: Path) -> None:
        for file in stored.glob(pattern):
            file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


def written(pattern: str, data: bytes) -> Damage:
    """Replace files."""

    def damage(stored: Path) -> None:
        files = list(stored.glob(pattern))
        assert files
        for file in files:
            file.write_bytes(data)

    return damage


def added(*names: str) -> Damage:
    """Add files to a task."""

    def damage(stored: Path) -> None:
        for name in names:
            (stored / "work" / "2" / name).write_text("{}")

    return damage


WHOLE = {
    "data.json has other types": written("*/*/*.data.json", b'{"objects": [1, 2], "info": [3]}'),
    "data.json is cut": written("*/*/*.data.json", b'{"objects": {"_graph'),
    "data.json is deep": written("*/*/*.data.json", b"[" * 100_000),
    "a time is no number": changed("*/*/_meta/_self.json", ts_epoch="yesterday"),
    "a time is not a number": changed("*/_meta/_self.json", ts_epoch=float("nan")),
    "a time is too late": changed("*/*/_meta/_self.json", ts_epoch=10**18),
    "a run began at no time": changed("_meta/_self.json", ts_epoch=-5),
    "tags are none": changed("work/2/_meta/sysmeta_*", tags=None),
    "tags of the run are a number": changed("_meta/_self.json", system_tags=7, tags="a"),
    "a file is no attempt's": added("99999999999999999999.runtime", "-1.runtime", "٣.runtime", "0.runtime.tmp"),
    "a foreach is deeper than any": changed("work/*/_meta/sysmeta_foreach-execution-path*", value="work:1," * 10_000),
}
IN_PART = {
    "a task is cut": (written("work/2/_meta/_self.json", b'{"run_number'), SPANS - 1),
    "a task is empty": (written("work/2/_meta/_self.json", b""), SPANS - 1),
    "facts of a task are cut": (written("work/2/_meta/sysmeta_python_version_*", b'{"value'), SPANS),
    "facts of a task are a list": (written("work/2/_meta/sysmeta_user_*", b"[1]"), SPANS),
}


def backfilled(copied: tuple[Team, Path, Finished], damage: Damage) -> tuple[Endpoint, str]:
    team, stored, run = copied
    damage(stored)
    with Endpoint() as endpoint:
        done = team.backfill(endpoint, pathspec(run))
    assert "Traceback" not in done.stdout + done.stderr
    assert max(endpoint.span_ids.values()) == 1
    return endpoint, done.stderr


@pytest.mark.parametrize("what", WHOLE)
def test_a_run_with_a_damage_arrives_whole(copied: tuple[Team, Path, Finished], what: str) -> None:
    endpoint, _ = backfilled(copied, WHOLE[what])
    assert len(endpoint.run_and_attempt_ids()) == SPANS


@pytest.mark.parametrize("what", IN_PART)
def test_of_a_damaged_file_there_is_a_line(copied: tuple[Team, Path, Finished], what: str) -> None:
    """And the rest is exported."""
    damage, spans = IN_PART[what]
    endpoint, printed = backfilled(copied, damage)
    assert ("work/2/_meta" in printed) is ("list" not in what)
    assert len(endpoint.run_and_attempt_ids()) == spans


def test_a_damaged_run_does_not_hide_the_others(copied: tuple[Team, Path, Finished]) -> None:
    """Which are listed with it."""
    team, stored, _ = copied
    other = stored.with_name("17") / "_meta"
    other.mkdir(parents=True)
    (other / "_self.json").write_bytes(b"")
    with Endpoint() as endpoint:
        done = team.backfill(endpoint, "--all")
    assert f"{other}/_self.json is damaged, and left out" in done.stderr
    assert len(endpoint.run_and_attempt_ids()) == SPANS


@pytest.mark.parametrize(
    ("what", "answer"),
    {
        "text for everything": ("", "pong"),
        "an object for a list": ("/steps", {"message": "try later"}),
        "text for a list": ("/tasks", "pong"),
    }.items(),
    ids=str,
)
def test_a_service_that_answers_something_else_is_one_line(
    place: Place, tmp_path: Path, what: str, answer: tuple[str, Any]
) -> None:
    """And nothing of the run is left here."""
    where, value = answer
    with MetadataService() as service, Endpoint() as endpoint:
        run = place.run(FLOW, env=service.environ)
        get = service.get
        service.get = lambda asked, body: (200, value) if asked.endswith(where) else get(asked, body)  # type: ignore[method-assign]
        team = Team(place, tmp_path / "team")
        env = {**service.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        done = place.cli("backfill", pathspec(run), env={"OTEL_METAFLOW_HOME": str(team.home), **env})
        assert done.returncode in (1, 2), what
        assert "Traceback" not in done.stdout + done.stderr
        assert not endpoint.seen
        assert not list(team.home.glob(f"{run.flow}/*"))
        service.get = get  # type: ignore[method-assign]
        team("backfill", pathspec(run), env=env)
        assert len(endpoint.run_and_attempt_ids()) == SPANS


HANGING = """
from otel_metaflow.backfill import metadata_catalogue, metaflow_seams
metaflow_seams._TIMEOUT, metaflow_seams._PAUSE = 0.3, 0.01
try:
    metadata_catalogue.MetadataCatalogue().flows()
except metaflow_seams.UnreadableError as error:
    print(error)
"""


def test_a_service_that_hangs_is_asked_three_times(place: Place) -> None:
    """Not fifteen: Metaflow's own attempts are none then."""
    asked: list[str] = []
    with MetadataService() as service:
        service.pause = 1.0
        answer = service.answer

        def counted(handler: BaseHTTPRequestHandler, act: Any) -> None:
            asked.append(handler.path)
            answer(handler, act)

        service.answer = counted  # type: ignore[method-assign]
        command = [sys.executable, place.write(HANGING)]
        printed = subprocess.check_output(command, env=place.environ(service.environ), text=True)
    assert "timed out" in printed
    assert asked == ["/flows"] * 3
