"""Keeps our errors out of a user's run.

Every hook runs behind `guarded`, and whatever is read of Metaflow behind `seam`. An error of ours becomes one
line on stderr for the whole run and nothing else: the step's result, exit code, output and timing stay what they
are without us. Under pytest (`PYTEST_CURRENT_TEST`) an error is raised, so that no test passes over one.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from types import CodeType, TracebackType
from typing import Any, Callable, Mapping, Optional, Protocol, Set, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What goes unrecorded, and why.
Note = Callable[[str, str], object]
UNKNOWN = "a part of the telemetry"
_reported: Set[str] = set()
_keep: Optional[Note] = None
_hidden: Set[CodeType] = set()


def print_line(line: str) -> None:
    """Print one line of ours on stderr, or nowhere if stderr is gone."""
    try:
        sys.stderr.write(f"otel: {line}\n")
    except Exception:  # noqa: BLE001 - a closed stderr is the user's affair and must not fail a step
        return


def keep_notes(keep: Note) -> None:
    """Give what is to be reported to `keep` from now on, which prints it once for the run."""
    global _keep
    _keep = keep


def report(error: BaseException, what: str = UNKNOWN) -> None:
    """Report, once, that an error of ours or a Metaflow that we do not know keeps `what` from being recorded."""
    if "PYTEST_CURRENT_TEST" in os.environ and "OTEL_METAFLOW_GUARD" not in os.environ:
        raise error
    if what in _reported:
        return
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if _keep is not None:
        _keep(what, reason)
    elif not _reported:
        print_unrecorded({what: reason})
    _reported.add(what)


def print_unrecorded(reasons: Mapping[str, str]) -> None:
    """Print the one line about what goes unrecorded, given with the reason of each."""
    if reasons:
        (reason, *_) = reasons.values()
        print_line(f"telemetry is incomplete, not recorded: {', '.join(reasons)} ({reason}); the run goes on")


def is_from_signal(error: BaseException) -> bool:
    """Whether a signal handler raised `error` while our code happened to run.

    `@timeout` raises from its SIGALRM handler (metaflow/plugins/timeout_decorator.py), a user may do the
    same: such an exception belongs to the step, and swallowing it would make the timeout never happen.
    """
    handlers = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        code = getattr(handler, "__code__", None) or getattr(getattr(handler, "__func__", None), "__code__", None)
        if code is not None:
            handlers.add(code)
    traceback: Optional[TracebackType] = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def let_pass(error: Exception) -> None:
    """Raise `error` again if it is the user's, of a signal handler, rather than what we expected to catch."""
    if is_from_signal(error):
        raise error


def contain(error: Exception, what: str = UNKNOWN) -> None:
    """Report `error`, or raise it again where it is the user's."""
    let_pass(error)
    report(error, what)


def hidden(function: _Function) -> _Function:
    """Mark a function that stands between user code and what it calls: `hide_frames` takes it out."""
    _hidden.add(function.__code__)
    return function


def hide_frames(error: Optional[BaseException], marked: Set[CodeType] = _hidden) -> None:
    """Take our frames out of the traceback of a user's exception, of a print that raised say.

    Its traceback is shown to the user, and hashed by those who group errors. It may be while the interpreter is taken
    down, when names of this module are gone; hence `marked`.
    """
    seen: Set[int] = set()
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


def guarded(function: _Function) -> _Function:
    """Make a hook that never raises an error of ours and returns None where it met one."""
    return cast("_Function", _guard(function, UNKNOWN, lambda: None))


class _Decorator(Protocol):
    def __call__(self, function: _Function, /) -> _Function: ...


def seam(what: str, default: Callable[[], Any] = lambda: None) -> _Decorator:
    """Make a function that reaches into Metaflow answer `default()` where it does not find what it looks for.

    `what` is that which then goes unrecorded, as the one line about it names it.
    """

    def decorate(function: _Function) -> _Function:
        return cast("_Function", _guard(function, what, default))

    return decorate


def _guard(function: Callable[..., Any], what: str, default: Callable[[], Any]) -> Callable[..., Any]:
    # Names of a closure: those of the module are gone when the interpreter is taken down, and by then whatever
    # is to be recorded is.
    is_finalizing = sys.is_finalizing

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_finalizing():
            return default()
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the whole point: nothing of ours reaches the run
            contain(error, what)
            return default()

    return call
