"""Replaces a file at once: nobody sees half of it, however this process ends."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file, to be written while this is entered, that takes the place of `path` afterwards, unless it raises."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    yield part
    os.replace(part, path)
