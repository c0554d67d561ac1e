"""Lines of every kind, written by a real flow that keeps count by another way, each once at the endpoint."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from running import Finished, Place

from otel_metaflow.core import ids

FLOW = r"""
    import asyncio, contextlib, ctypes, faulthandler, io, json, logging, logging.config, logging.handlers
    import multiprocessing, os, queue, subprocess, sys, threading, time, traceback, warnings
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
    from metaflow import FlowSpec, current, parallel_map, retry, step

    bound_early = logging.StreamHandler(sys.stderr)
    SEVERITY = {10: 5, 20: 9, 30: 13, 40: 17, 50: 21}

    def truth(where, text, severity=9):
        line = json.dumps([os.environ["AT"], where, severity, f"{os.getpid()} {threading.get_ident()}", text])
        descriptor = os.open(os.environ["TRUTH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode() + b"\n")
        os.close(descriptor)

    def emit(text):
        truth("stdout", text)
        print(text)

    def record(logger, text, level=logging.WARNING, **more):
        truth("logging", text, SEVERITY[level])
        logger.log(level, text, **more)

    @contextlib.contextmanager
    def as_metaflow_stores_it():
        truth("stderr", "<<<"); sys.stderr.write("<<<\n")
        yield
        truth("stderr", ">>>"); sys.stderr.write(">>>\n")

    def alone(name, *handlers):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers[:] = handlers
        logger.setLevel(logging.DEBUG)
        return logger

    class Text(str):
        def __str__(self):
            return "not what print writes"

    class Tee:
        def __init__(self, stream):
            self.stream, self.copy = stream, []
        def write(self, text):
            self.copy.append(text)
            return self.stream.write(text)
        def flush(self):
            self.stream.flush()

    class Printing(logging.Handler):
        def emit(self, record):
            print(self.format(record))

    class Failing(logging.Handler):
        def emit(self, record):
            try:
                1 / 0
            except ZeroDivisionError:
                self.handleError(record)

    class Raising(logging.Handler):
        def emit(self, record):
            raise LookupError("from emit")

    def begin_worker(line):
        alone("far", logging.handlers.QueueHandler(line))

    def far_work(number):
        # At once: nobody reports what a spawned process writes, and its newline alone may be anybody's.
        truth("stdout", f"pooled process print {number}"); sys.stdout.write(f"pooled process print {number}\n")
        record(logging.getLogger("far"), f"pooled process through a queue {number}", logging.ERROR)
        return os.getpid()

    def spawned():
        emit("spawned print")
        truth("stderr", "spawned logging, by lastResort")
        logging.getLogger("far").warning("spawned logging, by lastResort")

    class LinesFlow(FlowSpec):
        @retry(times=1, minutes_between_retries=0)
        @step
        def start(self):
            os.environ["AT"] = f"start/{current.retry_count}"
            if current.retry_count:
                emit("the second attempt")
            else:
                self.every_kind()
            self.next(self.logs)

        def every_kind(self):
            emit("print"); emit(""); emit("héllo 😀"); emit("  indented "); emit("")
            truth("stdout", "joined pieces"); print("joined", end=" "); print("pieces")
            truth("stdout", "a"); truth("stdout", "b"); sys.stdout.writelines(["a\n", "b\n"])
            truth("stdout", "one of two"); truth("stdout", "two of two"); print("one of two\ntwo of two")
            truth("stderr", "to stderr"); sys.stderr.write("to stderr\n")
            truth("stderr", "to the first stderr"); sys.__stderr__.write("to the first stderr\n")
            truth("stdout", "bytes"); sys.stdout.buffer.write(b"bytes\n"); sys.stdout.buffer.flush()
            truth("stdout", "system"); os.write(1, b"system\n")
            truth("stderr", "system err"); os.write(2, b"system err\n")
            truth("stdout", "bad \ufffd\ufffd bytes"); os.write(1, b"bad \xff\xfe bytes\n")
            truth("stdout", "nul \ufffd inside"); print("nul \0 inside")
            libc = ctypes.CDLL(None)
            truth("stdout", "puts of C"); libc.puts(b"puts of C"); libc.fflush(None)
            truth("stdout", "printf of C 7"); libc.printf(b"printf of C %d\n", 7); libc.fflush(None)
            truth("stdout", "child"); subprocess.run(["echo", "child"])
            truth("stderr", "child err"); subprocess.run("echo child err >&2", shell=True)
            truth("stdout", "a prompt: "); os.write(1, b"a prompt: "); emit("and an answer"); emit("after the answer")
            self.unusual()
            with as_metaflow_stores_it():
                warnings.simplefilter("always"); warnings.warn("a warning")
            with as_metaflow_stores_it():
                try:
                    {}["no such key"]
                except KeyError:
                    traceback.print_exc()
            with as_metaflow_stores_it():
                faulthandler.dump_traceback()
            raise ValueError("the last word")

        def unusual(self):
            # Progress: the last state is what a terminal shows.
            for percent in range(0, 101, 10):
                sys.stderr.write(f"\r{percent}% of it"); sys.stderr.flush()
            truth("stderr", "100% of it"); sys.stderr.write("\n")
            truth("stdout", "done"); print("10%\r50%\rdone")
            # Characters that the stream cannot hold.
            with contextlib.suppress(UnicodeEncodeError):
                print("\ud800 is never written")
            with contextlib.suppress(UnicodeEncodeError):
                print("nor is\n\ud800 this")
            emit("after what could not be written")
            sys.stdout.reconfigure(errors="surrogateescape")
            truth("stdout", "file \ufffd"); print("file \udcff")
            sys.stdout.reconfigure(errors="backslashreplace")
            truth("stdout", "back \\ud800"); print("back \ud800")
            sys.stdout.reconfigure(encoding="latin-1", errors="replace")
            truth("stdout", "\ufffdt\ufffd, cost: 3 ?"); print("été, cost: 3 €")
            sys.stdout.reconfigure(encoding="utf-8", errors="strict")
            # Texts and streams that are not the plain ones.
            truth("stdout", "a subclass of str"); sys.stdout.write(Text("a subclass")); print(" of str")
            with contextlib.redirect_stdout(io.StringIO()):
                print("nobody sees this")
            with contextlib.redirect_stdout(Tee(sys.stdout)):
                emit("through a tee")
            with contextlib.redirect_stdout(sys.stderr):
                truth("stderr", "redirected"); print("redirected")
            again = open(1, "w", closefd=False, buffering=1)
            truth("stdout", "by another object"); print("by another object", file=again)
            from rich.console import Console
            truth("stdout", "by rich"); Console().print("[bold]by rich[/bold]")
            sink = sys.stderr.write
            truth("stderr", "12:00 | INFO | a sink"); sink("12:00 | INFO | a sink\n")

        @step
        def logs(self):
            os.environ["AT"] = "logs/0"
            root, named = logging.getLogger(), logging.getLogger("a.b")
            record(root, "by lastResort")
            named.debug("below the level")
            logging.basicConfig(level=logging.DEBUG, force=True)
            for level in SEVERITY:
                record(named, f"after basicConfig, {level}", level)
            record(alone("early", bound_early), "through a handler bound before the step")
            record(alone("nobody"), "without any handler")
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
                "handlers": {"e": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["e"], "level": "INFO"}})
            record(named, "after dictConfig", extra={"n": 1, "nested": {"a": [1, 2.5]}})
            record(alone("out", logging.StreamHandler(sys.stdout)), "to stdout", logging.INFO)
            record(alone("two", logging.StreamHandler(), logging.StreamHandler(sys.stdout)), "through two handlers")
            record(alone("printing", Printing()), "through a handler that prints")
            with contextlib.suppress(LookupError):
                record(alone("raising", Raising()), "through a handler that raises")
            with as_metaflow_stores_it():
                record(alone("failing", Failing()), "through a handler that fails")
            from rich.logging import RichHandler
            record(alone("rich", RichHandler()), "through rich")
            logging.logProcesses = logging.logThreads = logging.logMultiprocessing = False
            record(alone("bare", logging.StreamHandler()), "without process and thread")
            logging.logProcesses = logging.logThreads = logging.logMultiprocessing = True
            memory = logging.handlers.MemoryHandler(10, target=logging.StreamHandler())
            record(alone("memory", memory), "through memory", logging.INFO); memory.flush()
            line = queue.Queue()
            listener = logging.handlers.QueueListener(line, logging.StreamHandler(), logging.StreamHandler())
            listener.start()
            record(alone("behind", logging.handlers.QueueHandler(line)), "through a queue")
            logging.logProcesses = False
            record(alone("behind", logging.handlers.QueueHandler(line)), "bare through a queue")
            logging.logProcesses = True; listener.stop()
            try:
                1 / 0
            except ZeroDivisionError:
                record(named, "with an exception", logging.ERROR, exc_info=True)
            truth("logging", "bad \ufffd\ufffd characters", 13); named.warning("bad \ud800\0 characters")
            truth("logging", "3 apples", 13); named.warning("%d %s", 3, "apples")
            truth("logging", "%d apples ('three',)", 13); logging.raiseExceptions = False
            named.warning("%d apples", "three"); logging.raiseExceptions = True
            logging.captureWarnings(True); warnings.simplefilter("always")
            warnings.showwarning("captured", UserWarning, "here.py", 7)
            truth("logging", "here.py:7: UserWarning: captured\n", 13)
            self.next(self.many)

        @step
        def many(self):
            os.environ["AT"] = "many/0"
            def work(number):
                for each in range(50):
                    emit(f"thread {number} line {each}")
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            [thread.start() for thread in threads]; [thread.join() for thread in threads]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: record(logging.getLogger("pool"), f"pooled {number}"), range(20)))
            asyncio.run(self.talk())
            parallel_map(lambda number: emit(f"mapped {number}"), range(5))
            # Into one pipe, at the same time: their texts and newlines fall into each other.
            def shout(number):
                for each in range(100):
                    emit(f"forked {number} line {each}")
            fork = multiprocessing.get_context("fork")
            children = [fork.Process(target=shout, args=(number,)) for number in range(4)]
            [child.start() for child in children]
            for each in range(20):
                truth("stdout", f"beside them {each}"); os.write(1, f"beside them {each}\n".encode())
            [child.join() for child in children]
            for method in ("fork", "spawn"):
                context = multiprocessing.get_context(method)
                line = context.Queue()
                listener = logging.handlers.QueueListener(line, logging.StreamHandler(), Printing())
                listener.start()
                with ProcessPoolExecutor(1, context, begin_worker, (line,)) as pool:
                    list(pool.map(far_work, [f"{method} {each}" for each in range(3)]))
                listener.stop()
            child = context.Process(target=spawned)
            child.start(); child.join()
            self.next(self.left)

        async def talk(self):
            await asyncio.gather(*(self.one(number) for number in range(3)))

        async def one(self, number):
            await asyncio.sleep(0)
            emit(f"async {number}")

        @step
        def left(self):
            os.environ["AT"] = "left/0"
            # Metaflow reads on until nobody holds the pipe any more.
            truth("stdout", "a daemon begins"); truth("stdout", "a daemon ends")
            orphaned = f"while [ $(cut -d' ' -f4 /proc/$$/stat) = {os.getpid()} ]; do sleep 0.02; done"
            subprocess.Popen(["sh", "-c", f"echo a daemon begins; {orphaned}; echo a daemon ends"])
            task = os.getpid()
            if os.fork() == 0:
                os.setsid()
                emit("a forked daemon begins")
                while os.getppid() == task:
                    time.sleep(0.02)
                emit("a forked daemon ends")
                os._exit(0)
            self.next(self.end)

        @step
        def end(self):
            os.environ["AT"] = "end/0"
            truth("long", "x"); print("x" * 10_000_000)
            truth("long", "y"); os.write(1, b"y" * 10_000_000 + b"\n")
            truth("stdout", "no newline"); sys.stdout.write("no newline")
            truth("stderr", "none here either"); os.write(2, b"none here either")

    if __name__ == "__main__":
        LinesFlow()
    """


@dataclass(frozen=True)
class Line:
    """A line that the flow noted as written, or that arrived."""

    at: str  # STEP/ATTEMPT
    where: str  # stdout, stderr or logging
    severity: int
    text: str


@dataclass(frozen=True)
class Arrived:
    """One log record at the endpoint."""

    line: Line
    time: int
    scope: str
    trace_id: str
    span_id: str
    task: str
    attributes: dict[str, Any]


def arrived(receiver: Endpoint) -> Iterator[Arrived]:
    for message in receiver.of(ExportLogsServiceRequest):
        for of_resource in message.resource_logs:
            resource = {each.key: each.value for each in of_resource.resource.attributes}
            at = ""
            if "metaflow.step.name" in resource:
                at = f"{resource['metaflow.step.name'].string_value}/{resource['metaflow.attempt'].int_value}"
            for scope in of_resource.scope_logs:
                for record in scope.log_records:
                    attributes = {each.key: each.value for each in record.attributes}
                    stream = attributes["log.iostream"].string_value if "log.iostream" in attributes else "logging"
                    yield Arrived(
                        Line(at, stream, record.severity_number, record.body.string_value),
                        record.time_unix_nano,
                        scope.scope.name,
                        record.trace_id.hex(),
                        record.span_id.hex(),
                        resource["metaflow.task.id"].string_value if at else "",
                        attributes,
                    )


@dataclass(frozen=True)
class Story:
    """The flow's run, the lines it noted (each with its thread), and what arrived."""

    finished: Finished
    noted: list[tuple[Line, str]]
    records: list[Arrived]

    def stored(self, at: str, stream: str) -> list[str]:
        """The lines of an attempt's stream as Metaflow itself stored them."""
        step, attempt = at.split("/")
        flow = self.finished.home.parent / "datastore" / ".metaflow" / "LinesFlow" / self.finished.run
        (log,) = flow.glob(f"{step}/*/{attempt}.runtime_{stream}.log")
        # [MFLOG|version|time|source|id]text
        lines = log.read_bytes().decode("utf-8", "replace").split("\n")
        stored = [line.partition("]")[2] for line in lines if line.startswith("[MFLOG|")]
        return stored[:-1] if stored[-1:] == ["Task failed."] else stored  # the launcher's word


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The flow of all kinds of lines, run once and delivered."""
    place = Place(tmp_path_factory.mktemp("lines"))
    truth = place.path / "truth"
    with Endpoint() as receiver:
        env = {"TRUTH": str(truth), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        finished = place.run(FLOW, "--with", "otel", env=env)
        assert finished.code == 0, finished.stdout[-3000:] + finished.stderr
        finished.wait_delivered()
        records = list(arrived(receiver))
    noted = []
    for written in truth.read_text().splitlines():
        at, where, severity, thread, text = json.loads(written)
        noted.append((Line(at, where, severity, text), thread))
    return Story(finished, noted, records)


def test_every_line_that_a_flow_writes_is_one_record(story: Story) -> None:
    """With its stream, its severity and its attempt; what stands between <<< and >>> is what Metaflow stored."""
    expected = Counter(line for line, _ in story.noted if line.where != "long")
    for at in {line.at for line, _ in story.noted}:
        inside = False
        for text in story.stored(at, "stderr"):
            inside = text == "<<<" or (inside and text != ">>>") or text.startswith("<flow ")
            if inside and text != "<<<":
                expected[Line(at, "stderr", 9, text)] += 1
    found = Counter(
        record.line
        for record in story.records
        if record.scope not in ("otel_metaflow.launcher", "otel_metaflow")
        and "metaflow.log.truncated.length" not in record.attributes
    )
    assert found - expected == Counter(), "twice, or never written"
    assert expected - found == Counter(), "lost"


def test_a_stream_put_in_the_place_of_stdout_is_recorded_as_it_writes(place: Place) -> None:
    """It stamps what it is given, or keeps it for itself, and stands there before any hook of ours."""
    source = """
        import io, sys
        from metaflow import FlowSpec, step
        class Stamping:
            def __init__(self, stream):
                self.stream = stream
            def write(self, text):
                self.stream.write(text.replace("a line", "12:00 a line"))
            def flush(self):
                self.stream.flush()
        if "step" in sys.argv:
            sys.stdout, sys.stderr = Stamping(sys.stdout), io.StringIO()
        class StampFlow(FlowSpec):
            @step
            def start(self):
                print("a line")
                sys.stderr.write("kept\\n")
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            StampFlow()
        """
    with Endpoint() as receiver:
        finished = place.run(source, "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        assert finished.code == 0, finished.stdout
        finished.wait_delivered()
        found = [
            record.line.text for record in arrived(receiver) if record.scope == "otel_metaflow.stdio" and record.line.at
        ]
    assert found == ["12:00 a line"]


def test_a_line_of_ten_megabytes_is_truncated_and_marked(story: Story) -> None:
    """Reported by the task or read by the launcher alone."""
    cut = [record for record in story.records if "metaflow.log.truncated.length" in record.attributes]
    lengths = [record.attributes["metaflow.log.truncated.length"].int_value for record in cut]
    assert [(record.line.text, record.line.where) for record in cut] == [
        ("x" * 65_536, "stdout"),
        ("y" * 65_536, "stdout"),
    ]
    assert lengths == [10_000_000] * 2


def test_time_goes_on_within_what_one_thread_writes_to_one_stream(story: Story) -> None:
    """Also where a line of C code or of a subprocess stands between two that were reported."""
    times = {record.line: record.time for record in story.records}
    often = Counter(line.text for line, _ in story.noted)
    before: dict[tuple[str, str, str], tuple[int, Line]] = {}
    for line, thread in story.noted:
        if often[line.text] > 1 or line.where == "long":
            continue
        key = (line.at, line.where, thread)
        if key in before:
            assert before[key][0] <= times[line], f"{before[key][1]} before {line}"
        before[key] = (times[line], line)


def test_every_record_belongs_to_the_trace_and_to_the_span_of_its_attempt(story: Story) -> None:
    run = story.finished.run
    assert {record.trace_id for record in story.records} == {ids.trace_id("LinesFlow", run)}
    for record in story.records:
        step, _, attempt = record.line.at.partition("/")
        span = (
            ids.attempt_span_id("LinesFlow", run, step, record.task, int(attempt))
            if step
            else ids.run_span_id("LinesFlow", run)
        )
        assert record.span_id == span
    assert len({record.attributes["log.record.uid"].string_value for record in story.records}) == len(story.records)


def test_each_line_of_the_launcher_is_one_record(story: Story) -> None:
    """But for the echo of its tasks' lines, which are theirs."""
    pattern = re.compile(
        r"\S+ \S+ (?:\[[^\]]+\] )?(Workflow starting .*|Task is starting.*|Task failed\.|Task finished.*|Done!)"
    )
    shown = Counter(found.group(1) for line in story.finished.stdout.splitlines() if (found := pattern.fullmatch(line)))
    records = Counter(record.line.text for record in story.records if record.scope == "otel_metaflow.launcher")
    assert shown["Task is starting."] == 5
    assert shown["Task is starting (retry)."] == 1
    assert {text: records[text] for text in shown} == shown
    theirs = {line.text for line, _ in story.noted if line.text}
    assert not theirs & set(records)


