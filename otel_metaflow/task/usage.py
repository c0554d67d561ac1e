"""The resource usage of an attempt, read at its start and at its end, not sampled by a thread in the task."""

from __future__ import annotations

import functools
import sys
from importlib.machinery import BuiltinImporter, PathFinder
from importlib.util import module_from_spec
from typing import Any, Dict, Optional

_open = open  # bound before user code runs, which may replace it


@functools.lru_cache(1)
def _resource() -> Any:
    """The standard library's `resource`, loaded without `sys.path` and `sys.modules`.

    Metaflow does not load it, so a user's resource.py next to the flow must neither be run by us nor be shadowed by
    ours.
    """
    before = sys.modules.get("resource")
    folders = [folder for folder in sys.path if folder.endswith("lib-dynload")]
    spec = BuiltinImporter.find_spec("resource") or PathFinder.find_spec("resource", folders)
    if spec is None or spec.loader is None:
        import resource

        return resource
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if before is None:
        sys.modules.pop("resource", None)
    else:
        sys.modules["resource"] = before
    return module


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children, in seconds."""
    resource = _resource()
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime)


def memory_peak() -> int:
    """The largest resident set in bytes of this process or of one of its ended children."""
    resource = _resource()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes, but bytes on macOS
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return int(max(_own_peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, children))


def _own_peak() -> Optional[int]:
    """VmHWM of this process: ru_maxrss also covers the process that started this one (Linux)."""
    try:
        with _open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return None


def input_output() -> Dict[str, int]:
    """Bytes read from and written to storage (proc_pid_io(5)), if the kernel reports them."""
    try:
        with _open("/proc/self/io", "rb") as counters:
            values = dict(line.split(b": ") for line in counters)
        return {"read": int(values[b"read_bytes"]), "written": int(values[b"write_bytes"])}
    except (OSError, KeyError, ValueError):
        return {}
