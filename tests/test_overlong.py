"""Lines longer than a journal holds: a progress bar leaves its last state, on whichever side it was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import Finished, Place

from otel_metaflow.core import long_lines
from otel_metaflow.core.long_lines import LONGEST_LINE
from otel_metaflow.core.stream_tap import tap
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.model.attempt_logs import AttemptLogs

PIECES = st.lists(
    st.one_of(
        st.text("\r█a \x1b[A", max_size=6),
        st.builds(
            lambda char, most: char * most, st.sampled_from("ab\r█"), st.integers(LONGEST_LINE - 2, LONGEST_LINE + 2)
        ),
    ),
    max_size=12,
)


@given(PIECES)
def test_a_line_that_grows_in_pieces_is_cut_as_the_whole_one(pieces: list[str]) -> None:
    """The task sees pieces, the launcher the line; both keep the same, and the task no more than it needs."""
    grown, length = "", 0
    for piece in pieces:
        grown, length = grown + piece, length + len(piece)
        if length > LONGEST_LINE:
            grown = long_lines.shortened(grown)
            assert len(grown) <= LONGEST_LINE + 1
    whole = "".join(pieces)
    found = long_lines.truncated(grown, length)
    assert found == long_lines.truncated(whole, len(whole))
    if len(whole) > LONGEST_LINE:
        *_, last = whole.rstrip("\r").split("\r")
        assert found == last[:LONGEST_LINE]
    else:
        assert found == whole


class Sink:
    """A stream without a descriptor."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)


@given(PIECES)
def test_a_tap_reports_the_kept_part_and_the_original_length(pieces: list[str]) -> None:
    """As if the line had been written at once."""
    found: list[tuple[str, str, int, str]] = []
    sink = Sink()
    tap([("stdout", sink)], lambda *line: found.append(line))
    for piece in [*pieces, "\n"]:
        sink.write(piece)
    whole = "".join(pieces)
    assert found == [("stdout", long_lines.truncated(whole, len(whole)), len(whole), "stdout")]


FLOW = r"""
    import os, subprocess, sys
    from metaflow import FlowSpec, step

    def states(name):
        # 1,000 states of 200 characters, as 80 seconds of tqdm write them
        return [f"{name} {number:4}/1000 |" + "█▌ " * 62 + "|" for number in range(1, 1001)]

    class BarFlow(FlowSpec):
        @step
        def start(self):
            for state in states("printed"):
                print(state, end="\r")
            print()
            for state in states("written"):
                sys.stderr.write("\r" + state)
            sys.stderr.write("\n")
            print("windows", end="\r\n")
            print("\r".join(states("at once")), end="\r\n")
            os.write(1, ("\r".join(states("by C")) + "\r\n").encode())
            code = "import sys; sys.stdout.buffer.write('\\r'.join(sys.stdin.read().split('@')).encode() + b'\\n')"
            subprocess.run([sys.executable, "-c", code], input="@".join(states("subprocess")), text=True)
            print("x" * 70_000)
            print("y" * 70_000 + "\r" + "z" * 70_000)
            for state in states("unfinished"):
                print(state, end="\r")
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        BarFlow()
    """


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The flow, run once."""
    done = Place(tmp_path_factory.mktemp("bars")).run(FLOW, "--with", "otel")
    assert done.code == 0, done.stdout[-2000:] + done.stderr
    return done


def test_a_bar_of_200000_characters_arrives_once_in_its_last_state(finished: Finished) -> None:
    """By print, by write, at once, by the system, by a subprocess; and one that never ended its line."""
    attempt = next(attempt for attempt in finished.story.in_order if attempt.key.step == "start")
    entries = [entry.record for entry in AttemptLogs(finished.folder, attempt.key, Cursor()).read(final=True)]
    found = [(record["body"].rstrip("\r"), record.get("length")) for record in entries]

    def bar(name: str, more: int) -> tuple[str, int]:
        state = f"{name} 1000/1000 |" + "█▌ " * 62 + "|"
        return state, 1000 * len(state) + more

    assert sorted(found, key=str) == sorted(
        [
            bar("printed", 1000),
            bar("written", 1000),
            ("windows", None),
            bar("at once", 1000),
            bar("by C", 1000),
            bar("subprocess", 999),
            ("x" * LONGEST_LINE, 70_000),
            ("z" * LONGEST_LINE, 140_001),
            bar("unfinished", 1000),
        ],
        key=str,
    )
