"""How far a reader has come in the journals of one attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

NEVER = 1 << 62
"""A place in a journal that it will not reach."""


@dataclass
class Cursor:
    """How far an attempt's records were handed out; JSON by `as_json`, so that it outlives the process.

    `clean` is a pair of offsets (task's journal, launcher's) where nothing was pending: reading begins
    there again, and what lies before `sent` is then read for its effect on the subtraction alone,
    except for the undecided lines in `held`. `batch` is what the launcher noted before the lines at
    `clean`: how long the task's journal was when they were read, and when that was by its clock.
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
