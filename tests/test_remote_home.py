"""Containers of `flow.py run` export themselves; their journals come home, and the launcher exports the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from endpoint import Endpoint
from fake_pod import Cluster
from running import Finished, Place, eventually

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey

FLOW = """
    import logging, os, pathlib, signal, subprocess, time
    from metaflow import FlowSpec, current, kubernetes, otel, retry, step
    class HomeFlow(FlowSpec):
        @otel
        @step
        def start(self):
            print("on the host")
            self.next(self.work)
        @otel
        @retry(times=1, minutes_between_retries=0)
        @kubernetes
        @step
        def work(self):
            print("line of", current.retry_count)
            logging.warning("record of %s", current.retry_count)
            subprocess.run(["echo", f"subprocess of {current.retry_count}"])
            if current.retry_count == 0 and os.environ.get("HOW") == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if current.retry_count == 0 and os.environ.get("HOW") == "later":
                while not os.path.exists(os.environ["GO"]):
                    time.sleep(0.05)
            if current.retry_count == 0 and os.environ.get("HOW") in ("all", "later"):
                (pid,) = pathlib.Path(os.environ["MFLOG_STDOUT"]).parent.glob("otel/*/*/*.pid")
                os.kill(int(pid.read_text()), signal.SIGKILL)
                os.killpg(0, signal.SIGKILL)
            self.next(self.end)
        @otel
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        HomeFlow()
    """
PRINTED = ("line of {}", "record of {}", "subprocess of {}")
ABOUT = "[pod t-fake] Task is starting (Pod is running)..."


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


def run(place: Place, endpoint: Endpoint, how: str, seen_from_pods: str | None = None) -> Finished:
    """Run the flow; pods reach the endpoint by an address of their own."""
    pod = {"HOW": how, "OTEL_EXPORTER_OTLP_ENDPOINT": seen_from_pods or endpoint.url, "GO": str(place.path / "go")}
    finished = Cluster(place, "3.8").run(
        FLOW,
        env={
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
            "OTEL_METAFLOW_REMOTE_ENDPOINT": "http://collector.monitoring:4318",
            "POD_ENVIRONMENT": json.dumps(pod),
        },
    )
    assert finished.code == 0, finished.stdout
    finished.wait_delivered(60)
    return finished


def spans(endpoint: Endpoint) -> dict[tuple[str, int], dict[str, str]]:
    """The attributes of the spans of attempts, by step and attempt; each came once."""
    assert set(Counter(endpoint.span_ids).values()) == {1}
    found = {}
    for span, resource in endpoint.spans():
        attributes = {each.key: each.value for each in (*resource.attributes, *span.attributes)}
        if not span.name.startswith("RUN "):
            facts = {name: value.string_value or str(value.bool_value) for name, value in attributes.items()}
            found[span.name, attributes["metaflow.attempt"].int_value] = facts
    return found


@pytest.mark.parametrize("is_reached", [True, False])
def test_the_journals_of_containers_come_home_and_all_arrives_once(
    place: Place, endpoint: Endpoint, *, is_reached: bool
) -> None:
    """A task that succeeds, and one that is killed; for containers that reach no endpoint the launcher exports."""
    finished = run(place, endpoint, "kill", None if is_reached else "http://127.0.0.1:9")
    counts = endpoint.body_counts
    assert {text.format(number): counts[text.format(number)] for text in PRINTED for number in (0, 1)} == {
        text.format(number): 1 for text in PRINTED for number in (0, 1)
    }
    assert (counts[ABOUT], counts["on the host"], counts["Downloading code package..."]) == (2, 1, 2)
    exported = spans(endpoint)
    assert {key: each["metaflow.task.result"] for key, each in exported.items()} == {
        ("start", 0): "success", ("work", 0): "error", ("work", 1): "success", ("end", 0): "success",
    }  # fmt: skip
    assert exported["work", 0]["error.type"] == "SIGKILL"
    assert exported["work", 0]["metaflow.attempt.final"] == "False"
    assert not any("metaflow.telemetry.partial" in each for each in exported.values())
    # What only the launcher knows.
    (again,) = (body for body in counts if body.startswith("work/2 is followed by work/2/1: "))
    assert counts[again] == 1
    assert endpoint.observations("metaflow.task.queue.duration") == 4
    assert endpoint.observations("metaflow.task.duration") == 4
    assert {exported[key]["metaflow.compute.name"] for key in exported if key[0] == "work"} == {"kubernetes"}
    # At home it is a run as any other.
    story = finished.story
    assert story.result == "success"
    work = [story.attempts[AttemptKey("work", "2", number)] for number in (0, 1)]
    assert [(one.result, one.exit_code) for one in work] == [("error", -9), ("success", 0)]
    assert all(one.start and one.start["resource"]["process.runtime.version"].startswith("3.8") for one in work)
    shown = place.cli("view", f"HomeFlow/{finished.run}/work/2", "--logs").stdout
    assert all(shown.count(text.format(1)) == 1 for text in PRINTED)


def test_of_a_container_that_is_killed_as_a_whole_the_launcher_exports_what_it_saw(
    place: Place, endpoint: Endpoint
) -> None:
    """Nothing came home of it: a span all the same, and once."""
    finished = run(place, endpoint, "all")
    exported = spans(endpoint)
    assert exported["work", 0]["metaflow.task.result"] in ("error", "failure")
    assert exported["work", 0]["metaflow.telemetry.partial"] == "True"
    assert exported["work", 1]["metaflow.task.result"] == "success"
    assert not list(finished.folder.glob("*.relayed"))
    assert not list(finished.folder.glob("*.part"))


def test_what_a_container_delivered_before_it_was_killed_as_a_whole_arrives_once(
    place: Place, endpoint: Endpoint
) -> None:
    """The launcher knows from what was stored while it ran; what Metaflow relays of it is not exported again."""
    with ThreadPoolExecutor() as pool:
        ran = pool.submit(run, place, endpoint, "later")
        eventually(lambda: all(endpoint.body_counts[text.format(0)] for text in PRINTED), 60)
        eventually(lambda: list(place.path.glob("datastore/**/0.otel_journal.log")), 60)
        eventually(lambda: any("line of 0" in path.read_text() for path in place.path.rglob("*.relayed")), 60)
        (place.path / "go").touch()
        finished = ran.result()
    counts = endpoint.body_counts
    assert {text.format(number): counts[text.format(number)] for text in PRINTED for number in (0, 1)} == {
        text.format(number): 1 for text in PRINTED for number in (0, 1)
    }
    assert (counts["Downloading code package..."], counts[ABOUT], counts["[pod t-fake] line of 0"]) == (2, 2, 0)
    exported = spans(endpoint)
    assert [exported["work", number]["metaflow.task.result"] for number in (0, 1)] == ["error", "success"]
    assert "metaflow.telemetry.partial" not in exported["work", 0]
    assert exported["work", 0]["metaflow.compute.name"] == "kubernetes"
    lost = finished.story.attempts[AttemptKey("work", "2", 0)]
    assert lost.start
    assert lost.is_lost


def test_without_an_endpoint_for_containers_the_launcher_exports_what_they_print(
    place: Place, endpoint: Endpoint
) -> None:
    """Also where a container has an endpoint that the launcher does not know of."""
    pod = json.dumps({"HOW": "", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
    finished = Cluster(place, "3.8").run(
        FLOW, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, "POD_ENVIRONMENT": pod}
    )
    assert finished.code == 0
    assert "set OTEL_METAFLOW_REMOTE_ENDPOINT" in finished.stderr
    finished.wait_delivered(60)
    exported = spans(endpoint)
    assert exported["work", 0]["metaflow.telemetry.partial"] == "True"
    assert endpoint.body_counts["[pod t-fake] subprocess of 0"] == 1
    assert endpoint.body_counts["subprocess of 0"] == 0


def test_names_of_files_that_come_home(tmp_path: Path) -> None:
    key = AttemptKey("a", "b.c", 2)
    home = layout.container_files(tmp_path, key)
    assert home["journal"] == layout.attempt_file(tmp_path, key)
    assert home["output"] == layout.output_file(tmp_path, key)
    assert layout.streams(tmp_path, home["journal"].name)["output"] == home["output"]
