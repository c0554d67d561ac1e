"""Reads the small JSON files that Metaflow stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(file: Path | None) -> dict[str, Any]:
    """The map in a JSON file; empty if there is no such file, or it is damaged."""
    if file is None:
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
