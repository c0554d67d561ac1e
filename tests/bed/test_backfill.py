"""Runs of Step Functions are completed by `otel-metaflow backfill`: where nobody is left to write what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from bed import Bed, Outcome, StepFunctions
from collectors import free_ports
from deaths import DEATHS, FAILURE, OK, Arrived, flow
from endpoint import Endpoint
from metadata_service import MetadataService

from otel_metaflow.core import ids

if TYPE_CHECKING:
    import subprocess

on_step_functions = pytest.mark.parametrize("bed", [StepFunctions], ids=["StepFunctions"], indirect=True)
KILLED = next(death for death in DEATHS if death.how == "kill -9")


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    """Which containers reach, too: they share this machine's network."""
    with MetadataService() as service:
        yield service


def deployed(bed: Bed, metadata: MetadataService, port: int, how: tuple[str, str]) -> Outcome:
    return bed.run(flow(bed.DECORATOR), "--with", "otel", *how, env={**metadata.environ, **bed.sends_to(port)})


def backfilled(
    bed: Bed, metadata: MetadataService, receiver: Endpoint, ended: Outcome
) -> subprocess.CompletedProcess[str]:
    env = {**bed.environment, **metadata.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    done = bed.place.cli("backfill", f"{ended.flow}/{ended.run}", "--dead-after", "0s", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def assert_once(receiver: Endpoint, found: Arrived) -> None:
    assert (found.lost, found.twice) == ([], [])
    assert set(receiver.span_ids.values()) == {1}
    assert set(receiver.uids.values()) == {1}


@on_step_functions
def test_a_run_that_failed_gets_its_span(bed: Bed, metadata: MetadataService, receiver: Endpoint) -> None:
    """And nothing twice: the ledgers of its containers are in the datastore."""
    ended = deployed(bed, metadata, receiver.port, FAILURE.options())
    assert not ended.succeeded, ended.report
    before = bed.arrived(receiver)
    assert before.run_results() == []
    backfilled(bed, metadata, receiver, ended)
    found = bed.arrived(receiver)
    assert_once(receiver, found)
    assert found.run_results() == ["failure"]
    assert found.results() == before.results()
    seen = receiver.seen
    assert "exported earlier" in backfilled(bed, metadata, receiver, ended).stdout
    assert receiver.seen == seen


@on_step_functions
def test_of_a_run_whose_task_was_killed_and_tried_again_nothing_arrives_twice(
    bed: Bed, metadata: MetadataService, receiver: Endpoint
) -> None:
    """But what is of the run itself, of which its last container leaves a mark and no ledger; it has the same ids."""
    ended = deployed(bed, metadata, receiver.port, KILLED.options())
    assert ended.succeeded, ended.report
    backfilled(bed, metadata, receiver, ended)
    found = bed.arrived(receiver)
    assert (found.lost, found.twice) == ([], [])
    assert found.results() == KILLED.results()
    whole = ids.run_span_id(ended.flow, ended.run)
    twice = [each for each, count in (receiver.span_ids + receiver.uids).items() if count > 1]
    assert [each for each in twice if not each.startswith(whole)] == []
    assert set(found.run_results()) == {"success"}


@on_step_functions
def test_what_no_container_could_export_arrives(bed: Bed, metadata: MetadataService) -> None:
    """The endpoint is down until the run is over."""
    (port,) = free_ports(1)
    ended = deployed(bed, metadata, port, OK.options())
    assert ended.succeeded, ended.report
    with Endpoint(port=port) as receiver:
        backfilled(bed, metadata, receiver, ended)
        found = bed.arrived(receiver)
        assert_once(receiver, found)
        assert found.results() == OK.results()
        assert found.run_results() == ["success"]
