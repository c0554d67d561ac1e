"""Nothing of ours may change a user's run: each flow with and without `--with otel` is the same to its user."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from endpoint import Endpoint as Receiver
from running import Finished, Place, seen

from otel_metaflow.model.run import load

REFUSED = "http://127.0.0.1:1"
FLOW = """
    import atexit, builtins, io, json, logging, os, sys, threading, time
    {before}
    from metaflow import FlowSpec, step

    def broken(*args, **kwargs):
        raise RuntimeError('patched by the user')

    class Raising(logging.Handler):
        def emit(self, record):
            raise LookupError('from emit')

    def deep(n):
        try:
            print('', end='')
            return deep(n + 1)
        except RecursionError:
            return n

    class UnfeltFlow(FlowSpec):
        {steps}
        @step
        def end(self):
            print("reached the end")

    if __name__ == "__main__":
        UnfeltFlow()
    """
STEP = """
        @step
        def {name}(self):
            print("first line", "é")
            sys.stderr.write("to stderr\\n")
            logging.warning("a record")
            {body}
            self.next(self.{following})
    """


def source(*bodies: str, before: str = "") -> str:
    """A flow with a step for each body, in that order."""
    names = ["start", *(f"step_{number}" for number in range(1, len(bodies))), "end"]
    steps = (
        STEP.format(name=name, body=body, following=following)
        for name, body, following in zip(names, bodies, names[1:], strict=False)
    )
    return FLOW.format(before=before, steps="".join(steps).strip())


@dataclass(frozen=True)
class Odd:
    """A flow, or a way to run it, that is not the plain one."""

    body: str = "pass"
    before: str = ""
    python: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    beside: Sequence[str] = ()
    shell: str = "exec {}"
    is_recorded: bool = True


ODD_RUNS = {
    "stdin closed": Odd(shell="exec {} <&-"),
    "stdout closed": Odd(shell="exec {} >&-", is_recorded=False),
    "stdout full": Odd(shell="exec {} >/dev/full", is_recorded=False),
    "stderr closed": Odd(shell="exec {} 2>&-", is_recorded=False),
    "a pipe that is closed early": Odd(shell="{} | head -1", is_recorded=False),
    "few descriptors": Odd(shell="ulimit -n 40; exec {}"),
    "a home that cannot be written": Odd(env={"HOME": "/dev/null", "OTEL_METAFLOW_HOME": ""}, is_recorded=False),
    "modules of the user's with names of ours": Odd(
        before="import resource, usage, guard, settings, stdio",
        beside=("resource", "usage", "guard", "settings", "stdio", "spawn", "ids", "closing", "names", "attempt"),
        body="print(hasattr(resource, 'getrusage'))",
    ),
    "a module of the user's that the standard library has too": Odd(
        beside=("resource",), body="import resource; print(hasattr(resource, 'getrusage'))"
    ),
    "python -O": Odd(env={"PYTHONOPTIMIZE": "2"}),
    "python -I": Odd(python=["-I"]),
    "python -W error::UserWarning": Odd(env={"PYTHONWARNINGS": "error::UserWarning"}),
    "python -X dev": Odd(env={"PYTHONDEVMODE": "1"}),
    "locale C": Odd(env={"LC_ALL": "C", "LANG": "C"}),
    "ascii": Odd(env={"PYTHONIOENCODING": "ascii:backslashreplace"}),
    "ascii that cannot hold it": Odd(env={"PYTHONIOENCODING": "ascii"}),
    "faulthandler": Odd(env={"PYTHONFAULTHANDLER": "1"}),
    "a handler that raises": Odd("logging.getLogger().addHandler(Raising()); logging.error('raises')"),
    "a print that raises": Odd("print('half \\\\ud800 a character')"),
    "a pipe of the task that is closed": Odd("os.close(1); print('nobody')"),
    "metadata that cannot be stored": Odd("json.dump = broken"),
    "json that raises": Odd("json.dumps = broken; print('patched')"),
}
# What user code may do in a step that goes on: each in a step of its own, so in a process of its own.
ODD_STEPS = [
    # Threads, forks, exits.
    """threading.Thread(target=lambda: (time.sleep(0.2), print('from a thread at exit'))).start()
            atexit.register(print, 'from an exit handler')""",
    "atexit.register(sys.exit, 5)",
    "atexit.register(lambda: 1 / 0)",
    """if os.fork() == 0:
                print('child'); time.sleep(0.2); print('child is done'); os._exit(0)""",
    "os.fork() == 0 and sys.exit(0); os.wait()",
    # Streams.
    "sys.stdout = sys.stderr = None; print('nowhere')",
    "sys.stdout.close()",
    "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), write_through=True); print('again')",
    """kept = sys.stdout.write; sys.stdout.write = lambda text: kept(text.upper()); print('patched')
            del sys.stdout.write; print('not any more')""",
    "kept = print; builtins.print = lambda *a, **k: kept('mine', *a, **k); print('patched')",
    # Logging.
    "logging.warning('%d apples', 'three')",
    """kept = logging.Logger.callHandlers
            logging.Logger.callHandlers = lambda self, record: (print('mine'), kept(self, record))
            logging.error('patched'); logging.Logger.callHandlers = broken
            try:
                logging.error('broken')
            except RuntimeError as error:
                print(error)""",
    # The interpreter.
    "sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None); print('traced')",
    "print(deep(0) > 100)",
    "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('otel_')]",
    "os.environ.clear(); print('bare')",
    "os.chdir('/'); print('elsewhere')",
    # What we use too.
    "time.time = time.time_ns = time.monotonic = lambda: 0; print('patched')",
    "time.time_ns = broken; print('patched'); logging.error('patched')",
    "os.write = broken; print('patched')",
    "os.getpid = broken; print('patched'); os.getpid = lambda: 1",
    "kept = open; builtins.open = broken; print('patched'); builtins.open = kept",
]


def start(place: Place, flow: Path, odd: Odd, *arguments: str) -> subprocess.Popen[str]:
    """Start the flow as a shell would."""
    place.path.mkdir()
    command = " ".join([sys.executable, *odd.python, str(flow), "--no-pylint", "run", *arguments])
    return subprocess.Popen(
        ["sh", "-c", odd.shell.format(command)],
        cwd=place.path,
        env=place.environ({"OTEL_METAFLOW_FLUSH_TIMEOUT": "0", **odd.env}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def shown(finished: Finished) -> str:
    """What its user sees, without addresses, which differ from process to process."""
    code, stdout, stderr = seen(finished)
    text = "\n".join([f"exit code {code}", *stdout, "stderr:", *stderr])
    # A launcher whose stdout takes nothing ends before any hook of ours that could hide our frame.
    text = re.sub(r"  File \S+stream_tap.py\", line \d+, in write\n    return self._write\(text\)\n +\^+\n", "", text)
    return re.sub(r"0x[0-9a-f]{6,}", "ADDRESS", text)


def check(tmp_path: Path, odd: Odd, text: str) -> None:
    """Run a flow with us and without, side by side, and compare what its user sees; then look at what is recorded."""
    flow = Place(tmp_path).write(text)
    for name in odd.beside:
        (tmp_path / f"{name}.py").write_text("print('mine')")
    places = [Place(tmp_path / each) for each in ("without", "with")]
    processes = [start(places[0], flow, odd), start(places[1], flow, odd, "--with", "otel")]
    without, ours = (place.finish(process) for place, process in zip(places, processes, strict=True))
    assert shown(ours) == shown(without)
    assert len([line for line in ours.stderr.splitlines() if line.startswith("otel: ")]) <= 1
    assert "incomplete" not in ours.stdout + ours.stderr
    if odd.is_recorded:
        (folder,) = places[1].home.glob("*/*")
        story = load(places[1].home, folder)
        assert story.result == ("success" if without.code == 0 else "failure")
        assert all(attempt.end for attempt in story.attempts.values())


@pytest.mark.parametrize("name", ODD_RUNS)
def test_an_odd_run_is_the_same_with_us(tmp_path: Path, name: str) -> None:
    """Its exit code, its stdout and its stderr, but for the one line that begins with `otel: `."""
    odd = ODD_RUNS[name]
    check(tmp_path, odd, source(odd.body, before=odd.before))


def test_odd_steps_are_the_same_with_us(tmp_path: Path) -> None:
    """Whatever user code does to its process, it and its attempt go on, and none of it fails."""
    text = source(*ODD_STEPS)
    check(tmp_path, Odd(), text)
    (folder,) = Place(tmp_path / "with").home.glob("*/*")
    attempts = load(Place(tmp_path / "with").home, folder).attempts.values()
    assert [attempt.result for attempt in attempts] == ["success"] * (len(ODD_STEPS) + 1)


SPIN = """
    from metaflow import FlowSpec, otel, step
    class SpinFlow(FlowSpec):
        {otel}
        @step
        def start(self):
            print("in start")
            self.next(self.end)
        {otel}
        @step
        def end(self):
            print("in end")
    if __name__ == "__main__":
        SpinFlow()
    """


def test_spin_is_the_same_with_us(tmp_path: Path) -> None:
    """Metaflow leaves most decorators out there, uninitialized, and asks them what to package all the same."""
    shown_lines = []
    for name, decorator in (("without", ""), ("with", "@otel")):
        place = Place(tmp_path / name)
        place.path.mkdir()
        flow = place.write(SPIN.format(otel=decorator))
        first = place.run(flow)
        spun = subprocess.run(
            [sys.executable, str(flow), "--no-pylint", "spin", f"{first.run}/start/1"],
            cwd=place.path,
            env=place.environ(),
            capture_output=True,
            text=True,
            check=True,
        )
        text = re.sub(r"\d{10,}|[\d-]{10} [\d:.]{12}|pid \d+", "", spun.stdout + spun.stderr).replace(
            str(place.path), ""
        )
        shown_lines.append([line for line in text.splitlines() if "Ignoring Step decorator 'otel'" not in line])
    assert shown_lines[1] == shown_lines[0]
    assert "in start" in str(shown_lines[0])


VARIABLES = {
    "OTEL_SDK_DISABLED": "maybe",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://[::1",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT": "-1",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/file",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/no/such/file",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/no/such/file",
    "OTEL_METAFLOW_LOGS": "stdin",
    "OTEL_METAFLOW_REDACT": "([",
    "OTEL_METAFLOW_JOURNAL_MAX_MB": "much",
    "OTEL_METAFLOW_JOURNAL_MAX_DAYS": "inf",
    "OTEL_METAFLOW_FLUSH_TIMEOUT": "nan",
    "OTEL_METAFLOW_QUIET": "perhaps",
}
# Whatever these hold, it is somebody's name for something.
NAMES = {
    "OTEL_METAFLOW_ID_NAMESPACE": "../a b/\n%00é",
    "OTEL_SERVICE_NAME": "a b\né",
    "OTEL_RESOURCE_ATTRIBUTES": "=,a,b=,%zz=%zz,é=1,,",
    "OTEL_EXPORTER_OTLP_HEADERS": "no equals sign, é=é,=",
}


def test_every_wrong_variable_is_one_line_that_names_it(tmp_path: Path) -> None:
    """All at once: a line each, no traceback, and the run is what it is without us."""
    flow = Place(tmp_path).write(source("pass"))
    places = [Place(tmp_path / each) for each in ("without", "with")]
    odd = Odd(env={"OTEL_EXPORTER_OTLP_ENDPOINT": REFUSED, **VARIABLES, **NAMES})
    processes = [start(places[0], flow, odd), start(places[1], flow, odd, "--with", "otel")]
    without, ours = (place.finish(process) for place, process in zip(places, processes, strict=True))
    assert without.code == 0
    assert shown(ours) == shown(without)
    printed = [line for line in ours.stderr.splitlines() if line.startswith("otel: ")]
    for variable in VARIABLES:
        assert len([line for line in printed if re.search(rf"\b{variable}\b (is|contains) ", line)]) == 1, variable
    assert len(printed) == len(VARIABLES) + 1
    assert "not exported (invalid settings" in printed[-1]


@pytest.mark.parametrize("variable", NAMES)
def test_a_name_of_any_kind_is_delivered(place: Place, variable: str) -> None:
    """Also one that no other program would take."""
    with Receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, variable: NAMES[variable]}
        finished = place.run(source("pass"), "--with", "otel", env=env)
        assert finished.code == 0
        receiver.wait_for(lambda: len(receiver.spans()) == 3)


def test_modules_beside_the_flow_do_not_reach_the_shipper(place: Place) -> None:
    """It starts from the folder of the flow, where a user may keep modules with names of ours."""
    for name in ("opentelemetry", "google", "grpc", "settings", "delivery"):
        (place.path / f"{name}.py").write_text("raise RuntimeError('not meant for the shipper')")
    with Receiver() as receiver:
        finished = place.run(source("pass"), "--with", "otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        assert finished.code == 0, finished.stderr
        receiver.wait_for(lambda: len(receiver.spans()) == 3)
