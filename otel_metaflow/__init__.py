"""OpenTelemetry for Metaflow: a task appends to a journal, a separate process ships it.

What is public, beside the command `otel-metaflow`:

    otel                    the decorator of steps, as `from metaflow import otel`, with types
    trace_id                the id of a run's trace, computed from its name: before, during and after it
    run_span_id             the id of a run's own span
    attempt_span_id         the id of the span of one attempt
    __version__             of this distribution
    otel_metaflow.testing   runs a flow in a test and returns its telemetry; a module of its own, as it needs the SDK

Everything else may change without notice. Importing this package costs nothing: each name is loaded when it is first
used, and only `otel` brings in Metaflow.
"""

from __future__ import annotations

from otel_metaflow.core.version import __version__

__all__ = ["__version__", "attempt_span_id", "otel", "run_span_id", "trace_id"]

TYPE_CHECKING = False  # as type checkers understand it; `typing` is the dearest import of all here
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar, overload

    from otel_metaflow.core.ids import attempt_span_id, run_span_id, trace_id

    _Step = TypeVar("_Step", bound=Callable[..., Any])

    @overload
    def otel(step: _Step, /) -> _Step: ...

    @overload
    def otel(
        *,
        attributes: Mapping[str, str | float | bool] | None = None,
        logs: str | Sequence[str] | None = None,
        foreach_value: bool = False,
    ) -> Callable[[_Step], _Step]: ...

    def otel(*_arguments: Any, **_options: Any) -> Any:
        """Send OpenTelemetry logs, a span and metrics for each attempt of a step.

        Stands above `@step`, bare or with options: `attributes` are put on all telemetry of the step, `logs` is any of
        stdout, stderr and logging (all by default), `foreach_value` adds the value of a foreach, cut to 256 characters.

        Raises:
            metaflow.exception.MetaflowException: a value that is not allowed, when the flow starts.
        """

else:  # hidden from type checkers: to them it would give the package any name there is

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used."""
        if name == "otel":
            import metaflow

            return metaflow.otel
        if name in __all__:
            from otel_metaflow.core import ids

            return getattr(ids, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
