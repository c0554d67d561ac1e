"""What handlers show of a record is what leaves, each record once, with its user's code run as often as without us."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from endpoint import Endpoint
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from running import Finished, Place, seen

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail

FLOW = r"""
    import codecs, copy, io, json, logging, loguru, logging.handlers, os, queue, re, sys, threading
    from metaflow import FlowSpec, step

    class Counted:
        def __init__(self, text):
            self.text, self.asked = text, 0
        def __str__(self):
            self.asked += 1
            return self.text
        def __repr__(self):
            self.asked += 1
            return f"<{self.text}>"

    class Masking(logging.Formatter):
        def format(self, record):
            return re.sub(r"\d{3}-\d{2}-\d{4}", "***-**-****", super().format(record))

    class MaskingCopy(logging.Formatter):
        def format(self, record):
            record = copy.copy(record)
            record.msg, record.args = re.sub(r"\d{3}-\d{2}-\d{4}", "***-**-****", record.getMessage()), ()
            return super().format(record)

    class MaskingJson(logging.Formatter):
        def format(self, record):
            return json.dumps({"message": record.getMessage(), "ssn": "***", "level": record.levelname})

    class MaskingFilter(logging.Filter):
        def filter(self, record):
            record.msg = re.sub(r"\d{3}-\d{2}-\d{4}", "***-**-****", record.getMessage())
            record.args = ()
            return True

    class Refusing(logging.Filter):
        def filter(self, record):
            return "secret" not in record.getMessage()

    class RaisingFilter(logging.Filter):
        def filter(self, record):
            raise LookupError("a filter")

    class Replacing(logging.Filter):
        def filter(self, record):
            other = copy.copy(record)
            other.msg, other.args = "in its place", ()
            return other if sys.version_info >= (3, 12) else True

    class Keeping(logging.Handler):
        # Of the user's own: looks at nothing.
        def emit(self, record):
            kept.append(record)

    class Sending(logging.Handler):
        def emit(self, record):
            sent.append(record.getMessage())

    class Buffering(logging.Handler):
        def emit(self, record):
            kept.append(record)
        def flush(self):
            target = logging.StreamHandler()
            for record in kept:
                target.handle(record)

    class Noisy(logging.StreamHandler):
        def emit(self, record):
            print("before", record.getMessage())
            super().emit(record)
            print("after")
            print(record.getMessage(), file=sys.stderr)

    class PrintingFormatter(logging.Formatter):
        def format(self, record):
            print("while formatting")
            return super().format(record)

    class Bar(logging.StreamHandler):
        def emit(self, record):
            self.stream.write("\r        \r"); self.stream.write(self.format(record)); self.stream.write("\n")

    class Coloured(logging.StreamHandler):
        def emit(self, record):
            self.stream.write("\x1b[31m" + self.format(record) + "\x1b[0m\n")

    class Printing(logging.Handler):
        def emit(self, record):
            print(record.getMessage())

    class Slow(logging.StreamHandler):
        # Another thread prints while it works.
        def emit(self, record):
            thread = threading.Thread(target=print, args=("of another thread",)); thread.start(); thread.join()
            super().emit(record)

    class Handling(logging.StreamHandler):
        # By a method of its own.
        def handle(self, record):
            self.emit(record)
            return True

    class ToLoguru(logging.Handler):
        def emit(self, record):
            print("before loguru")
            frame, depth = logging.currentframe(), 0
            while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
                frame, depth = frame.f_back, depth + 1
            loguru.logger.opt(depth=depth, exception=record.exc_info).log(record.levelname, record.getMessage())

    kept, sent = [], []

    def alone(name, *handlers, formatter=None, filters=(), level=0):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.setLevel(1)
        logger.handlers[:] = handlers
        for handler in handlers:
            handler.setLevel(level)
            if formatter:
                handler.setFormatter(formatter)
            for each in filters:
                handler.addFilter(each)
        return logger

    class HandlersFlow(FlowSpec):
        @step
        def start(self):
            stream = logging.StreamHandler
            number = "of 123-45-6789"
            alone("masking formatter", stream(), formatter=Masking("%(levelname)s %(message)s")).error(number)
            alone("masking formatter, extra", stream(), formatter=Masking("%(message)s %(ssn)s")).error(
                "x", extra={"ssn": "123-45-6789", "n": 1})
            alone("masking copy", stream(), formatter=MaskingCopy()).error("of %s", "123-45-6789")
            alone("masking json", stream(), formatter=MaskingJson()).error("x", extra={"ssn": "123-45-6789", "n": 1})
            alone("masking filter", stream(), filters=[MaskingFilter()]).error("of %s", "123-45-6789")
            alone("replacing filter", stream(), filters=[Replacing()]).error("in its place")
            try:
                raise ValueError("of 123-45-6789")
            except ValueError:
                alone("masking exception", stream(), formatter=Masking()).exception("failed")
                alone("exception", stream()).exception("failed")
            refusing = alone("refusing filter", stream(), filters=[Refusing()])
            refusing.error("a secret"); refusing.error("taken")
            refused = alone("level", stream(), stream(sys.stdout), level=logging.WARNING)
            refused.info("below"); refused.warning("taken")
            try:
                alone("raising filter", stream(), filters=[RaisingFilter()]).error("never shown")
            except LookupError:
                pass
            one = alone("one of two", stream(), stream(sys.stdout)); one.handlers[0].setLevel(logging.CRITICAL)
            one.error("taken by the second")
            alone("null", logging.NullHandler()).error("never shown")
            bare = alone("nobody"); bare.info("below lastResort"); bare.warning("by lastResort")
            parent = alone("family", stream()); child = logging.getLogger("family.child"); child.error("by its parent")
            child.addFilter(lambda record: False); child.error("filtered by its logger")
            logging.disable(logging.ERROR); parent.error("disabled"); logging.disable(logging.NOTSET)
            logging.LoggerAdapter(alone("adapter", stream()), {"of": "adapter"}).error("adapted")
            alone("file", logging.FileHandler(os.devnull)).error("into a file")
            alone("text", stream(io.StringIO()), formatter=PrintingFormatter()).error("into a string")
            alone("own handle", Handling()).error("handled its own way")
            alone("odd", stream()).handle(logging.makeLogRecord({"name": "odd", "msg": "made by hand", "levelno": 40,
                "created": float("nan"), "lineno": None, "pathname": None, "process": [1], "thread": {},
                "levelname": 4}))
            nodes = [{"number": number} for number in range(10)]
            for node in nodes:
                node.update({f"n{number}": other for number, other in enumerate(nodes)})
            alone("graph", stream()).error("all of all", extra={"nodes": nodes})
            self.hand_on()
            self.counted()
            self.meanwhile()
            self.past_the_taps()
            self.without_newlines()
            self.next(self.end)

        def hand_on(self):
            line = queue.Queue()
            listener = logging.handlers.QueueListener(
                line, alone("x", logging.StreamHandler(), level=logging.ERROR).handlers[0], respect_handler_level=True)
            listener.start()
            queued = alone("queue", logging.handlers.QueueHandler(line))
            queued.info("refused behind the queue"); queued.error("taken behind the queue")
            try:
                1 / 0
            except ZeroDivisionError:
                queued.exception("failed behind the queue")
            both = alone("queue and stream", logging.handlers.QueueHandler(line), logging.StreamHandler(sys.stdout))
            for number in range(20):
                both.error("both %d", number)
            listener.stop()
            memory = logging.handlers.MemoryHandler(3, target=logging.StreamHandler())
            buffered = alone("memory", memory)
            for number in range(7):
                buffered.info("buffered %d", number)
            memory.close()
            full = logging.handlers.MemoryHandler(100)
            alone("memory for nobody", full).error("never shown"); full.close()
            buffering = Buffering(); alone("buffer of the user's", buffering).error("kept for later")
            buffering.flush(); kept.clear()

        def counted(self):
            for name, handler in {"stream": logging.StreamHandler(), "sending": Sending(),
                    "null": logging.NullHandler(), "file": logging.FileHandler(os.devnull),
                    "two": logging.StreamHandler(sys.stdout),
                    "queue": logging.handlers.QueueHandler(queue.Queue())}.items():
                value, held = Counted("a value"), Counted("held")
                alone("counted " + name, handler).error("%s %r", value, value, extra={"held": held, "all": [held]})
                print(name, "asked", value.asked, held.asked)
            value = Counted("kept")
            alone("counted keeping", Keeping()).error("%s", value)  # made by us: nobody else made it
            error = ValueError(Counted("cause"))
            alone("counted exception", logging.StreamHandler()).error("x", exc_info=error)
            print("exception asked", error.args[0].asked)

        def meanwhile(self):
            alone("noisy", Noisy()).error("a diagnostic")
            alone("formatting", logging.StreamHandler(), formatter=PrintingFormatter()).error("formatted")
            named = logging.Formatter("%(name)s: %(message)s")
            alone("lines", logging.StreamHandler(), formatter=named).error("a\nb\n\nc")
            alone("bar", Bar()).error("over a bar")
            alone("coloured", Coloured()).error("in red")
            alone("printing", Printing()).error("printed")
            alone("slow", Slow()).error("while another thread prints")
            alone("accents", logging.StreamHandler()).error("h\u00e9llo \U0001f600 \ud800")
            print("a prompt: ", end="", file=sys.stderr)
            alone("prompt", logging.StreamHandler()).error("behind a prompt")
            alone("loguru", ToLoguru()).error("by way of loguru")
            from rich.logging import RichHandler
            long = "a message that the console wraps, since it is longer than its column is wide " + "x" * 99
            alone("rich", RichHandler()).error(long)
            try:
                1 / 0
            except ZeroDivisionError:
                alone("rich traceback", RichHandler(rich_tracebacks=True)).exception("in a frame")
            try:
                logging.getLogger("lines").error("%d", "wrong")
            except TypeError:
                pass

        def without_newlines(self):
            handler = logging.StreamHandler()
            pieces = alone("pieces", handler)
            handler.terminator = ""; pieces.error("begun by a record, "); pieces.error("ended by one\n")
            pieces.error("begun by a record"); print(file=sys.stderr)
            pieces.error("begun by a record, "); print("ended by a print", file=sys.stderr)
            handler.terminator = " ... "; pieces.error("in two"); handler.terminator = "\n"; pieces.error("pieces")
            handler.terminator = "\r"; pieces.error("10%"); pieces.error("20%")
            handler.terminator = "\r\n"; pieces.error("done")

        def past_the_taps(self):
            # Streams of the user's own that lead to stdout and stderr.
            ours = {"stdout": sys.stdout, "stderr": sys.stderr}
            again = {name: open(stream.fileno(), "w", closefd=False) for name, stream in ours.items()}
            wrapped = io.TextIOWrapper(sys.stdout.buffer, encoding="latin-1", errors="replace")
            handlers = logging.handlers
            text = "h\u00e9llo \u20ac\nin two lines"
            for name, made in {
                "reopened": [logging.StreamHandler(stream) for stream in again.values()],
                "duplicated": [logging.StreamHandler(os.fdopen(os.dup(2), "w"))],
                "wrapped": [logging.StreamHandler(wrapped)],
                "encoded": [logging.StreamHandler(codecs.getwriter("utf-8")(sys.stderr.buffer))],
                "device": [logging.FileHandler("/dev/stdout"), logging.FileHandler("/dev/stderr", delay=True)],
                "rotating": [handlers.RotatingFileHandler("/dev/stdout", maxBytes=9),
                             handlers.WatchedFileHandler("/proc/self/fd/2")],
                "all of them": [logging.StreamHandler(wrapped), logging.StreamHandler(),
                                logging.FileHandler("/dev/stdout")],
            }.items():
                alone(name + " stream", *made).error(text); print("a line beside it")
            sys.stdout = wrapped
            alone("replaced stream", logging.StreamHandler(sys.stdout)).error(text)
            sys.stdout = ours["stdout"]; wrapped.detach()

        @step
        def end(self):
            pass

    if __name__ == "__main__":
        HandlersFlow()
    """


@dataclass(frozen=True)
class Story:
    """Both runs of the flow, and what arrived of one."""

    without: Finished
    ours: Finished
    records: dict[str, list[Any]]  # by logger
    lines: Counter[str]


def value(given: Any) -> Any:
    kind = given.WhichOneof("value")
    if kind == "kvlist_value":
        return {each.key: value(each.value) for each in given.kvlist_value.values}
    if kind == "array_value":
        return [value(each) for each in given.array_value.values]
    return getattr(given, kind) if kind else None


def own(record: Any) -> dict[str, Any]:
    """The attributes that the user gave it."""
    attributes = {each.key: value(each.value) for each in record.attributes}
    return {name: attributes[name] for name in attributes if "." not in name}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    places = [Place(tmp_path_factory.mktemp(name)) for name in ("plain", "other")]
    without = places[0].run(FLOW)
    with Endpoint() as receiver:
        ours = places[1].run(FLOW, "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        ours.wait_delivered()
        records: dict[str, list[Any]] = {}
        lines: Counter[str] = Counter()
        for message in receiver.of(ExportLogsServiceRequest):
            for resource in message.resource_logs:
                for scope in resource.scope_logs:
                    if scope.scope.name == "otel_metaflow.stdio":
                        lines.update(record.body.string_value for record in scope.log_records)
                    else:
                        records.setdefault(scope.scope.name, []).extend(scope.log_records)
    return Story(without, ours, records, lines)


def test_the_run_is_the_same_as_without_us(story: Story) -> None:
    """Also how often each `__str__` is asked, which the flow prints."""

    def comparable(finished: Finished) -> tuple[int, list[str], list[str]]:
        code, stdout, stderr = seen(finished)
        # Not the frames that rich draws, which wrap the path of the flow.
        lines = [line.replace(str(finished.home.parent), "FOLDER") for line in stdout if "│" not in line]
        at = re.compile(r"\[?\d+[/-]\d\d[/-]\d\d \d\d:\d\d:\d\d(\.\d+)?\]?")  # rich's and loguru's
        return code, sorted(at.sub("[AT]", line) for line in lines), stderr

    assert comparable(story.ours) == comparable(story.without)
    assert story.ours.code == 0, story.ours.stdout


BODIES = {
    "masking formatter": ["ERROR of ***-**-****"],
    "masking formatter, extra": ["x"],
    "masking copy": ["of ***-**-****"],
    "masking json": ["x"],
    "masking filter": ["of ***-**-****"],
    "replacing filter": ["in its place"],
    "masking exception": ["failed"],
    "exception": ["failed"],
    "refusing filter": ["taken"],
    "level": ["taken"],
    "one of two": ["taken by the second"],
    "nobody": ["by lastResort"],
    "family.child": ["by its parent"],
    "adapter": ["adapted"],
    "file": ["into a file"],
    "text": ["into a string"],
    "own handle": ["handled its own way"],
    "odd": ["made by hand"],
    "graph": ["all of all"],
    "loguru": ["by way of loguru"],
    "queue": ["taken behind the queue", "failed behind the queue"],
    "queue and stream": [f"both {number}" for number in range(20)],
    "memory": [f"buffered {number}" for number in range(7)],
    "buffer of the user's": ["kept for later"],
    "counted stream": ["a value <a value>"],
    "counted sending": ["a value <a value>"],
    "counted file": ["a value <a value>"],
    "counted two": ["a value <a value>"],
    "counted keeping": ["kept"],
    "counted exception": ["x"],
    "noisy": ["a diagnostic"],
    "formatting": ["formatted"],
    "lines": ["a\nb\n\nc", "%d ('wrong',)"],
    "bar": ["over a bar"],
    "coloured": ["in red"],
    "printing": ["printed"],
    "slow": ["while another thread prints"],
    "accents": ["héllo 😀 \ufffd"],
    "prompt": ["behind a prompt"],
    "rich": ["a message that the console wraps, since it is longer than its column is wide " + "x" * 99],
    "rich traceback": ["in a frame"],
    "pieces": [
        *("begun by a record, ", "ended by one\n", "begun by a record", "begun by a record, "),
        *("in two", "pieces", "10%", "20%", "done"),
    ],
    **{
        f"{name} stream": ["héllo €\nin two lines"]
        for name in ["reopened", "duplicated", "wrapped", "encoded", "device", "rotating", "all of them", "replaced"]
    },
}


def test_each_record_that_a_handler_took_leaves_once_as_it_was_shown(story: Story) -> None:
    """And no other: not one that levels and filters refused, that waits in a buffer, that only a NullHandler saw."""
    found = {name: [each.body.string_value for each in records] for name, records in story.records.items()}
    assert {name: bodies for name, bodies in found.items() if not name.startswith("otel_metaflow")} == BODIES


def test_a_number_that_a_formatter_or_a_filter_masks_is_nowhere_on_the_wire(story: Story) -> None:
    """Nor on disk."""
    for records in story.records.values():
        for record in records:
            attributes = {each.key: value(each.value) for each in record.attributes}
            if "exception.type" not in attributes or record.body.string_value != "failed":
                assert "123-45-6789" not in str(attributes) + record.body.string_value
    (masked,) = story.records["masking exception"]
    attributes = {each.key: value(each.value) for each in masked.attributes}
    assert attributes["exception.type"] == "ValueError"
    assert "123-45-6789" not in str(attributes)
    assert "***-**-****" in attributes["exception.stacktrace"]
    assert own(story.records["masking json"][0]) == {"ssn": "***", "n": 1}
    assert own(story.records["masking formatter, extra"][0]) == {"ssn": "[REDACTED]", "n": 1}


def test_an_extra_without_end_is_cut_and_marked(story: Story) -> None:
    attributes = {each.key: value(each.value) for each in story.records["graph"][0].attributes}
    assert attributes["metaflow.log.attributes.truncated.count"] > 0
    assert attributes["nodes"][0]["number"] == 0
    assert str(attributes).count("'number': 0") == 1


GREENLETS = """
    import sys
    from gevent import monkey
    if "{}" in sys.argv:  # not in the launcher: Metaflow cannot wait for its tasks then
        monkey.patch_all()
    import gevent, logging
    from metaflow import FlowSpec, step

    class Waiting(logging.StreamHandler):
        # As one that writes into a socket: others take their turn meanwhile.
        def emit(self, record):
            gevent.sleep(0)
            super().emit(record)
            gevent.sleep(0)

    class GreenletsFlow(FlowSpec):
        @step
        def start(self):
            logger = logging.getLogger("greenlets")
            logger.propagate, logger.handlers[:] = False, [Waiting(), Waiting(sys.stdout)]
            def work(name):
                for each in range(20):
                    logger.error("record %s %s", name, each)
                    print("line", name, each)
            gevent.joinall([gevent.spawn(work, name) for name in "abc"])
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        GreenletsFlow()
    """


@pytest.mark.parametrize("patched", ["never", "step"])
def test_greenlets_that_take_turns_lose_nothing(place: Place, patched: str) -> None:
    """While one of them waits in a handler, others print and log in the same thread."""
    with Endpoint() as receiver:
        finished = place.run(
            GREENLETS.format(patched), "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        )
        assert finished.code == 0, finished.stdout
        finished.wait_delivered()
        bodies = Counter(body for body in receiver.bodies() if body.startswith(("record ", "line ")))
    assert bodies == Counter(
        f"{kind} {name} {each}" for kind in ("record", "line") for name in "abc" for each in range(20)
    )


def test_exceptions_come_whole_also_through_a_queue(story: Story) -> None:
    for name, kind in {
        "exception": "ValueError",
        "queue": "ZeroDivisionError",
        "rich traceback": "ZeroDivisionError",
    }.items():
        attributes = {each.key: value(each.value) for each in story.records[name][-1].attributes}
        assert attributes["exception.type"] == kind
        assert attributes["exception.stacktrace"].rstrip().endswith(f"{kind}: {attributes['exception.message']}")


def test_a_print_while_a_handler_works_is_a_line_of_its_own(story: Story) -> None:
    """The record's own text is not, in how many pieces, colours and columns it may be written."""
    expected = {"before a diagnostic": 1, "after": 1, "a diagnostic": 1, "while formatting": 2, "of another thread": 1}
    expected.update({"before loguru": 1, "a line beside it": 7, "begun by a record, ended by a print": 1})
    assert {text: story.lines[text] for text in expected} == expected
    theirs = [
        text for text in story.lines if any(text and text in body for bodies in BODIES.values() for body in bodies)
    ]
    # Written twice, and in one piece with somebody else's prompt.
    assert set(theirs) - {"a diagnostic", "handled its own way"} == set()
    begun = {text for text in story.lines if re.search("begun by a record|in two \\.|ended by one|[12]0%", text)}
    assert begun == {"begun by a record, ended by a print"}
    # Its handler works by no method that we see: who cannot be sure delivers both.
    assert story.lines["handled its own way"] == 1
    assert story.lines["a prompt: behind a prompt"] == 1
    assert not [text for text in story.lines if "Traceback" in text and "│" in text]


