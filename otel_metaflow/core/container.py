"""Detects containers and CI jobs."""

from __future__ import annotations

import os
from typing import Mapping


def in_container(environ: Mapping[str, str]) -> bool:
    """Whether a background process would be killed together with this one: in a container or a CI job."""
    return (
        bool(environ.get("KUBERNETES_SERVICE_HOST"))
        or bool(environ.get("CI"))
        or bool(environ.get("MFLOG_STDOUT"))  # of a remote step
        or os.path.exists("/.dockerenv")
        or os.path.exists("/run/.containerenv")
    )
