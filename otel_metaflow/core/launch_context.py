"""What a launcher passes to its tasks in one environment variable: the settings of the run, already checked.

Each task would otherwise read and check the same settings and describe the same host again, which costs
it some milliseconds of imports. A task whose own `OTEL_*` variables differ, by `@environment` say, and one
without a launcher reads everything itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Tuple
from zlib import crc32

VARIABLE = "OTEL_METAFLOW_LAUNCHED"
# In the environment of a task's children: the journal of that task. The nodes of a `@parallel` step are
# children of its control task, and what they print goes through its pipe.
WITHIN = "OTEL_METAFLOW_WITHIN"


class LaunchContext(NamedTuple):
    """The settings of a run, as far as its tasks need them.

    `folder` is where the journals of the run are, None where none can be written; `trace_url` the template of
    core/trace_links.py.
    """

    flow: str
    run: str
    namespace: str
    folder: Optional[Path]
    logs: Tuple[str, ...]
    most_bytes: int
    trace_url: str


def encode(context: LaunchContext, environ: Mapping[str, str]) -> str:
    """The value of the variable; `environ` is what the settings were read from."""
    values = context._replace(folder=context.folder and str(context.folder))  # type: ignore[arg-type]
    return json.dumps([_fingerprint(environ), *values], separators=(",", ":"))


def decode(flow: str, run: str) -> Optional[LaunchContext]:
    """The context from this run's own launcher; None where there is none, or where this task's variables differ."""
    try:
        mark, *values = json.loads(os.environ[VARIABLE])
        found = LaunchContext(*values)
    except (KeyError, ValueError, TypeError):
        return None
    # A step that launches another flow, whose tasks inherit the variable.
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
