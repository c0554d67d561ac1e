"""A redaction that masks nothing: for tests of what goes through unchanged, with any name and any text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_metaflow.core.redaction import Redaction


class Unmasked(Redaction):
    """Leaves names and values that look like secrets as they are."""

    def text(self, text: str) -> str:
        return text

    def value(self, value: Any, name: str = "") -> Any:  # noqa: ARG002
        return value

    def attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return dict(attributes)
