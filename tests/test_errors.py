"""Errors are the same in the terminal, on the page and at a back end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from journals import Journals
from running import Place

from otel_metaflow.core import names, settings
from otel_metaflow.journal.processes import process_start
from otel_metaflow.model.run import load
from otel_metaflow.testing import run
from otel_metaflow.viewer import log_lines, page

FLOW = """
    import os, signal, sys, threading
    from metaflow import FlowSpec, catch, otel, retry, step
    class ErrorFlow(FlowSpec):
        {decorator}
        @step
        def start(self):
            {body}
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        ErrorFlow()
    """
WAYS = {
    "uncaught": ("raise ValueError('token=hunter2 is no number')", "ValueError: token=[REDACTED] is no number"),
    "of two lines": ("raise KeyError('a\\nb')", "KeyError: 'a\\nb'"),
    "exit": ("sys.exit(3)", "SystemExit: 3"),
    "that cannot be printed": (  # not by Metaflow, either
        "raise type('Odd', (Exception,), {'__cause__': property(lambda _: 1 / 0)})('odd')",
        "ZeroDivisionError: division by zero",
    ),
    "hard exit": ("os._exit(3)", "attempt lost: the process exited with code 3"),
    "hard exit with 0": ("os._exit(0)", "attempt lost: the process exited with code 0 without a result"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "attempt lost: the process was killed by SIGKILL"),
    "interrupted by itself": ("raise KeyboardInterrupt('by hand')", "KeyboardInterrupt: by hand"),
    "interrupted alone": ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(9)", "KeyboardInterrupt: "),
    "killed by the interrupt": (
        "signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGINT)",
        "attempt lost: the process was killed by SIGINT",
    ),
    "unpicklable": ("self.lock = threading.Lock()", "cannot pickle '_thread.lock' object"),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_fail_is_an_error_wherever_one_looks(place: Place, way: str) -> None:
    """With its traceback, masked, once; the same records that a back end gets."""
    body, message = WAYS[way]
    flow = place.write(FLOW.format(decorator="@otel", body=body))
    chosen = {name: value for name, value in place.environ().items() if name.startswith(("METAFLOW_", "OTEL_"))}
    telemetry = run(flow, env=chosen, home=place.home)
    name = f"ErrorFlow/{telemetry.run}"
    shown = [json.loads(line) for line in place.cli("view", name, "--errors", "--json").stdout.splitlines()]
    sent = [*telemetry.events(names.EVENT_TASK_EXCEPTION), *telemetry.events(names.EVENT_TASK_LOST)]
    assert len(shown) == len(sent) == 1
    assert message in shown[0]["body"]
    assert "hunter2" not in shown[0]["body"]
    record = sent[0].log_record
    trace = str(record.attributes.get(names.EXCEPTION_STACKTRACE) or "").rstrip()
    assert shown[0]["body"] == (f"{record.body}\n{trace}" if trace else record.body)
    assert (shown[0]["source"], shown[0]["timeUnixNano"]) == (record.event_name, record.timestamp)
    for part in ("", "/start", "/start/1", "/start/1/0"):
        assert message.partition("\n")[0] in place.cli("view", f"{name}{part}", "--errors").stdout
    assert "(1 error)" in place.cli("view", name).stdout
    assert "1 of them error" in place.cli("view", f"{name}/start/1").stdout
    on_page = _on_page(place.home, telemetry.flow, telemetry.run)
    assert [line.text for line in on_page["start/1"] if line.level == log_lines.ERROR] == [shown[0]["body"]]


def test_a_run_that_is_started_while_an_error_is_handled_is_a_success(place: Place) -> None:
    """As by a script that tries an import, and runs its flow where that fails."""
    handling = "try:\n    raise ImportError('no such library')\nexcept ImportError:\n    ErrorFlow()"
    flow = (
        FLOW.format(decorator="@otel", body="pass")
        .replace("    ErrorFlow()\n", "")
        .replace('if __name__ == "__main__":', handling.replace("\n", "\n    "))
    )
    finished = place.run(flow)
    assert finished.code == 0
    assert finished.story.result == "success"


def test_a_run_whose_launcher_fails_while_it_ends_its_tasks_is_a_failure(place: Place) -> None:
    """A task that ends well and leaves no result: Metaflow notices, and then cannot read why."""
    body = "atexit.register(shutil.rmtree, f'{sysroot}/.metaflow/{current.pathspec}')"
    before = (
        "import atexit, shutil; from metaflow import current; sysroot = os.environ['METAFLOW_DATASTORE_SYSROOT_LOCAL']"
    )
    finished = place.run(FLOW.format(decorator="@otel", body=f"{before}; {body}"))
    assert finished.code == 1
    assert finished.story.result == "failure"
    assert "No completed attempts" in finished.story.error_message


def test_a_retried_exception_is_an_error_and_a_rescued_one_a_warning(place: Place) -> None:
    body = "raise ValueError('no')"
    decorators = "@otel\n        @catch(var='error')\n        @retry(times=1, minutes_between_retries=0)"
    finished = place.run(FLOW.format(decorator=decorators, body=body))
    assert finished.code == 0
    shown = place.cli("view", f"ErrorFlow/{finished.run}", "--errors").stdout
    assert [line.split()[1] for line in shown.splitlines() if "ERROR" in line] == ["start/1"]
    notices = [
        json.loads(line)
        for line in place.cli("view", f"ErrorFlow/{finished.run}", "--logs", "--json").stdout.splitlines()
    ]
    warned = [(one["attempt"], one["source"]) for one in notices if one["severity"] == "WARN"]
    assert (1, names.EVENT_TASK_EXCEPTION) in warned
    assert (0, names.EVENT_TASK_RETRY) in warned
    assert "start/1 is followed by start/1/1: ValueError: no" in [one["body"] for one in notices]


def test_without_errors_the_output_is_no_errors(tmp_path: Path) -> None:
    """Not among JSON, which is for scripts."""
    place = Place(tmp_path)
    made = Journals(place.home, "Fine")
    made.attempt("start", 1, 0, 1, lines=["fine"])
    made.end(2)
    assert place.cli("view", "Fine/1", "--errors").stdout == "no errors\n"
    assert place.cli("view", "Fine/1/start/1", "--errors", "--follow").stdout == "no errors\n"
    assert place.cli("view", "Fine/1", "--errors", "--json").stdout == ""
    going = Journals(place.home, "Going", pid=os.getpid(), processStart=process_start())
    going.attempt("start", 1, 0, None)
    assert place.cli("view", "Going/1", "--errors").stdout == "no errors so far\n"
    assert place.cli("view", "Going/1/start", "--logs").stdout == "no log records so far\n"


def test_a_run_that_failed_by_itself_shows_why(tmp_path: Path) -> None:
    """No attempt failed: Metaflow found the flow wrong, or the launcher was killed."""
    place = Place(tmp_path)
    wrong = Journals(place.home, "Wrong")
    wrong.attempt("start", 1, 0, 1)
    wrong.end(2, "failure", exception={"type": "MetaflowInternalError", "message": "no transition"})
    Journals(place.home, "Dead").attempt("start", 1, 0, 1)
    for flow, message in (
        ("Wrong", "run ended: failure: no transition"),
        ("Dead", "run ended: error: the launcher died before the run ended"),
    ):
        assert message in place.cli("view", f"{flow}/1", "--errors").stdout
        assert [line.text for line in _on_page(place.home, flow, "1")["launcher"] if line.level == log_lines.ERROR] == [
            message
        ]


def _on_page(home: Path, flow: str, run_id: str) -> dict[str, list[log_lines.Line]]:
    environment = settings.read({"OTEL_METAFLOW_HOME": str(home)})
    folder = home / flow / run_id
    return {part.name: part.lines for part in page._parts(folder, load(environment.home, folder), "")}
