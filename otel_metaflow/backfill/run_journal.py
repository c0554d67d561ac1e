"""The journal of a run: what its launcher would have recorded, from what Metaflow stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.backfill import log_files, resource
from otel_metaflow.backfill.attempt_journals import raise_unwritten
from otel_metaflow.backfill.attempts import StoredAttempt
from otel_metaflow.backfill.stored_json import read_json
from otel_metaflow.core import secrets
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.journal.writer import Journal
from otel_metaflow.model.run import Run

_NANO = 1_000_000_000


class Exit(NamedTuple):
    """What Metaflow's launcher noted of how the process of an attempt ended."""

    code: int | None
    """None where there was no launcher."""
    is_killed: bool
    """Whether the launcher killed it."""

    @classmethod
    def read(cls, file: Path | None) -> Exit:
        """From the attempt's `N.runtime`, if there is one."""
        noted = read_json(file)
        code = noted.get("return_code")
        is_number = isinstance(code, int) and not isinstance(code, bool)
        return cls(code if is_number else None, noted.get("killed") is True)


class RunJournal:
    """Open for appending; what is appended of attempts is `known`, too."""

    def __init__(self, folder: Path, known: Run, mask: secrets.Mask) -> None:
        """Open it.

        Raises:
            OSError: it cannot be written.
        """
        self._known = known
        self._mask = mask
        self._journal = Journal(folder / layout.RUN_FILE, raise_unwritten)

    def close(self) -> None:
        """Close it, as far as it is made."""
        self._journal.close()

    def begin(
        self, key: RunKey, began: int, described: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], **more: Any
    ) -> None:
        """The run began at `began`, in nanoseconds since 1970: its resource is `described`, and these are its steps."""
        start = {
            "timeUnixNano": began,
            "version": layout.VERSION,
            "flow": key.flow,
            "run": key.run,
            "namespace": key.namespace,
            "backfilled": True,
            "resource": described,
        }
        self._journal.append(layout.START, {**start, **{name: value for name, value in more.items() if value}})
        for step in steps:
            self._journal.append(layout.STEP, {"timeUnixNano": began, **step})

    def add_clone(self, attempt: StoredAttempt, origin: StoredAttempt | None) -> None:
        """An attempt was cloned, from `origin` if that is known."""
        run, task = attempt.cloned_from or ("", "")
        record = {
            "timeUnixNano": attempt.launched,
            **attempt.key._asdict(),
            "originRun": run,
            "originTask": task,
            "originAttempt": origin.key.attempt if origin is not None else 0,
        }
        self._append(layout.CLONE, record)

    def add_process(
        self,
        attempt: StoredAttempt,
        inputs: Mapping[str, Iterable[str]] | None,
        exit_: Exit,
        ended: int,
        unwritten: Mapping[str, int],
        *,
        is_remote: bool,
        exported: Sequence[int] | None,
    ) -> None:
        """The process of an attempt was started, to read from the tasks `inputs` of each step, and has ended."""
        launch: dict[str, Any] = {"timeUnixNano": attempt.launched, **attempt.key._asdict()}
        if inputs is not None:
            launch["inputs"] = layout.grouped((step, task, 0) for step, tasks in inputs.items() for task in tasks)
        if is_remote:
            launch["remote"] = True
        if exported is not None:
            launch["exported"] = list(exported)
        end: dict[str, Any] = {"timeUnixNano": ended, **attempt.key._asdict(), "killed": exit_.is_killed}
        if exit_.code is not None:
            end["code"] = exit_.code
        if exit_.code == 0:
            end["ok"] = bool(attempt.is_ok)
        if unwritten:
            end["unwritten"] = dict(unwritten)
        self._append(layout.LAUNCH, launch)
        self._append(layout.EXIT, end)

    def add_line(self, key: RunKey, attempt: StoredAttempt, line: log_files.Line) -> None:
        """The launcher printed a line about an attempt."""
        at = line.at or attempt.seen
        moment = datetime.fromtimestamp(at / _NANO).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]  # noqa: DTZ006 - as Metaflow
        head = f"{moment} [{key.run}/{attempt.key.step}/{attempt.key.task}] "
        text = line.data.decode("utf-8", "replace").rstrip("\n")
        body = self._mask(text if resource.is_in_container(attempt) else head + text)
        self._journal.append(layout.LINE, {"timeUnixNano": at, "stream": line.stream, "body": body, "id": line.id})

    def end(self, at: int, result: str) -> None:
        """The run is over; of one that died there is only that."""
        if result != "error":
            self._append(layout.END, {"timeUnixNano": at, "result": result})
        self._append(layout.CLOSED, {"timeUnixNano": at})

    def _append(self, kind: str, record: dict[str, Any]) -> None:
        self._journal.append(kind, record)
        self._known.add(None, {"kind": kind, **record})
