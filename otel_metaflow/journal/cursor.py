"""A position in the journals of one attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

NEVER = 1 << 62
"""A position that no journal reaches."""


@dataclass
class Cursor:
    """The position up to which an attempt's records were acknowledged.

    `clean` is a pair of offsets (task's journal, launcher's journal) at which nothing was pending: reading starts there
    again, and records before `sent` are then only read for their effect on the subtraction, except for the undecided
    lines in `held`. `batch` is the launcher's note before the lines at `clean`: the length of the task's journal when
    they were read, and the time by the launcher's monotonic clock.
    """

    clean: Tuple[int, int] = (0, 0)
    batch: Tuple[int, int] = (NEVER, 0)
    sent: Tuple[int, int] = (0, 0)
    held: List[int] = field(default_factory=list)

    def as_json(self) -> Dict[str, Any]:
        """The cursor as a value for a JSON file."""
        return {"clean": list(self.clean), "batch": list(self.batch), "sent": list(self.sent), "held": self.held}

    @classmethod
    def from_json(cls, value: Dict[str, Any]) -> Cursor:
        """The inverse of `as_json`.

        Raises:
            ValueError, KeyError, TypeError: `value` is not a cursor.
        """
        clean, sent, batch = value["clean"], value["sent"], value["batch"]
        return cls(
            (int(clean[0]), int(clean[1])),
            (int(batch[0]), int(batch[1])),
            (int(sent[0]), int(sent[1])),
            [int(at) for at in value["held"]],
        )
