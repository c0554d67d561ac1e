"""The resources that a step requests, from its decorators, which a launcher sees and Metaflow stores."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Mapping, Tuple

_NAMES = ("cpu", "gpu", "memory")
_DECORATORS = ("resources", "kubernetes", "batch")


def of(decorators: Iterable[Tuple[str, Mapping[str, Any]]]) -> Dict[str, float]:
    """The most that one of the decorators, given by name and attributes, requests of each resource; memory in MiB."""
    requested: Dict[str, float] = {}
    for decorator, attributes in decorators:
        if decorator in _DECORATORS:
            for name in _NAMES:
                amount = number(attributes.get(name))
                if amount:
                    requested[name] = max(amount, requested.get(name, 0.0))
    return requested


def number(value: Any) -> float:
    """The number that an attribute is, or stands for; 0 if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
