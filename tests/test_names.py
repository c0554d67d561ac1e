"""Names that are not ours are those of the semantic conventions, held against the conventions' own package."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from otel_metaflow import names

OURS = ("metaflow.", "otel_metaflow", "otel-metaflow")


def conventional() -> set[str]:
    """Every attribute name of the conventions, stable and not."""
    found: set[str] = set()
    for package in ("opentelemetry.semconv.attributes", "opentelemetry.semconv._incubating.attributes"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            loaded = importlib.import_module(module.name)
            found.update(value for value in vars(loaded).values() if isinstance(value, str))
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_name_is_ours_or_the_conventions() -> None:
    """Nothing invented under a name space that belongs to others."""
    said = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    foreign = {value for value in said if not value.startswith(OURS)}
    assert len(foreign) > 20
    assert foreign - conventional() == set()
