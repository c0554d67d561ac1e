"""Every command prints on streams of any encoding: what they cannot hold is drawn in ASCII, or as a question mark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from journals import Journals
from running import Place

TEXT = "naïve 日本語 ░ 😀 \udcff"
COMMANDS = [
    ["view"],
    ["view", "--json"],
    ["view", "HandFlow/1"],
    ["view", "HandFlow/1", "--all"],
    ["view", "HandFlow/1", "--json"],
    ["view", "HandFlow/1/größe"],
    ["view", "HandFlow/1/größe/2"],
    ["view", "HandFlow/1", "--logs"],
    ["view", "HandFlow/1", "--logs", "--json"],
    ["view", "HandFlow/1", "--errors"],
    ["view", "HandFlow/1", "--html", "-"],
    ["view", "HandFlow/1", "--html", "größe.html"],
    ["view", "HandFlow/1/日本語"],
    ["compare", "HandFlow/1", "HandFlow/2"],
    ["export", "HandFlow/1", "--format", "perfetto"],
    ["export", "HandFlow/1", "--format", "jaeger"],
    ["export", "HandFlow/1", "--format", "otlp-json"],
    ["export", "HandFlow/1", "--format", "perfetto", "-o", "größe.json"],
    ["id", "HandFlow/1/größe/2"],
    ["id", "größe"],
    ["status"],
    ["ship", "日本語/1"],
    ["doctor", "--timeout", "0.1"],
    ["cloudwatch", "größe"],
    ["größe"],
    ["--help"],
]
ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("encodings"))
    for number in ("1", "2"):
        run = Journals(made.home, run=number)
        run.step("start", "größe")
        run.step("größe", "größe")
        run.print(0, TEXT)
        run.attempt("start", 1, 0, 1)
        failure = {"type": "Größe", "message": TEXT, "stacktrace": f"Traceback\n{TEXT}"}
        error = {
            "kind": "log",
            "timeUnixNano": 1_790_000_001_000_000_000,
            "severityNumber": 40,
            "logger": "ü",
            "body": TEXT,
        }
        took = 2.0 * int(number)
        for task in range(2, 16):
            run.attempt(
                "größe",
                task,
                1,
                took,
                inputs=[("start", 1)],
                lines=[TEXT],
                records=[error],
                result="failure",
                exception=failure,
            )
        run.end(took + 3, "failure")
    return made


def typed(place: Place, command: list[str], **env: str) -> subprocess.CompletedProcess[bytes]:
    arguments = [sys.executable, "-m", "otel_metaflow.cli", *command]
    return subprocess.run(
        arguments, cwd=place.path, env=place.environ(env), capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_prints_on_streams_of_any_encoding(place: Place, command: list[str]) -> None:
    """With the same exit code, in that encoding, a line for a line."""
    there = typed(place, command, PYTHONIOENCODING="utf-8")
    assert b"Traceback (most recent call last)" not in there.stderr
    for encoding in ENCODINGS:
        done = typed(place, command, PYTHONIOENCODING=encoding)
        assert done.returncode == there.returncode
        assert b"Error" not in done.stderr.replace(b"Error: ", b""), done.stderr
        if "-" not in command[2:]:
            done.stdout.decode(encoding)
            assert done.stdout.count(b"\n") == there.stdout.count(b"\n")
        assert done.stderr.count(b"\n") == there.stderr.count(b"\n")


def test_bars_and_arrows_are_drawn_in_ascii_and_columns_stay(place: Place) -> None:
    """In the plainest of locales, too."""
    plain = typed(place, ["view", "HandFlow/1"], PYTHONIOENCODING="utf-8").stdout.decode()
    for env in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        shown = typed(place, ["view", "HandFlow/1"], **env).stdout.decode("ascii")
        assert "bar: . queued  : starting  # user code  = storing" in shown
        assert re.search(r"::+##+=", shown)
        assert [len(line) for line in shown.splitlines()] == [len(line) for line in plain.splitlines()]
    assert re.search(
        r"HandFlow  =#  last 2, longest", typed(place, ["view"], PYTHONIOENCODING="ascii").stdout.decode("ascii")
    )
    compared = typed(place, ["compare", "HandFlow/1", "HandFlow/2"], PYTHONIOENCODING="latin-1").stdout.decode(
        "latin-1"
    )
    assert "2.00s > 4.00s ^" in compared
    assert "größe slower" in compared


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_and_pages_are_utf_8_whatever_the_terminal(place: Place, tmp_path: Path, encoding: str) -> None:
    written = tmp_path / "run.html"
    env = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert typed(place, ["view", "HandFlow/1", "--html", str(written)], **env).returncode == 0
    printed = typed(place, ["view", "HandFlow/1", "--html", "-"], **env).stdout
    for page in (written.read_bytes(), printed):
        assert '<meta charset="utf-8">' in page.decode("utf-8")
        assert "◆" in page.decode("utf-8")
    exported = tmp_path / "run.json"
    done = typed(place, ["export", "HandFlow/1", "--format", "perfetto", "-o", str(exported)], **env)
    assert done.returncode == 0
    names = {event["name"] for event in json.loads(exported.read_bytes().decode("utf-8"))["traceEvents"]}
    assert "größe/2 failure" in names


def test_output_that_is_closed_is_no_traceback(place: Place) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = [sys.executable, "-m", "otel_metaflow.cli", "view", "HandFlow/1"]
    done = subprocess.run(
        arguments, cwd=place.path, env=place.environ(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert b"Traceback" not in done.stderr
