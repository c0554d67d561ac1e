"""Ways in which steps end, on each platform: what of them an endpoint receives."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from bed import Bed, Outcome
from collectors import free_ports
from deaths import CONTAINER, DEATHS, FAILURE, LINES, OK, Death, flow, lines_in
from endpoint import Endpoint
from measured import Measured
from running import eventually


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.name)
def test_each_line_arrives_once_and_each_attempt_has_a_span(
    bed: Bed, receiver: Endpoint, measured: Measured, death: Death
) -> None:
    ended = bed.run(flow(bed.DECORATOR), "--with", "otel", *death.options(), env=bed.sends_to(receiver.port))
    assert ended.succeeded, ended.report
    ended.wait_delivered()
    found = bed.arrived(receiver)
    assert (found.lost, found.twice) == ([], [])
    assert found.results() == death.results()
    assert all(death.cause in cause for cause in found.causes()), found.causes()
    assert found.run_results() == ["success"]
    assert bed.with_other_ids(ended, found) == []
    measured.add(bed, death.name, found)


def test_what_a_container_printed_before_it_was_killed_at_once_arrives(
    bed: Bed, receiver: Endpoint, measured: Measured
) -> None:
    """But for what it printed in the last tenth of a second, or two on a busy machine, which nobody could read."""
    options = ("--with", "otel", *CONTAINER.options())
    with ThreadPoolExecutor() as pool:
        running = pool.submit(bed.run, flow(bed.DECORATOR), *options, env=bed.sends_to(receiver.port))
        victim = eventually(lambda: next((n for n, text in bed.outputs.items() if "/0 now" in text), None), 120)
        eventually(lambda: bed.outputs[victim].count("\n") > 2 * LINES)
        bed.containers.kill(victim)
        ended = running.result()
    assert ended.succeeded, ended.report
    ended.wait_delivered()
    found = bed.arrived(receiver)
    assert len(found.lost) <= 40
    assert (found.twice, found.run_results()) == ([], ["success"])
    assert all(line in bed.outputs[victim] for line in found.lost)
    measured.add(bed, CONTAINER.name, found)


def test_a_run_that_fails_has_a_span_of_its_own(bed: Bed, receiver: Endpoint, measured: Measured) -> None:
    """But on Step Functions, where nothing runs once an execution has failed."""
    ended = bed.run(flow(bed.DECORATOR), "--with", "otel", *FAILURE.options(), env=bed.sends_to(receiver.port))
    assert not ended.succeeded, ended.report
    ended.wait_delivered()
    found = bed.arrived(receiver)
    assert (found.lost, found.twice) == ([], [])
    assert found.results() == {("start", "success"): 1, ("work", "success"): 1, ("work", "failure"): 2}
    assert all(cause == "ValueError: shard 2 is damaged" for cause in found.causes()), found.causes()
    assert found.run_results() == ([] if bed.NAME == "Step Functions" else ["failure"])
    assert bed.with_other_ids(ended, found) == []
    measured.add(bed, FAILURE.name, found)


@pytest.mark.parametrize("fault", ["refuses", "never answers"])
def test_an_endpoint_that_is_down_is_delivered_to_once_it_is_back(bed: Bed, measured: Measured, fault: str) -> None:
    """By the launcher, for whom journals come home; where there is none, they stay in Metaflow's datastore."""
    (port,) = free_ports(1)
    options = ("--with", "otel", *OK.options())
    if fault == "refuses":
        ended = bed.run(flow(bed.DECORATOR), *options, env=bed.sends_to(port))
    else:
        with Endpoint("blackhole", port):
            ended = bed.run(flow(bed.DECORATOR), *options, env=bed.sends_to(port))
    assert ended.succeeded, ended.report
    with Endpoint(port=port) as receiver:
        ended.wait_delivered()
        found = bed.arrived(receiver)
    if bed.HAS_LAUNCHER:
        assert (found.lost, found.twice) == ([], [])
        assert found.results() == OK.results()
    else:
        assert (found.lines, found.spans) == (Counter(), [])
        assert stored_lines(bed, ended) >= found.printed
    assert found.run_results() == (["success"] if bed.HAS_LAUNCHER else [])
    measured.add(bed, f"success; the endpoint {fault} until the run is over", found)


def stored_lines(bed: Bed, ended: Outcome) -> Counter[str]:
    """The lines in the journals that containers have stored in Metaflow's datastore."""
    client = bed.store.client("s3")
    found: Counter[str] = Counter()
    for listed in client.get_paginator("list_objects_v2").paginate(Bucket="bed"):
        for each in listed["Contents"]:
            if f"/{ended.run}/" in each["Key"] and "otel_" in each["Key"]:
                text = client.get_object(Bucket="bed", Key=each["Key"])["Body"].read().decode()
                found.update(lines_in(text))
    return found
