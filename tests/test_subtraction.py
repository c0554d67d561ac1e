"""Each line once: whatever several processes write into one pipe, wherever a reader stops and goes on."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail, parse
from otel_metaflow.model import garbled_lines, subtraction
from otel_metaflow.model.attempt_logs import AttemptLogs

KEY = AttemptKey("start", "1", 0)
SECOND = 1_000_000_000
WORDS = st.sampled_from(["", "a", "b", "ab", "x y", "loss=0.1", "é"])


def write(path: Path, records: list[dict[str, Any]], separators: tuple[str, str] = (",", ":")) -> None:
    path.write_text("".join(json.dumps(record, separators=separators) + "\n" for record in records))


def read_all(folder: Path, stop_after: list[int] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Read to the end, stopping after so many records each time and going on from the cursor in a new reader."""
    found: list[tuple[str, dict[str, Any]]] = []
    cursor = Cursor()
    for most in [*(stop_after or []), 10**6]:
        logs = AttemptLogs(folder, KEY, Cursor.from_json(json.loads(json.dumps(cursor.as_json()))))
        reading = logs.read(final=True)
        for _ in range(most):
            entry = next(reading, None)
            if entry is None:
                break
            found.append((entry.uid, entry.record))
        reading.close()
        cursor = logs.cursor()
    return found


