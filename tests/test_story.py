"""What a run's attempts have to do with each other, held against brute force on random runs."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_metaflow.assembly import story
from otel_metaflow.assembly.run import Attempt, Run
from otel_metaflow.journal.layout import AttemptKey, RunKey


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
                start=record(start, processStartTimeUnixNano=start, inputs=[list(one.key) for one in inputs]),
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
        before = [run.attempts[key] for key in last.inputs]
    before = [one for one in before if not one.is_cloned]
    return [[*chain, last] for one in before for chain in chains(run, one)] or [[last]]


@given(runs())
@settings(max_examples=300, deadline=None)
def test_the_critical_path_is_the_chain_in_which_each_waited_for_the_last_of_what_it_needed(run: Run) -> None:
    """Of all chains to the end, the one whose members ended latest, compared from the back."""
    ran = [one for one in run.attempts.values() if not one.is_cloned]
    path = story.critical_path(run)
    if not ran:
        assert path.attempts == []
        return
    every = [chain for last in ran for chain in chains(run, last)]
    best = max(every, key=lambda chain: [(one.ended_at, one.key) for one in reversed(chain)])
    assert [one.key for one in path.attempts] == [one.key for one in best]
    gaps = sum(max(0, after.started_at - before.ended_at) for before, after in pairwise(best))
    assert path.waiting == best[0].started_at + gaps
    assert path.duration == best[-1].ended_at == path.waiting + sum(one.ended_at - one.started_at for one in best)


@given(runs())
@settings(max_examples=100, deadline=None)
def test_waiting_is_never_negative_and_begins_when_the_last_input_is_over(run: Run) -> None:
    for attempt in run.attempts.values():
        waited = story.queue_time(run, attempt)
        if attempt.is_cloned:
            assert waited is None
            continue
        ready = max((gate.ended_at for gate in story.gates(run, attempt)), default=0)
        assert waited == attempt.started_at - ready
        assert waited >= 0


def test_a_clock_that_goes_backwards_gives_no_negative_time() -> None:
    run = Run(RunKey("F", "1"), start=record(100), end=record(50, result="success"))
    attempt = Attempt(
        AttemptKey("start", "1", 0),
        start=record(90, processStartTimeUnixNano=95),
        end=record(80, result="success", codeStart=85, codeEnd=70),
        launch=record(60),
    )
    run.attempts[attempt.key] = attempt
    assert attempt.ended_at >= attempt.started_at
    assert run.ended_at >= run.started_at
    assert story.queue_time(run, attempt) == 0
    path = story.critical_path(run)
    assert (path.duration, path.waiting) == (0, 0)


def test_an_attempt_begins_no_sooner_than_its_launch() -> None:
    """The kernel tells when a process started to 10 ms, rounded down: to before the run, even."""
    key = AttemptKey("start", "1", 0)
    attempt = Attempt(key, start=record(130, processStartTimeUnixNano=95), launch=record(100))
    assert attempt.started_at == 100


def test_attempts_that_name_each_other_in_a_circle_end() -> None:
    """A journal may be damaged, or made to deceive."""
    run = Run(RunKey("F", "1"), start=record(0), end=record(9, result="success"))
    for task, other in (("1", "2"), ("2", "1")):
        key = AttemptKey("step", task, 0)
        run.attempts[key] = Attempt(key, start=record(1, inputs=[["step", other, 0]]), end=record(5, result="success"))
    assert len(story.critical_path(run).attempts) == 2
