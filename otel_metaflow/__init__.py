"""OpenTelemetry for Metaflow: a task appends to a journal, a separate process exports it.

The public API, besides the command `otel-metaflow`:

    otel                    the step decorator, the same as `from metaflow import otel`, with types
    trace_id                the trace id of a run, computed from its name, so it is known before the run starts
    run_span_id             the id of a run's own span
    attempt_span_id         the id of the span of one attempt
    __version__             the version of this distribution
    otel_metaflow.testing   runs a flow in a test and returns its telemetry; a separate module because it needs the SDK

Everything else may change without notice. Importing this package is cheap: each name is loaded on first use, and only
`otel` imports Metaflow.
"""

from __future__ import annotations

__all__ = ["__version__", "attempt_span_id", "otel", "run_span_id", "trace_id"]

TYPE_CHECKING = False  # type checkers take it for True; importing `typing` would be the most expensive part
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar, overload

    from otel_metaflow.core.ids import attempt_span_id, run_span_id, trace_id
    from otel_metaflow.core.version import __version__

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
        """Export OpenTelemetry logs, a span and metrics for each attempt of a step.

        Place it above `@step`, with or without options: `attributes` are added to all telemetry of the step; `logs` is
        any of stdout, stderr and logging (default: all); `foreach_value` also records the value of a foreach, cut to
        256 characters.

        Raises:
            metaflow.exception.MetaflowException: an option is invalid; raised when the flow starts.
        """

else:  # hidden from type checkers, for which the package would then have any attribute

    def __getattr__(name: str) -> object:
        """Load a public name on first use."""
        if name == "otel":
            import metaflow

            return metaflow.otel
        if name == "__version__":
            from otel_metaflow.core import version

            return version.__version__
        if name in __all__:
            from otel_metaflow.core import ids

            return getattr(ids, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
