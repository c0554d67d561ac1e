"""What a user's project imports from us: with types, and at no cost until it is used."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from environments import Environment, build, copy_of_source
from running import Place

import otel_metaflow
from otel_metaflow.core import ids

# Metaflow marks itself as typed, exports nothing explicitly and leaves FlowSpec's constructor without annotations.
PROJECT = """\
    from types import MappingProxyType

    from metaflow import FlowSpec, step  # type: ignore[attr-defined]

    from otel_metaflow import __version__, attempt_span_id, otel, run_span_id, trace_id
    from otel_metaflow.testing import Telemetry, run

    TEAM = MappingProxyType({"team": "search"})


    class TypedFlow(FlowSpec):
        @otel
        @step
        def start(self) -> None:
            self.next(self.train)

        @otel(attributes={"team": "search", "size": 3, "share": 0.5, "spot": True}, logs=["stdout"])
        @step
        def train(self) -> None:
            self.next(self.report)

        @otel(attributes=TEAM)
        @step
        def report(self) -> None:
            self.next(self.end)

        @otel(logs="stdout+stderr", foreach_value=True)
        @step
        def end(self) -> None:
            print(trace_id("TypedFlow", "1"), run_span_id("TypedFlow", "1"), __version__)
            print(attempt_span_id("TypedFlow", "1", "start", "1", 0))


    def plain(number: int) -> str:
        return str(number)


    def story(file: str) -> str:
        telemetry: Telemetry = run(file)
        return telemetry.tree()


    if __name__ == "__main__":
        TypedFlow()  # type: ignore[no-untyped-call]
    """
WRONG = """\
    from otel_metaflow import otel, unknown

    def plain(number: int) -> str:
        return str(number)

    kept: int = otel(plain)(3)
    otel(colour="red")
    otel(attributes={"a": object()})
    otel(attributes=["a"])
    otel(logs=3)
    otel(foreach_value="yes")
    """


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel, installed."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    source = copy_of_source(tmp_path_factory.mktemp("source"))
    made.install(str(build(source, tmp_path_factory.mktemp("wheel"))))
    return made


def checked(environment: Environment, source: str) -> list[str]:
    """What `mypy --strict` prints of a project with that module."""
    file = environment.path / "project.py"
    file.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--python-executable={environment.python}", file.name],
        cwd=environment.path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_users_project_passes_mypy_strict(environment: Environment) -> None:
    """`@otel` bare, with options, with a mapping of the user's own; what it decorates keeps its type."""
    assert checked(environment, PROJECT) == ["Success: no issues found in 1 source file"]


def test_wrong_options_are_found_by_mypy(environment: Environment) -> None:
    """Each line that is wrong, and none else."""
    found = checked(environment, WRONG)
    lines = {int(line.split(":")[1]) for line in found if ": error:" in line}
    assert lines == {1, 6, 7, 8, 9, 10, 11}, found


def test_the_project_that_was_checked_runs(place: Place) -> None:
    """A mapping that is no dictionary is taken, too."""
    finished = place.run(textwrap.dedent(PROJECT))
    assert finished.code == 0, finished.stderr
    assert ids.trace_id("TypedFlow", "1") in finished.stdout
    attributes = {attempt.key.step: attempt.start["attributes"] for attempt in finished.story.in_order}
    assert attributes["report"] == {"team": "search"}


@pytest.mark.filterwarnings("ignore:The _yaml extension module:DeprecationWarning")  # Metaflow's import of it
def test_it_is_the_decorator_that_metaflow_has() -> None:
    import metaflow

    assert otel_metaflow.otel is metaflow.otel


@pytest.mark.filterwarnings("ignore:The _yaml extension module:DeprecationWarning")
def test_public_names_are_listed_and_documented() -> None:
    for name in otel_metaflow.__all__:
        assert getattr(otel_metaflow, name) is not None
        assert f"    {name} " in (otel_metaflow.__doc__ or "")
    assert set(otel_metaflow.__all__) <= set(dir(otel_metaflow))
    with pytest.raises(AttributeError, match="has no attribute 'unknown'"):
        otel_metaflow.unknown  # noqa: B018


@pytest.mark.parametrize("name", [None, "__version__", "trace_id"])
def test_nothing_is_imported_that_is_not_used(name: str | None) -> None:
    """Neither Metaflow nor OpenTelemetry, nor even `typing`, which costs more than all of ours."""
    used = f"from otel_metaflow import {name}" if name else "import otel_metaflow"
    modules = "{name.partition('.')[0] for name in set(sys.modules) - before}"
    code = f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules); {used}; print(*{modules})"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"metaflow", "opentelemetry", "typing"}
    assert name == "trace_id" or loaded <= {"otel_metaflow", "__future__"}
