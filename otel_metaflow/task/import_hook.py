"""Provides the OpenTelemetry API with our providers when user code imports it, and not before.

Nothing here imports OpenTelemetry or `otel_metaflow.task.otel_api`, which is loaded by name: a step which does not use
the API does not pay for it. Where user code has set a provider, that provider stays.

OTEL_PYTHON_TRACER_PROVIDER and its sisters, by which the API loads a provider by name, are not used: every
subprocess of the step inherits them, and a program whose environment has the API but not us would die of
StopIteration in its first `get_tracer` (opentelemetry/util/_providers.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Callable

from otel_metaflow.core import trace_context
from otel_metaflow.core.guard import contain, seam

# Modules of the API, and ours that installs a provider once they are imported.
_PROVIDERS = {
    "opentelemetry.trace": "otel_metaflow.task.otel_api.tracer_provider",
    "opentelemetry.metrics": "otel_metaflow.task.otel_api.meter_provider",
    "opentelemetry._logs": "otel_metaflow.task.otel_api.logger_provider",
}


def install(traceparent: str, prepare: Callable[[], object]) -> None:
    """Record what user code and its subprocesses report through the API from now on, below `traceparent`.

    `prepare` is called before each provider of ours is installed: it makes what that one records by.
    """
    os.environ[trace_context.VARIABLE] = traceparent
    if trace_context.VARIABLE.lower() in os.environ:
        # Metaflow's own tracing hands it on in this form, to the children that `parallel_map` forks too.
        os.environ[trace_context.VARIABLE.lower()] = traceparent
    hook = _ImportHook(prepare)
    for name in _PROVIDERS:
        if name in sys.modules:
            hook.install_provider(name)
    sys.meta_path.insert(0, hook)


class _ImportHook:
    """A finder that finds nothing itself, and wraps the loaders of the API's modules."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        self._prepare = prepare

    @seam("what user code records through OpenTelemetry")
    def install_provider(self, name: str) -> None:
        """Install our provider of the API's module `name`."""
        self._prepare()
        importlib.import_module(_PROVIDERS[name]).install()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec that the other finders return, with our provider installed after the module's execution."""
        if name not in _PROVIDERS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                try:
                    self._after(spec.loader, name)
                except Exception as error:  # noqa: BLE001 - the import is the user's and goes on
                    contain(error)
                return spec
        return None

    def _after(self, loader: Any, name: str) -> None:
        """Install the provider when `loader` has executed the module `name`."""
        execute = loader.exec_module

        def execute_and_install(module: Any) -> None:
            if module.__name__ != name:  # a loader of many modules, as for a zip file
                execute(module)
                return
            loader.exec_module = execute
            execute(module)
            self.install_provider(name)

        loader.exec_module = execute_and_install
