"""The shell of a step in a container sees how the step ends, and changes nothing of it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import eventually

import otel_metaflow
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model.run import load

WITNESS = Path(otel_metaflow.__file__).parent / "task" / "witness.sh"
KEY = RunKey("DeadFlow", "argo-my.flow-x7", "team a/b")
ATTEMPT = AttemptKey("start", "t-1.2", 1)
# As Metaflow has it (metaflow/plugins/kubernetes/kubernetes.py), the copies of the output in files.
SHELL = """\
{before}true && ({source}{step}) 1>> >(cat >> out) 2>> >(cat >> err >&2); c=$?; exit $c
"""
COMES_UP = f'{sys.executable} -c \'import os; open(os.environ["OTEL_METAFLOW_WITNESS"], "w"); '
DIES = {
    "with 0": ("echo a line; exit 0", 0, 0),
    "with 3": ("echo a line; exit 3", 3, 3),
    "killed": ("echo a line; bash -c 'kill -9 $$'", 137, -9),
    "segmentation fault": ("bash -c 'kill -SEGV $$'", 139, -11),
    "a bootstrap that fails": ("echo no conda >&2; false && echo never", 1, 1),
    "a command that is none": ("no-such-command", 127, 127),
}


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str
    took: float


class Shell:
    """A container's shell in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / ".logs"
        self.logs.mkdir()
        self.home = self.logs / "otel"

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "MFLOG_STDOUT": str(self.logs / "mflog_stdout"),
            "MF_PATHSPEC": f"{KEY.flow}/{KEY.run}/{ATTEMPT.step}/{ATTEMPT.task}",
            "MF_ATTEMPT": str(ATTEMPT.attempt),
            "OTEL_METAFLOW_ID_NAMESPACE": KEY.namespace,
            **(extra or {}),
        }

    def start(
        self, step: str, env: Mapping[str, str] | None = None, *, before: str = "", source: str = f". {WITNESS} && "
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", SHELL.format(before=before, source=source, step=step)],
            cwd=self.folder,
            env=self.environ(env),
            start_new_session=True,
            text=True,
        )

    def run(self, step: str, env: Mapping[str, str] | None = None, **how: str) -> Ended:
        began = time.monotonic()
        code = self.start(step, env, **how).wait(60)
        took = time.monotonic() - began
        texts = [eventually_text(self.folder / name) for name in ("out", "err")]
        for name in ("out", "err"):
            (self.folder / name).unlink(missing_ok=True)
        return Ended(code, *texts, took)

    @property
    def journal(self) -> Path:
        return layout.attempt_file(layout.run_folder(self.home, KEY), ATTEMPT)

    def begin(self) -> None:
        """The step's own journal, as a task that came up has it."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        self.journal.write_text('{"kind":"start","timeUnixNano":1,"flow":"DeadFlow"}\n')

    def exits(self) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [record for record in records if record["kind"] == "exit"]


def eventually_text(file: Path) -> str:
    """What `cat` has written of a stream that is at its end; it may be a moment behind."""
    before, text = None, ""
    while text != before:
        before = text
        time.sleep(0.1)
        text = file.read_text() if file.exists() else ""
    return text


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("before", ["", "set -e; ", "set -u; ", "set -o pipefail; "])
@pytest.mark.parametrize(("step", "code", "recorded"), DIES.values(), ids=DIES)
def test_a_step_ends_as_it_does_without_a_witness(
    shell: Shell, step: str, code: int, recorded: int, before: str
) -> None:
    """Exit code and output, whatever the shell's options for errors; and the journal records how."""
    step = f"touch $OTEL_METAFLOW_WITNESS; {step}"
    shell.begin()
    without = shell.run(step, source="OTEL_METAFLOW_WITNESS=x && ", before=before)
    witnessed = shell.run(step, before=before)
    assert (witnessed.code, witnessed.stdout) == (without.code, without.stdout)
    assert without.code == code
    assert witnessed.stderr.replace(str(WITNESS), "") == without.stderr
    (record,) = shell.exits()
    assert (record["step"], record["task"], record["attempt"]) == ATTEMPT
    assert record["code"] == recorded
    assert record.get("ok") == (False if code == 0 else None)
    assert abs(record["timeUnixNano"] / 1e9 - time.time()) < 60


def test_the_signal_that_killed_a_step_is_read_from_its_journal(shell: Shell) -> None:
    shell.begin()
    shell.run("touch $OTEL_METAFLOW_WITNESS; bash -c 'kill -9 $$'")
    attempt = load(shell.home, shell.journal.parent).attempts[ATTEMPT]
    assert (attempt.result, attempt.is_lost, attempt.error_type) == ("error", True, "SIGKILL")


def test_a_code_of_0_without_a_last_record_is_no_success(shell: Shell) -> None:
    """As after a SIGTERM to all processes of a container, which a shell may end with 0 from."""
    shell.begin()
    shell.run("touch $OTEL_METAFLOW_WITNESS; exit 0")
    attempt = load(shell.home, shell.journal.parent).attempts[ATTEMPT]
    assert (attempt.result, attempt.is_lost) == ("error", True)


