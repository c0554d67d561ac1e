"""Parses lines that are JSON objects, as structlog and python-json-logger write them, into body, severity and time.

Programs also print rows of data as JSON. So a time is used only if the line may have been written then, and a level
only if the line is not dated to another day; otherwise both remain attributes.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from otel_metaflow.core import otlp_values

_MESSAGES = ("message", "event", "msg")
_LEVELS = ("level", "levelname", "severity", "log_level")
_TIMES = ("timestamp", "time", "ts", "@timestamp", "asctime")
_LOCAL = "asctime"  # logging's own, which is local time
# SeverityNumber of OTLP, https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber
_TRACE, _DEBUG, _INFO, _INFO2, _WARN, _ERROR, _FATAL = 1, 5, 9, 10, 13, 17, 21
_SEVERITIES: Dict[str, int] = {
    "trace": _TRACE,
    "debug": _DEBUG,
    "info": _INFO,
    "notice": _INFO2,
    "warn": _WARN,
    "warning": _WARN,
    "error": _ERROR,
    "exception": _ERROR,
    "critical": _FATAL,
    "fatal": _FATAL,
}
# Seconds, milliseconds, microseconds or nanoseconds since 1970, distinguished by size. The bounds are the years 1973
# and 5138 in seconds.
_EARLIEST, _LATEST = 10**17, 10**20
_END = 1 << 63  # in nanoseconds, the year 2262: the limit of a record's time
_WRITTEN = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)? ?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?"
)
_COUNTED = re.compile(r"\d{9,19}(?:\.\d{1,9})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = 1_000_000_000
# Clocks differ and lines are buffered: a time may differ from that of writing by this much plus the run's duration.
_SLACK = 60 * _SECOND
_DAY = 86_400 * _SECOND
# The zero times of Python and Go, in programs that did not set a time.
_UNSET = {0, -62_135_596_800 * _SECOND}


class Structured(NamedTuple):
    """The parts of such a line; None for those that it does not have."""

    body: str
    severity: Optional[int]
    severity_text: Optional[str]
    at: Optional[int]
    attributes: Dict[str, Any]


def parse(text: str, written: Optional[int] = None, since: Optional[int] = None) -> Optional[Structured]:
    """The parts of `text`, or None if it is not a JSON object with a message.

    `written` is when the line was written and `since` when its run began, in nanoseconds since 1970; without the
    former, any time that a record can have is accepted.
    """
    found = message(text)
    if found is None:
        return None
    body, fields = found
    at, is_elsewhere = _time(fields, written, _DAY if written is None or since is None else written - since + _SLACK)
    severity, severity_text = (None, None) if is_elsewhere else _severity(fields)
    return Structured(body, severity, severity_text, at, fields)


def message(text: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    """The message of `text` and all its other fields; None if it is not a JSON object with a message."""
    if not text.startswith("{") or not text.rstrip().endswith("}"):
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = next((name for name in _MESSAGES if isinstance(fields.get(name), str)), None)
    if name is None:
        return None
    body = otlp_values.whole(fields.pop(name))
    return body, {key: value for key, value in fields.items() if value is not None}


def _severity(fields: Dict[str, Any]) -> Tuple[Optional[int], Optional[str]]:
    """Remove and return the level, if it is a known one."""
    for name in _LEVELS:
        level = fields.get(name)
        known = _SEVERITIES.get(level.lower()) if isinstance(level, str) else None
        if known is not None:
            del fields[name]
            return known, str(level)
    return None, None


def _time(fields: Dict[str, Any], written: Optional[int], reach: int) -> Tuple[Optional[int], bool]:
    """Remove and return the time, if it may be that of the line, and whether the line is dated to another time."""
    is_elsewhere = False
    for name in _TIMES:
        moments = _moments(name, fields.get(name))
        if not moments:
            continue
        at = moments[0] if written is None else min(moments, key=lambda moment: abs(moment - written))
        if 0 < at < _END and (written is None or abs(at - written) <= reach):
            del fields[name]
            return at, False
        is_elsewhere = is_elsewhere or at not in _UNSET
    return None, is_elsewhere


def _moments(name: str, value: Any) -> List[int]:
    """The time in a field, in nanoseconds since 1970; two if it may be UTC or local time, none if it is not a time."""
    if isinstance(value, str):
        written = _WRITTEN.fullmatch(value)
        if written is not None:
            return _written(written.groups(), is_local=name == _LOCAL)
        if _COUNTED.fullmatch(value) is None:
            return []
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    if value == 0:
        return [0]
    # The largest unit with which it is between those years: 1.8e9 is in seconds, 1.8e12 in milliseconds.
    for unit in (10**9, 10**6, 10**3, 1):
        if _EARLIEST <= value * unit < _LATEST:
            return [int(value * unit)]
    return []


def _written(parts: Tuple[Any, ...], *, is_local: bool) -> List[int]:
    *numbers, fraction, zone = parts
    more = int((fraction or "").ljust(9, "0"))
    try:
        moment = datetime(*(int(number or 0) for number in numbers))  # type: ignore[arg-type]  # noqa: DTZ001 - below
        if zone is not None:
            return [_since_1970(moment, _offset(zone)) + more]
        local = moment.astimezone().utcoffset() or timedelta()
        # Without a zone it may be the logger's default: UTC for structlog's ISO times.
        return [_since_1970(moment, offset) + more for offset in ((local,) if is_local else (timedelta(), local))]
    except (ValueError, OverflowError, OSError):
        return []


def _since_1970(moment: datetime, offset: timedelta) -> int:
    return (moment.replace(tzinfo=timezone.utc) - _EPOCH - offset) // timedelta(seconds=1) * _SECOND


def _offset(zone: str) -> timedelta:
    if zone[0] not in "+-":
        return timedelta()
    size = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
    return -size if zone[0] == "-" else size
