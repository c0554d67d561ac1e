"""Isolates records that cannot be converted, so that all others are delivered.

Journals contain arbitrary telemetry of user code, and may be damaged. Any conversion error concerns only the one
record: a log record is then sent as a plain line; other records are dropped, counted by signal and listed in the
shipper's log and in dropped.log.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, TypeVar, Union

from otel_metaflow.core import names
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.journal.layout import DROPPED_LOG
from otel_metaflow.shipper.signal_worker import Unfit
from otel_metaflow.shipper.telemetry import Record

_Made = TypeVar("_Made")
# How many dropped records of a batch are listed.
_MAX_LISTED = 20


def converted(name: Union[str, Callable[[], str]], unfit: List[Unfit], *ways: Callable[[], _Made]) -> Optional[_Made]:
    """The result of the first of `ways` that does not raise; None if all do, after adding the record to `unfit`."""
    reason = ""
    for make in ways:
        try:
            return make()
        except Exception as error:  # noqa: BLE001, PERF203 - whatever it is, it concerns this record only
            reason = reason or f"{type(error).__name__}: {error}"[:300]
    unfit.append(Unfit(name() if callable(name) else name, reason))
    return None


def report(home: Path, run: RunKey, signal: str, unfit: Sequence[Unfit]) -> None:
    """List the records that were dropped."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    lines = [f"{signal}: dropped {_name(one.record)}, it cannot be converted ({one.reason})" for one in unfit]
    if len(lines) > _MAX_LISTED:
        lines[_MAX_LISTED:] = [f"{signal}: dropped {len(lines) - _MAX_LISTED} more that cannot be converted"]
    # The message of an exception may have several lines.
    lines = [" ".join(line.split()) for line in lines]
    print("\n".join(lines), file=sys.stderr, flush=True)  # noqa: T201 - shipper.log
    with contextlib.suppress(OSError), (home / DROPPED_LOG).open("a", encoding="utf-8", errors="replace") as log:
        log.writelines(f"{moment} {run} {line}\n" for line in lines)


def _name(record: Union[str, Record]) -> str:
    """The name of a record: as given by the converter, its unique id, or its own name."""
    if isinstance(record, str):
        return record
    data: Any = record.data
    return str(data.get("attributes", {}).get(names.LOG_RECORD_UID) or data.get("name"))
