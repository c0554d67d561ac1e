"""The schema of the journal's records, which readers apply to everything that they read.

A journal may be of another version, damaged or tampered with. Only here, a field of a wrong type is removed or
converted, and a record without a required field is rejected; all other code relies on the fields being as described in
docs/journal.md. Attributes, bodies, spans and metrics of user code are checked where they are converted.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Optional, Sequence

from otel_metaflow.core import otlp_values
from otel_metaflow.journal import layout

Record = Dict[str, Any]
_Check = Callable[[Any], Any]
# Times are fixed64 in OTLP, but int64 in most back ends: until the year 2262.
_MAX_TIME = (1 << 63) - 1
_MAX_INTEGER = 1 << 53  # exact in a double, and sums of many fit int64
_MAX_NUMBER = (1 << 31) - 1  # of an attempt, or of a process (proc(5), pid_max)
_MAX_INPUTS = 1 << 20  # of a task
_ATTEMPT = re.compile("[0-9]{1,9}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


# The result of a check for an invalid value.
_WRONG: Any = object()


def _int_between(minimum: int, maximum: int) -> _Check:
    return lambda value: value if value.__class__ is int and minimum <= value <= maximum else _WRONG


_time = _int_between(0, _MAX_TIME)
_integer = _int_between(-_MAX_INTEGER, _MAX_INTEGER)
_count = _int_between(0, _MAX_INTEGER)
_number = _int_between(0, _MAX_NUMBER)
_pid = _int_between(1, _MAX_NUMBER)  # for kill(2), 0 and negative numbers are process groups


def _amount(value: Any) -> Any:
    return value if value.__class__ is float and 0 <= value <= _MAX_INTEGER else _count(value)


def _flag(value: Any) -> Any:
    return value if value.__class__ is bool else _WRONG


def _string(value: Any) -> Any:
    return value if value.__class__ is str else _WRONG


def _name(value: Any) -> Any:
    """The name of a step, a task or a run, which may also be a number."""
    return str(value) if _integer(value) is not _WRONG else _string(value)


def _text(value: Any) -> Any:
    """Output, which can be any value."""
    return value if value.__class__ is str else _WRONG if value is None else otlp_values.text(value)


def _traceparent(value: Any) -> Any:
    return value if value.__class__ is str and _TRACEPARENT.fullmatch(value) else _WRONG


def _map(value: Any) -> Any:
    return value if value.__class__ is dict else _WRONG


def _map_of(check: _Check) -> _Check:
    return lambda value: _checked(value, dict.fromkeys(value, check)) if value.__class__ is dict else _WRONG


def _list_of(check: _Check) -> _Check:
    def items(value: Any) -> Any:
        if value.__class__ is not list:
            return _WRONG
        return [found for found in map(check, value) if found is not _WRONG]

    return items


def _tuple_of(*checks: _Check) -> _Check:
    def items(value: Any) -> Any:
        if value.__class__ is not list or len(value) != len(checks):
            return _WRONG
        found = [check(item) for check, item in zip(checks, value)]  # noqa: B905 - Python 3.8
        return _WRONG if _WRONG in found else found

    return items


def _inputs(value: Any) -> Any:
    """What a task reads from (layout.py), but no more than a run can have: a damaged pair may stand for any number."""
    left = _MAX_INPUTS

    def item(value: Any) -> Any:
        nonlocal left
        if value.__class__ is list:
            found = _pair(value)
            if found is _WRONG or not 0 <= found[1] - found[0] < left:
                return _WRONG
            left -= found[1] - found[0]
            return found
        found = _name(value)
        number = "" if found is _WRONG else found.partition("/")[2]
        return _WRONG if number and not _ATTEMPT.fullmatch(number) else found

    return _map_of(_list_of(item))(value)


def _optional(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


_pair = _tuple_of(_count, _count)
_PROCESS: Dict[str, _Check] = {"pid": _pid, "processStart": _count}
_IDENTITY: Dict[str, _Check] = {"step": _name, "task": _name, "attempt": _number}
_EXCEPTION = _map_of(_text)
_LINE: Dict[str, _Check] = {
    "stream": _string,
    "body": _text,
    "length": _count,
    "pid": _pid,
    "covered": _flag,
    "id": _string,
}
_OUTPUT: Dict[str, _Check] = {"timeUnixNano": _time, "stream": _string, "body": _text, "length": _count}


def _output(value: Any) -> Any:
    """The line that a logging handler wrote for a record."""
    found = _checked(value, _OUTPUT) if value.__class__ is dict else {}
    return found if "timeUnixNano" in found and "stream" in found and "body" in found else _WRONG


_FIELDS: Dict[str, Dict[str, _Check]] = {
    layout.START: {
        **_PROCESS,
        **_IDENTITY,
        "flow": _name,
        "run": _name,
        "namespace": _string,
        "resource": _map,
        "traceparent": _traceparent,
        "orchestratorTraceparent": _traceparent,
        "origin": _name,
        "triggers": _list_of(_string),
        "logs": _list_of(_string),
        "attributes": _map,
        "stepType": _string,
        "inputs": _inputs,
        "foreach": _list_of(_tuple_of(_integer, _optional(_integer))),
        "foreachValue": _text,
        "processStartTimeUnixNano": _time,
        "containerStartTimeUnixNano": _time,
        "maxUserCodeRetries": _count,
        "within": _string,
        "processSpace": _string,
        "witness": _map_of(_count),
        "backfilled": _flag,
        "partial": _flag,
        "again": _string,
    },
    layout.STEP: {
        "step": _name,
        "type": _string,
        "parallel": _flag,
        "next": _list_of(_name),
        "file": _string,
        "line": _count,
        "requested": _map_of(_amount),
        "recorded": _flag,
    },
    layout.CLONE: {**_IDENTITY, "originRun": _name, "originTask": _name, "originAttempt": _number},
    layout.LAUNCH: {**_IDENTITY, **_PROCESS, "inputs": _inputs, "remote": _flag},
    layout.EXIT: {
        **_IDENTITY,
        "code": _integer,
        "ok": _flag,
        "killed": _flag,
        "unwritten": _map_of(_count),
        "outOfMemory": _flag,
    },
    layout.LINE: _LINE,
    layout.LOG: {
        "severityNumber": _integer,
        "severityText": _string,
        "logger": _string,
        "body": _text,
        "length": _count,
        "thread": _string,
        "file": _string,
        "line": _integer,
        "function": _string,
        "attributes": _map,
        "exception": _EXCEPTION,
        "forwarded": _flag,
        "output": _output,
        "pid": _pid,
    },
    layout.RECORD: {
        "observedTimeUnixNano": _time,
        "severityText": _string,
        "eventName": _string,
        "attributes": _map,
        "scope": _map,
        "pid": _pid,
    },
    layout.END: {
        "result": _string,
        "exception": _EXCEPTION,
        "codeStart": _time,
        "codeEnd": _time,
        "parallel": _tuple_of(_integer, _integer),
        "artifacts": _map_of(_count),
        "caught": _flag,
        "usage": _map_of(_amount),
        "unwritten": _map_of(_count),
    },
}
_REQUIRED: Dict[str, Sequence[str]] = {
    layout.STEP: ("step",),
    layout.CLONE: ("step", "task", "attempt", "originRun", "originTask", "originAttempt"),
    layout.LAUNCH: ("step", "task", "attempt"),
    layout.EXIT: ("step", "task", "attempt"),
}


def check(record: Any) -> Optional[Record]:
    """`record` with its fields checked, or None if it is not a record; unknown fields are kept.

    An impossible time becomes 0, which means unknown in OTLP.
    """
    if record.__class__ is not dict or record.get("kind").__class__ is not str:
        return None
    at = record.get("timeUnixNano")
    if at.__class__ is not int:
        return None
    if not 0 <= at <= _MAX_TIME:
        record["timeUnixNano"] = 0
    kind = record["kind"]
    fields = _FIELDS.get(kind)
    found: Record = record if fields is None else _checked(record, fields)
    return found if kind not in _REQUIRED or all(name in found for name in _REQUIRED[kind]) else None


def _checked(record: Record, fields: Dict[str, _Check]) -> Record:
    """`record` with `fields` checked; those that are invalid are removed."""
    wrong: List[str] = []
    for name, value in record.items():
        check_field = fields.get(name)
        if check_field is None:
            continue
        found = check_field(value)
        if found is _WRONG:
            wrong.append(name)
        elif found is not value:
            record[name] = found
    for name in wrong:
        del record[name]
    return record
