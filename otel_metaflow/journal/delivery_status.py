"""The state of a run's delivery, for launcher, command line and viewer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Tuple

from otel_metaflow.journal import layout, ledger, setbacks


@dataclass
class DeliveryStatus:
    """Counts of records by signal, the reason why each signal fails, and whether everything is delivered."""

    delivered: Dict[str, int] = field(default_factory=dict)
    rejected: Dict[str, int] = field(default_factory=dict)
    unconvertible: Dict[str, int] = field(default_factory=dict)
    unwritten: int = 0
    corrupt: int = 0
    trouble: Dict[str, str] = field(default_factory=dict)
    left: int = 0
    """How many attempts live in containers, which deliver them themselves."""
    complete: bool = False
    stalled: bool = False
    """The run is over, and everything that is not delivered has failed at least once, so waiting is useless."""

    @classmethod
    def read(cls, folder: Path) -> DeliveryStatus:
        """The status of the run in `folder`; nothing was delivered if its ledger is missing or damaged."""
        made = cls.from_json(ledger.last_status(folder / layout.LEDGER_FILE))
        reason = None if made.complete else setbacks.reason(folder)
        if reason is not None:
            made.trouble = {"run": reason}
        return made

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> DeliveryStatus:
        """The inverse of `as_json`; an initial status if `value` is invalid."""
        try:
            counts = {
                name: {str(signal): int(count) for signal, count in value[name].items()}
                for name in ("delivered", "rejected", "unconvertible")
            }
            return cls(
                **counts,
                unwritten=int(value["unwritten"]),
                corrupt=int(value["corrupt"]),
                trouble={str(signal): str(reason) for signal, reason in value["trouble"].items()},
                left=int(value.get("left", 0)),
                complete=bool(value["complete"]),
                stalled=bool(value["stalled"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def as_json(self) -> Dict[str, Any]:
        """The status as a value for a JSON file."""
        return asdict(self)

    @property
    def dropped(self) -> Dict[Tuple[str, str], int]:
        """How many records were dropped, by signal and reason.

        The endpoint rejected them, they cannot be converted, they could not be written to the journal, or it was
        damaged.
        """
        counts = {(signal, "rejected"): count for signal, count in self.rejected.items()}
        counts.update({(signal, "unconvertible"): count for signal, count in self.unconvertible.items()})
        counts["logs", "unwritten"], counts["logs", "corrupt"] = self.unwritten, self.corrupt
        return {reason: count for reason, count in counts.items() if count}
