"""One run that ends its shippers, and an environment that the SDK refuses, do not affect other runs."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from journals import Journals
from running import Place

from otel_metaflow.core import private_folder, sdk_variables, settings
from otel_metaflow.journal import lock as locks
from otel_metaflow.journal import setbacks, spawn
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.shipper import __main__ as shipper
from otel_metaflow.shipper import backlog
from otel_metaflow.shipper.delivery import Delivery

LOGGING = """
    import logging
    from metaflow import FlowSpec, step

    class LogFlow(FlowSpec):
        @step
        def start(self):
            from opentelemetry import trace
            with trace.get_tracer("mine").start_as_current_span("load"):
                logging.getLogger("mine").warning("logged")
            self.next(self.end)

        @step
        def end(self):
            print("printed")

    if __name__ == "__main__":
        LogFlow()
"""
REFUSED = {
    "OTEL_PROPAGATORS": "b3multi",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "-1",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "unlimited",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "-1",
    "OTEL_METRICS_EXEMPLAR_FILTER": "sometimes",
}
UNUSED = {
    "OTEL_PYTHON_CONTEXT": "no_such_context",
    "OTEL_PYTHON_ID_GENERATOR": "none",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "no_such_detector",
    "OTEL_BSP_MAX_QUEUE_SIZE": "-1",
    "OTEL_BLRP_SCHEDULE_DELAY": "soon",
    "OTEL_METRIC_EXPORT_INTERVAL": "often",
    "OTEL_CONFIG_FILE": "/no/such.yaml",
}


def test_settings_of_the_sdk_cannot_break_delivery_and_refused_ones_are_named_once(place: Place) -> None:
    """All of them at once: the run is as without them, and what it logs and prints arrives."""
    flow = place.write(LOGGING)
    with Endpoint() as endpoint:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **REFUSED, **UNUSED}
        found = place.run(flow, "--with", "otel", env=environment)
        assert found.code == 0, found.stderr
        found.wait_delivered()
        bodies = endpoint.bodies()
        assert bodies.count("logged") == 1
        assert bodies.count("printed") == 1
        assert {span.name for span, _ in endpoint.spans()} >= {"start", "end", "RUN LogFlow"}
    for name, value in REFUSED.items():
        (line,) = [line for line in found.stderr.splitlines() if line.startswith(f"otel: {name} ")]
        assert repr(value) in line
    assert not [name for name in UNUSED if f"otel: {name}" in found.stderr]


@pytest.mark.parametrize("name", [*REFUSED, *UNUSED, "OTEL_SDK_DISABLED"])
def test_variables_that_only_the_sdk_reads_are_removed_in_our_processes(name: str) -> None:
    mine = {
        "OTEL_METAFLOW_HOME": "/h",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
        "OTEL_TRACES_SAMPLER_ARG": "1",
        "PATH": "/",
    }
    environ = {**mine, name: "x"}
    sdk_variables.remove_unused(environ)
    assert environ == mine


@pytest.mark.parametrize("value", ["", "0", "128", " 7 "])
def test_a_limit_that_is_one_is_not_named(value: str) -> None:
    assert (
        sdk_variables.refused({"OTEL_SPAN_EVENT_COUNT_LIMIT": value, "OTEL_PROPAGATORS": "tracecontext, baggage"}) == ()
    )


# Runs that end their shippers


def waiting_run(home: Path, number: str) -> Path:
    journals = Journals(home, run=number)
    journals.attempt("start", 1, 1, 1, lines=["a line"])
    journals.end(3)
    lock = locks.try_lock(journals.folder)
    assert lock is not None
    locks.release(lock)
    return journals.folder


def breaking(monkeypatch: pytest.MonkeyPatch, broken: Path) -> None:
    """Delivery of that run raises, for an unknown reason."""
    work = Delivery.work

    def work_or_raise(delivery: Delivery, *arguments: Any) -> bool:
        if delivery._folder == broken:
            raise RecursionError("too deep")
        return work(delivery, *arguments)

    monkeypatch.setattr(Delivery, "work", work_or_raise)


def test_a_run_that_ends_its_shippers_is_set_aside_and_all_others_are_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [waiting_run(tmp_path, number) for number in "123"]
    broken, work = folders[1], Delivery.work
    breaking(monkeypatch, broken)
    started: list[Path] = []
    monkeypatch.setattr(spawn, "_detached", lambda _module, folder, *_: started.append(folder))
    with Endpoint() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
        monkeypatch.setenv("OTEL_METAFLOW_HOME", str(tmp_path))
        environment = settings.read()
        done = [backlog.ship_guarded(environment, folder, linger=5) for folder in folders]
        assert done == [True, False, True]
        assert len(endpoint.bodies()) == 2 * len(set(endpoint.bodies()))
        spawn.ensure(broken)
        assert started == [broken]  # once is chance
        assert not backlog.ship_guarded(environment, broken, linger=5)
        spawn.ensure(broken)
        assert started == [broken]
        reason = DeliveryStatus.read(broken).trouble["run"]
        assert "died 2 times (RecursionError: too deep)" in reason
        assert reason.endswith("otel-metaflow ship HandFlow/2")
        monkeypatch.setattr(Delivery, "work", work)
        assert backlog.ship_guarded(environment, broken, linger=5)  # by hand, once it is fixed
    assert DeliveryStatus.read(broken).trouble == {}
    assert setbacks.reason(broken) is None


def test_a_shipper_that_is_killed_counts_unless_it_got_somewhere(tmp_path: Path) -> None:
    def killed() -> None:
        child = "import os, sys; from pathlib import Path; from otel_metaflow.journal import setbacks\n"
        child += "with setbacks.noted(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
        gone = subprocess.run([sys.executable, "-c", child, str(tmp_path)], check=False)
        assert gone.returncode == -signal.SIGKILL

    killed()
    killed()
    with setbacks.noted(tmp_path):
        assert "2 times (killed" in str(setbacks.reason(tmp_path))  # the one at work does not count
        setbacks.progress(tmp_path)
        assert setbacks.reason(tmp_path) is None
    killed()
    assert setbacks.reason(tmp_path) is None
    killed()
    killed()
    assert "died 2 times" in str(setbacks.reason(tmp_path))


def test_the_commands_name_a_quarantined_run_and_ship_all_skips_it(place: Place) -> None:
    folders = [waiting_run(place.home, number) for number in "12"]
    for _ in range(2):
        setbacks.note(folders[0], MemoryError("no more"))
    status = place.cli("status")
    assert (
        "HandFlow/1  not exported  (run is quarantined: its shipper died 2 times (MemoryError: no more)"
        in status.stdout
    )
    with Endpoint() as endpoint:
        to = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        everything = place.cli("ship", "--all", env=to)
        assert "HandFlow/1: is quarantined" in everything.stdout
        assert "HandFlow/2: exported" in everything.stdout
        assert "HandFlow/1: exported" in place.cli("ship", "HandFlow/1", env=to).stdout


def test_the_sweep_of_a_shipper_goes_on_after_a_run_that_it_cannot_deliver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, broken, other = (waiting_run(tmp_path, number) for number in "123")
    breaking(monkeypatch, broken)
    with Endpoint() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
        monkeypatch.setenv("OTEL_METAFLOW_HOME", str(tmp_path))
        monkeypatch.setenv("OTEL_METAFLOW_STANDBY", "0")
        lock = locks.try_lock(mine)
        assert lock is not None
        shipper._ship(mine, lock, None, None)  # type: ignore[arg-type]
    assert DeliveryStatus.read(mine).complete
    assert DeliveryStatus.read(other).complete
    assert not DeliveryStatus.read(broken).complete


# Places


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_flock_has_one_shipper_a_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    lock = locks.try_lock(tmp_path)
    assert lock is not None
    assert locks.try_lock(tmp_path) is None
    assert locks.is_shipping(tmp_path)
    locks.release(lock)
    assert not locks.is_shipping(tmp_path)
    # One that was killed holds nothing any more.
    (tmp_path / "shipper.owner").write_text("[4194304, 1]")
    again = locks.try_lock(tmp_path)
    assert again is not None
    locks.release(again)


@pytest.mark.parametrize(
    ("environ", "right"),
    [
        ({"HOME": "/h"}, "/h/.local/state/otel-metaflow"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/otel-metaflow"),
        ({"HOME": "/h", "XDG_STATE_HOME": "state"}, "/h/.local/state/otel-metaflow"),
        ({"HOME": "/h", "XDG_STATE_HOME": "~/s"}, "/h/.local/state/otel-metaflow"),
        ({}, "/tmp/otel-metaflow-12345/state"),
        ({"XDG_STATE_HOME": "~"}, "/tmp/otel-metaflow-12345/state"),
        ({"OTEL_METAFLOW_HOME": "~/j"}, "/tmp/otel-metaflow-12345/state"),
        ({"HOME": "/h", "OTEL_METAFLOW_HOME": "~/j"}, "/h/j"),
    ],
)
def test_journals_lie_in_a_folder_that_is_one(
    environ: dict[str, str], right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a user without a home, whom the system does not know, below the folder for temporary files."""
    monkeypatch.delenv("HOME")
    if "HOME" in environ:
        monkeypatch.setenv("HOME", environ["HOME"])
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    assert str(settings.read(environ).home) == right


