"""What some back ends find too old and drop without an error: what is known of any (docs/backfill.md)."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

_NANO = 1_000_000_000
_HOUR = 3_600
# After how many hours a signal may be dropped, and its name for people.
_WINDOWS = {"logs": (18, "logs"), "traces": (4, "spans"), "metrics": (1, "metrics")}


def too_old(began: Iterable[int], signals: Collection[str], what: str = "runs") -> str:
    """A line on the runs that began at `began`, in nanoseconds since 1970, without what to do; empty if all are recent.

    `signals` are those that are exported, and `what` names the runs.
    """
    now = time.time_ns()
    ages = [(now - each) / _NANO for each in began if each]
    counts = [
        f"{name} after {hours} h ({old} of {len(ages)} {what})"
        for signal, (hours, name) in _WINDOWS.items()
        if signal in signals and (old := sum(age > hours * _HOUR for age in ages))
    ]
    return f"too old for some back ends, which silently drop {', '.join(counts)}" if counts else ""
