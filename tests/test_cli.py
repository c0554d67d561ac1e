"""`otel-metaflow` as it is typed."""

from __future__ import annotations

import hashlib
import json

import psutil
import pytest
from click.testing import CliRunner
from collectors import ROOT, free_ports
from endpoint import Endpoint
from journals import Journals
from running import Finished, Place, eventually

from otel_metaflow.cli.main import main
from otel_metaflow.core import ids
from otel_metaflow.journal import layout


def test_id_prints_what_a_shell_computes_too(place: Place) -> None:
    """The recipe is public: BLAKE2b over names joined by NUL."""
    names = "otel-metaflow/1\0\0HelloFlow\x0012"
    digest = lambda size, text: hashlib.blake2b(text.encode(), digest_size=size).hexdigest()  # noqa: E731
    assert place.cli("id", "HelloFlow/12").stdout.split() == [
        "trace_id",
        digest(16, names),
        "span_id",
        digest(8, names),
    ]
    attempt = digest(8, names + "\0train\x007\x002")
    assert place.cli("id", "HelloFlow/12/train/7/2").stdout.split()[-1] == attempt
    assert place.cli("id", "HelloFlow/12/train/7").stdout == place.cli("id", "HelloFlow/12/train/7/0").stdout


def test_a_missing_run_is_one_line_and_exit_code_2(place: Place) -> None:
    """With what is there, or the form that was expected."""
    missing = place.cli("view", "HelloFlow/12")
    assert missing.returncode == 2
    assert f"no journal of HelloFlow/12 in {place.home}; it has no journals" in missing.stderr
    finished = place.run(ROOT / "examples/hello.py")
    missing = place.cli("view", "HelloFlow/12")
    assert missing.returncode == 2
    assert f"the latest runs: HelloFlow/{finished.run}" in missing.stderr
    run = f"HelloFlow/{finished.run}"
    for wrong, message in (
        ("HelloFlow/", "is not of the form FLOW[/RUN"),
        ("/1", "is not of the form FLOW[/RUN"),
        ("a//c", "is not of the form FLOW[/RUN"),
        ("a/b/c/d/e/f", "is not of the form FLOW[/RUN"),
        ("Hello", f"no run of Hello in {place.home}; there are runs of HelloFlow"),
        (f"{run}/strat", f"{run} has no step 'strat'; it has start"),
        (f"{run}/start/7", f"{run}/start has no task '7'; it has 1"),
        (f"{run}/start/1/3", f"{run}/start/1 has no attempt '3'; it has 0"),
    ):
        refused = place.cli("view", wrong)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr
    refused = place.cli("view", "HelloFlow", "--logs")
    assert refused.returncode == 2
    assert "--logs is for a run or a part of it, as in `otel-metaflow view HelloFlow/latest --logs`" in refused.stderr
    refused = place.cli("id", "HelloFlow/12/train")
    assert refused.returncode == 2
    assert "is not of the form FLOW/RUN[/STEP/TASK[/ATTEMPT]]" in refused.stderr


def test_status_lists_undelivered_runs_and_why(place: Place) -> None:
    """Until it is delivered."""
    assert place.cli("status").stdout == "all runs are exported\n"
    (port,) = free_ports(1)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    finished = place.run(ROOT / "examples/hello.py", env=endpoint)
    eventually(lambda: "refused the connection" in place.cli("status").stdout)
    assert f"HelloFlow/{finished.run}  exporting" in place.cli("status").stdout
    with Endpoint() as receiver:
        # The living shipper knows the old address, and `ship` takes over from it.
        assert _is_at_work(finished)
        shipped = place.cli("ship", "--all", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        assert shipped.returncode == 0, shipped.stderr
        assert f"HelloFlow/{finished.run}: exported" in shipped.stdout
        assert "Hello from the first step." in receiver.bodies()
    assert place.cli("status").stdout == "all runs are exported\n"


def test_runs_without_an_endpoint_are_listed_and_sent_on_demand_and_never_unasked(place: Place) -> None:
    """Each of their summaries was right: the shipper of a later run delivers the backlog, not these."""
    local = [place.run(ROOT / "examples/hello.py") for _ in range(2)]
    for run in local:
        assert f"not exported (no endpoint). View: otel-metaflow view HelloFlow/{run.run}\n" in run.stderr
    shown = place.cli("status").stdout.splitlines()
    assert shown == [f"HelloFlow/{run.run}  not exported  (no endpoint was set when it ran)" for run in local]
    listed = json.loads(place.cli("status", "--json").stdout)["runs"]
    assert [(one["run"], one["state"]) for one in listed] == [(run.run, "not exported") for run in local]
    assert place.cli("status").stdout.splitlines() == shown, "to look is not to ask for delivery"
    with Endpoint() as receiver:
        there = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        later = place.run(ROOT / "examples/hello.py", env=there)
        later.wait_delivered()
        eventually(lambda: not _is_at_work(later))  # its shipper has looked for what others left, too
        assert _sent(receiver) == _traces(later)
        assert place.cli("status").stdout.splitlines() == shown
        shipped = place.cli("ship", "--all", env=there)
        assert shipped.returncode == 0, shipped.stderr
        assert _sent(receiver) == _traces(later, *local)
    assert place.cli("status").stdout == "all runs are exported\n"


def _is_at_work(run: Finished) -> bool:
    return any(str(run.folder) in (one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))


def _sent(receiver: Endpoint) -> set[str]:
    return {span.trace_id.hex() for span, _ in receiver.spans()}


def _traces(*runs: Finished) -> set[str]:
    return {ids.trace_id(run.flow, run.run) for run in runs}


def test_ship_without_an_endpoint_is_one_line_with_the_command_to_type(place: Place) -> None:
    refused = place.cli("ship", "--all")
    assert refused.returncode == 2
    assert refused.stderr.endswith(
        "no endpoint is configured; type: export OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318\n"
    )


def test_runs_of_another_user_are_named_with_the_way_to_take_them_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo python flow.py run` leaves them; root itself may read all, so what the system answers is replaced."""
    run = Journals(place.home, "SudoFlow")
    run.end(1)
    monkeypatch.setenv("OTEL_METAFLOW_HOME", str(place.home))
    monkeypatch.setattr(layout, "is_open_to_us", lambda folder: folder != run.folder)
    shown = CliRunner().invoke(main, ["status"])
    assert shown.exit_code == 0
    line = f"SudoFlow/1: skipped, it belongs to another user; to take it back, type: sudo chown -R $USER {run.folder}"
    assert line in shown.output.splitlines()


def test_ship_is_refused_while_telemetry_is_disabled(place: Place) -> None:
    """The SDK would make no metrics then."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}
    refused = place.cli("ship", "--all", env=env)
    assert refused.returncode == 2
    assert refused.stderr == ("otel-metaflow: OTEL_SDK_DISABLED turns telemetry off; type: unset OTEL_SDK_DISABLED\n")