@pytest.mark.parametrize("made", ["a link", "of another user", "open to others"])
def test_a_folder_among_the_temporary_files_holds_journals_only_if_it_is_ours(place: Place, made: str) -> None:
    """Anyone may have created one of that name; ours is closed to others."""
    private, elsewhere = place.path / private_folder.name(), place.path / "elsewhere"
    elsewhere.mkdir()
    if made == "a link":
        private.symlink_to(elsewhere)
    else:
        private.mkdir()
        private.chmod(0o777)
    if made == "of another user":
        if os.getuid():
            pytest.skip("only root can give a folder away")
        os.chown(private, 12345, 12345)
    home = private / "state"
    finished = place.run(LOGGING, "--with", "otel", env={"OTEL_METAFLOW_HOME": str(home)})
    assert finished.code == 0, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("otel: ")]
    if made == "open to others":
        assert private.stat().st_mode & 0o777 == 0o700
        assert list(home.glob("LogFlow/*/run.jsonl"))
    else:
        (line,) = lines
        assert f"cannot write journals in {home} ({private} belongs to another user); set OTEL_METAFLOW_HOME" in line
        assert list(private.iterdir()) == []


def test_relative_places_mean_the_same_to_the_shipper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its working directory is the run's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("OTEL_METAFLOW_HOME", "OTEL_METAFLOW_LOG_DIR", "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE"):
        monkeypatch.setenv(name, "some/where")
        assert spawn._environment()[name] == str(tmp_path / "some/where")


def test_a_run_of_another_user_is_passed_over_with_a_word(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """To root nothing is closed, so what the kernel would answer is asked of a user who is not root."""
    mine, theirs = (waiting_run(place.home, number) for number in "12")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs and access(path, mode))
    assert list(backlog.unfinished(place.home)) == [mine]
    assert backlog.foreign(place.home) == [theirs]
