"""Ways in which steps write lines, each with a truth of its own: `test_lines.py` runs them in a flow.

Whatever a kind writes it also tells `TRUTH`, a file, by a way that this project does not look at: one
`os.write` of one JSON line, before the line itself is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import json
import logging
import logging.config
import logging.handlers
import multiprocessing
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KINDS: dict[str, Callable[[], None]] = {}
LONG = 10 * 1024 * 1024
# Bound to stderr when the module is imported, before anything of ours has seen the process.
EARLY_HANDLER = logging.StreamHandler(sys.stderr)


def kind(function: Callable[[], None]) -> Callable[[], None]:
    KINDS[function.__name__] = function
    return function


def tell(source: str, text: str, severity: str = "", length: int | None = None, count: int = 1) -> None:
    """Write into the truth file: `source` is stdout, stderr, logging or handler (what a handler printed)."""
    name = os.environ.get("TRUTH_NAME", "")
    record = [name, source, text, severity, len(text) if length is None else length, count]
    descriptor = os.open(os.environ["TRUTH"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(record).encode() + b"\n")
    os.close(descriptor)


def say(text: str, stream: str = "stdout") -> None:
    tell(stream, text)
    print(text, file=getattr(sys, stream))


def raw(text: str, stream: str = "stdout") -> None:
    tell(stream, text)
    os.write({"stdout": 1, "stderr": 2}[stream], f"{text}\n".encode())


def log(logger: logging.Logger, level: str, text: str, *, printed: bool | str = False, **arguments: object) -> None:
    tell("logging", text, level)
    if printed:
        tell("handler", printed if isinstance(printed, str) else text)
    logger.log(getattr(logging, level), text, **arguments)


@kind
def prints() -> None:
    say("a line")
    say("an error", "stderr")
    tell("stdout", "one 2 three")
    print("one", 2, "three")
    tell("stdout", "begun ended")
    print("begun", end=" ")
    print("ended", flush=True)
    tell("stderr", "sys.stderr.write")
    sys.stderr.write("sys.stderr.write\n")
    for text in ("of writelines, the first", "of writelines, the second"):
        tell("stdout", text)
    sys.stdout.writelines(["of writelines, the first\nof writelines,", " the second\n"])
    for text in ("three", "lines", "at once"):
        tell("stdout", text)
    sys.stdout.write("three\nlines\nat once\n")
    for _ in range(5):
        say("the same again")
        raw("the same again")
    say("  indented\t and padded  ")


@kind
def empty_lines() -> None:
    for _ in range(8):
        tell("stdout", "")
    print()
    print("\n\n\n", end="")
    os.write(1, b"\n")
    sys.stdout.buffer.write(b"\n\n\n")
    say("between")
    raw("")
    say("")


@kind
def bytes_below_text() -> None:
    for index in range(50):
        say(f"text {index}")
        tell("stdout", f"buffer {index}")
        sys.stdout.buffer.write(f"buffer {index}\n".encode())
        tell("stderr", f"raw {index}")
        sys.stderr.buffer.raw.write(f"raw {index}\n".encode())
        raw(f"os.write {index}")
        raw(f"os.write {index}", "stderr")


@kind
def native_code() -> None:
    libc = ctypes.CDLL(None)
    for index in range(20):
        tell("stdout", f"puts {index}")
        libc.puts(f"puts {index}".encode())
        tell("stdout", f"printf {index}")
        libc.printf(b"printf %d\n", index)
        say(f"print {index}")
        tell("stderr", f"write {index}")
        libc.write(2, f"write {index}\n".encode(), len(f"write {index}\n"))
    libc.fflush(None)


@kind
def subprocesses() -> None:
    script = "for i in $(seq 200); do echo out $i; echo err $i >&2; done"
    for index in range(1, 201):
        tell("stdout", f"out {index}")
        tell("stderr", f"err {index}")
    child = subprocess.Popen(["sh", "-c", script])
    for index in range(200):
        say(f"out {index} of the parent")
    child.wait()
    tell("stdout", "of a child's child, on the parent's stderr")
    subprocess.run([sys.executable, "-c", "print('of a child\\'s child, on the parent\\'s stderr')"], check=True)
    captured = subprocess.run(["echo", "captured"], capture_output=True, text=True, check=True).stdout
    say(f"was {captured.strip()}")


@kind
def threads() -> None:
    def work(name: int) -> None:
        for index in range(200):
            # One write each: lines of threads fall into each other as they always did.
            text = f"thread {name} line {index}"
            tell("stdout", text)
            sys.stdout.write(text + "\n")

    workers = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda index: log(logging.getLogger("pool"), "ERROR", f"in a pool {index}", printed=True), range(40)
            )
        )


def _child(name: str) -> None:
    for index in range(60):
        text = f"{name} {index}"
        tell("stdout", text)
        sys.stdout.write(text + "\n")
        tell("stderr", text)
        os.write(2, (text + "\n").encode())


@kind
def forked_processes() -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(f"forked {name}",)) for name in range(3)]
    for child in children:
        child.start()
    _child("parent")
    for child in children:
        child.join()
    with context.Pool(2) as pool:
        pool.map(_child, ["in pool a", "in pool b", "in pool c"])


def _logging_child(name: str) -> None:
    tell("logging", f"{name} warns", "WARNING")
    tell("handler", f"{name} warns")
    logging.getLogger(name).warning("%s warns", name)


@kind
def forked_processes_that_log() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(_logging_child, [f"child-{index}" for index in range(20)])


@kind
def spawned_processes() -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_child, args=("spawned",))
    child.start()
    _child("parent")
    child.join()
    with context.Pool(2) as pool:
        pool.map(_child, ["in pool a", "in pool b"])


@kind
def metaflow_parallel_map() -> None:
    from metaflow import parallel_map

    assert parallel_map(lambda name: (_child(f"mapped {name}"), name)[1], [1, 2, 3]) == [1, 2, 3]


@kind
def processes_that_fall_into_each_other() -> None:
    """Each `print` here is seven writes, so that three processes at once garble nearly every line."""
    ready = multiprocessing.Barrier(3)

    def work(name: str) -> None:
        ready.wait()
        for index in range(150):
            tell("stdout", f"{name} epoch {index} loss {1 / (index + 1)}")
            print(name, "epoch", index, "loss", 1 / (index + 1))

    children = [multiprocessing.Process(target=work, args=(name,)) for name in "abc"]
    for child in children:
        child.start()
    for child in children:
        child.join()


@kind
def lines_begun_by_one_and_ended_by_another() -> None:
    """What the terminal shows cannot be told apart; what was reported and what was not counts once each."""
    tell("stdout", "working … done")
    print("working … ", end="")
    tell("stdout", "a subprocess")
    subprocess.run(["echo", "a subprocess"], check=True)
    print("done")
    tell("stdout", "25 % 50 % 100 %")
    print("25 % ", end="")
    os.write(1, b"aside\n")
    tell("stdout", "aside", count=2)
    print("50 % ", end="")
    os.write(1, b"aside\n")
    print("100 %")


@kind
def in_asyncio() -> None:
    async def work(name: int) -> None:
        for index in range(20):
            tell("stdout", f"task {name} line {index}")
            sys.stdout.write(f"task {name} line {index}\n")
            log(logging.getLogger("async"), "WARNING", f"task {name} log {index}", printed=True)
            await asyncio.sleep(0)
        tell("stdout", f"process of {name}")
        await (await asyncio.create_subprocess_exec("echo", f"process of {name}")).wait()

    async def main() -> None:
        await asyncio.gather(*(work(name) for name in range(4)))

    asyncio.run(main())


@kind
def a_child_that_outlives_the_step() -> None:
    """Nobody reads its pipe any more; what Python reported counts all the same."""
    if os.fork():
        return
    # The parent's `finally` blocks are not this child's.
    try:
        os.setsid()
        for index in range(20):
            tell("stdout", f"late {index}")
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write(f"late {index}\n")
            time.sleep(0.1)  # the test is about time going by
        tell("done", "")
    finally:
        os._exit(0)


@kind
def redirected() -> None:
    say("before")
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        print("kept by the user, on no stream")
    with contextlib.redirect_stdout(sys.stderr):
        tell("stderr", "redirected to stderr")
        print("redirected to stderr")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        print("nowhere", file=sys.stderr)
    say(f"after {len(kept.getvalue())}")


@kind
def replaced_streams() -> None:
    class Tee:
        def __init__(self, *streams: io.TextIOBase) -> None:
            self.streams = streams

        def write(self, text: str) -> int:
            return max([stream.write(text) for stream in self.streams])

        def flush(self) -> None:
            for stream in self.streams:
                stream.flush()

    original = sys.stdout
    sys.stdout = Tee(original, io.StringIO())
    say("through a tee of the user's")
    sys.stdout = open(os.dup(1), "w", buffering=1)
    say("through a stream of the user's")
    sys.stdout.close()
    sys.stdout = original
    say("through the first again")
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    say("reconfigured")
    with contextlib.suppress(UnicodeEncodeError):
        sys.stdout.reconfigure(encoding="latin-1", errors="strict")
        tell("stdout", "caf\ufffd in latin-1")  # what a terminal and the launcher, who read UTF-8, see
        print("café in latin-1")
        print("not in latin-1: \u4e2d")
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), write_through=True)
    say("detached")


@kind
def progress_bars() -> None:
    for stream in ("stdout", "stderr"):
        tell(stream, "\r".join(["", *(f"{percent}%|{'#' * (percent // 10)}" for percent in range(0, 101, 5))]))
        for percent in range(0, 101, 5):
            getattr(sys, stream).write(f"\r{percent}%|{'#' * (percent // 10)}")
            getattr(sys, stream).flush()
        getattr(sys, stream).write("\n")
    tell("stdout", "curl\r10\r20\r100")
    os.write(1, b"curl\r10\r20\r100\n")
    tell("stdout", "ends like Windows\r")
    os.write(1, b"ends like Windows\r\n")
    tell("stdout", "prints like Windows\r")
    print("prints like Windows", end="\r\n")


@kind
def without_final_newline() -> None:
    say("ended")
    tell("stdout", "never ended")
    print("never ended", end="")
    tell("stderr", "never ended either")
    os.write(2, b"never ended either")


@kind
def very_long_lines() -> None:
    for stream in ("stdout", "stderr"):
        tell(stream, "x" * 65_536, length=LONG)
        print("x" * LONG, file=getattr(sys, stream))
    tell("stdout", "z" * 65_536, length=2_000_000)
    os.write(1, b"z" * 1_000_000)
    os.write(1, b"z" * 1_000_000 + b"\n")
    tell("stdout", "yz" * 32_768, length=300_000)
    for _ in range(150_000):
        sys.stdout.write("yz")
    print()
    tell("logging", "w" * 65_536, "ERROR", length=1_000_000)
    tell("handler", "w" * 65_536, length=1_000_000)
    logging.getLogger("long").error("w" * 1_000_000)
    say("x" * 65_536)
    say("x" * 65_537 if False else "short again")


@kind
def odd_characters() -> None:
    say("NUL \0 inside")
    raw("raw NUL \0 inside")
    tell("stdout", "invalid \ufffd\ufffd( here")
    os.write(1, b"invalid \xff\xfe( here\n")
    say("emoji \U0001f600, combined e\u0301, right to left \u05d0, joined \U0001f468\u200d\U0001f469\u200d\U0001f467")
    say("a separator \u2028 is no newline, nor is \x85 or \x0b or \x0c or \x1c")
    raw("in bytes: a separator \u2028 is no newline, nor is \x85 or \x0b or \x0c or \x1c")
    tell("stderr", "half a pair \\ud83d")  # stderr escapes what it cannot encode
    print("half a pair \ud83d", file=sys.stderr)
    tell("stdout", "the next line")
    with contextlib.suppress(UnicodeEncodeError):
        print("half a pair \ud83d")  # refused by stdout: not a byte of it is written
    print("the next line")
    tell("logging", "half a pair \ufffd", "ERROR")
    tell("handler", "half a pair \\ud83d")
    logging.getLogger("odd").error("half a pair \ud83d")
    say('{"kind":"line","timeUnixNano":1,"stream":"stdout","body":"a journal in the journal"}')
    say("\x1b[31mred\x1b[0m")


@kind
def writes_that_fail() -> None:
    with contextlib.suppress(TypeError):
        sys.stdout.write(b"bytes")  # type: ignore[arg-type]
    with contextlib.suppress(TypeError):
        sys.stdout.writelines([b"bytes"])  # type: ignore[list-item]

    class Text(str):
        __slots__ = ()

    tell("stdout", "a subclass of str")
    print(Text("a subclass of str"))
    say("after")


@kind
def logging_unconfigured() -> None:
    log(logging.getLogger("some.child"), "WARNING", "by the last resort", printed=True)
    log(logging.getLogger(), "ERROR", "root, by the last resort", printed=True)
    logging.getLogger("some.child").info("below the level: nobody sees it")
    logging.getLogger("some").setLevel(logging.DEBUG)
    log(logging.getLogger("some.child"), "DEBUG", "of the logger's level, below the last resort's")


@kind
def logging_configured_in_the_step() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    log(logging.getLogger("a.b"), "INFO", "info", printed="INFO a.b info")
    log(logging.getLogger(), "CRITICAL", "critical", printed="CRITICAL root critical")
    logging.getLogger().debug("nobody sees it")
    logging.basicConfig(level=logging.DEBUG, format="again %(message)s", force=True, stream=sys.stdout)
    log(logging.getLogger("a.b"), "DEBUG", "debug", printed="again debug")
    config = {
        "version": 1,
        "disable_existing_loggers": True,
        "formatters": {"plain": {"format": "dict %(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}},
        "root": {"level": "INFO", "handlers": ["out"]},
    }
    logging.config.dictConfig(config)
    log(logging.getLogger("c"), "WARNING", "after dictConfig", printed="dict after dictConfig")
    logging.getLogger("a.b").error("disabled by dictConfig: nobody sees it")


@kind
def loggers_that_do_not_propagate() -> None:
    logging.basicConfig(level=logging.INFO)
    alone = logging.getLogger("alone")
    alone.propagate = False
    log(alone, "WARNING", "by the last resort", printed=True)
    alone.addHandler(EARLY_HANDLER)
    log(alone, "INFO", "by a handler from before", printed=True)
    both = logging.getLogger("both")
    both.addHandler(EARLY_HANDLER)
    tell("handler", "two handlers, one record")
    log(both, "INFO", "two handlers, one record", printed="INFO:both:two handlers, one record")


@kind
def logging_through_queues() -> None:
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    listener = logging.handlers.QueueListener(records, logging.StreamHandler(), logging.StreamHandler(sys.stdout))
    logger = logging.getLogger("queued")
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener.start()
    for index in range(50):
        tell("handler", f"queued {index}")
        log(logger, "WARNING", f"queued {index}", printed=True)
    listener.stop()
    memory = logging.handlers.MemoryHandler(100, target=logging.StreamHandler())
    buffered = logging.getLogger("buffered")
    buffered.propagate = False
    buffered.addHandler(memory)
    for index in range(20):
        log(buffered, "WARNING", f"buffered {index}", printed=True)
    memory.close()


def _queueing_child(records: multiprocessing.Queue[logging.LogRecord], name: str) -> None:
    logger = logging.getLogger("remote")
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(records))
    for index in range(20):
        log(logger, "WARNING", f"{name} {index}", printed=True)


@kind
def logging_from_processes_through_a_queue() -> None:
    """The cookbook's ways: a QueueListener, and a loop that calls `Logger.handle`."""
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        records = context.Queue()
        child = context.Process(target=_queueing_child, args=(records, f"{method}ed, by a listener"))
        child.start()
        listener = logging.handlers.QueueListener(records, logging.StreamHandler())
        child.join()
        listener.start()
        listener.stop()
        child = context.Process(target=_queueing_child, args=(records, f"{method}ed, by a loop"))
        child.start()
        for _ in range(20):
            record = records.get()
            logging.getLogger("loop").handle(record)
        child.join()


