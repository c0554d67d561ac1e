"""What runs in a container's interpreter, which is not ours to choose: the task's side, the journal, and what makes
plain records of it and sends them.

Run by the oldest Python that this machine has, without a single library: from 3.8 on, where there is one.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from endpoint import Endpoint
from interpreters import interpreters

import otel_metaflow

PROMISED = "3.8"
PACKAGE = Path(otel_metaflow.__file__).parent
# What the shipper imports only where OpenTelemetry is installed, which takes a newer Python.
OFFICIAL = {"otel_metaflow.shipper.sinks.otlp", "otel_metaflow.shipper.sinks.sdk_objects"}

IMPORT = """
import importlib, json, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
# What is not ours must be the interpreter's own.
library = os.path.realpath(os.path.dirname(os.__file__))
files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
strangers = [
    name for name, file in files.items()
    if file and not name.startswith("otel_metaflow") and not os.path.realpath(file).startswith(library)
]
print(json.dumps(strangers))
"""
WRITE = """
import os, sys
from pathlib import Path
from otel_metaflow.journal.writer import Journal
def fail(error):
    raise error
journal = Journal(Path(sys.argv[1]), fail)
journal.append("start", {"flow": "OldFlow", "attempt": 0})
journal.append("line", {"body": "\u2713 \\ud800 " + "x" * 100000})
pid = os.fork()
if pid == 0:
    journal.append("line", {"body": "of a forked child"})
    os._exit(0)
os.waitpid(pid, 0)
journal.append("end", {"error": None, "seconds": 1.5})
journal.close()
"""
READ = """
import json, sys
from pathlib import Path
from otel_metaflow.journal.reader import Tail
print(json.dumps([entry.record for entry in Tail(Path(sys.argv[1])).read()]))
"""
SEND = """
import os, sys
from otel_metaflow.core import settings
from otel_metaflow.shipper.sinks import otlp_http
from otel_metaflow.shipper.telemetry import Record, Resource, Scope
os.environ.update(argument.split("=", 1) for argument in sys.argv[1:])
resource, scope = Resource({"service.name": "box"}), Scope("old", "1")
ids = {"traceId": "1" * 32, "spanId": "2" * 16}
point = {"timeUnixNano": 2, "startTimeUnixNano": 1, "asDouble": 0.5}
data = {
    "logs": {"timeUnixNano": 1, "body": "\u2713 \\ud800 " + "x" * 100000, "attributes": {"a": [1, {"b": None}]}, **ids},
    "traces": {"name": "span", "startTimeUnixNano": 1, "endTimeUnixNano": 2, **ids},
    "metrics": {"name": "metric", "sum": {"dataPoints": [point], "isMonotonic": True, "aggregationTemporality": 1}},
}
for signal, destination in settings.read().destinations.items():
    export = otlp_http.build(destination)
    for _ in range(3):
        print(signal, export([Record(resource, scope, data[signal])]).verdict.value)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package, and nothing else that could be imported."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copytree(PACKAGE, folder / "otel_metaflow", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


OLDEST = next(iter(interpreters().values()))


def printed(folder: Path, script: str, *arguments: str, by: str = OLDEST) -> str:
    """What a script prints that an interpreter runs, isolated, every warning an error."""
    command = f"import sys; sys.path.insert(0, {str(folder)!r}); exec({script!r})"
    finished = subprocess.run(
        [by, "-I", "-S", "-W", "error", "-c", command, *arguments], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def closure() -> dict[str, Path]:
    """The modules of those rooms, and those of ours that they import, early or late, but for annotations."""
    found: dict[str, Path] = {}
    waiting = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        for pattern in ("journal/*.py", "task/*.py", "model/*.py", "shipper/convert/*.py", "shipper/__main__.py")
        for file in PACKAGE.glob(pattern)
    ]
    while waiting:
        name = waiting.pop()
        file = (PACKAGE.parent / name.replace(".", "/")).with_suffix(".py")
        if name in found or name in OFFICIAL or not file.exists():
            continue
        found[name] = file
        for node in _run(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All that is run of a module: not what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _run(node)


def test_each_module_is_imported_with_the_standard_library_alone(alone: Path) -> None:
    """Those that it imports, too."""
    assert json.loads(printed(alone, IMPORT, *closure())) == []


def test_nothing_is_called_that_the_oldest_python_lacks() -> None:
    """What imports well may still call what came later."""
    command = [
        sys.executable,
        "-c",
        "import vermin; vermin.main()",
        "--no-tips",
        "--violations",
        f"--target={PROMISED}-",
    ]
    found = subprocess.run([*command, *map(str, closure().values())], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(("writer", "reader"), [(OLDEST, sys.executable), (sys.executable, OLDEST)])
def test_a_journal_passes_between_the_oldest_python_and_ours(
    alone: Path, tmp_path: Path, writer: str, reader: str
) -> None:
    """A shipper may read by another Python what a container's task wrote, and the other way round."""
    file = tmp_path / "journal.jsonl"
    printed(alone, WRITE, str(file), by=writer)
    start, line, forked, end = json.loads(printed(alone, READ, str(file), by=reader))
    assert (start["kind"], start["flow"], start["attempt"]) == ("start", "OldFlow", 0)
    assert line["body"].startswith("\u2713 ")
    assert len(line["body"]) == len("\u2713 s ") + 100_000
    assert forked["body"] == "of a forked child"
    assert (end["kind"], end["error"], end["seconds"]) == ("end", None, 1.5)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("is_secured", [False, True])
def test_records_are_sent_by_the_oldest_python(alone: Path, tmp_path: Path, is_secured: bool, compression: str) -> None:
    """Of each signal, and over one connection, to an endpoint that reads them by the official messages."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    with Endpoint(tls=authority.issue_cert("127.0.0.1") if is_secured else None) as endpoint:
        variables = {
            "ENDPOINT": endpoint.url, "COMPRESSION": compression, "CERTIFICATE": str(tmp_path / "authority.pem"),
        }  # fmt: skip
        arguments = [f"OTEL_EXPORTER_OTLP_{name}={value}" for name, value in variables.items()]
        sent = printed(alone, SEND, *arguments).splitlines()
        assert sent == [f"{signal} delivered" for signal in ("traces", "metrics", "logs") for _ in range(3)]
        assert endpoint.bodies() == ["✓ � " + "x" * 100_000] * 3
        assert [span.name for span, _ in endpoint.spans()] == ["span"] * 3
        assert len(endpoint.messages) == 9
