"""Keeps a record that cannot be converted out of the way of all others.

Journals hold what user code says, and damage. Whatever a conversion raises is about the one record that it was given:
a log record then goes as a plain line, and what cannot go at all is given up, counted by signal and named in the
shipper's log and in given-up.log.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, TypeVar, Union

from otel_metaflow.core import names
from otel_metaflow.journal.layout import GIVEN_UP, RunKey
from otel_metaflow.shipper.signal_worker import Unfit
from otel_metaflow.shipper.telemetry import Record

_Made = TypeVar("_Made")
# So many are named of what is given up at once: of a thousand alike the first tell enough.
_MOST_NAMED = 20


def converted(name: str, unfit: List[Unfit], *ways: Callable[[], _Made]) -> Optional[_Made]:
    """What the first of `ways` makes that raises nothing; None if each does, which is noted in `unfit`."""
    reason = ""
    for make in ways:
        try:
            return make()
        except Exception as error:  # noqa: BLE001, PERF203 - of whatever kind, it is about this record
            reason = reason or f"{type(error).__name__}: {error}"[:300]
    unfit.append(Unfit(name, reason))
    return None


def report(home: Path, run: RunKey, signal: str, unfit: Sequence[Unfit]) -> None:
    """Name what was given up, for people to find."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    lines = [f"{signal}: gave up {_name(one.record)}, it cannot be converted ({one.reason})" for one in unfit]
    if len(lines) > _MOST_NAMED:
        lines[_MOST_NAMED:] = [f"{signal}: gave up {len(lines) - _MOST_NAMED} more that cannot be converted"]
    # On one line each, whatever an exception has to say.
    lines = [" ".join(line.split()) for line in lines]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - shipper.log
    with contextlib.suppress(OSError), (home / GIVEN_UP).open("a", encoding="utf-8", errors="replace") as log:
        log.writelines(f"{moment} {run} {line}\n" for line in lines)


def _name(record: Union[str, Record]) -> str:
    """What a record is called: by who made it, by its unique name, or by its own."""
    if isinstance(record, str):
        return record
    data: Any = record.data
    return str(data.get("attributes", {}).get(names.LOG_RECORD_UID) or data.get("name"))
