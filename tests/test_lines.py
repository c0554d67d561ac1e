"""Lines of every kind, written by a real flow that keeps count by another way, each once in the records."""

from __future__ import annotations

import json
from collections import Counter

from running import Place

from otel_metaflow.assembly.logs import AttemptLogs, Cursor
from otel_metaflow.journal.layout import AttemptKey

FLOW = r"""
    import asyncio, ctypes, json, logging, logging.config, logging.handlers, multiprocessing, os, queue
    import subprocess, sys, threading, warnings
    from concurrent.futures import ThreadPoolExecutor
    from metaflow import FlowSpec, parallel_map, step

    bound_early = logging.StreamHandler(sys.stderr)

    def truth(stream, text):
        with open(os.environ["TRUTH"], "a") as file:
            file.write(json.dumps([stream, text]) + "\n")

    def say(text):
        truth("stdout", text)
        print(text)

    def record(logger, text, level=logging.WARNING, **more):
        truth("logging", text)
        logger.log(level, text, **more)

    class LinesFlow(FlowSpec):
        @step
        def start(self):
            say("print"); say(""); say("héllo 😀"); say("two\nlines".split("\n")[0])
            truth("stdout", "joined pieces"); print("joined", end=" "); print("pieces")
            truth("stdout", "a"); truth("stdout", "b"); sys.stdout.writelines(["a\n", "b\n"])
            truth("stderr", "to stderr"); sys.stderr.write("to stderr\n")
            truth("stdout", "bytes"); sys.stdout.buffer.write(b"bytes\n"); sys.stdout.buffer.flush()
            truth("stdout", "system"); os.write(1, b"system\n")
            truth("stderr", "system err"); os.write(2, b"system err\n")
            truth("stdout", "bad \ufffd\ufffd bytes"); os.write(1, b"bad \xff\xfe bytes\n")
            truth("stdout", "nul \0 inside"); print("nul \0 inside")
            libc = ctypes.CDLL(None)
            truth("stdout", "from C"); libc.puts(b"from C"); libc.fflush(None)
            truth("stdout", "child"); subprocess.run(["echo", "child"])
            truth("stderr", "child err"); subprocess.run("echo child err >&2", shell=True)
            truth("stdout", "10%\r50%\r100%"); print("10%\r50%\r100%")
            self.next(self.logs)

        @step
        def logs(self):
            root, named = logging.getLogger(), logging.getLogger("a.b")
            record(root, "root before any configuration")
            record(logging.getLogger("quiet"), "debug is below the level") if False else None
            logging.getLogger("quiet").debug("below the level")
            logging.basicConfig(level=logging.INFO, force=True)
            record(named, "after basicConfig", logging.INFO)
            alone = logging.getLogger("alone"); alone.propagate = False; alone.addHandler(bound_early)
            record(alone, "through a handler bound before the step")
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
                "handlers": {"e": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["e"], "level": "INFO"}})
            record(named, "after dictConfig", extra={"n": 1, "nested": {"a": [1, 2.5]}})
            line = queue.Queue()
            behind = logging.getLogger("behind"); behind.propagate = False
            behind.addHandler(logging.handlers.QueueHandler(line))
            listener = logging.handlers.QueueListener(line, logging.StreamHandler()); listener.start()
            record(behind, "through a queue"); listener.stop()
            try:
                1 / 0
            except ZeroDivisionError:
                record(named, "with an exception", logging.ERROR, exc_info=True)
            truth("stderr", None); warnings.simplefilter("default")
            self.next(self.many)

        @step
        def many(self):
            def work(number):
                for each in range(50):
                    say(f"thread {number} line {each}")
            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            [thread.start() for thread in threads]; [thread.join() for thread in threads]
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: record(logging.getLogger("pool"), f"pooled {number}"), range(20)))
            asyncio.run(self.talk())
            fork = multiprocessing.get_context("fork")
            children = [fork.Process(target=lambda number=number: say(f"forked {number}")) for number in range(5)]
            [child.start() for child in children]; [child.join() for child in children]
            parallel_map(lambda number: say(f"mapped {number}"), range(5))
            self.next(self.end)

        async def talk(self):
            await asyncio.gather(*(self.one(number) for number in range(3)))

        async def one(self, number):
            await asyncio.sleep(0)
            say(f"async {number}")

        @step
        def end(self):
            truth("long", "x" * 10_000_000); print("x" * 10_000_000)
            truth("stdout", "no newline"); sys.stdout.write("no newline")

    if __name__ == "__main__":
        LinesFlow()
    """


def test_every_line_that_a_flow_writes_is_one_record(place: Place) -> None:
    """Of prints, C code, subprocesses, threads, forks and logging, against the flow's own account."""
    truth = place.path / "truth"
    finished = place.run(FLOW, "--with", "otel", env={"TRUTH": str(truth)})
    assert finished.code == 0, finished.stdout[-2000:] + finished.stderr
    told = [json.loads(line) for line in truth.read_text().splitlines()]
    expected = Counter((stream, text) for stream, text in told if stream != "long" and text is not None)
    found: Counter[tuple[str, str]] = Counter()
    long: list[dict[str, object]] = []
    for attempt in finished.story.attempts.values():
        last: dict[str, int] = {}
        for entry in AttemptLogs(finished.folder, attempt.key, Cursor()).read(10**20, final=True):
            record = entry.record
            stream = record.get("stream", "logging")
            if record.get("length", 0) > 65_536:
                long.append(record)
                continue
            if stream != "stderr" or record["body"] in {text for _, text in told}:
                found[stream, record["body"]] += 1
            # Records of logging are dated when they are made, and threads journal them a moment later.
            if stream != "logging" and "pid" not in record and entry.uid.startswith("t"):
                assert record["timeUnixNano"] >= last.get(stream, 0), "time goes on within a stream"
                last[stream] = record["timeUnixNano"]
    assert found == expected
    (cut,) = long
    assert (cut["length"], len(str(cut["body"]))) == (10_000_000, 65_536)


def test_a_logging_record_keeps_what_logging_knows_of_it(place: Place) -> None:
    """Severity, logger, extra with its types, exception; and it is one record though a handler prints it."""
    finished = place.run(FLOW, "--with", "otel", env={"TRUTH": str(place.path / "truth")})
    logs = AttemptLogs(finished.folder, AttemptKey("logs", "2", 0), Cursor())
    records = {entry.record["body"]: entry.record for entry in logs.read(10**20, final=True)}
    configured = records["after dictConfig"]
    assert configured["attributes"] == {"n": 1, "nested": {"a": [1, 2.5]}}
    assert (configured["logger"], configured["severityNumber"], configured["function"]) == ("a.b", 30, "record")
    failed = records["with an exception"]
    assert failed["exception"]["type"] == "ZeroDivisionError"
    assert "1 / 0" in failed["exception"]["stacktrace"]
    assert "below the level" not in records
    assert not [body for body in records if "Traceback" in body or "WARNING:" in body], "what handlers printed"
