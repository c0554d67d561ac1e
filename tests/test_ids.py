"""The public recipe of ids, held against published vectors and against coreutils' b2sum."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from environments import ROOT
from hypothesis import given
from hypothesis import strategies as st

from otel_metaflow.core import ids

VECTORS = {
    "HelloFlow/12": ids.trace_id("HelloFlow", "12"),
    "HelloFlow/12 (run span)": ids.run_span_id("HelloFlow", "12"),
    "HelloFlow/12/train/7/0": ids.attempt_span_id("HelloFlow", "12", "train", "7", 0),
    "HelloFlow/12/train/7/1": ids.attempt_span_id("HelloFlow", "12", "train", "7", 1),
}
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


def test_the_published_vectors_hold() -> None:
    """docs/journal.md is what other implementations are written from."""
    table = (ROOT / "docs/journal.md").read_text()
    published = dict(re.findall(r"^\| `?([^|`]+?)`? \| `([0-9a-f]+)` \|$", table, re.MULTILINE))
    assert published == VECTORS


@pytest.mark.skipif(not shutil.which("b2sum"), reason="b2sum of GNU coreutils is not here")
def test_a_shell_computes_the_same() -> None:
    """As the documentation spells it."""
    script = "printf '%s\\0%s\\0%s\\0%s' otel-metaflow/1 '' HelloFlow 12 | b2sum -l 128"
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == ids.trace_id("HelloFlow", "12")


@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES, st.integers(0, 5)), unique=True, min_size=2, max_size=8))
def test_different_attempts_have_different_ids(names: list[tuple[str, str, str, str, int]]) -> None:
    """Whatever flows, runs, steps and tasks are called."""
    made = [ids.attempt_span_id(*name) for name in names]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{16}", each) and int(each, 16) for each in made)


def test_a_namespace_keeps_two_deployments_apart() -> None:
    """Integer run ids repeat from one metadata service to the next."""
    assert ids.trace_id("F", "1", "east") != ids.trace_id("F", "1", "west")
