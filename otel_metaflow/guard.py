"""Keeps our errors out of a user's run.

Every hook runs behind `guarded`. An error of ours becomes one line on stderr for the whole process
and nothing else: the step's result, exit code, output and timing stay what they are without us.
Under pytest (`PYTEST_CURRENT_TEST`) an error is raised, so that no test passes over one.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from types import CodeType, TracebackType
from typing import Any, Callable, Optional, Set, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
_reported = False
_hidden: Set[CodeType] = set()


def say(line: str) -> None:
    """Print one line of ours on stderr, or nowhere if stderr is gone."""
    try:
        sys.stderr.write(f"otel: {line}\n")
    except Exception:  # noqa: BLE001 - a closed stderr is the user's affair and must not fail a step
        return


def report(error: BaseException) -> None:
    """Say, once a process, that telemetry met an error of ours."""
    if "PYTEST_CURRENT_TEST" in os.environ and "OTEL_METAFLOW_GUARD" not in os.environ:
        raise error
    global _reported
    if _reported:
        return
    _reported = True
    say(f"telemetry of this process is incomplete ({type(error).__name__}: {error}); the run goes on")


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


def contain(error: Exception) -> None:
    """Report `error`, or raise it again where it is the user's."""
    let_pass(error)
    report(error)


def hidden(function: _Function) -> _Function:
    """Mark a function that stands between user code and what it calls: `hide_frames` takes it out."""
    _hidden.add(function.__code__)
    return function


def hide_frames(error: Optional[BaseException]) -> None:
    """Take our frames out of the traceback of a user's exception, of a print that raised say.

    Its traceback is shown to the user, and hashed by those who group errors.
    """
    seen: Set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback = error.__traceback__
        while traceback is not None:
            following = traceback.tb_next
            if following is not None and following.tb_frame.f_code in _hidden:
                traceback.tb_next = following.tb_next
            else:
                traceback = following
        error = error.__cause__ or error.__context__


def guarded(function: _Function) -> _Function:
    """Make a hook that never raises an error of ours and returns None where it met one."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the whole point: nothing of ours reaches the run
            contain(error)
            return None

    return cast("_Function", call)
