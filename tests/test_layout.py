"""Any name of a run or an attempt is a file's name, and is read back from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.writer import Journal
from otel_metaflow.model.run import load

NAME_MAX = 255
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@given(NAMES, NAMES, st.integers(0, 2**31 - 1))
@example("x" * 236, "1", 0)
@example("ä" * 255, "9" * 255, 2**31 - 1)
@example("a.b/c%", "t-1-2", 3)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_an_attempt_of_any_name_has_files_and_is_found_in_them(
    tmp_path: Path, step: str, task: str, attempt: int
) -> None:
    key = AttemptKey(step, task, attempt)
    for path, kind in ((layout.attempt_file(tmp_path, key), "start"), (layout.output_file(tmp_path, key), "launch")):
        assert len(path.name.encode()) <= NAME_MAX
        journal = Journal(path, _fail)
        journal.append(kind, {"step": step, "task": task, "attempt": attempt})
        journal.close()
        assert layout.attempt_key(path) == key


@given(NAMES, NAMES, NAMES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_run_of_any_name_has_a_folder_and_is_found_in_it(tmp_path: Path, flow: str, run: str, namespace: str) -> None:
    key = RunKey(flow, run, namespace)
    folder = layout.run_folder(tmp_path, key)
    assert all(len(part.encode()) <= NAME_MAX for part in folder.parts)
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / layout.RUN_FILE, _fail)
    journal.append("start", {"flow": flow, "run": run, "namespace": namespace})
    journal.close()
    assert layout.run_key(tmp_path, folder) == key


def test_two_long_names_that_begin_alike_are_two_files(tmp_path: Path) -> None:
    first, second = (layout.attempt_file(tmp_path, AttemptKey("x" * 300 + end, "1", 0)) for end in "ab")
    assert first != second


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"step": 1}', '{"step": "y", "task": "1", "attempt": 0}', "[" * 9999]
)
def test_a_cut_name_without_its_record_is_no_attempt_yet(tmp_path: Path, content: str) -> None:
    """Damaged, or made of another file's: no attempt is made up."""
    path = layout.attempt_file(tmp_path, AttemptKey("x" * 300, "1", 0))
    path.write_text(content)
    assert layout.attempt_key(path) is None
    assert load(tmp_path.parent.parent, tmp_path).attempts == {}


@pytest.mark.parametrize(
    "name",
    ["a.b.²", "a.b.-1", "a.b", "a.b.c.1", "..1", "ü.b.1", "a.b.1" + "0" * 30, "a\udc80.b.1", "a.b.1.output.output"],
)
def test_files_of_other_names_are_no_journals(tmp_path: Path, name: str) -> None:
    assert layout.attempt_key(tmp_path / f"{name}.jsonl") is None


def _fail(error: OSError) -> None:
    raise error
