"""Converts values of attributes and bodies to values that OTLP can carry.

Python's JSON has integers of any size, NaN, infinity, lone surrogates and any depth. OTLP's AnyValue has int64, valid
Unicode strings, and messages nested at most a hundred levels deep (protobuf's default recursion limit); the JSON that
back ends parse has neither NaN nor infinity (RFC 8259). The SDK's encoders silently drop an attribute that they cannot
encode, and fail on such a body.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, Iterator, List, Mapping, Tuple

# Levels of lists and maps in one value. A nested map takes three messages of OTLP (AnyValue, KeyValueList, KeyValue),
# and up to ten enclose an attribute: 24 levels stay below 100 messages, with room for services that wrap them again.
MAX_DEPTH = 24
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_SURROGATE = re.compile("[\ud800-\udfff]")
# `str` of an integer takes quadratic time, and Python raises beyond 4,300 digits (sys.set_int_max_str_digits).
_MAX_DECIMAL_BITS = 4_096


def fit(value: Any) -> Any:
    """`value` as OTLP can carry it: null, boolean, int64, finite double, string, list or map.

    Other integers become decimal strings, as the specification requires; NaN and infinity become the strings "NaN",
    "Infinity" and "-Infinity", as in protobuf's JSON; values nested deeper than MAX_DEPTH become their JSON text.
    Never raises, and takes linear time.
    """
    return _fit(value, MAX_DEPTH)


def attributes(given: Mapping[Any, Any]) -> Dict[str, Any]:
    """The attributes with each value converted, without those that have an empty name."""
    return {name: _fit(value, MAX_DEPTH) for name, value in _named(given) if name}


def text(value: Any) -> str:
    """`value` as text: a string as it is, anything else as JSON."""
    return whole(value) if isinstance(value, str) else "".join(_json(value))


def whole(value: str) -> str:
    """`value` with U+FFFD for each lone surrogate, such as os.fsdecode produces for bytes that are not UTF-8."""
    # Nearly every string is ASCII, which Python knows without scanning it.
    return value if value.isascii() else _SURROGATE.sub("\ufffd", value)


def _fit(value: Any, depth: int) -> Any:
    kind = value.__class__
    if kind is str:
        return whole(value)
    if kind is bool or value is None:
        return value
    if isinstance(value, (Mapping, list, tuple)):
        if not depth:
            return text(value)
        if isinstance(value, Mapping):
            return {name: _fit(item, depth - 1) for name, item in _named(value)}
        return [_fit(item, depth - 1) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """A value that is neither a list nor a map nor a plain string."""
    if isinstance(value, int):
        return int(value) if _INT64_MIN <= value <= _INT64_MAX else _decimal(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    try:
        return whole(str(value))
    except Exception:  # noqa: BLE001 - raised by the object's own __str__; only its type is known
        return f"<{type(value).__name__}>"


def _named(given: Mapping[Any, Any]) -> Iterator[Tuple[str, Any]]:
    for name, value in given.items():
        yield whole(name) if name.__class__ is str else text(name), value


def _decimal(value: int) -> str:
    return str(value) if value.bit_length() <= _MAX_DECIMAL_BITS else hex(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _json(value: Any) -> Iterator[str]:
    """The JSON of `value` in pieces, without recursion: `json.dumps` fails beyond about a thousand levels."""
    stack: List[Tuple[Iterator[Any], bool, str]] = []
    yield from _begun(value, stack)
    while stack:
        items, is_map, separator = stack[-1]
        item: Any = next(items, _END)
        if item is _END:
            stack.pop()
            yield "}" if is_map else "]"
            continue
        stack[-1] = (items, is_map, ",")
        yield separator
        if is_map:
            name, item = item
            yield json.dumps(name, ensure_ascii=False) + ":"
        yield from _begun(item, stack)


_END = object()


def _begun(value: Any, stack: List[Tuple[Iterator[Any], bool, str]]) -> Iterator[str]:
    if isinstance(value, Mapping):
        stack.append((_named(value), True, ""))
        yield "{"
    elif isinstance(value, (list, tuple)):
        stack.append((iter(value), False, ""))
        yield "["
    else:
        fitting = value if value is None or isinstance(value, bool) else _fit(value, 0)
        yield json.dumps(fitting, ensure_ascii=False)
