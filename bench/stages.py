"""What each stage costs that a record passes in the shipper: in microseconds of CPU, and in instructions.

python bench/stages.py                       # both, for lines, logging records and spans; needs valgrind
python bench/stages.py --kind lines --no-instructions --rounds 30

A real flow prints, logs and makes spans; its journals then go through the shipper's own functions, stage by stage, to
an endpoint in another process. Microseconds are the least of several rounds, each a process of its own: other work on
the machine makes them larger. Instructions are counted by callgrind, and are exact.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from rich import box
from rich.console import Console
from rich.table import Table

from otel_metaflow.core import settings
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.journal import layout
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail
from otel_metaflow.model.attempt_logs import AttemptLogs
from otel_metaflow.model.run import Attempt, Run, load
from otel_metaflow.shipper.convert import user_telemetry
from otel_metaflow.shipper.convert.logs import LogRecords
from otel_metaflow.shipper.convert.resources import Resources
from otel_metaflow.shipper.delivery import Delivery
from otel_metaflow.shipper.sinks import otlp, protobuf, sdk_objects
from otel_metaflow.shipper.sinks.answers import DELIVERED
from otel_metaflow.shipper.telemetry import Record
from otel_metaflow.shipper.user_records import UserRecord

KINDS = ("lines", "logging", "spans")
STAGES = ("read", "merge", "redact", "convert", "objects", "encode", "post", "the rest", "all")
_FLOW = """\
import logging, os
from metaflow import FlowSpec, step
from opentelemetry import trace

class StagesFlow(FlowSpec):
    @step
    def start(self):
        numbers = range(int(os.environ["COUNT"]))
        if os.environ["KIND"] == "lines":
            for number in numbers:
                print("line", number, "of a busy loop")
        elif os.environ["KIND"] == "logging":
            logging.basicConfig(level=logging.INFO)
            log = logging.getLogger("busy")
            for number in numbers:
                log.info("record %d of a busy loop", number)
        else:
            tracer = trace.get_tracer("busy", "1.0")
            for number in numbers:
                with tracer.start_as_current_span("load", attributes={"number": number, "url.path": "/orders"}):
                    pass
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    StagesFlow()
"""
_SERVER = """\
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
_BATCH = 1_000
# A function of the C library that nothing else calls: callgrind writes down what was counted before each call of it.
_MARK = "getsid"
_TOTALS = re.compile(r"(?m)^totals: (\d+)")


@contextmanager
def endpoint() -> Iterator[str]:
    """An endpoint that takes everything, in a process of its own."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


def record(home: Path, kind: str, count: int) -> Path:
    """The folder of a run that left `count` records of one kind."""
    home.mkdir()
    (home / "flow.py").write_text(_FLOW)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "METAFLOW_"))}
    env |= {"OTEL_METAFLOW_HOME": str(home / "journals"), "METAFLOW_HOME": str(home), "METAFLOW_USER": "bench"}
    env |= {"METAFLOW_DATASTORE_SYSROOT_LOCAL": str(home), "KIND": kind, "COUNT": str(count)}
    command = [sys.executable, str(home / "flow.py"), "--no-pylint", "run", "--with", "otel"]
    subprocess.run(command, cwd=home, env=env, check=True, capture_output=True)
    (folder,) = layout.run_folders(home / "journals")
    return folder


# In a process of its own


class _Noting(Redaction):
    """Notes what it is asked, to be asked the same again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._is_asked = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return partial(self._ask, name, found) if name in ("line", "text", "value", "attributes") else found

    def _ask(self, name: str, method: Callable[..., Any], *given: Any) -> Any:
        if self._is_asked:  # by itself
            return method(*given)
        self.calls.append((name, given))
        self._is_asked = True
        try:
            return method(*given)
        finally:
            self._is_asked = False


def go_through(folder: Path, kind: str, around: Callable[[str, Callable[[], Any]], Any]) -> int:
    """Take the records of one kind through all stages; how many there are.

    `around` runs a stage, given its name, and returns what that does. Some stages hold others: see `_apart`.
    """
    run = load(folder.parent.parent, folder)
    attempt = run.attempts[AttemptKey("start", "1", 0)]
    signal = "traces" if kind == "spans" else "logs"
    found = around("read", partial(_read, folder, attempt, kind))
    if kind != "spans":
        found = around("merge", partial(_merge, folder, attempt))
    redaction = _Noting()
    _converted(run, attempt, kind, found, redaction)
    around("redact", partial(_redact, redaction.calls))
    records = around("convert", partial(_converted, run, attempt, kind, found, Redaction()))
    batches = [records[at : at + _BATCH] for at in range(0, len(records), _BATCH)]
    if kind == "spans":
        objects = around("objects", lambda: [sdk_objects.spans(batch) for batch in batches])
        around("encode", lambda: [encode_spans(batch).SerializeToString() for batch in objects])
    else:
        around("encode", lambda: [protobuf.encode(signal, batch) for batch in batches])
    exporter = otlp.build(settings.read().destinations[signal])
    answers = around("post", lambda: [exporter(batch) for batch in batches])
    if any(answer != DELIVERED for answer in answers):
        raise RuntimeError(answers)
    around("all", partial(_deliver, folder, signal))
    return len(records)


