"""Keeps our errors out of a user's run.

Every hook is wrapped in `guarded`, and everything that reads Metaflow's internals in `seam`. An error of ours becomes
one line on stderr for the whole run and nothing else: the step's result, exit code, output and timing are the same as
without us. Under pytest (`PYTEST_CURRENT_TEST`) the error is raised, so that no test misses it.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Set

if TYPE_CHECKING:
    from typing import Protocol, TypeVar

    # Called with what goes unrecorded, and why.
    Note = Callable[[str, str], object]
    _Function = TypeVar("_Function", bound=Callable[..., Any])

    class _Decorator(Protocol):
        def __call__(self, function: _Function, /) -> _Function: ...


UNKNOWN = "part of the telemetry"
_reported: Set[str] = set()
_keep: Optional[Note] = None
_hidden: Set[CodeType] = set()


def print_line(line: str) -> None:
    """Print one line of ours on stderr, if it is open."""
    try:
        sys.stderr.write(f"otel: {line}\n")
    except Exception:  # noqa: BLE001 - user code may close stderr, which must not fail a step
        return


def keep_notes(keep: Note) -> None:
    """Pass reports to `keep` from now on, which prints them once for the run."""
    global _keep
    _keep = keep


def report(error: BaseException, what: str = UNKNOWN) -> None:
    """Report, once, that `what` is not recorded, because of an error of ours or an unknown version of Metaflow."""
    if "PYTEST_CURRENT_TEST" in os.environ and "OTEL_METAFLOW_GUARD" not in os.environ:
        raise error
    if what in _reported:
        return
    is_first = not _reported
    _reported.add(what)  # before it is printed: the line passes through our own tap, where the error may be
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if _keep is not None:
        try:
            _keep(what, reason)
        except Exception as odd:  # noqa: BLE001 - the installation was changed meanwhile; a report fails no step
            let_pass(odd)
    elif is_first:
        print_unrecorded({what: reason})


def print_unrecorded(reasons: Mapping[str, str]) -> None:
    """Print one line about what goes unrecorded; `reasons` has the reason for each."""
    if reasons:
        (reason, *_) = reasons.values()
        print_line(f"telemetry is incomplete, not recorded: {', '.join(reasons)} ({reason}); the run goes on")


def is_from_signal(error: BaseException) -> bool:
    """Whether `error` was raised by a signal handler that ran while our code did.

    `@timeout` raises from its SIGALRM handler (metaflow/plugins/timeout_decorator.py), and user code may do the same.
    Such an exception belongs to the step: swallowing it would disable the timeout.
    """
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()}
    traceback: Optional[TracebackType] = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _code(handler: Any) -> Optional[CodeType]:
    """The code that a call of `handler` runs: a function, a method, a partial of one, or an object with `__call__`."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - for its code
    for function in (handler, getattr(handler, "__func__", None), call):
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def let_pass(error: Exception) -> None:
    """Raise `error` again if it comes from a signal handler rather than from our code."""
    if is_from_signal(error):
        raise error


def contain(error: Exception, what: str = UNKNOWN) -> None:
    """Report `error`, or raise it again if it comes from a signal handler."""
    let_pass(error)
    report(error, what)


def hidden(function: _Function) -> _Function:
    """Mark a function that runs between user code and what it calls, so that `hide_frames` removes its frames."""
    _hidden.add(function.__code__)
    return function


def hide_frames(error: Optional[BaseException], marked: Set[CodeType] = _hidden) -> None:
    """Remove our frames from the traceback of a user's exception, for example of a print that raised.

    The user sees that traceback, and error trackers group errors by it. `marked` is a default because the globals of
    this module are gone during interpreter shutdown.
    """
    seen: Set[int] = set()
    try:
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            traceback = error.__traceback__
            while traceback is not None:
                following = traceback.tb_next
                if following is not None and following.tb_frame.f_code in marked:
                    traceback.tb_next = following.tb_next
                else:
                    traceback = following
            error = error.__cause__ or error.__context__
    except Exception:  # noqa: BLE001 - a class of the user's with its own __getattribute__ or __bool__: nothing is hidden
        return


def guarded(function: _Function) -> _Function:
    """Make a hook that returns None instead of raising an error of ours."""
    return _guard(function, UNKNOWN, lambda: None)


def seam(what: str, default: Callable[[], Any] = lambda: None) -> _Decorator:
    """Make a function that reads Metaflow's internals return `default()` if they are not as expected.

    `what` describes what goes unrecorded then, in the line that reports it.
    """

    def decorate(function: _Function) -> _Function:
        return _guard(function, what, default)

    return decorate


def _guard(function: _Function, what: str, default: Callable[[], Any]) -> _Function:
    # Bound in the closure: globals of the module are gone during interpreter shutdown, when nothing is recorded anyway.
    is_finalizing = sys.is_finalizing

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_finalizing():
            return default()
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the purpose of the guard: no error of ours reaches the run
            contain(error, what)
            return default()

    return call  # type: ignore[return-value]  # of the same arguments
