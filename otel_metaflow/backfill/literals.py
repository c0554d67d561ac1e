"""Reads plain values from an artifact's bytes without unpickling it.

Metaflow stores the graph of a flow as an artifact. To unpickle is to run what the bytes ask for; here they are read as
the list of instructions that they are, and only those that make strings, numbers, lists, tuples and maps are known. Any
other one, such as the name of a class, ends the reading; but an object of one class, a named tuple, can be read as a
plain one.
"""

from __future__ import annotations

import pickletools
from typing import Any

MAX_BYTES = 4 << 20
"""No more than this is read: the graph of a flow of a thousand steps is half a megabyte."""

_MARK = object()
_VALUES = {
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT",
    "BINFLOAT",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = ("BINPUT", "LONG_BINPUT", "PUT")
_GETS = ("BINGET", "LONG_BINGET", "GET")


class NotPlainError(ValueError):
    """The bytes hold something other than strings, numbers, lists, tuples and maps."""


def read(data: bytes, named_tuple: tuple[str, str] | None = None) -> Any:
    """The value that `data`, a pickle, consists of.

    `named_tuple` is the module and name of a class whose objects are read as tuples of their fields; it is not loaded.

    Raises:
        NotPlainError: it is not a plain value, damaged, or longer than MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise NotPlainError(f"it has {len(data)} bytes")
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for instruction, argument, _ in pickletools.genops(data):
            name = instruction.name
            if name == "STOP":
                (found,) = stack
                return found
            if not _simple(name, argument, stack, memo) and not _tuple(name, argument, stack, named_tuple):
                _container(name, stack)
    except NotPlainError:
        raise
    except Exception as error:
        raise NotPlainError(f"it is damaged ({error})") from error
    raise NotPlainError("it is cut off")


def _simple(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> bool:
    """Carry out an instruction that makes a value or remembers one; return whether it is one of those."""
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in _PUTS:
        memo[argument] = stack[-1]
    elif name in _GETS:
        stack.append(memo[argument])
    else:
        return name in ("PROTO", "FRAME")
    return True


def _tuple(name: str, argument: Any, stack: list[Any], named_tuple: tuple[str, str] | None) -> bool:
    """Carry out an instruction that names the class of a named tuple, for which None stands, or makes one of it."""
    if name == "STACK_GLOBAL":
        stack[-2:] = [tuple(stack[-2:])]
    elif name == "GLOBAL":
        stack.append(tuple(str(argument).split(" ")))
    elif name == "NEWOBJ" and stack[-2:-1] == [None] and stack[-1].__class__ is tuple:
        del stack[-2]
        return True
    else:
        return False
    if stack.pop() != named_tuple:
        raise NotPlainError("it holds a class")
    stack.append(None)
    return True


def _container(name: str, stack: list[Any]) -> None:
    """Carry out an instruction that makes or fills a list, a tuple or a map."""
    if name == "MARK":
        stack.append(_MARK)
    elif name == "EMPTY_LIST":
        stack.append([])
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name in _TUPLES:
        count = _TUPLES[name]
        stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name in ("APPEND", "APPENDS"):
        items = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
        _of(list, stack).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = _since_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        _of(dict, stack).update(zip(items[::2], items[1::2], strict=True))
    else:
        raise NotPlainError(f"it holds {name}")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = next(place for place in range(len(stack) - 1, -1, -1) if stack[place] is _MARK)
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _of(kind: type, stack: list[Any]) -> Any:
    """What is on top, which must be a `kind`."""
    if stack[-1].__class__ is not kind:
        raise NotPlainError(f"it fills a {type(stack[-1]).__name__}")
    return stack[-1]
