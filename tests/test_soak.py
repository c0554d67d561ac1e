"""Two hundred short runs while the endpoint flaps and shippers are killed: all arrives, next to nothing twice."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from endpoint import Endpoint
from running import Place

from otel_metaflow.core import ids
from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.writer import Journal
from otel_metaflow.shipper.backlog import unfinished

RUNS = 200
SEED = 20_261_123
MOST_TASKS, MOST_LINES, MOST_EVENTS = 3, 40, 4
FLOW = "SoakFlow"


def record(home: Path, run: str, dice: random.Random) -> tuple[set[str], set[str]]:
    """Write the journals of one short run as its processes do; the bodies and the span ids that are to arrive."""
    folder = layout.run_folder(home, RunKey(FLOW, run))
    folder.mkdir(parents=True)
    bodies: set[str] = set()
    spans = {ids.run_span_id(FLOW, run, "")}
    gone = {"pid": 1, "processStart": 1}

    def journal(path: Path) -> Journal:
        return Journal(path, pytest.fail)

    launcher = journal(folder / layout.RUN_FILE)
    launcher.append(layout.START, {"version": 1, "flow": FLOW, "run": run, "namespace": "", **gone, "resource": {}})
    for task in range(dice.randint(1, MOST_TASKS)):
        key = AttemptKey("step", str(task), 0)
        spans.add(ids.attempt_span_id(FLOW, run, key.step, key.task, key.attempt, ""))
        at = {"step": key.step, "task": key.task, "attempt": key.attempt}
        launcher.append(layout.LAUNCH, {**at, **gone})
        own, output = journal(layout.attempt_file(folder, key)), journal(layout.output_file(folder, key))
        own.append(layout.START, {"version": 1, "flow": FLOW, "run": run, "namespace": "", **at, **gone})
        for number in range(dice.randint(1, MOST_LINES)):
            body = f"{run}/{task}/{number}"
            bodies.add(body)
            line = {"stream": "stdout", "body": body}
            if dice.random() < 0.8:  # else a subprocess wrote it
                own.append(layout.LINE, line)
            output.append(layout.LINE, line)
        own.append(layout.END, {"result": "success", "usage": {"cpu": 0.1}})
        launcher.append(layout.EXIT, {**at, "code": 0, "killed": False})
    launcher.append(layout.END, {"result": "success"})
    launcher.append(layout.CLOSED, {})
    (folder / layout.LOCK_FILE).touch()
    return bodies, spans


def test_nothing_is_lost_and_only_records_in_flight_come_twice(place: Place) -> None:
    """Runs come while shippers of earlier ones are killed; each takes along what the others left behind."""
    dice = random.Random(SEED)
    bodies: set[str] = set()
    spans: set[str] = set()
    kills = 0
    with Endpoint("flap", seed=SEED, flaps=("503", "429", "502"), retry_after="0") as endpoint:
        made = 0
        deadline = time.monotonic() + 300  # it takes half a minute on two cores
        while made < RUNS or any(unfinished(place.home)):
            assert time.monotonic() < deadline, f"{made} runs made, {sum(1 for _ in unfinished(place.home))} wait"
            for _ in range(min(RUNS - made, dice.randint(10, 40))):
                made += 1
                more = record(place.home, str(made), dice)
                bodies |= more[0]
                spans |= more[1]
            first = next(unfinished(place.home), None)
            if first is None:
                continue
            process = place.start_shipper(first, endpoint.url, OTEL_EXPORTER_OTLP_TIMEOUT="5")
            # By what it has done, not by the time it had: after so many requests, unless it ends before.
            before, most = endpoint.seen, dice.choice([10, 40, 100, 200])
            try:
                while process.poll() is None and endpoint.seen - before < most:
                    time.sleep(0.01)
            finally:
                if process.poll() is None:
                    process.kill()
                    kills += 1
                process.wait()
        assert {body for body in endpoint.body_counts if re.fullmatch(r"\d+/\d+/\d+", body)} == bodies
        assert set(endpoint.span_ids) == spans
        # A shipper has one batch of each signal in flight, and each of these runs fits into one.
        assert endpoint.uids.total() - len(endpoint.uids) <= kills * MOST_TASKS * (MOST_LINES + MOST_EVENTS)
        assert endpoint.span_ids.total() - len(endpoint.span_ids) <= kills * MOST_TASKS
    assert kills > 5
    folders = list(layout.run_folders(place.home))
    assert len(folders) == RUNS
    assert not any(DeliveryStatus.read(folder).dropped for folder in folders)