@kind
def handlers_of_all_sorts() -> None:
    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("seen:", record.getMessage())

    class Forwarding(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger("elsewhere").handle(record)

    logger = logging.getLogger("sorts")
    logger.propagate = False
    handler: logging.Handler = Printing()
    logger.addHandler(handler)
    log(logger, "WARNING", "printed by a handler", printed="seen: printed by a handler")
    logger.removeHandler(handler)
    handler = Forwarding()
    logger.addHandler(handler)
    log(logger, "WARNING", "handed to another logger", printed=True)
    logger.removeHandler(handler)
    logger.addHandler(logging.FileHandler(os.devnull))
    log(logger, "WARNING", "to a file")
    logger.addHandler(logging.NullHandler())
    log(logger, "WARNING", "to nothing")
    tell("logging", "made by hand", "ERROR")
    tell("handler", "made by hand")
    made = {"msg": "made by hand", "levelno": logging.ERROR, "levelname": "ERROR", "name": "hand"}
    EARLY_HANDLER.handle(logging.makeLogRecord(made))
    # Straight to emit: no record that anybody could know of, a line on stderr.
    tell("stderr", "emitted")
    EARLY_HANDLER.emit(logging.makeLogRecord({**made, "msg": "emitted"}))
    logging.addLevelName(25, "NOTICE")
    tell("logging", "a level of the user's", "NOTICE")
    logger.log(25, "a level of the user's")
    say("and a print after them")


@kind
def records_with_everything() -> None:
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logger = logging.getLogger("everything")
    log(logger, "INFO", "with extra", printed=True, extra={"epoch": 3, "deep": {"a": [1, object()]}, "message_": None})
    error = ValueError("a reason")
    tell("handler", "ValueError: a reason")
    log(logger, "ERROR", "with exc_info", printed=True, exc_info=error)
    log(logger, "ERROR", "without an exception", printed=True, exc_info=False)
    tell("handler", "Stack (most recent call last):")
    tell("logging", "two\nlines", "WARNING")
    tell("handler", "two")
    tell("handler", "lines")
    logger.warning("two\nlines")
    tell("logging", "7 of 9", "WARNING")
    tell("handler", "7 of 9")
    logger.warning("%(done)d of %(all)d", {"done": 7, "all": 9})
    log(logger, "WARNING", "", printed=True)


@kind
def broken_format_strings() -> None:
    """`logging` reports them on stderr in many lines, which are lines of stderr as any other."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    tell("logging", "%d apples ('three',)", "ERROR")
    logging.getLogger("broken").error("%d apples", "three")
    tell("*", "--- Logging error ---", count=2)
    tell("logging", "<Broken>", "ERROR")
    logging.getLogger("broken").error(Broken())
    say("the step goes on")


@kind
def warned() -> None:
    warnings.simplefilter("always")
    tell("*", "UserWarning: take care")
    warnings.warn("take care", stacklevel=1)
    logging.captureWarnings(True)
    tell("*", "captured")
    warnings.warn("captured", stacklevel=1)


@kind
def many_of_everything() -> None:
    """Lines of one thread come in their order, whichever way they were written."""
    logger = logging.getLogger("many")
    for index in range(2_000):
        say(f"print {index}")
        if index % 7 == 0:
            raw(f"write {index}")
        if index % 11 == 0:
            log(logger, "ERROR", f"log {index}", printed=True)
        if index % 13 == 0:
            raw(f"write {index}", "stderr")
            say(f"print {index}", "stderr")


def read_truth(path: Path) -> Iterable[tuple[str, str, str, str, int, int]]:
    for line in path.read_bytes().splitlines():
        name, source, text, severity, length, count = json.loads(line)
        yield name, source, text, severity, length, count
