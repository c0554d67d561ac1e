"""Installs our providers in the OpenTelemetry API when user code imports it, and not before.

Nothing here imports OpenTelemetry or `otel_metaflow.task.otel_api`, which is loaded by name, so that a step that does
not use the API does not pay for it. If user code has set a provider, that provider remains.

The variables with which the API loads a provider by name, such as OTEL_PYTHON_TRACER_PROVIDER, are not used: every
subprocess of the step would inherit them, and a program with the API but without us would fail with StopIteration in
its first `get_tracer` (opentelemetry/util/_providers.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Callable

from otel_metaflow.core import trace_context
from otel_metaflow.core.guard import contain, seam

# Modules of the API, and our modules that install a provider once they are imported.
_PROVIDERS = {
    "opentelemetry.trace": "otel_metaflow.task.otel_api.tracer_provider",
    "opentelemetry.metrics": "otel_metaflow.task.otel_api.meter_provider",
    "opentelemetry._logs": "otel_metaflow.task.otel_api.logger_provider",
}


def install(traceparent: str, prepare: Callable[[], object]) -> None:
    """Record telemetry of user code from now on, as children of `traceparent`, and pass that on to subprocesses.

    `prepare` is called before each provider is installed; it creates the provider's recorder.
    """
    os.environ[trace_context.VARIABLE] = traceparent
    if trace_context.VARIABLE.lower() in os.environ:
        # Metaflow's own tracing passes it on in this form, also to the children forked by `parallel_map`.
        os.environ[trace_context.VARIABLE.lower()] = traceparent
    hook = _ImportHook(prepare)
    for name in _PROVIDERS:
        if name in sys.modules:
            hook.install_provider(name)
    sys.meta_path.insert(0, hook)


class _ImportHook:
    """A finder that only wraps the loaders of the API's modules."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        self._prepare = prepare

    @seam("OpenTelemetry telemetry of user code")
    def install_provider(self, name: str) -> None:
        """Install our provider for the API's module `name`."""
        self._prepare()
        importlib.import_module(_PROVIDERS[name]).install()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec from the other finders, with a loader that installs our provider after it has run the module."""
        if name not in _PROVIDERS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                try:
                    self._after(spec.loader, name)
                except Exception as error:  # noqa: BLE001 - the user's import must not fail because of us
                    contain(error)
                return spec
        return None

    def _after(self, loader: Any, name: str) -> None:
        """Install the provider when `loader` has executed the module `name`."""
        execute = loader.exec_module

        def execute_and_install(module: Any) -> None:
            if module.__name__ != name:  # a loader of several modules, such as that of a zip file
                execute(module)
                return
            loader.exec_module = execute
            execute(module)
            self.install_provider(name)

        loader.exec_module = execute_and_install
