"""Plain values are read from a pickle's bytes without unpickling it; anything else is refused."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_metaflow.backfill import literals

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text() | st.integers(), below) | st.lists(below).map(tuple),
    max_leaves=30,
)


@given(PLAIN, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_a_plain_value_of_any_protocol_is_read_as_it_was(value: object, protocol: int) -> None:
    assert literals.read(pickle.dumps(value, protocol)) == value


def test_a_value_that_occurs_twice_is_read_twice() -> None:
    once = {"name": "a", "next": ["b", "b"]}
    assert literals.read(pickle.dumps([once, once, "a"])) == [once, once, "a"]


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_would_run_code_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    evidence = tmp_path / "evidence"
    with pytest.raises(literals.NotPlainError):
        literals.read(pickle.dumps({"steps": [Bomb(evidence)]}, protocol))
    assert not evidence.exists()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(literals.NotPlainError):
        literals.read(data)


@given(PLAIN, st.data())
def test_bytes_that_are_cut_or_changed_are_read_or_refused(value: object, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps(value))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] = draw.draw(st.integers(0, 255))
    for damaged in (bytes(data), bytes(data[:place])):
        with contextlib.suppress(literals.NotPlainError):
            literals.read(damaged)


def test_a_value_that_is_too_large_is_refused() -> None:
    with pytest.raises(literals.NotPlainError):
        literals.read(pickle.dumps("x" * (literals.MAX_BYTES + 1)))


class Frame(NamedTuple):
    step: str
    index: int


FRAME = (Frame.__module__, Frame.__qualname__)
FRAMES = [Frame("outer", 0), Frame("inner", 1)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_of_one_named_tuple_are_read_as_plain_ones(protocol: int) -> None:
    """Without its class, which is not loaded; those of any other are refused."""
    data = pickle.dumps(FRAMES, protocol)
    found = literals.read(data, FRAME)
    assert found == [("outer", 0), ("inner", 1)]
    assert {type(each) for each in found} == {tuple}
    assert literals.read(data.replace(b"Frame", b"Fromo"), (FRAME[0], "Fromo")) == found
    for other in (None, (FRAME[0], "Other"), ("builtins", FRAME[1])):
        with pytest.raises(literals.NotPlainError):
            literals.read(data, other)


@given(st.integers(2, pickle.HIGHEST_PROTOCOL), st.data())
def test_a_named_tuple_whose_bytes_are_changed_is_read_or_refused(protocol: int, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps(FRAMES, protocol))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(literals.NotPlainError):
        literals.read(bytes(data), FRAME)
