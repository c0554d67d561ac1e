"""What a run's attempts have to do with each other, held against brute force on random runs."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_metaflow.journal import layout, records
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.launcher import metaflow_seams
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.inputs import Inputs
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.shipper.convert.spans import run_counts
from otel_metaflow.task import metaflow_seams as seams_of_task


def record(at: int, **fields: object) -> dict[str, object]:
    return {"timeUnixNano": at, **fields}


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run of random tasks: each reads some earlier ones and starts after them; some are retried, some cloned."""
    run = Run(RunKey("RandomFlow", "1"), start=record(0), end=record(10**6, result="success"), closed=True)
    finished: list[Attempt] = []
    for number in range(draw(st.integers(1, 9))):
        inputs = draw(st.lists(st.sampled_from(finished), unique_by=lambda one: one.key)) if finished else []
        if draw(st.integers(0, 5)) == 0:
            clone = Attempt(AttemptKey("step", str(number), 0), clone=record(draw(st.integers(0, 5))))
            run.attempts[clone.key] = clone
            finished.append(clone)
            continue
        ready = max((one.ended_at for one in inputs), default=0)
        for attempt in range(draw(st.integers(1, 3))):
            start = ready + draw(st.integers(0, 20))
            end = start + draw(st.integers(0, 50))
            made = Attempt(
                AttemptKey("step", str(number), attempt),
                start=record(start, processStartTimeUnixNano=start, inputs=layout.grouped(one.key for one in inputs)),
                end=record(end, result="success"),
                launch=record(start),
                exit=record(end, code=0),
            )
            run.attempts[made.key] = made
            ready = end
        finished.append(made)
    return run


def chains(run: Run, last: Attempt) -> list[list[Attempt]]:
    """Every way back from `last`, by hand: a retry waits for the attempt before it, a first one for its inputs."""
    if last.key.attempt:
        before = [run.attempts[AttemptKey(last.key.step, last.key.task, last.key.attempt - 1)]]
    else:
        before = [run.attempts[key] for key in last.inputs or ()]
    before = [one for one in before if not one.is_cloned]
    return [[*chain, last] for one in before for chain in chains(run, one)] or [[last]]


@given(runs())
@settings(max_examples=300, deadline=None)
def test_the_critical_path_is_the_chain_in_which_each_waited_for_the_last_of_what_it_needed(run: Run) -> None:
    """Of all chains to the end, the one whose members ended latest, compared from the back."""
    ran = [one for one in run.attempts.values() if not one.is_cloned]
    path = critical_path(run)
    if not ran:
        assert path.attempts == []
        return
    every = [chain for last in ran for chain in chains(run, last)]
    best = max(every, key=lambda chain: [(one.ended_at, one.key) for one in reversed(chain)])
    assert [one.key for one in path.attempts] == [one.key for one in best]
    gaps = sum(max(0, after.started_at - before.ended_at) for before, after in pairwise(best))
    assert path.queued == best[0].started_at + gaps
    assert path.duration == best[-1].ended_at == path.queued + sum(one.ended_at - one.started_at for one in best)


@given(runs())
@settings(max_examples=100, deadline=None)
def test_waiting_is_never_negative_and_begins_when_the_last_input_is_over(run: Run) -> None:
    for attempt in run.attempts.values():
        waited = story.queue_time(run, attempt)
        if attempt.is_cloned:
            assert waited is None
            continue
        ready = max((one.ended_at for one in story.prerequisites(run, attempt)), default=0)
        assert waited == attempt.started_at - ready
        assert waited >= 0


@given(runs(), st.data())
@settings(max_examples=200, deadline=None)
def test_outlines_of_delivered_attempts_give_the_same_story(run: Run, data: st.DataObject) -> None:
    """Whichever attempts were delivered, in whatever order, and whichever failed."""
    ran = [one for one in run.attempts.values() if one.end is not None]
    for attempt in data.draw(st.lists(st.sampled_from(ran), unique_by=lambda one: one.key)) if ran else []:
        why = {"type": "ValueError", "message": f"of {attempt.key}"}
        attempt.end = record(attempt.ended_at, result="failure", exception=why)
    run.end = record(10**6, result=data.draw(st.sampled_from(["success", "failure"])))
    before = facts(run)
    for key in data.draw(st.lists(st.sampled_from(list(run.attempts)), unique=True)):
        run.keep_outline(key)
    assert facts(run) == before


def facts(run: Run) -> dict[str, object]:
    """What the end of a run reports."""
    first, path = story.first_failure(run), critical_path(run)
    return {
        "result": run.result,
        "failed first": first and (first.key, first.error_type, first.error_message),
        "path": ([one.key for one in path.attempts], path.duration, path.queued),
        "counts": run_counts(run),
        "recorded": [run.is_recorded(one) for one in run.attempts.values()],
        "times": [(one.started_at, one.ended_at, one.over_at) for one in run.attempts.values()],
        "prerequisites": [[before.key for before in story.prerequisites(run, one)] for one in run.attempts.values()],
    }


def test_a_clock_that_goes_backwards_gives_no_negative_time() -> None:
    run = Run(RunKey("F", "1"), start=record(100), end=record(50, result="success"))
    attempt = Attempt(
        AttemptKey("start", "1", 0),
        start=record(90, processStartTimeUnixNano=95, inputs={}),
        end=record(80, result="success", codeStart=85, codeEnd=70),
        launch=record(60),
    )
    run.attempts[attempt.key] = attempt
    assert attempt.ended_at >= attempt.started_at
    assert run.ended_at >= run.started_at
    assert story.queue_time(run, attempt) == 0
    path = critical_path(run)
    assert (path.duration, path.queued) == (0, 0)


