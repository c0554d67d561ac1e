"""A row of the table: what was counted, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Instructions of something done without telemetry and with it; `budget` is for what telemetry adds."""

    label: str
    plain: float  # 0 for what there is only with telemetry
    ours: float
    budget: float | None = None

    @property
    def added(self) -> float:
        """What telemetry adds."""
        return self.ours - self.plain

    @property
    def is_over(self) -> bool:
        """Whether that is more than it may be."""
        return self.budget is not None and self.added > self.budget


def shown(count: float | None) -> str:
    """Millions, or thousands of what is small."""
    if count is None:
        return ""
    return f"{count / 1e6:.1f} M" if abs(count) >= 1e6 else f"{count / 1e3:.1f} k"
