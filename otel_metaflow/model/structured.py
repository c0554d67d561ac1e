"""A line that is one JSON object, as structlog and python-json-logger write them: told by its own fields.

Programs print rows of data as JSON, too. So a time dates a line only if that is when the line may have been
written, and a level counts only if the line does not bear another day's date; both stay attributes otherwise.
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
# Seconds, milliseconds, microseconds, nanoseconds since 1970: told apart by how large they are. The bounds are
# the years 1973 and 5138 in seconds.
_EARLIEST, _LATEST = 10**17, 10**20
_END = 1 << 63  # in nanoseconds, the year 2262: what a record's time can hold
_WRITTEN = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)? ?(Z|z|UTC|[+-]\d\d(?::?\d\d)?)?"
)
_COUNTED = re.compile(r"\d{9,19}(?:\.\d{1,9})?")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = 1_000_000_000
# Clocks differ, and lines wait in buffers: a time may lie so far from when the line was written, besides the time
# for which the run has been going on.
_SLACK = 60 * _SECOND
_DAY = 86_400 * _SECOND
# What programs have that did not set a time: Go's zero time, and Python's.
_UNSET = {0, -62_135_596_800 * _SECOND}


class Structured(NamedTuple):
    """The parts of such a line; None where it does not say."""

    body: str
    severity: Optional[int]
    severity_text: Optional[str]
    at: Optional[int]
    attributes: Dict[str, Any]


def parse(text: str, written: Optional[int] = None, since: Optional[int] = None) -> Optional[Structured]:
    """The parts of `text`, or None where it is not one JSON object with a message.

    `written` is when the line was, `since` when its run began, in nanoseconds since 1970; without the first, any
    time that a record can hold is taken.
    """
    found = message(text)
    if found is None:
        return None
    body, fields = found
    at, is_elsewhere = _time(fields, written, _DAY if written is None or since is None else written - since + _SLACK)
    severity, severity_text = (None, None) if is_elsewhere else _severity(fields)
    return Structured(body, severity, severity_text, at, fields)


def message(text: str) -> Optional[Tuple[str, Dict[str, Any]]]:
    """The message of `text` and its other fields, all of them; None where it is not one JSON object with a message."""
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
    """Take out the level, where it is one that we know."""
    for name in _LEVELS:
        said = fields.get(name)
        known = _SEVERITIES.get(said.lower()) if isinstance(said, str) else None
        if known is not None:
            del fields[name]
            return known, str(said)
    return None, None


def _time(fields: Dict[str, Any], written: Optional[int], reach: int) -> Tuple[Optional[int], bool]:
    """Take out the time, in nanoseconds since 1970, where it may be that of the line; else whether it is another's."""
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


def _moments(name: str, said: Any) -> List[int]:
    """The time that a field tells, in nanoseconds since 1970; two where it may be UTC or local, none if it is none."""
    if isinstance(said, str):
        written = _WRITTEN.fullmatch(said)
        if written is not None:
            return _written(written.groups(), is_local=name == _LOCAL)
        if _COUNTED.fullmatch(said) is None:
            return []
        said = float(said) if "." in said else int(said)
    if isinstance(said, bool) or not isinstance(said, (int, float)):
        return []
    if said == 0:
        return [0]
    # The largest unit in which it lies between those years: 1.8e9 are seconds, 1.8e12 milliseconds.
    for unit in (10**9, 10**6, 10**3, 1):
        if _EARLIEST <= said * unit < _LATEST:
            return [int(said * unit)]
    return []


def _written(parts: Tuple[Any, ...], *, is_local: bool) -> List[int]:
    *numbers, fraction, zone = parts
    more = int((fraction or "").ljust(9, "0"))
    try:
        moment = datetime(*(int(number or 0) for number in numbers))  # type: ignore[arg-type]  # noqa: DTZ001 - below
        if zone is not None:
            return [_since_1970(moment, _offset(zone)) + more]
        local = moment.astimezone().utcoffset() or timedelta()
        # Without a zone it is what the loggers' own default is: UTC for structlog's ISO times.
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
