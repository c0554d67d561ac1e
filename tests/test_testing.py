"""What we offer for tests of flows: the example of the docs, and what goes wrong."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from collectors import ROOT
from running import Place

from otel_metaflow.testing import run


def test_the_example_of_the_docs_prints_what_it_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks are taken from the page."""
    monkeypatch.chdir(ROOT)
    for name, value in place.environ().items():
        if name.startswith("METAFLOW_"):
            monkeypatch.setenv(name, value)
    found = re.search(
        r"```python\n(from otel_metaflow\.testing.*?)```\n\n```\n(.*?)```",
        (ROOT / "docs/testing.md").read_text(),
        re.DOTALL,
    )
    assert found
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found.group(1), "testing.md", "exec"), {})
    assert printed.getvalue() == found.group(2)


def test_a_flow_that_begins_no_run_says_what_it_printed(tmp_path: Path) -> None:
    flow = tmp_path / "flow.py"
    flow.write_text("print('not a flow')\n")
    with pytest.raises(ValueError, match="not a flow"):
        run(flow)


def test_a_span_that_is_not_there_names_those_that_are(place: Place) -> None:
    telemetry = run(ROOT / "examples/hello.py", env={"METAFLOW_USER": "tester"}, home=place.home)
    with pytest.raises(LookupError, match="greet"):
        telemetry.span("no such step")
    assert telemetry.bodies("stdout") == ["Hello from the first step.", "Greeted 3 guests."]
