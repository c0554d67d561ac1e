"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Place

pytest_plugins = ["browser", "collectors"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder of its own to run flows in."""
    return Place(tmp_path)
