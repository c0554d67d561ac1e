"""Lets user code set its own provider after ours was handed out."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Callable

from opentelemetry.util._once import Once


class ReplaceableOnce(Once):
    """In place of the API's `Once`: open until a provider that is not ours was set.

    The API takes one provider, and only warns of a second. Ours is there from the start without anybody
    having set it, so that it must not count.
    """

    def __init__(self, module: ModuleType, name: str, ours: Any) -> None:
        """`name` is where `module` of the API keeps the provider."""
        super().__init__()
        self._module = module
        self._name = name
        self._ours = ours

    def do_once(self, func: Callable[[], None]) -> bool:
        """Run `func`, which sets a provider, unless the user's is set; whether it ran."""
        with self._lock:
            current = getattr(self._module, self._name)
            if current is not None and current is not self._ours:
                return False
            func()
            return True
