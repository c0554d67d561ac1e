"""An installation that is broken, or of another version than the shim: one line, and the run goes on."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from running import Finished, Place, seen

FLOW = """
    from metaflow import FlowSpec, step
    class BrokenFlow(FlowSpec):
        @step
        def start(self):
            print("start")
            self.next(self.end)
        @step
        def end(self):
            raise ValueError("of the user")
    if __name__ == "__main__":
        BrokenFlow()
    """
# Imported before anything else, in the launcher and in tasks: makes imports of ours fail.
CUSTOMIZE = """
    import sys
    class Breaking:
        def find_spec(self, name, path=None, target=None):
            if name == {name!r}:
                {how}
    sys.meta_path.insert(0, Breaking())
    """
RAISES = {
    "a dependency of ours is missing": ("otel_metaflow.core.guard", "raise ModuleNotFoundError('no module', name='x')"),
    "a module of ours is missing": (
        "otel_metaflow.launcher.run",
        "raise ModuleNotFoundError('No module named ' + repr(name), name=name)",
    ),
    "a name of ours is missing": ("otel_metaflow.journal.layout", "raise ImportError('cannot import name', name=name)"),
    "a file of ours cannot be read": ("otel_metaflow.core.settings", "raise PermissionError(13, 'Permission denied')"),
    "a file of ours is cut": ("otel_metaflow.launcher.output", "raise SyntaxError('unexpected EOF\\nwhile parsing')"),
    "only tasks are broken": ("otel_metaflow.task.hooks", "raise RuntimeError('a wheel of another Python')"),
}  # fmt: skip


def run(place: Place, flow: Path, name: str, how: str) -> Finished:
    folder = place.path / "broken"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(textwrap.dedent(CUSTOMIZE).format(name=name, how=how))
    return place.run(flow, "--with", "otel", env={"PYTHONPATH": str(folder)})


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all, whose path is in the user's traceback."""
    return Place(tmp_path_factory.mktemp("flow")).write(FLOW)


@pytest.fixture(scope="module")
def plain(flow: Path) -> Finished:
    """The run as it is without us."""
    return Place(flow.parent).run(flow)


def without_ours(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if "otel: no telemetry" not in line)


@pytest.mark.parametrize("case", RAISES)
def test_a_broken_installation_is_one_line(place: Place, flow: Path, plain: Finished, case: str) -> None:
    """On stderr, for the whole run, with the reason and what to type; the run is what it is without us."""
    finished = run(place, flow, *RAISES[case])
    printed = [line for line in (finished.stdout + finished.stderr).splitlines() if "no telemetry" in line]
    if case == "only tasks are broken":
        assert len(printed) == 2, "a line of each task: no launcher of theirs has reported it"
    else:
        assert len(printed) == 1
        assert printed[0].startswith("otel: no telemetry: the installation of otel-metaflow is broken (")
    assert all("pip install" in line for line in printed)
    same = Finished(
        finished.code, without_ours(finished.stdout), finished.stderr, finished.flow, finished.run, finished.home
    )
    assert seen(same) == seen(plain)


def test_no_installation_is_silence(place: Place, flow: Path, plain: Finished) -> None:
    """As in a bare container, to which the code package brings the shim alone."""
    how = "raise ModuleNotFoundError('No module named ' + repr(name), name=name)"
    finished = run(place, flow, "otel_metaflow", how)
    assert "otel: " not in finished.stdout + finished.stderr
    assert seen(finished) == seen(plain)
