"""What a task loads and writes, and what a run does where telemetry is off or cannot work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from collectors import ROOT
from endpoint import Endpoint as Receiver
from running import Finished, Place, seen

from otel_metaflow.journal import layout

HELLO = ROOT / "examples/hello.py"
MODULES = """
    import atexit, json, os, sys
    from metaflow import FlowSpec, step
    def report():
        with open(os.environ["MODULES"] + ("task" if "step" in sys.argv else "launcher"), "w") as file:
            json.dump(sorted(sys.modules), file)
    atexit.register(report)
    class ModulesFlow(FlowSpec):
        @step
        def start(self):
            print("a line")
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        ModulesFlow()
    """

# What a task with @otel imports of ours if it prints, and neither logs, fails nor uses OpenTelemetry. Each module costs
# a task some 0.4 million instructions, so what only some tasks need is imported when it is needed (CONTRIBUTING.md).
OF_A_TASK = """
    otel_metaflow
    otel_metaflow.core
    otel_metaflow.core.clock
    otel_metaflow.core.guard
    otel_metaflow.core.ids
    otel_metaflow.core.launch_context
    otel_metaflow.core.long_lines
    otel_metaflow.core.metaflow_seams
    otel_metaflow.core.secrets
    otel_metaflow.core.stream_tap
    otel_metaflow.core.trace_context
    otel_metaflow.journal
    otel_metaflow.journal.layout
    otel_metaflow.journal.processes
    otel_metaflow.journal.writer
    otel_metaflow.task
    otel_metaflow.task.attempt
    otel_metaflow.task.handler_tap
    otel_metaflow.task.hooks
    otel_metaflow.task.import_hook
    otel_metaflow.task.metaflow_seams
    otel_metaflow.task.usage
    """


def ours(finished: Finished) -> list[str]:
    """The lines that we added to what the user sees."""
    return [line for line in finished.stderr.splitlines() if line.startswith("otel: ")]


def test_a_run_loads_nothing_but_our_own_small_modules(place: Place, tmp_path: Path) -> None:
    """Nothing of OpenTelemetry, and nothing of the standard library that Metaflow has not loaded.

    A user's module of that name beside the flow would be loaded in its place, or be hidden by it.
    """
    flow = place.write(MODULES)
    with Receiver() as receiver:
        for name, arguments in (("without ", ()), ("with ", ("--with", "otel"))):
            env = {"MODULES": str(tmp_path / name), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
            finished = place.run(flow, *arguments, env=env)
            assert finished.code == 0, finished.stderr
        finished.wait_delivered()

    def more_in(process: str) -> set[str]:
        without, ours = (set(json.loads((tmp_path / f"{name} {process}").read_text())) for name in ("without", "with"))
        return ours - without

    assert sorted(more_in("task")) == OF_A_TASK.split()
    more = more_in("launcher")
    assert "otel_metaflow.launcher.run" in more
    assert not [name for name in more if not name.startswith("otel_metaflow")]
    assert not [name for name in more if name.startswith(("otel_metaflow.shipper", "otel_metaflow.viewer"))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run as it is without us."""
    return Place(tmp_path_factory.mktemp("plain")).run(HELLO, env={"OTEL_SDK_DISABLED": "true"})


def test_without_an_endpoint_one_line_names_the_command_to_view_the_run(place: Place) -> None:
    """Nothing is sent and nothing is started; the run's output is what it is without us."""
    finished = place.run(HELLO)
    (line,) = ours(finished)
    assert f"otel-metaflow view HelloFlow/{finished.run}" in line
    assert "not exported (no endpoint)" in line
    assert not (finished.folder / layout.LOCK_FILE).exists(), "no shipper was started"


def test_the_disabled_sdk_writes_and_starts_nothing(place: Place) -> None:
    """OTEL_SDK_DISABLED=true is the end of the matter."""
    finished = place.run(HELLO, env={"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"})
    assert finished.code == 0
    assert ours(finished) == []
    assert not place.home.exists()


def test_quiet_means_quiet(place: Place) -> None:
    """OTEL_METAFLOW_QUIET=true leaves out the closing line."""
    assert ours(place.run(HELLO, env={"OTEL_METAFLOW_QUIET": "true"})) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector"},
            "OTEL_EXPORTER_OTLP_ENDPOINT is 'collector', which is not a URL; set it to one, such as http://localhost:4318",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:hunter2@:x"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is 'http://…@:x', which is not a URL",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', which is not supported; set it to http/protobuf or grpc",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://localhost:4318",
                "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/ca.pem",
            },
            "OTEL_EXPORTER_OTLP_CERTIFICATE is '/no/such/ca.pem', which is not a file; set it to a PEM file",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"},
            "OTEL_EXPORTER_OTLP_TIMEOUT is 'soon', which is not a valid number; set it to a number of",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"},
            "OTEL_EXPORTER_OTLP_COMPRESSION is 'zip', which is not supported; set it to none, gzip or deflate",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_LOGS_EXPORTER": "kafka"},
            "OTEL_LOGS_EXPORTER is 'kafka', which is not supported; set it to otlp or none",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"},
            "OTEL_TRACES_SAMPLER_ARG is 10, which is more than 1; set it to a fraction of all runs between 0 and 1",
        ),
        (
            {"OTEL_METAFLOW_LOGS": "stdin"},
            "OTEL_METAFLOW_LOGS contains 'stdin', which is not supported; set it to a comma-separated list of",
        ),
    ],
)
def test_an_invalid_variable_is_one_line_and_the_run_is_unaffected(
    place: Place, plain: Finished, variables: dict[str, str], message: str
) -> None:
    """The line names the variable and what to type; nothing is sent, the journal is kept."""
    finished = place.run(HELLO, env=variables)
    assert seen(finished) == seen(plain)
    problem, closing = ours(finished)
    assert message in problem
    assert "not exported (invalid settings" in closing
    assert len(finished.story.attempts) == 3
    assert not (finished.folder / layout.LOCK_FILE).exists()


def test_a_folder_that_cannot_be_written_is_one_line(place: Place, plain: Finished, tmp_path: Path) -> None:
    """Also for root, to whom permissions mean nothing: a file stands where the folder should be."""
    blocker = tmp_path / "file"
    blocker.write_text("")
    finished = place.run(HELLO, env={"OTEL_METAFLOW_HOME": str(blocker / "journals")})
    assert seen(finished) == seen(plain)
    (line,) = ours(finished)
    assert f"cannot write journals in {blocker / 'journals'}" in line
    assert "OTEL_METAFLOW_HOME" in line


def test_a_line_is_on_its_way_while_the_step_still_runs(place: Place) -> None:
    """The shipper follows the journals; it does not wait for the run's end."""
    with Receiver() as receiver:
        flow = place.write("""
            import os
            from metaflow import FlowSpec, otel, step
            class WaitingFlow(FlowSpec):
                @otel
                @step
                def start(self):
                    print("I am still here")
                    open(os.environ["GATE"]).read()
                    self.next(self.end)
                @step
                def end(self):
                    pass
            if __name__ == "__main__":
                WaitingFlow()
            """)
        gate = place.path / "gate"
        os.mkfifo(gate)
        process = place.start(flow, env={"GATE": str(gate), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        try:
            receiver.wait_for(lambda: "I am still here" in receiver.bodies())
            assert process.poll() is None
        finally:
            gate.write_text("go")
        assert place.finish(process).code == 0