def _read(folder: Path, attempt: Attempt, kind: str) -> list[Any]:
    """What the attempt's own journal holds of it; of the launcher's, the lines as they are compared."""
    if kind == "spans":
        return _whole(Tail(layout.attempt_file(folder, attempt.key), only=layout.SPAN))
    output = Tail(layout.output_file(folder, attempt.key))
    while not output.at_end():
        list(output.unparsed())
    return _whole(Tail(layout.attempt_file(folder, attempt.key)))


def _whole(tail: Tail) -> list[Any]:
    found: list[Any] = []
    while not tail.at_end():
        found += [entry.record for entry in tail.read()]
    return found


def _merge(folder: Path, attempt: Attempt) -> list[Any]:
    """The same as log records to be."""
    return list(AttemptLogs(folder, attempt.key, Cursor()).read(final=True))


def _redact(calls: list[tuple[str, tuple[Any, ...]]]) -> None:
    redaction = Redaction()
    for name, given in calls:
        getattr(redaction, name)(*given)


def _deliver(folder: Path, signal: str) -> None:
    """All of it, as the shipper does, with what little else is in the run."""
    for left in (folder / layout.LEDGER_FILE, folder / layout.LOCK_FILE):
        left.unlink(missing_ok=True)
    environment = settings.read()
    environment = environment._replace(destinations={signal: environment.destinations[signal]})
    if not Delivery(folder.parent.parent, folder, environment, threading.Event()).work(linger=0.0):
        raise RuntimeError("not all was delivered")


def _converted(run: Run, attempt: Attempt, kind: str, found: list[Any], redaction: Redaction) -> list[Record]:
    resources = Resources(run)
    if kind == "spans":
        user_records = [UserRecord(attempt, each, 0) for each in found]
        return [user_telemetry.of_span(each, resources.of_attempt, redaction) for each in user_records]
    records = LogRecords(run, resources)
    records._redaction = redaction  # noqa: SLF001 - to measure its part
    return [records.of_attempt(attempt, log.record, log.uid) for log in found]


def child(folder: Path, kind: str) -> None:
    """Go through all stages twice, and print what the second time took."""
    took: dict[str, float] = {}

    def around(name: str, stage: Callable[[], Any]) -> Any:
        os.getsid(0)
        began = time.process_time()
        found = stage()
        took[name] = time.process_time() - began
        os.getsid(0)
        return found

    go_through(folder, kind, lambda _, stage: stage())
    print(json.dumps([go_through(folder, kind, around), took]))


# Of such processes


def costs(folder: Path, kind: str, url: str, prefix: list[str]) -> tuple[int, dict[str, float]]:
    """How many records went through, and what each stage took, in seconds."""
    env = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": url, "PYTHONHASHSEED": "0"}
    env["OTEL_METAFLOW_HOME"] = str(folder.parent.parent)
    command = [*prefix, sys.executable, __file__, "--child", str(folder), "--kind", kind]
    count, took = json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return count, took


def microseconds(folder: Path, kind: str, url: str, rounds: int) -> dict[str, float]:
    """Of one record, by stage."""
    found = [costs(folder, kind, url, []) for _ in range(rounds)]
    return _apart({name: min(took[name] for _, took in found) / found[0][0] * 1e6 for name in found[0][1]})


def instructions(folder: Path, kind: str, url: str) -> dict[str, float]:
    """Of one record, by stage."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "counted"
        callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={_MARK}"]
        count, took = costs(folder, kind, url, callgrind)
        # The first is what came before the first stage, the second the first stage, and so on in turn.
        parts = [
            int(_TOTALS.search(Path(f"{out}.{2 * number + 2}").read_text()).group(1)) for number in range(len(took))
        ]
    return _apart({name: part / count for name, part in zip(took, parts, strict=True)})


def _apart(costs: dict[str, float]) -> dict[str, float]:
    """What each stage costs alone: merging reads, converting redacts, and posting makes objects and encodes them."""
    within = {"merge": ["read"], "convert": ["redact"], "post": ["objects", "encode"]}
    found = {name: cost - sum(costs.get(part, 0.0) for part in within.get(name, ())) for name, cost in costs.items()}
    return {**found, "the rest": 2 * found["all"] - sum(found.values())}


@click.command()
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only these.")
@click.option("--count", default=5_000, help="How many records of each kind.")
@click.option("--rounds", default=10, help="How many processes the least is taken of.")
@click.option("--instructions/--no-instructions", "counts", default=True, help="Whether to count them, too.")
@click.option("--child", "folder", type=Path, hidden=True)
def main(kinds: tuple[str, ...], count: int, rounds: int, counts: bool, folder: Path | None) -> None:
    """Measure."""
    if folder is not None:
        child(folder, kinds[0])
        return
    table = Table("stage", *(kind for kind in kinds or KINDS), box=box.MARKDOWN)
    columns: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as name, endpoint() as url:
        for kind in kinds or KINDS:
            folder = record(Path(name) / kind, kind, count)
            took = microseconds(folder, kind, url, rounds)
            counted = instructions(folder, kind, url) if counts else dict.fromkeys(took, 0.0)
            columns.append({stage: f"{took[stage]:.1f} µs, {counted[stage] / 1e3:.1f} k" for stage in took})
    for stage in STAGES:
        table.add_row(stage, *(column.get(stage, "") for column in columns))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
