"""The wheel as a user gets it: installed in an environment of its own, beside another extension."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from collectors import ROOT

OTHER = {
    "pyproject.toml": """\
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "other-extension"
        version = "1"
        [tool.setuptools.packages.find]
        where = ["src"]
        namespaces = true
        """,
    "src/metaflow_extensions/other/plugins/mfextinit_other.py": "STEP_DECORATORS_DESC = [('other', '.deco.Other')]\n",
    "src/metaflow_extensions/other/plugins/deco.py": """\
        from metaflow.decorators import StepDecorator
        class Other(StepDecorator):
            name = "other"
        """,
}
PLAIN = """\
    from metaflow import FlowSpec, step
    class PlainFlow(FlowSpec):
        @step
        def start(self):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        PlainFlow()
    """
DECORATED = PLAIN.replace("FlowSpec, step", "FlowSpec, otel, other, step").replace(
    "@step\n        def s", "{}\n        @step\n        def s"
)


class Environment:
    """A virtual environment that sees the libraries of ours, and has the two extensions installed for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path / "venv")], check=True)
        self.python = path / "venv/bin/python"
        (site,) = (path / "venv/lib").glob("python*/site-packages")
        self.site = site

    def install(self, *what: str) -> None:
        """Install without dependencies, which come from the environment of the tests."""
        subprocess.run(
            [sys.executable, "-m", "pip", f"--python={self.python}", "install", "--quiet", "--no-deps", *what],
            check=True,
        )

    def run(
        self, flow: Path, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a flow in this environment."""
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "METAFLOW_", "PYTEST"))
        }
        return subprocess.run(
            [str(self.python), str(flow), "--no-pylint", *arguments],
            cwd=self.path,
            env={
                **clean,
                "METAFLOW_USER": "tester",
                "METAFLOW_HOME": str(self.path),
                "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.path),
                "OTEL_METAFLOW_HOME": str(self.path / "journals"),
                **(env or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def attempts(self) -> set[str]:
        """The steps that left a journal, and the journals with them."""
        found = {path.name.split(".")[0] for path in (self.path / "journals").glob("*/*/*.0.jsonl")}
        for path in (self.path / "journals").glob("*/*/*"):
            path.unlink()
        return found


def build(source: Path, target: Path) -> Path:
    """Build the wheel of the project in `source`."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(source)],
        check=True,
    )
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of another extension, built by setuptools as most are."""
    source = tmp_path_factory.mktemp("other")
    for name, text in OTHER.items():
        file = source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return build(source, tmp_path_factory.mktemp("other-wheel"))


def copy_of_source(target: Path) -> Path:
    """What git tracks, so that a build leaves nothing in the checkout."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "pyproject.toml", "README.md", "otel_metaflow", "shim"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((ROOT / name).read_bytes())
    return target


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, other: Path) -> Environment:
    """An environment with both extensions, ours as a wheel or as an editable install."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(str(other))
    source = copy_of_source(tmp_path_factory.mktemp("source"))
    if request.param == "wheel":
        made.install(str(build(source, tmp_path_factory.mktemp("wheel"))))
    else:
        made.install("--editable", str(source))
    # The dependencies, but not the project itself, which is installed editable in the tests' own environment.
    libraries = Path(pytest.__file__).parent.parent
    (made.site / "libraries.pth").write_text(f"{libraries}\n")
    return made


def flow(environment: Environment, source: str, name: str) -> Path:
    file = environment.path / f"{name}.py"
    file.write_text(textwrap.dedent(source))
    return file


@pytest.mark.parametrize(
    "decorator", ["@otel", "@otel(attributes={'team': 'a'}, logs=['stdout'])", "@other\n        @otel"]
)
def test_the_decorator_is_imported_from_metaflow(environment: Environment, decorator: str) -> None:
    """`from metaflow import otel`, bare, with options, and beside a decorator of the other extension."""
    finished = environment.run(flow(environment, DECORATED.format(decorator), "decorated"), "run")
    assert finished.returncode == 0, finished.stderr
    assert environment.attempts() == {"start"}


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["run", "--with", "otel"], {}),
        (["--with", "otel", "run"], {}),
        (["run", "--with", 'otel:attributes={"team": "a"}'], {}),
        (["run", "--with", "otel:logs=stdout+logging"], {}),
        (["run"], {"METAFLOW_DECOSPECS": "otel"}),
        (["run"], {"METAFLOW_DEFAULT_DECOSPECS": "otel"}),
    ],
)
def test_every_way_of_switching_it_on_works(
    environment: Environment, arguments: list[str], variables: dict[str, str]
) -> None:
    """By the command line and by Metaflow's variables, for flows that do not know of it."""
    finished = environment.run(flow(environment, PLAIN, "plain"), *arguments, env=variables)
    assert finished.returncode == 0, finished.stderr
    assert environment.attempts() == {"start", "end"}


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("@otel(colour='red')", "@otel has no option 'colour'; allowed are attributes and logs"),
        ("@otel(logs=['stdin'])", "allows any of stdout, stderr, logging; 'stdin' is none"),
        ("@otel(logs=3)", "must be a list of any of stdout, stderr, logging, not int"),
        ("@otel(attributes=['a'])", "must be a dictionary such as"),
        ("@otel(attributes={'a': object()})", "allows strings, numbers and booleans as values; 'a' is a object"),
        ("@otel(attributes={3: 'a'})", "must have names that are not empty strings, not 3"),
    ],
)
def test_a_wrong_option_stops_the_flow_at_start_and_is_named(
    environment: Environment, decorator: str, message: str
) -> None:
    """Before anything runs, in Metaflow's own way of saying so, without a traceback."""
    finished = environment.run(flow(environment, DECORATED.format(decorator), "wrong"), "run")
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "Workflow starting" not in finished.stdout


def test_importing_metaflow_loads_nothing_of_ours_but_the_shim(environment: Environment) -> None:
    """The decorator's module is imported in every process of every flow, so it may not pull in anything."""
    script = "import sys, metaflow; print(*sorted(name for name in sys.modules if 'otel' in name or 'opentelemetry' in name))"  # noqa: E501
    loaded = subprocess.run(
        [str(environment.python), "-c", script], cwd=environment.path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(
        name.startswith(("metaflow_extensions.otel", "metaflow.")) or "__editable__" in name for name in loaded
    ), loaded


def test_the_version_is_written_once() -> None:
    """The package says which version it is by what was installed."""
    import importlib.metadata

    import otel_metaflow

    assert importlib.metadata.version("otel-metaflow") == otel_metaflow.__version__
