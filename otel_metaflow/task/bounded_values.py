"""Converts values of user code to JSON values, limited in number and bytes, whatever they are and refer to.

No user code runs for that: a `__str__` may print, query a database or take a minute, and without telemetry it would not
have been called. Objects of Python and its standard library are shown by their own code; of others only the type is.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Callable, Dict, Iterable, Optional, Set, Tuple

from otel_metaflow.core.guard import let_pass
from otel_metaflow.journal.writer import dumps, quoted

MAX_ITEMS = 256
MAX_BYTES = 65_536  # of JSON
_MAX_DEPTH = 16
_INT64 = 1 << 63
_SLACK = 4_096  # characters beyond the limit, so that a secret that would be cut by it is masked
_SEQUENCES = (list, tuple, set, frozenset, deque)
_PLAIN = (str, int, float, bytes, type(None))


def plain(given: Iterable[Tuple[Any, Any]], mask: Callable[[str], str]) -> Tuple[Dict[str, Any], int]:
    """The named values as JSON values, and the number of places where they were truncated."""
    walk = _Walk(mask)
    return walk.map(iter(given), "", 0), walk.truncated


class _Walk:
    """One traversal of values that may refer to each other, and to themselves."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        self.truncated = 0
        self._mask = mask
        self._items = MAX_ITEMS
        self._bytes = MAX_BYTES
        self._paths: Dict[int, str] = {}  # where each container was found first
        self._open: Set[int] = set()

    def map(self, items: Iterable[Tuple[Any, Any]], path: str, depth: int) -> Dict[str, Any]:
        """Convert pairs (name, value)."""
        found: Dict[str, Any] = {}
        for name, value in islice(items, self._items + 1):
            if not self._has_room():
                break
            key = self._name(name)
            found[key] = self._safe(value, f"{path}.{key}" if path else key, depth)
        return found

    def _list(self, items: Iterable[Any], path: str, depth: int) -> Any:
        found = []
        for index, item in enumerate(islice(items, self._items + 1)):
            if not self._has_room():
                break
            found.append(self._safe(item, f"{path}[{index}]", depth))
        return found

    def _has_room(self) -> bool:
        if self._items <= 0 or self._bytes <= 0:
            self.truncated += 1
            return False
        self._items -= 1
        self._bytes -= 8  # punctuation, a number
        return True

    def _safe(self, value: Any, path: str, depth: int) -> Any:
        try:
            return self._value(value, path, depth)
        except Exception as odd:  # noqa: BLE001 - a dictionary changed by another thread, an odd metaclass
            let_pass(odd)
            self.truncated += 1
            return "<unreadable>"

    def _value(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if issubclass(kind, str):
            return self._text(value if kind is str else str.__str__(value))
        if issubclass(kind, (int, float)):
            return self._integer(int.__int__(value)) if issubclass(kind, int) else float.__float__(value)
        if issubclass(kind, dict):
            return self._within(value, path, depth, lambda: self.map(dict.items(value), path, depth + 1))
        base: Any = next((sequence for sequence in _SEQUENCES if issubclass(kind, sequence)), None)
        if base is not None:
            return self._within(value, path, depth, lambda: self._list(base.__iter__(value), path, depth + 1))
        return self._other(value, kind, path, depth)

    def _within(self, value: Any, path: str, depth: int, look: Callable[[], Any]) -> Any:
        """The result of `look` for a container, if it is found for the first time."""
        at = id(value)
        before = self._paths.get(at)
        if before is not None:
            self.truncated += 1
            return f"<cycle {before}>" if at in self._open else f"<see {before}>"
        if depth >= _MAX_DEPTH:
            self.truncated += 1
            return _named(type(value))
        self._paths[at] = path[:256]
        self._open.add(at)
        try:
            return look()
        finally:
            self._open.discard(at)

    def _other(self, value: Any, kind: type, path: str, depth: int) -> Any:
        if kind.__module__.partition(".")[0] == "numpy":
            return self._array(value, kind, path, depth)
        fields = _fields(value, kind)
        if fields is not None:
            return self._within(value, path, depth, lambda: self.map(fields.items(), path, depth + 1))
        text = _shown(value, kind)
        return self._text(_named(kind) if text is None else text)

    def _array(self, value: Any, kind: type, path: str, depth: int) -> Any:
        if kind.__name__ == "ndarray":
            if value.size > MAX_ITEMS // 2:
                self.truncated += 1
                return f"<numpy.ndarray {value.shape}>"
            return self._safe(value.tolist(), path, depth)
        item = value.item() if hasattr(kind, "item") else None
        return self._text(_named(kind)) if type(item) is kind or item is None else self._value(item, path, depth)

    def _integer(self, number: int) -> Any:
        if -_INT64 <= number < _INT64:
            return number
        if number.bit_length() <= MAX_ITEMS:
            return str(number)
        self.truncated += 1
        return f"<int of {number.bit_length()} bits>"

    def _name(self, name: Any) -> str:
        kind = type(name)
        if issubclass(kind, str):
            return self._text(str.__str__(name))
        return self._text(repr(name) if kind in (int, float, bool, type(None), bytes) else _named(kind))

    def _text(self, text: str) -> str:
        masked = self._mask(text[: self._bytes + _SLACK])
        size = len(quoted(masked[: self._bytes + 1]))
        if size > self._bytes:
            self.truncated += 1
            masked = masked[: max(self._bytes - 2, 0)]
            while len(quoted(masked)) > self._bytes and masked:
                masked = masked[: len(masked) // 2]
            size = self._bytes
        self._bytes -= size
        return masked


def _named(kind: type) -> str:
    return f"<{kind.__module__}.{kind.__qualname__}>"


def _fields(value: Any, kind: type) -> Optional[Dict[str, Any]]:
    """The fields of a dataclass."""
    if not any("__dataclass_fields__" in one.__dict__ for one in kind.__mro__):
        return None
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]  # it has them
    held = object.__getattribute__(value, "__dict__")
    return {name: held[name] for name in names if name in held}


def _shown(value: Any, kind: type) -> Optional[str]:
    """The text of a value, if that is certain not to run user code."""
    for one in kind.__mro__:
        show = _SHOWN.get((one.__module__.partition(".")[0], one.__name__))
        if show is not None:
            return show(value, one)
        if "__str__" in one.__dict__ and one.__module__ != "builtins":
            return None
    return None


def _by_class(value: Any, kind: Any) -> Optional[str]:
    return str(kind.__str__(value))


def _exception(value: Any, kind: Any) -> Optional[str]:
    arguments = kind.args.__get__(value)
    # It is a class of Python's own, since classes with their own __str__ are not shown.
    owner: Any = next(one for one in type(value).__mro__ if "__str__" in one.__dict__)
    return str(owner.__str__(value)) if all(type(each) in _PLAIN for each in arguments) else None


def _member(value: Any, kind: Any) -> Optional[str]:  # noqa: ARG001 - as the others
    return f"{type(value).__name__}.{object.__getattribute__(value, '_name_')}"


def _bytes(value: Any, kind: Any) -> Optional[str]:  # noqa: ARG001 - as the others
    return repr(bytes(memoryview(value)[:MAX_BYTES]))


# How values of these classes, by module and name, are shown: by Python's own code.
_SHOWN: Dict[Tuple[str, str], Callable[[Any, Any], Optional[str]]] = {
    ("builtins", "BaseException"): _exception,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "range"): _by_class,
    ("builtins", "complex"): _by_class,
    ("enum", "Enum"): _member,
    **{("datetime", name): _by_class for name in ("datetime", "date", "time", "timedelta", "timezone")},
    **{(module, "Decimal"): _by_class for module in ("decimal", "_decimal", "_pydecimal")},
    ("uuid", "UUID"): _by_class,
    ("fractions", "Fraction"): _by_class,
    ("pathlib", "PurePath"): _by_class,
}


def as_json(value: Any) -> str:
    """`value` as a part of a record."""
    return dumps(value, separators=(",", ":"), default=_named_of)


def _named_of(value: Any) -> str:
    return _named(type(value))