# As kernels write them: 5.17 and newer, older ones, and cgroup v1 (mm/memcontrol.c).
EVENTS = {
    "v2": ("memory.events", "low 0\nhigh 0\nmax 42\noom 2\noom_kill {}\noom_group_kill 9\n"),
    "v2, before 5.17": ("memory.events", "low 0\nhigh 0\nmax 42\noom 2\noom_kill {}\n"),
    "v1": ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
}


@pytest.mark.parametrize(("file", "text"), EVENTS.values(), ids=EVENTS)
def test_an_out_of_memory_kill_is_distinguished_from_others(shell: Shell, file: str, text: str) -> None:
    """By the kernel's count, which goes up; not by one from before."""
    cgroup = shell.folder / "cgroup"
    events = cgroup / file
    events.parent.mkdir(parents=True)
    events.write_text(text.format(1))

    def kills(count: int) -> str:
        """A process dies, and the kernel has killed so many."""
        return f"printf {shlex.quote(text.format(count))} > {events}; {dies}"

    copy = shell.folder / "witness.sh"
    copy.write_text(WITNESS.read_text().replace("/sys/fs/cgroup", str(cgroup)))
    shell.begin()
    dies = "touch $OTEL_METAFLOW_WITNESS; bash -c 'kill -9 $$'"
    shell.run(dies, source=f". {copy} && ")
    shell.run(kills(2), source=f". {copy} && ")
    assert [record.get("outOfMemory") for record in shell.exits()] == [None, True]
    shell.begin()
    shell.run(kills(3), source=f". {copy} && ")
    attempt = load(shell.home, shell.journal.parent).attempts[ATTEMPT]
    assert attempt.error_type == "OOMKilled"
    assert attempt.error_message == "the process was killed by SIGKILL, out of memory"


def test_a_step_that_records_nothing_gets_no_record(shell: Shell) -> None:
    """It came up, and telemetry is off in it, or its Python is too old."""
    shell.run("touch $OTEL_METAFLOW_WITNESS; exit 3", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert not shell.home.exists()
    assert list(shell.logs.iterdir()) == []


def test_a_step_that_never_came_up_gets_none_where_nothing_is_sent(shell: Shell) -> None:
    shell.run("false")
    shell.run("false", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"})
    assert not shell.home.exists()


def test_the_shell_gives_the_shipper_the_time_that_was_allowed(shell: Shell) -> None:
    """No longer, and no time at all once it is gone."""
    shell.begin()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        shell.journal.with_suffix(".pid").write_text(f"{sleeper.pid}\n")
        dies = "touch $OTEL_METAFLOW_WITNESS; exit 3"
        assert 1.5 <= shell.run(dies, {"OTEL_METAFLOW_FLUSH_TIMEOUT": "1.5"}).took < 10
        process = shell.start(dies, {"OTEL_METAFLOW_FLUSH_TIMEOUT": "60"})
        eventually(lambda: len(shell.exits()) == 2)
        assert process.poll() is None
        sleeper.kill()  # and left as a zombie, as where PID 1 waits for nobody
        assert process.wait(20) == 3
    finally:
        sleeper.kill()
        sleeper.wait()


def test_sigterm_to_all_processes_of_a_container_is_seen(shell: Shell) -> None:
    """As `killall5` sends it at a Ctrl-C of the launcher, to all but PID 1: the step's end is recorded, once."""
    shell.begin()
    process = shell.start("touch $OTEL_METAFLOW_WITNESS; echo $BASHPID > step; sleep 60 & echo $! > child; wait $!")
    step, child = (
        int(eventually(lambda name=name: (shell.folder / name).exists() and (shell.folder / name).read_text()))
        for name in ("step", "child")
    )
    for pid in (child, step):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert len(shell.exits()) == 1


@pytest.mark.parametrize(
    "key",
    [
        AttemptKey("train", "7", 0),
        AttemptKey("a_step", "t-5f.x", 2),
        AttemptKey("s", "a b=c,d:e+f~g%h@i'j", 0),
        AttemptKey("s", "grüße/ja".replace("/", "-"), 0),
    ],
)
def test_the_shell_finds_the_file_that_python_names(shell: Shell, key: AttemptKey) -> None:
    shell.begin()
    path = layout.attempt_file(shell.journal.parent, key)
    path.write_text('{"kind":"start","timeUnixNano":1}\n')
    shell.run(
        "touch $OTEL_METAFLOW_WITNESS; exit 3",
        {"MF_PATHSPEC": f"{KEY.flow}/{KEY.run}/{key.step}/{key.task}", "MF_ATTEMPT": str(key.attempt)},
    )
    assert json.loads(path.read_text().splitlines()[-1])["code"] == 3


def test_a_shell_without_metaflows_log_files_is_left_alone(shell: Shell) -> None:
    ended = shell.run("echo [$OTEL_METAFLOW_WITNESS]; exit 3", {"MFLOG_STDOUT": "/no/such/folder/out"})
    assert (ended.code, ended.stdout) == (3, "[]\n")
