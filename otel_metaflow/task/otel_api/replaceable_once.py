"""Lets user code set its own provider after ours was set."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Callable

from opentelemetry.util._once import Once


class ReplaceableOnce(Once):
    """Replaces the API's `Once`, and allows setting a provider until one other than ours is set.

    The API accepts one provider, and only logs a warning for a second. Ours is set without the user having asked for
    it, so it must not count.
    """

    def __init__(self, module: ModuleType, name: str, ours: Any) -> None:
        """`name` is the variable of the API's `module` that holds the provider."""
        super().__init__()
        self._module = module
        self._name = name
        self._ours = ours

    def do_once(self, func: Callable[[], None]) -> bool:
        """Run `func`, which sets a provider, unless the user's is set; return whether it ran."""
        with self._lock:
            current = getattr(self._module, self._name)
            if current is not None and current is not self._ours:
                return False
            func()
            return True
