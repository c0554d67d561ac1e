"""The tests marked `range`, on the built wheel, over the versions that pyproject.toml allows: `make test-range`.

Four corners, of the oldest and the newest OpenTelemetry with the oldest and the newest of everything else, are dealt to
the Pythons that this machine has, from the oldest up. What pip finds newest within the bounds is the newest; the lower
bounds themselves are the oldest. A Python that this machine has not is listed as skipped at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox
from packaging.specifiers import SpecifierSet

sys.path.append("tests")
from interpreters import interpreters

nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
TESTED = [
    found.group(1)
    for classifier in PROJECT["project"]["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier))
]
PYTHONS = {
    version: program
    for version, program in interpreters().items()
    if SpecifierSet(PROJECT["project"]["requires-python"]).contains(version)
}
# Where nox looks for them.
os.environ["PATH"] = os.pathsep.join([*(os.path.dirname(program) for program in PYTHONS.values()), os.environ["PATH"]])
WHEELS = Path(".nox/wheel").resolve()
_IS_INSTALLED = """
import otel_metaflow, sys
assert sys.version.startswith(sys.argv[1] + "."), sys.version
assert otel_metaflow.__file__.startswith(sys.prefix), otel_metaflow.__file__
"""
CORNERS = [("oldest", "oldest"), ("newest", "oldest"), ("oldest", "newest"), ("newest", "newest")]


def _deal() -> list[nox.param]:  # type: ignore[valid-type]
    """Every corner once, every Python at least once; one that is newer than what is tested gets the newest only.

    So does one that is missing: nox skips it, and names it.
    """
    known = [version for version in PYTHONS if version in TESTED]
    runs = [
        (known[index % len(known)], *CORNERS[min(index, len(CORNERS) - 1)])
        for index in range(max(len(known), len(CORNERS)) if known else 0)
    ]
    runs += [(version, "newest", "newest") for version in sorted({*PYTHONS} ^ {*TESTED})]
    return [nox.param(*run, id="{}, opentelemetry={}, others={}".format(*run)) for run in runs]


@nox.session(python=False)
def wheel(session: nox.Session) -> None:
    """Build the wheel, from the source distribution as a release does."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    session.run(sys.executable, "-m", "build", "--outdir", str(WHEELS), silent=True)


@nox.session(name="range")
@nox.parametrize(["python", "opentelemetry", "others"], _deal())
def versions(session: nox.Session, opentelemetry: str, others: str) -> None:
    """Install the wheel as a user would, and run what depends on versions."""
    built = next(WHEELS.glob("*.whl"))
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(_lower_bounds(opentelemetry, others)))
    session.install(
        "--upgrade", "--constraint", str(constraints), str(built), *nox.project.dependency_groups(PROJECT, "range")
    )
    session.install("--force-reinstall", "--no-deps", str(built))
    session.chdir(session.create_tmp())
    session.run("python", "-c", _IS_INSTALLED, str(session.python))
    session.chdir(Path(__file__).parent)
    session.run(
        "pytest", "-n", "2", "--dist", "loadfile", "-m", "range", *_modules(), *session.posargs,
        env={"TESTED_WHEEL": str(built)},
    )  # fmt: skip


def _modules() -> list[str]:
    """The modules with marked tests; others import what is not installed here."""
    return [str(path) for path in sorted(Path("tests").glob("test_*.py")) if "pytest.mark.range" in path.read_text()]


def _lower_bounds(opentelemetry: str, others: str) -> list[str]:
    """Each dependency as old as it may be, of those that are to be old."""
    chosen = {True: opentelemetry == "oldest", False: others == "oldest"}
    return [
        f"{name}=={version}"
        for name, version in re.findall(r"(?m)^([\w-]+)>=([\w.]+)", "\n".join(PROJECT["project"]["dependencies"]))
        if chosen[name.startswith("opentelemetry")]
    ]
