"""Journals written by hand, as the processes of a run would leave them: of any size, and of any content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.journal.writer import Journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BEGIN = 1_790_000_000_000_000_000
SECOND = 10**9
# No process has this number: the run is over, whatever its journals hold.
_NOBODY = 2**22


class Journals:
    """The journals of one run that began at BEGIN; times are seconds since then."""

    def __init__(self, home: Path, flow: str = "HandFlow", run: str = "1", **start: Any) -> None:
        self.key = RunKey(flow, run)
        self.folder = layout.run_folder(home, self.key)
        self.folder.mkdir(parents=True)
        self._common = {"version": layout.VERSION, "flow": flow, "run": run, "namespace": ""}
        # Whose run it is: nobody's, unless `start` names a live process.
        self._process = {"pid": start.get("pid", _NOBODY), "processStart": start.get("processStart", 1)}
        self._run = Journal(self.folder / layout.RUN_FILE, _fail)
        resource = {"service.name": "metaflow", "host.name": "box", "user.name": "ann"}
        self._append(layout.START, 0, **{**self._common, **self._process, "resource": resource, **start})

    def _append(self, kind: str, at: float, **fields: Any) -> None:
        self._run.append(kind, {"timeUnixNano": moment(at), **fields})

    def step(self, name: str, *following: str, **fields: Any) -> None:
        """A step of the flow's graph."""
        self._append(layout.STEP, 0, step=name, type="linear", next=list(following), **fields)

    def print(self, at: float, line: str) -> None:
        """A line of the launcher."""
        self._append(layout.LINE, at, stream="stdout", body=line)

    def attempt(
        self,
        step: str,
        task: int,
        start: float,
        took: float | None,
        *,
        attempt: int = 0,
        inputs: Iterable[tuple[str, int]] = (),
        lines: Sequence[str] = (),
        records: Iterable[dict[str, Any]] = (),
        **end: Any,
    ) -> None:
        """One attempt; `took` is None of one whose end nobody wrote."""
        key = AttemptKey(step, str(task), attempt)
        identity = {"step": step, "task": str(task), "attempt": attempt}
        read = layout.grouped((name, str(number), 0) for name, number in inputs)
        self._append(layout.LAUNCH, start, **identity, **self._process)
        journal = Journal(layout.attempt_file(self.folder, key), _fail)
        output = Journal(layout.output_file(self.folder, key), _fail)
        facts = {**self._common, **identity, **self._process, "inputs": read, "logs": [], "attributes": {}}
        journal.append(layout.START, {"timeUnixNano": moment(start), **facts})
        code, left = start + (took or 0) / 5, start + (took or 1) * 0.9
        for number, line in enumerate(lines):
            at = moment(code + (left - code) * number / len(lines))
            journal.append(layout.LINE, {"timeUnixNano": at, "stream": "stdout", "body": line})
            output.append(layout.LINE, {"timeUnixNano": at + 1000, "stream": "stdout", "body": line})
        for record in records:
            journal.append(record["kind"], record)
        if took is not None:
            usage = {"cpu": took / 2, "memoryPeak": 50 << 20, "read": 1000, "written": 1000}
            facts = {"result": "success", "codeStart": moment(code), "codeEnd": moment(left), "usage": usage, **end}
            journal.append(layout.END, {"timeUnixNano": moment(start + took), **facts})
            code_ = 0 if facts["result"] == "success" else 1
            self._append(layout.EXIT, start + took, **identity, code=code_, killed=False)
        journal.close()
        output.close()

    def launched(
        self, step: str, task: int, start: float, took: float, *, inputs: Iterable[tuple[str, int]] = (), code: int = 0
    ) -> None:
        """One attempt that only the launcher recorded."""
        identity = {"step": step, "task": str(task), "attempt": 0}
        read = layout.grouped((name, str(number), 0) for name, number in inputs)
        self._append(layout.LAUNCH, start, **identity, **self._process, inputs=read)
        ended = {"ok": True} if code == 0 else {}
        self._append(layout.EXIT, start + took, **identity, code=code, killed=False, **ended)

    def end(self, at: float, result: str = "success", **fields: Any) -> None:
        """The launcher's last words."""
        self._append(layout.END, at, result=result, **fields)
        self._append(layout.CLOSED, at)
        self._run.close()


def moment(at: float) -> int:
    """Nanoseconds since 1970."""
    return BEGIN + round(at * SECOND)


def wide(home: Path, tasks: int, lines: int) -> Journals:
    """A foreach of `tasks` tasks, sixteen at a time, which print `lines` lines together; one fails."""
    made = Journals(home, "WideFlow")
    made.step("start", "work")
    made.step("work", "join", requested={"cpu": 1})
    made.step("join", "end")
    made.step("end")
    made.attempt("start", 1, 0.1, 0.9)
    for number in range(tasks):
        task = number + 2
        printed = [
            f"task {task} line {line}: loss={line / 7:.4f} accuracy={line / 11:.4f}, and some words as lines have them"
            for line in range(lines // tasks)
        ]
        why = f"shard {task}"
        failure = {"type": "ValueError", "message": why, "stacktrace": f"Traceback\nValueError: {why}"}
        ended = {"result": "failure", "exception": failure} if number == tasks // 2 else {}
        made.attempt("work", task, 1 + number // 16, 1 + number % 7 / 10, inputs=[("start", 1)], lines=printed, **ended)
    made.end(tasks / 16 + 3, "failure")
    return made


def _fail(error: OSError) -> None:
    raise error
