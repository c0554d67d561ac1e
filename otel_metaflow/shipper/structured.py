"""A line that is one JSON object, as structlog and python-json-logger write them: told by its own fields."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from typing import Any, Dict, NamedTuple, Optional, Tuple

from opentelemetry._logs import SeverityNumber

_MESSAGES = ("message", "event", "msg")
_LEVELS = ("level", "levelname", "severity", "log_level")
_TIMES = ("timestamp", "time", "ts", "@timestamp", "asctime")
_SEVERITIES: Dict[str, SeverityNumber] = {
    "trace": SeverityNumber.TRACE,
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "notice": SeverityNumber.INFO2,
    "warn": SeverityNumber.WARN,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "exception": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
    "fatal": SeverityNumber.FATAL,
}
# Seconds, milliseconds, microseconds, nanoseconds since 1970: told apart by how large they are. The bounds are
# the years 1973 and 5138 in seconds.
_EARLIEST, _LATEST = 10**8, 10**11


class Structured(NamedTuple):
    """The parts of such a line; None where it does not say."""

    body: str
    severity: Optional[SeverityNumber]
    severity_text: Optional[str]
    at: Optional[int]
    attributes: Dict[str, Any]


def parse(text: str) -> Optional[Structured]:
    """The parts of `text`, or None where it is not one JSON object with a message."""
    if not text.startswith("{") or not text.rstrip().endswith("}"):
        return None
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name = next((name for name in _MESSAGES if isinstance(fields.get(name), str)), None)
    if name is None:
        return None
    body = fields.pop(name)
    severity, severity_text = _severity(fields)
    at = _time(fields)
    return Structured(
        body, severity, severity_text, at, {key: value for key, value in fields.items() if value is not None}
    )


def _severity(fields: Dict[str, Any]) -> Tuple[Optional[SeverityNumber], Optional[str]]:
    """Take out the level, where it is one that we know."""
    for name in _LEVELS:
        said = fields.get(name)
        known = _SEVERITIES.get(said.lower()) if isinstance(said, str) else None
        if known is not None:
            del fields[name]
            return known, str(said)
    return None, None


def _time(fields: Dict[str, Any]) -> Optional[int]:
    """Take out the time, in nanoseconds since 1970, where it can be read."""
    for name in _TIMES:
        at = _nanoseconds(fields.get(name))
        if at is not None:
            del fields[name]
            return at
    return None


def _nanoseconds(said: Any) -> Optional[int]:
    if isinstance(said, str):
        try:
            moment = datetime.fromisoformat(said.replace("Z", "+00:00"))
        except ValueError:
            return None
        # Without a zone it is what the loggers' own default is: UTC for structlog's ISO times.
        aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return int(aware.timestamp() * 1e6) * 1000
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not math.isfinite(said):
        return None
    # The largest unit in which it lies between those years: 1.8e9 are seconds, 1.8e12 milliseconds.
    for unit in (10**9, 10**6, 10**3, 1):
        if _EARLIEST <= said * unit / 10**9 < _LATEST:
            return int(said * unit)
    return None