def test_an_attempt_begins_no_sooner_than_its_launch() -> None:
    """The kernel gives a process's start to 10 ms, rounded down: even to before the run."""
    key = AttemptKey("start", "1", 0)
    attempt = Attempt(key, start=record(130, processStartTimeUnixNano=95), launch=record(100))
    assert attempt.started_at == 100


def test_attempts_that_name_each_other_in_a_circle_end() -> None:
    """A journal may be damaged, or made to deceive."""
    run = Run(RunKey("F", "1"), start=record(0), end=record(9, result="success"))
    for task, other in (("1", "2"), ("2", "1")):
        key = AttemptKey("step", task, 0)
        run.attempts[key] = Attempt(key, start=record(1, inputs={"step": [other]}), end=record(5, result="success"))
    assert len(critical_path(run).attempts) == 2


class Read(NamedTuple):
    """A datastore of Metaflow's, as far as it is asked what was read."""

    pathspec: str
    attempt: int


@pytest.mark.parametrize("width", [99, 100, 101, 300, 5_000])
@pytest.mark.parametrize("recorded_by", ["task", "launcher", "both"])
def test_a_join_of_any_width_waited_for_the_last_of_all_that_it_read(width: int, recorded_by: str) -> None:
    """Whichever of them it was, recorded by the task itself or, without its journal, by the launcher."""
    run = Run(RunKey("F", "1"), start=record(0), end=record(1_000, result="success"), closed=True)
    slowest = width - 1
    for task in range(width):
        key = AttemptKey("work", str(task), 0)
        over = 500 if task == slowest else 100
        run.attempts[key] = Attempt(
            key, start=record(10), end=record(over, result="success"), exit=record(over, code=0)
        )
    # The slowest failed at first: what Metaflow reads of a task is its last attempt.
    again = AttemptKey("work", str(slowest), 1)
    run.attempts[again] = Attempt(
        again, launch=record(500), exit=record(600, code=0), end=record(600, result="success")
    )
    read = [Read(f"1/work/{task}", int(task == slowest)) for task in range(width)]
    own = seams_of_task.inputs(read)
    launch = record(610, inputs=metaflow_seams.inputs(SimpleNamespace(input_paths=[one.pathspec for one in read])))
    if recorded_by == "task":
        launch = record(610)
    start = None if recorded_by == "launcher" else record(620, **own)
    join = Attempt(AttemptKey("join", "j", 0), launch=launch, start=start, end=record(900, result="success"))
    run.attempts[join.key] = join
    assert story.queue_time(run, join) == 10
    path = critical_path(run)
    assert [story.name(one.key) for one in path.attempts] == [f"work/{slowest}", f"work/{slowest}/1", "join/j"]
    assert (path.duration, join.input_count, len(run.inputs_of(join) or ())) == (900, width, width)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.integers(0, 30).map(str) | st.sampled_from(["007", "t-1", "7_node_1", "²", "1" * 20, ""]),
            st.sampled_from([0, 0, 0, 1, 12]),
        ),
        max_size=60,
    )
)
def test_what_a_task_read_is_found_in_its_record_in_the_same_order(read: list[tuple[str, str, int]]) -> None:
    written = json.loads(json.dumps({**record(1, inputs=layout.grouped(read)), "kind": layout.START}))
    found = Inputs((records.check(written) or {})["inputs"])
    assert list(found) == sorted(read, key=lambda one: list(dict.fromkeys(key[0] for key in read)).index(one[0]))
    assert len(found) == len(read)


def test_a_join_of_50_000_tasks_names_them_in_a_few_bytes() -> None:
    assert layout.grouped(("work", str(task), 0) for task in range(2, 50_002)) == {"work": [[2, 50_001]]}
    retried = layout.grouped(("work", str(task), int(task == 7)) for task in range(2, 50_002))
    assert retried == {"work": [[2, 6], "7/1", [8, 50_001]]}


def test_a_damaged_pair_does_not_stand_for_more_tasks_than_a_run_can_have() -> None:
    items = [[1, 10**15], [5, 4], [1, 2, 3], [0, 900_000], [0, 900_000], "7/x", "7/9999999999", 8, "9"]
    checked = records.check({"kind": layout.LAUNCH, **record(1, step="s", task="1", attempt=0, inputs={"a": items})})
    assert checked is not None
    assert checked["inputs"] == {"a": [[0, 900_000], "8", "9"]}


def test_where_inputs_are_unknown_no_wait_is_shown() -> None:
    """Better none than a wrong one."""
    run = Run(RunKey("F", "1"), start=record(0), end=record(1_000, result="success"))
    key = AttemptKey("work", "1", 0)
    run.attempts[key] = Attempt(key, start=record(10), end=record(100, result="success"))
    for start in (record(620, inputs={"work": ["1", "2"]}), record(620)):
        join = Attempt(AttemptKey("join", "j", 0), start=start, launch=record(610), end=record(900, result="success"))
        run.attempts[join.key] = join
        assert story.queue_time(run, join) is None


def test_a_join_of_nodes_that_nobody_saw_waited_for_their_control_task() -> None:
    """Of a `@parallel` step without `@otel` the launcher starts the control task alone, which outlasts its nodes."""
    run = Run(RunKey("F", "1"), start=record(0), end=record(1_000, result="success"))
    run.steps["train"] = record(0, step="train", parallel=True, recorded=False)
    control = AttemptKey("train", "7", 0)
    run.attempts[control] = Attempt(control, launch=record(10, inputs={}), exit=record(300, code=0, ok=True))
    launch = record(350, inputs={"train": ["7", "7_node_1"]})
    join = Attempt(AttemptKey("join", "8", 0), launch=launch, end=record(900, result="success"))
    run.attempts[join.key] = join
    assert story.queue_time(run, join) == 50
    assert [one.key for one in critical_path(run).attempts] == [control, join.key]
