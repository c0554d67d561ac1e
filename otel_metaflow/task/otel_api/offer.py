"""Answers user code that uses the OpenTelemetry API, from the moment it imports it and not before.

Nothing here imports OpenTelemetry. When user code does, what it gets where nobody has set a provider is
ours: `otel_metaflow.task.otel_api`, loaded by name, because this process owes nothing to what it does not use.

Why not OTEL_PYTHON_TRACER_PROVIDER and its sisters, which make the API load a provider by name: every
subprocess of the step inherits them, and a program whose environment holds the API but not us then dies
of StopIteration in its first `get_tracer` (opentelemetry/util/_providers.py).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any, Callable, List, Optional, Sequence

from otel_metaflow.core import trace_context
from otel_metaflow.core.guard import contain, guarded, seam

# What is imported, and who answers from then on.
_ANSWERS = {
    "opentelemetry.trace": "otel_metaflow.task.otel_api.tracer_provider",
    "opentelemetry.metrics": "otel_metaflow.task.otel_api.meter_provider",
    "opentelemetry._logs": "otel_metaflow.task.otel_api.logger_provider",
}


class Outlet:
    """The attempt as providers see it: what they write to, and whose child everything is."""

    def __init__(
        self,
        parent: str,
        append_lines: Callable[[Sequence[str]], None],
        mask: Callable[[str], str],
        is_logged: Callable[[], bool],
    ) -> None:
        """Take what it is made of.

        `parent` is the attempt as a traceparent; `is_logged` says whether this thread is writing a logging
        record that the journal holds already.
        """
        self.traceparent = parent
        self.append_lines = append_lines
        self.mask = mask
        self.is_logged = is_logged
        self.pid = os.getpid()
        self._closing: List[Callable[[], None]] = []

    def at_end(self, close: Callable[[], None]) -> None:
        """Call `close` when the attempt ends."""
        self._closing.append(guarded(close))

    def close(self) -> None:
        """The attempt ends: write what is only known now."""
        for close in self._closing:
            close()


outlet: Optional[Outlet] = None
"""That of this process's attempt: the API knows no arguments, it asks for a provider and gets one."""


def offer(to: Outlet) -> None:
    """Let user code that runs from now on write to `to`, through the API and through subprocesses."""
    global outlet
    outlet = to
    os.environ[trace_context.VARIABLE] = to.traceparent
    if trace_context.VARIABLE.lower() in os.environ:
        # Metaflow's own tracing hands it on in this form, to the children that `parallel_map` forks too.
        os.environ[trace_context.VARIABLE.lower()] = to.traceparent
    for name in _ANSWERS:
        if name in sys.modules:
            _answer(name)
    sys.meta_path.insert(0, _Watch())


@guarded
def mute_repeaters() -> None:
    """Keep `opentelemetry-instrument` from sending the logging records that the journal holds a second time.

    It is configured by the variables that configure the shipper, so both send to one endpoint. Its handler stays
    where it is, for without any on root `logging` would begin to print warnings to stderr; and it still takes what it
    took, for what no handler takes is not telemetry.
    """
    exporter = os.environ.get("OTEL_LOGS_EXPORTER", "").strip() or "otlp"
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if "opentelemetry.instrumentation.auto_instrumentation" in sys.modules and exporter == "otlp" and endpoint:
        for handler in logging.getLogger().handlers:
            if type(handler).__name__ == "LoggingHandler" and type(handler).__module__.startswith("opentelemetry."):
                handler.emit = _emit_nothing  # type: ignore[method-assign]  # of this one alone


def _emit_nothing(record: logging.LogRecord) -> None:
    """The journal holds it."""


@seam("what user code records through OpenTelemetry")
def _answer(name: str) -> None:
    importlib.import_module(_ANSWERS[name]).install()


class _Watch:
    """A finder that finds nothing itself, and knows when the API's modules have been executed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's spec as the other finders know it, with the answer behind its execution."""
        if name not in _ANSWERS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                try:
                    _after(spec.loader, name)
                except Exception as error:  # noqa: BLE001 - the import is the user's and goes on
                    contain(error)
                return spec
        return None


def _after(loader: Any, name: str) -> None:
    """Answer when `loader` has executed the module `name`."""
    execute = loader.exec_module

    def execute_and_answer(module: Any) -> None:
        if module.__name__ != name:  # a loader of many modules, as for a zip file
            execute(module)
            return
        loader.exec_module = execute
        execute(module)
        _answer(name)

    loader.exec_module = execute_and_answer