def line(at: int, body: str, **more: Any) -> dict[str, Any]:
    return {"kind": "line", "timeUnixNano": at, "stream": "stdout", "body": body, **more}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Counter[str]]:
    """What a process reported, what was read of it and of a subprocess, and what should come of it."""
    task: list[dict[str, Any]] = []
    output: list[dict[str, Any]] = []
    expected: Counter[str] = Counter()
    at = SECOND
    for _ in range(draw(st.integers(0, 30))):
        at += draw(st.integers(1, SECOND // 4))
        body = draw(WORDS)
        kind = draw(st.sampled_from(["print", "print", "subprocess", "covered", "log"]))
        delay = draw(st.integers(1, SECOND // 20))
        if kind == "log":
            task.append({"kind": "log", "timeUnixNano": at, "body": f"log {body}", "logger": "x"})
            expected[f"log {body}"] += 1
            continue
        if kind == "subprocess":
            output.append(line(at + delay, f"sub {body}"))
            expected[f"sub {body}"] += 1
            continue
        task.append(line(at, body, **({"covered": True} if kind == "covered" else {})))
        if kind != "covered":
            expected[body] += 1
        output.append(line(at + delay, body))
    # The pipe is first in, first out, so only the times at which lines are read may be late.
    for earlier, later in itertools.pairwise(output):
        later["timeUnixNano"] = max(later["timeUnixNano"], earlier["timeUnixNano"])
    if draw(st.booleans()):  # the launcher was killed before it had read the rest
        read = draw(st.integers(0, len(output)))
        expected -= Counter(record["body"] for record in output[read:] if record["body"].startswith("sub "))
        del output[read:]
    return task, output, expected


@given(histories(), st.lists(st.integers(0, 10), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_each_line_comes_once_wherever_the_reader_is_stopped(
    tmp_path: Path, history: tuple[list[dict[str, Any]], list[dict[str, Any]], Counter[str]], stops: list[int]
) -> None:
    """Of reported lines, of a subprocess's, of logging; restarts hand out nothing twice and lose nothing."""
    task, output, expected = history
    write(layout.attempt_file(tmp_path, KEY), task)
    write(layout.output_file(tmp_path, KEY), output)
    found = read_all(tmp_path, stops)
    assert Counter(record["body"] for _, record in found) == expected
    assert max(Counter(uid for uid, _ in found).values(), default=0) <= 1


NOW = 1_790_000_000 * SECOND


def through_a_pipe(acts: list[tuple[str, int, str, int]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What three processes reported, of which the last reports nothing, and what a launcher read of their pipe.

    They `print` a text; or write a `piece` of it, as many characters, or of what is left of it; `lose` the rest, as at
    a kill. Now and then the launcher does `read`; before each act goes a pause.
    """
    task: list[dict[str, Any]] = []
    output: list[dict[str, Any]] = []
    pipe, reported, now = "", 0, 0
    rest: dict[int, str] = {}
    for act, pid, text, number in acts:
        now += PAUSES[number % len(PAUSES)]
        if act == "read":
            whole, newline, pipe = pipe.rpartition("\n")
            lines = whole.split("\n") if newline else []
            note = {"lines": len(lines), "monotonicNano": now, "reported": reported}
            output.append({"kind": "read", "timeUnixNano": NOW + now, **note})
            output += [line(NOW + now, body) for body in lines]
        elif act == "lose":
            rest.pop(pid, None)
        else:
            if not rest.get(pid):
                rest[pid] = text + "\n"
                if pid != 2:
                    task.append(line(NOW + now, text, **({"pid": pid} if pid else {})))
                    reported += len(json.dumps(task[-1], separators=(",", ":"))) + 1
            size = len(rest[pid]) if act == "print" else number
            pipe, rest[pid] = pipe + rest[pid][:size], rest[pid][size:]
    return task, output


PAUSES = (1, SECOND // 1000, SECOND // 4, 4 * SECOND)
ACTS = st.sampled_from([*["print"] * 4, *["piece"] * 2, *["read"] * 2, "lose"])
TEXTS = st.sampled_from([["a", "ab"], ["a", "b", "ab", ""], ["x y", "a", "é", "loss=0.1"]]).flatmap(st.sampled_from)


@given(
    st.lists(st.tuples(ACTS, st.sampled_from([0, 0, 0, 1, 2]), TEXTS, st.integers(0, 8)), max_size=30),
    st.lists(st.integers(0, 10), max_size=4),
)
# The same text is expected twice when it is read, so a later line that holds it may be of anybody.
@example(
    [
        *(("print", 0, text, 0) for text in ("a", "a", "ab")),
        *(("piece", 2, "a", 1), ("print", 0, "ab", 0), ("read", 0, "", 0), ("piece", 2, "a", 1)),
        *(("print", 0, "a", 0) for _ in range(6)),
        ("read", 0, "", 0),
    ],
    [],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=1_000)
def test_lines_compared_as_bytes_come_out_as_if_each_was_parsed(
    tmp_path: Path, acts: list[tuple[str, int, str, int]], stops: list[int]
) -> None:
    """The same records in the same order, also where the lines of several processes fell into each other."""
    task, output = through_a_pipe(acts)
    write(layout.attempt_file(tmp_path, KEY), task)
    write(layout.output_file(tmp_path, KEY), output)
    found = read_all(tmp_path, stops)
    with mock.patch.object(subtraction.Subtraction, "expect", return_value=False):
        assert found == read_all(tmp_path, stops)


@st.composite
def shuffles(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What processes reported that print with several arguments, and what a pipe holds of their pieces."""
    writers: list[list[str]] = []
    task: list[dict[str, Any]] = []
    for pid in range(draw(st.integers(2, 3))):
        pieces: list[str] = []
        for number in range(draw(st.integers(1, 3))):
            words = [draw(st.sampled_from(["node", "shard", "x"])), str(pid), str(number)]
            task.append(line(SECOND + number * 1000 + pid, " ".join(words), pid=pid + 1))
            pieces += [words[0], " ", words[1], " ", words[2], "\n"]
        writers.append(pieces)
    pipe = ""
    while any(writers):
        pipe += draw(st.sampled_from([pieces for pieces in writers if pieces])).pop(0)
    output = [line(2 * SECOND, body) for body in pipe.split("\n")[:-1]]
    return sorted(task, key=lambda record: record["timeUnixNano"]), output


@given(shuffles(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_prints_of_several_arguments_are_known_again_however_they_are_shuffled(
    tmp_path: Path, shuffle: tuple[list[dict[str, Any]], list[dict[str, Any]]], with_subprocess: bool
) -> None:
    """Each piece is written apart; a line of a subprocess after them stays what it is."""
    task, output = shuffle
    more = [line(5 * SECOND, "of a subprocess")] if with_subprocess else []
    write(layout.attempt_file(tmp_path, KEY), task)
    write(layout.output_file(tmp_path, KEY), [*output, *more])
    found = Counter(record["body"] for _, record in read_all(tmp_path))
    assert found == Counter(record["body"] for record in [*task, *more])


@pytest.mark.parametrize(
    ("reported", "raw"),
    [
        ([(1, "x"), (2, "y")], ["xy", ""]),
        ([(1, "x"), (2, "y"), (3, "z")], ["xyz", "", ""]),
        ([(1, "alpha"), (2, "beta"), (1, "gamma")], ["alphabeta", "", "gamma"]),
        ([(1, "x"), (1, "")], ["x", ""]),
    ],
)
def test_lines_that_fell_into_each_other_are_taken_apart(
    tmp_path: Path, reported: list[tuple[int, str]], raw: list[str]
) -> None:
    """Two processes whose texts and newlines interleave: their lines come once, the garbled line does not."""
    write(
        layout.attempt_file(tmp_path, KEY), [line(SECOND + i, body, pid=pid) for i, (pid, body) in enumerate(reported)]
    )
    write(layout.output_file(tmp_path, KEY), [line(SECOND * 2 + i, body) for i, body in enumerate(raw)])
    assert Counter(record["body"] for _, record in read_all(tmp_path)) == Counter(body for _, body in reported)


def test_the_end_of_a_line_may_be_reported_by_a_process_without_other_output_yet(tmp_path: Path) -> None:
    """The last lines of a process that writes into those of another one, which goes on."""
    task = [line(1, "ours 1", pid=1), line(2, "theirs", pid=2), line(3, "ours 2", pid=1)]
    places = [sum(len(json.dumps(each)) + 1 for each in task)]
    read = {"kind": "read", "timeUnixNano": 5, "lines": 3, "monotonicNano": 5, "reported": places[0]}
    later = {"kind": "read", "timeUnixNano": SECOND, "lines": 1, "monotonicNano": SECOND // 4, "reported": places[0]}
    output = [read, line(5, "ours 1theirs"), line(5, ""), line(5, "ours 2"), later, line(SECOND, "of a subprocess")]
    write(layout.attempt_file(tmp_path, KEY), task)
    write(layout.output_file(tmp_path, KEY), output)
    found = Counter(record["body"] for _, record in read_all(tmp_path))
    assert found == Counter(["ours 1", "theirs", "ours 2", "of a subprocess"])


def test_a_subprocess_that_writes_into_a_reported_line_keeps_its_part(tmp_path: Path) -> None:
    write(layout.attempt_file(tmp_path, KEY), [line(SECOND, "mine"), {"kind": "end", "timeUnixNano": SECOND + 10}])
    write(layout.output_file(tmp_path, KEY), [line(SECOND + 5, "minetheirs"), line(SECOND + 6, "")])
    assert sorted(record["body"] for _, record in read_all(tmp_path)) == ["mine", "theirs"]


def test_a_line_that_looks_like_a_reported_one_stays_whole_if_that_may_never_have_been_written(tmp_path: Path) -> None:
    """The process was killed between its report and its line: nothing follows."""
    write(layout.attempt_file(tmp_path, KEY), [line(SECOND, "epoch 1 of 2")])
    write(layout.output_file(tmp_path, KEY), [line(SECOND + 5, "epoch 1 of 20"), line(SECOND + 6, "")])
    assert sorted(record["body"] for _, record in read_all(tmp_path)) == ["", "epoch 1 of 2", "epoch 1 of 20"]


def test_a_prompt_before_a_reported_line_comes_once_and_so_does_the_line(tmp_path: Path) -> None:
    """The process has reported another line since, which was read: the first cannot be on its way any more."""
    write(layout.attempt_file(tmp_path, KEY), [line(SECOND, "yes"), line(SECOND + 10, "and on")])
    write(layout.output_file(tmp_path, KEY), [line(SECOND + 5, "sure? yes"), line(SECOND + 15, "and on")])
    found = sorted(read_all(tmp_path), key=lambda each: each[1]["timeUnixNano"])
    assert [record["body"] for _, record in found] == ["sure? ", "yes", "and on"]


def test_half_a_character_is_replaced_wherever_it_stands(tmp_path: Path) -> None:
    """JSON holds it, the protobuf of OTLP does not; whole ones outside of the first plane stay."""
    path = tmp_path / "journal.jsonl"
    write(path, [line(0, "a\udcff 😀", attributes={"\ud800": ["\ude00"]}), line(1, r"\ud800 in words")])
    first, second = (entry.record for entry in Tail(path).read())
    assert (first["body"], first["attributes"]) == ("a\ufffd 😀", {"\ufffd": ["\ufffd"]})
    assert second["body"] == r"\ud800 in words"


def test_lines_keep_the_order_of_their_stream(tmp_path: Path) -> None:
    """A launcher that lags dates a subprocess's line late; the lines around it show when it was written."""
    write(layout.attempt_file(tmp_path, KEY), [line(SECOND, "before"), line(SECOND + 10, "after")])
    raw = [line(3 * SECOND, "before"), line(3 * SECOND + 1, "between"), line(3 * SECOND + 2, "after")]
    write(layout.output_file(tmp_path, KEY), raw)
    found = sorted(read_all(tmp_path), key=lambda each: each[1]["timeUnixNano"])
    assert [record["body"] for _, record in found] == ["before", "between", "after"]


@given(st.binary(max_size=400), st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damage_costs_only_the_lines_it_touches(tmp_path: Path, damage: bytes, cut: int) -> None:
    """Any bytes in between, and any prefix of a journal, can be read."""
    path = tmp_path / "journal.jsonl"
    good = [json.dumps(line(number, "x")).encode() + b"\n" for number in range(5)]
    path.write_bytes(b"".join(good[:2]) + damage.replace(b"\n", b" ") + b"\n" + b"".join(good[2:]))
    tail = Tail(path)
    bodies = [entry.record["timeUnixNano"] for entry in tail.read()]
    assert bodies[:2] == [0, 1]
    assert bodies[-3:] == [2, 3, 4]
    path.write_bytes(b"".join(good)[:cut])
    whole = b"".join(good)[:cut].count(b"\n")
    assert len(list(Tail(path).read())) == whole


TEXT = st.text(max_size=20) | st.sampled_from(['"', "\\", "\x7f", "\t", "plain text", '","body":"x'])
TIMES = st.integers(-1, 1 << 64) | st.integers(10**18, 1 << 62)
OUTPUTS = st.fixed_dictionaries({"timeUnixNano": TIMES, "stream": TEXT, "body": TEXT}, optional={"length": TIMES})
LOG = {"severityNumber": TIMES | st.integers(0, 60), "severityText": TEXT, "logger": TEXT, "body": TEXT, "thread": TEXT}
PLACE = {"file": TEXT, "line": st.integers(-1, 1 << 40), "function": TEXT}
RECORDS = st.fixed_dictionaries(
    {
        "kind": st.just("line"),
        "timeUnixNano": TIMES,
        "stream": st.sampled_from(["stdout", "stderr", "x"]),
        "body": TEXT,
    },
    optional={"covered": st.booleans(), "pid": TIMES},
) | st.fixed_dictionaries(
    {"kind": st.just("log"), "timeUnixNano": TIMES, **LOG, **PLACE},
    optional={"output": OUTPUTS, "attributes": st.just({"output": {"timeUnixNano": 1}})},
)


@given(RECORDS, st.integers(0, 400), st.binary(max_size=1))
@settings(deadline=None, max_examples=500)
def test_a_record_is_the_same_whether_it_is_read_as_most_are_or_by_json(
    record: dict[str, Any], at: int, damage: bytes
) -> None:
    """With spaces it is read by JSON; so is anything unusual. No damage is overlooked."""
    dense = json.dumps(record, separators=(",", ":")).encode()
    assert parse(dense) == parse(json.dumps(record).encode())
    damaged = dense[:at] + damage + dense[at + 1 :]
    assert parse(damaged) == parse(damaged.replace(b"{", b"{ ", 1))


def test_reports_that_nobody_will_read_are_not_remembered_for_ever() -> None:
    """A launcher that was killed, or whose journal is full, leaves a task that goes on to report."""
    stream = subtraction.Subtraction()
    for number in range(subtraction.MAX_PENDING + 1_000):
        stream.report(garbled_lines.Report(f"line {number}", 8, SECOND + number, number))
    assert stream.pending == subtraction.MAX_PENDING
    assert len(stream._alike) == subtraction.MAX_PENDING
    list(stream.release(0, 0, final=True))
    assert stream.unread == subtraction.MAX_PENDING + 1_000


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_record_of_a_child_that_comes_through_a_queue_too_counts_once(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Whichever of the two is written first; one of a process that writes none itself counts, too."""
    record = {"kind": "log", "timeUnixNano": SECOND, "body": "x", "logger": "a", "line": 1, "pid": 7}
    records = [record, {**record, "forwarded": True}, {**record, "pid": 8, "forwarded": True}]
    write(layout.attempt_file(tmp_path, KEY), [records[at] for at in order])
    assert sorted(found["pid"] for _, found in read_all(tmp_path)) == [7, 8]