def test_a_logging_record_keeps_all_its_fields(story: Story) -> None:
    """Logger, extra with its types, exception."""
    records = {record.line.text: record for record in story.records if record.line.where == "logging"}
    configured = records["after dictConfig"]
    assert configured.attributes["n"].int_value == 1
    assert configured.attributes["code.function.name"].string_value == "record"
    nested = configured.attributes["nested"].kvlist_value.values[0]
    one, other = nested.value.array_value.values
    assert (nested.key, one.int_value, other.double_value) == ("a", 1, 2.5)
    assert configured.scope == "a.b"
    failed = records["with an exception"].attributes
    assert failed["exception.type"].string_value == "ZeroDivisionError"
    assert "1 / 0" in failed["exception.stacktrace"].string_value


def test_a_line_that_was_changed_is_marked_and_keeps_its_original(story: Story) -> None:
    """Of a progress bar the last state is the body; characters that no back end holds are replaced."""
    records = {record.line.text: record for record in story.records}
    assert records["done"].attributes["log.record.original"].string_value == "10%\r50%\rdone"
    assert records["100% of it"].attributes["log.record.original"].string_value.startswith("\r0% of it\r10% of it")
    for text in ("nul \ufffd inside", "bad \ufffd\ufffd bytes", "file \ufffd", "bad \ufffd\ufffd characters"):
        assert records[text].attributes["metaflow.log.sanitized"].bool_value, text
