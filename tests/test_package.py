"""The wheel as a user gets it: installed in an environment of its own, beside another extension."""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
from environments import OTHER, Environment, build, copy_of_source, write_files

pytestmark = pytest.mark.range

TESTED_WHEEL = "TESTED_WHEEL"  # the variable in which noxfile.py names the wheel that it has built

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours: that of `make test-range`, or built from the checkout."""
    given = os.environ.get(TESTED_WHEEL)
    folders = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    return Path(given) if given else build(copy_of_source(next(folders)), next(folders))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of another extension, built by setuptools as most are."""
    return build(write_files(tmp_path_factory.mktemp("other"), OTHER), tmp_path_factory.mktemp("other-wheel"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path, other: Path
) -> Environment:
    """An environment with both extensions, ours as a wheel or as an editable install."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install(str(other))
    if request.param == "wheel":
        made.install(str(wheel))
    else:
        made.install("--editable", str(copy_of_source(tmp_path_factory.mktemp("source"))))
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


def test_the_card_is_there_with_all_that_it_draws_with(environment: Environment) -> None:
    """Style and script of the page are files of the package."""
    file = flow(environment, PLAIN, "carded")
    finished = environment.run(file, "run", "--with", "otel", "--with", "card:type=otel")
    assert finished.returncode == 0, finished.stderr
    (run,) = re.findall(r"run-id (\d+)", finished.stdout)
    made = environment.run(file, "card", "get", f"{run}/end/2")
    assert made.stdout.startswith("<!DOCTYPE html>"), made.stderr
    assert "class Page {" in made.stdout
    assert "--paper" in made.stdout


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ("@otel(colour='red')", "@otel has no option 'colour'; its options are attributes, logs, foreach_value"),
        ("@otel(logs=['stdin'])", "does not support 'stdin', only stdout, stderr, logging"),
        ("@otel(logs=3)", "must be a list of stdout, stderr, logging, not int"),
        ("@otel(attributes=['a'])", "must be a dictionary such as"),
        ("@otel(attributes={'a': object()})", "allows strings, numbers and booleans as values; 'a' is a object"),
        ("@otel(attributes={3: 'a'})", "must have non-empty strings as names, not 3"),
    ],
)
def test_a_wrong_option_stops_the_flow_at_start_and_is_named(
    environment: Environment, decorator: str, message: str
) -> None:
    """Before anything runs, as Metaflow's own errors are, without a traceback."""
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
    assert all(name.startswith(("metaflow_extensions.otel", "metaflow.")) for name in loaded), loaded


FOUND = """\
import importlib.metadata, json, sys
read = []
actual = importlib.metadata.PathDistribution.read_text
def read_text(self, name):
    text = actual(self, name)
    if "otel_metaflow-" in str(self._path) and text is not None:
        read.append(name)
    return text
importlib.metadata.PathDistribution.read_text = read_text
import metaflow.extension_support as support
files = [file for package in support._all_packages.values() for file in package["files"] if file.startswith("otel/")]
print(json.dumps([read, sorted(files)]))
"""


def test_metaflow_finds_the_shim_without_reading_metadata_and_record(environment: Environment) -> None:
    """METADATA and RECORD are long, and Metaflow would read them in each process of every flow."""
    found = subprocess.run(
        [str(environment.python), "-c", FOUND], cwd=environment.path, capture_output=True, text=True, check=True
    )
    read, files = json.loads(found.stdout)
    assert read == []
    assert files == [
        "otel/plugins/cards/mfextinit_otel.py",
        "otel/plugins/mfextinit_otel.py",
        "otel/plugins/otel_decorator.py",
    ]


def test_a_folder_that_is_no_site_folder_needs_the_shim_on_the_path(tmp_path: Path, wheel: Path) -> None:
    """What `pip install --target` fills: nobody reads the .pth file there."""
    made = Environment(tmp_path / "environment")
    target = tmp_path / "target"
    made.install("--target", str(target), str(wheel))
    file = flow(made, PLAIN, "plain")
    unknown = made.run(file, "run", "--with", "otel", env={"PYTHONPATH": str(target)})
    assert (unknown.returncode, "otel" in unknown.stderr) == (1, True)
    path = os.pathsep.join([str(target), str(target / "otel_metaflow/shim")])
    finished = made.run(file, "run", "--with", "otel", env={"PYTHONPATH": path})
    assert finished.returncode == 0, finished.stderr
    assert made.attempts() == {"start", "end"}


def test_uninstalling_leaves_no_path_behind(tmp_path: Path, wheel: Path) -> None:
    """The .pth file is pip's to remove."""
    made = Environment(tmp_path / "environment")
    made.install(str(wheel))
    site = made.site
    assert (site / "otel_metaflow.pth").exists()
    made.uninstall("otel-metaflow")
    assert not (site / "otel_metaflow.pth").exists()
    assert not (site / "otel_metaflow").exists()


def test_the_version_is_written_once() -> None:
    """The package's version is that of the installation."""
    import importlib.metadata

    import otel_metaflow

    assert importlib.metadata.version("otel-metaflow") == otel_metaflow.__version__
