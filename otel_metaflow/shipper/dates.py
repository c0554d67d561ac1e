"""Sends a run as if it had just ended, for back ends that take nothing old.

All its times are moved by the same amount, which is decided once and kept in the run's folder: an export that is
interrupted goes on with it. Each span and log record says when it really was.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Sequence

from otel_metaflow.core import names
from otel_metaflow.shipper.sinks.answers import Answer, Exporter
from otel_metaflow.shipper.telemetry import Record

_FILE = "date-now"
_TIMES = ("timeUnixNano", "startTimeUnixNano", "endTimeUnixNano")
_KINDS = ("gauge", "sum", "histogram", "exponentialHistogram")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def shift(folder: Path, ended_at: int) -> int:
    """By how many nanoseconds to move the times of the run in `folder`, which ended at `ended_at`, for it to end now.

    Raises:
        OSError: that cannot be written.
    """
    file = folder / _FILE
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        moved = max(0, time.time_ns() - ended_at)
        file.write_text(str(moved))
        return moved


class Dated:
    """Sends records with other times."""

    def __init__(self, export: Exporter, moved: int) -> None:
        self._export = export
        self._moved = moved

    def __call__(self, records: Sequence[Record]) -> Answer:
        """Send `records`, which stay as they are, since they may have to be sent again."""
        return self._export([Record(each.resource, each.scope, self._moved_data(each.data)) for each in records])

    def _moved_data(self, data: Any) -> Any:
        made = self._moved_times(data)
        if "attributes" in data:
            at = data.get("startTimeUnixNano") or data.get("timeUnixNano") or 0
            made["attributes"] = {**data["attributes"], names.ORIGINAL_TIME: _text(at)}
        if "events" in data:
            made["events"] = self._moved_list(data["events"])
        for kind in _KINDS:
            if kind in data:
                made[kind] = {**data[kind], "dataPoints": self._moved_list(data[kind].get("dataPoints") or [])}
        return made

    def _moved_list(self, items: List[Any]) -> List[Dict[str, Any]]:
        return [self._moved_times(each) for each in items]

    def _moved_times(self, data: Any) -> Dict[str, Any]:
        made: Dict[str, Any] = dict(data)
        made.update({name: data[name] + self._moved for name in _TIMES if data.get(name)})
        if "exemplars" in data:
            made["exemplars"] = self._moved_list(data["exemplars"])
        return made


def _text(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at // 1_000)).isoformat()
