"""The settings of the run, already checked, which a launcher passes to its tasks in one environment variable.

Otherwise each task would read and check the same settings and describe the same host again, which costs several
milliseconds of imports. A task without a launcher, or whose own `OTEL_*` variables differ (for example by
`@environment`), reads the settings itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Mapping, Optional, Sequence
from zlib import crc32

VARIABLE = "OTEL_METAFLOW_LAUNCHED"
# In the environment of a task's children: the journal of that task. The nodes of a `@parallel` step are
# children of its control task, and their output goes through its pipe.
WITHIN = "OTEL_METAFLOW_WITHIN"
# To a container of a run: it is not to export itself, the launcher exports what it sees of it.
LAUNCHER_EXPORTS = "OTEL_METAFLOW_LAUNCHER_EXPORTS"
# To a container of a run that has a launcher, which records the run itself.
HAS_LAUNCHER = "OTEL_METAFLOW_HAS_LAUNCHER"


class LaunchContext:
    """The settings of a run that its tasks need.

    `folder` is the folder of the run's journals, or None if none can be written; `trace_url` is the template of
    core/trace_links.py.
    """

    __slots__ = ("flow", "folder", "logs", "max_bytes", "namespace", "run", "trace_url")

    def __init__(
        self,
        flow: str,
        run: str,
        namespace: str,
        folder: Optional[Path],
        logs: Sequence[str],
        max_bytes: int,
        trace_url: str,
    ) -> None:
        self.flow = flow
        self.run = run
        self.namespace = namespace
        self.folder = folder
        self.logs = logs
        self.max_bytes = max_bytes
        self.trace_url = trace_url


def encode(context: LaunchContext, environ: Mapping[str, str]) -> str:
    """The value of the variable; `environ` is the environment that the settings were read from."""
    folder = context.folder and str(context.folder)
    values = (context.flow, context.run, context.namespace, folder, context.logs, context.max_bytes, context.trace_url)
    return json.dumps([_fingerprint(environ), *values], separators=(",", ":"))


def decode(flow: str, run: str) -> Optional[LaunchContext]:
    """The context from this run's own launcher; None if there is none, or if this task's variables differ."""
    try:
        mark, *values = json.loads(os.environ[VARIABLE])
        found = LaunchContext(*values)
        found.folder = found.folder and Path(found.folder)
    except (KeyError, ValueError, TypeError):
        return None
    # A step may run another flow, whose tasks inherit the variable.
    if (found.flow, found.run) != (flow, run) or mark != _fingerprint(os.environ):
        return None
    return found


def folder_of(run: str) -> Optional[Path]:
    """The folder of the journals of `run`, which a launcher above this process runs; None if there is none."""
    try:
        _, *values = json.loads(os.environ[VARIABLE])
        found = LaunchContext(*values)
    except (KeyError, ValueError, TypeError):
        return None
    return Path(found.folder) if found.folder and found.run == run else None


def _fingerprint(environ: Mapping[str, str]) -> int:
    settings = sorted(
        f"{name}={environ[name]}"
        for name in environ  # `items` would decode all values of `os.environ`
        if name.startswith("OTEL_") and name not in (VARIABLE, WITHIN)
    )
    return crc32("\0".join(settings).encode("utf-8", "surrogateescape"))
