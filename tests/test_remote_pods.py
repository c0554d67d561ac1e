"""Real containers' commands, run in bare environments: the code of a task travels, and records what happens there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_pod import Cluster
from interpreters import interpreters
from running import Finished, Place

import otel_metaflow
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model.run import load

NEWEST = list(interpreters())[-1]
FLOW = """
    import os, signal, subprocess, sys
    import core
    from metaflow import FlowSpec, kubernetes, otel, step
    from otel_metaflow import trace_id
    class PodFlow(FlowSpec):
        @otel
        @kubernetes
        @step
        def start(self):
            {body}
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        PodFlow()
    """
NESTED = """
    from metaflow import FlowSpec, otel, step
    class NestedFlow(FlowSpec):
        @otel
        @step
        def start(self):
            print("of a run in a container")
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        NestedFlow()
    """


def run(place: Place, version: str, body: str, **variables: str) -> tuple[Cluster, Finished]:
    cluster = Cluster(place, version)
    place.write("name = 'the module of the user'", "core.py")
    place.write(NESTED, "nested.py")
    return cluster, cluster.run(FLOW.format(body=body.replace("\n", "\n            ")), env=variables)


@pytest.mark.parametrize("version", ["3.8", NEWEST])
def test_a_task_in_a_bare_container_records_itself(place: Place, version: str) -> None:
    """By the code that came with it, which hides no module of the user's; a run that it starts is recorded, too."""
    cluster, finished = run(
        place,
        version,
        "print(core.name, trace_id('A', '1'))\n"
        "local = ['--datastore', 'local', '--metadata', 'local']\n"
        "subprocess.run([sys.executable, 'nested.py', '--quiet', *local, 'run'])",
    )
    pod = cluster.pod("start")
    assert finished.code == 0, pod.stdout + pod.stderr
    journals = layout.run_folder(pod.home, RunKey("PodFlow", finished.run))
    attempt = load(pod.home, journals).attempts[AttemptKey("start", "1", 0)]
    assert (attempt.result, attempt.exit_code) == ("success", 0)
    assert attempt.start
    assert attempt.start["resource"]["process.runtime.version"].startswith(version + ".")
    assert attempt.start["witness"]["pid"]
    path = layout.attempt_file(journals, attempt.key)
    assert "the module of the user " + otel_metaflow.trace_id("A", "1") in path.read_text()
    (nested,) = (pod.home / "NestedFlow").glob("*/start.1.0.jsonl")
    assert "of a run in a container" in nested.read_text()
    assert not (nested.parent / layout.RUN_FILE).exists()  # no launcher of ours travels
    assert "otel: " not in pod.stdout + pod.stderr
    assert list(pod.home.parent.glob("otel-witness*")) == []


def test_a_python_that_is_too_old_runs_the_step_as_without_us(place: Place) -> None:
    """Metaflow itself still takes Python 3.7."""
    cluster = Cluster(place, "3.7")
    place.write("", "core.py")
    finished = cluster.run(FLOW.format(body="print('hello')").replace("from otel_metaflow import trace_id", ""))
    pod = cluster.pod("start")
    assert finished.code == 0, pod.stderr
    assert "hello" in pod.stdout
    assert "otel" not in pod.stderr
    assert not pod.home.exists()


def test_an_installation_in_the_image_precedes_the_code_package(place: Place) -> None:
    image = place.path / "image" / "otel_metaflow"
    shutil.copytree(Path(otel_metaflow.__file__).parent, image, ignore=shutil.ignore_patterns("__pycache__", "*.html"))
    version = image / "core" / "version.py"
    version.write_text('__version__ = "9.9.9"\n')
    cluster, finished = run(
        place, NEWEST, "print('hello')", POD_ENVIRONMENT=json.dumps({"PYTHONPATH": str(image.parent)})
    )
    assert finished.code == 0
    (start,) = cluster.pod("start").records("start")
    assert start["resource"]["telemetry.distro.version"] == "9.9.9"


def test_a_killed_task_leaves_its_lines_and_how_it_ended(place: Place) -> None:
    cluster, finished = run(place, "3.8", "print('a last word', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert finished.code == 1
    pod = cluster.pod("start")
    assert [record["kind"] for record in pod.records()] == ["start", "line", "exit"]
    attempt = load(pod.home, layout.run_folder(pod.home, RunKey("PodFlow", finished.run))).attempts
    (killed,) = attempt.values()
    assert (killed.is_lost, killed.error_message) == (True, "the process was killed by SIGKILL")


def test_user_code_that_takes_our_modules_away_costs_it_one_line(place: Place) -> None:
    """What is imported late is not there then, not even where that is reported through our own tap of stderr."""
    cluster, finished = run(
        place,
        NEWEST,
        "import logging\n"
        "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('otel_')]\n"
        "sys.path.clear()\n"
        "logging.warning('the first record')",
    )
    pod = cluster.pod("start")
    assert finished.code == 0, pod.stderr[-2000:]
    assert pod.stderr.count("the first record") == 1
    assert pod.stderr.count("otel: telemetry is incomplete") == 1