OUTPUTS = r"""
    import logging, os, signal, sys
    from metaflow import FlowSpec, step

    class OutputsFlow(FlowSpec):
        @step
        def start(self):
            logging.basicConfig(format="%(name)s: %(message)s", level="INFO")
            other = logging.StreamHandler(sys.stdout)
            for number in range(3):
                logging.info("record %d", number)
            logging.getLogger().addHandler(other)
            logging.info("for two\nin two lines")
            logging.getLogger().removeHandler(other)
            os.write(2, b"root: record 1\n")
            logging.info("the last")
            os.kill(os.getpid(), signal.SIGKILL)
            self.next(self.end)
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        OutputsFlow()
    """


def test_a_record_is_journaled_with_the_line_that_its_handler_writes(place: Place) -> None:
    """In one append, so that a kill leaves both or neither; what is written beyond that has records of its own."""
    with Endpoint() as receiver:
        finished = place.run(OUTPUTS, "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        finished.wait_delivered()
        bodies = [body for body in receiver.bodies() if re.match("record|for two|root: |the last|in two", body)]
    # The line that `os.write` wrote is nobody's output, though it looks like one.
    assert sorted(bodies) == sorted(
        [*(f"record {number}" for number in range(3)), "for two\nin two lines", "the last", "root: record 1"]
    )
    journal = layout.attempt_file(finished.folder, AttemptKey("start", "1", 0))
    records = [entry.record for entry in Tail(journal).read() if entry.record["kind"] in ("line", "log")]
    assert [
        (record["kind"], (record.get("output") or record)["stream"], (record.get("output") or record)["body"])
        for record in records
    ] == [
        *(("log", "stderr", f"root: record {number}") for number in range(3)),
        ("log", "stderr", "root: for two"),
        ("line", "stderr", "in two lines"),
        ("line", "stdout", "for two"),
        ("line", "stdout", "in two lines"),
        ("log", "stderr", "root: the last"),
    ]
    assert all(record["covered"] for record in records if record["kind"] == "line")
