"""Virtual environments with chosen extensions, for tests of the wheel and for benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A second extension of Metaflow, built by setuptools as most are.
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


class Environment:
    """A virtual environment that sees the libraries of ours, and has the two extensions installed for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        made = (
            path / ".venv"
        )  # hidden, or each run of a flow beside it has Metaflow package all that is installed there
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
        self.python = made / "bin/python"
        (self.site,) = (made / "lib").glob("python*/site-packages")
        # The libraries, but not the project itself: a .pth is only honoured where a site folder is, so the
        # editable install of ours does not take effect here.
        (self.site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *what: str) -> None:
        """Install without dependencies, which come from the environment of the tests; ours may be there, too."""
        pip = [sys.executable, "-m", "pip", f"--python={self.python}", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--ignore-installed", *what], check=True)

    def uninstall(self, name: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "pip", f"--python={self.python}", "uninstall", "--quiet", "--yes", name], check=True
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
                "OTEL_METAFLOW_STANDBY": "0",
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


def write_files(target: Path, files: Mapping[str, str]) -> Path:
    """Write files given by name and text below `target`."""
    for name, text in files.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return target


def copy_of_source(target: Path) -> Path:
    """What git tracks, so that a build leaves nothing in the checkout."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "pyproject.toml", "LICENSE", "docs/pypi.md", "otel_metaflow", "shim"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, files):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((ROOT / name).read_bytes())
    return target
