"""What OTLP can carry of any value that JSON can hold: the one place where attributes and bodies are made fit.

JSON knows integers of any size, NaN, infinity, half characters and any depth. OTLP's AnyValue has int64, strings of
Unicode, and messages that decoders follow a hundred deep (protobuf's default limit on recursion); JSON itself has
neither NaN nor infinity (RFC 8259), which back ends parse. The SDK's encoders drop an attribute that they cannot
encode without a word, and fail on such a body.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, Iterator, List, Mapping, Tuple

# Levels of lists and maps in one value. A map in a map is three messages of OTLP (AnyValue, KeyValueList, KeyValue),
# and up to ten stand around an attribute: 24 levels stay below 100 messages with room for those who wrap them again.
DEEPEST = 24
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_SURROGATE = re.compile("[\ud800-\udfff]")
# `str` of an integer takes quadratic time, and Python refuses it beyond 4,300 digits (sys.set_int_max_str_digits).
_LONGEST_INTEGER = 4_096  # bits


def fit(value: Any) -> Any:
    """`value` as OTLP can carry it: null, boolean, int64, finite double, string, list or map.

    Other integers become decimal strings, as the specification has it; NaN and infinity become the strings "NaN",
    "Infinity" and "-Infinity", which are their names in protobuf's JSON; what lies deeper than DEEPEST levels becomes
    the text of its JSON. Never raises, and takes time in proportion to the size of the value.
    """
    return _fit(value, DEEPEST)


def attributes(given: Mapping[Any, Any]) -> Dict[str, Any]:
    """The attributes with each value made fit, and without those that have no name."""
    return {name: _fit(value, DEEPEST) for name, value in _named(given) if name}


def text(value: Any) -> str:
    """`value` as a text: a string as it is, anything else as its JSON."""
    return whole(value) if isinstance(value, str) else "".join(_json(value))


def whole(value: str) -> str:
    """`value` with U+FFFD for each half of a character, such as os.fsdecode makes of bytes that are no UTF-8."""
    # Nearly every string is ASCII, which Python knows of each without a look at its characters.
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
    """What is neither a list nor a map, nor plainly a string."""
    if isinstance(value, int):
        return int(value) if _LEAST <= value <= _MOST else _decimal(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    try:
        return whole(str(value))
    except Exception:  # noqa: BLE001 - an object's own __str__; its kind is all that can be told of it
        return f"<{type(value).__name__}>"


def _named(given: Mapping[Any, Any]) -> Iterator[Tuple[str, Any]]:
    for name, value in given.items():
        yield whole(name) if name.__class__ is str else text(name), value


def _decimal(value: int) -> str:
    return str(value) if value.bit_length() <= _LONGEST_INTEGER else hex(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _json(value: Any) -> Iterator[str]:
    """The JSON of `value` in pieces, made without recursion: `json.dumps` follows no more than a thousand levels."""
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
