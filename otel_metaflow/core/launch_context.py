"""The settings of the run, already checked, which a launcher passes to its tasks in one environment variable.

Otherwise each task would read and check the same settings and describe the same host again, which costs several
milliseconds of imports. A task without a launcher, or whose own `OTEL_*` variables differ (for example by
`@environment`), reads the settings itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Tuple
from zlib import crc32

VARIABLE = "OTEL_METAFLOW_LAUNCHED"
# In the environment of a task's children: the journal of that task. The nodes of a `@parallel` step are
# children of its control task, and their output goes through its pipe.
WITHIN = "OTEL_METAFLOW_WITHIN"


class LaunchContext(NamedTuple):
    """The settings of a run that its tasks need.

    `folder` is the folder of the run's journals, or None if none can be written; `trace_url` is the template of
    core/trace_links.py.
    """

    flow: str
    run: str
    namespace: str
    folder: Optional[Path]
    logs: Tuple[str, ...]
    max_bytes: int
    trace_url: str


def encode(context: LaunchContext, environ: Mapping[str, str]) -> str:
    """The value of the variable; `environ` is the environment that the settings were read from."""
    values = context._replace(folder=context.folder and str(context.folder))  # type: ignore[arg-type]
    return json.dumps([_fingerprint(environ), *values], separators=(",", ":"))


def decode(flow: str, run: str) -> Optional[LaunchContext]:
    """The context from this run's own launcher; None if there is none, or if this task's variables differ."""
    try:
        mark, *values = json.loads(os.environ[VARIABLE])
        found = LaunchContext(*values)
    except (KeyError, ValueError, TypeError):
        return None
    # A step may run another flow, whose tasks inherit the variable.
    if (found.flow, found.run) != (flow, run) or mark != _fingerprint(os.environ):
        return None
    return found._replace(folder=found.folder and Path(found.folder), logs=tuple(found.logs))


def _fingerprint(environ: Mapping[str, str]) -> int:
    settings = sorted(
        f"{name}={value}"
        for name, value in environ.items()
        if name.startswith("OTEL_") and name not in (VARIABLE, WITHIN)
    )
    return crc32("\0".join(settings).encode("utf-8", "surrogateescape"))
