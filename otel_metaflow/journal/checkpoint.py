"""What of a run was acknowledged, on disk: a shipper that is killed is followed by one that goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

from otel_metaflow.journal import setbacks
from otel_metaflow.journal.layout import CHECKPOINT_FILE

NEVER = 1 << 62
"""A place in a journal that it will not reach."""

_VERSION = 1


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
        clean, sent, batch = value["clean"], value["sent"], value.get("batch", (NEVER, 0))
        return cls(
            (int(clean[0]), int(clean[1])),
            (int(batch[0]), int(batch[1])),
            (int(sent[0]), int(sent[1])),
            [int(at) for at in value["held"]],
        )


@dataclass
class Checkpoint:
    """The state of a run's delivery."""

    path: Path
    cursors: Dict[str, Cursor] = field(default_factory=dict)
    sent: Dict[str, Set[str]] = field(default_factory=lambda: {"traces": set(), "metrics": set(), "events": set()})
    delivered: Dict[str, int] = field(default_factory=dict)
    dropped: Dict[str, int] = field(default_factory=dict)
    unconvertible: Dict[str, int] = field(default_factory=dict)
    unwritten: int = 0
    corrupt: int = 0
    trouble: Dict[str, str] = field(default_factory=dict)
    complete: bool = False
    stalled: bool = False
    """The run is over, and what is not delivered has failed at least once: nobody need wait for it."""

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """The checkpoint of the run in `folder`; a missing or damaged one means that nothing was acknowledged."""
        path = folder / CHECKPOINT_FILE
        try:
            value = json.loads(path.read_bytes())
            made = cls(
                path,
                cursors={name: Cursor.from_json(cursor) for name, cursor in value["cursors"].items()},
                delivered=dict(value["delivered"]),
                dropped=dict(value["dropped"]),
                unconvertible=dict(value.get("unconvertible", {})),
                unwritten=int(value.get("unwritten", 0)),
                corrupt=int(value["corrupt"]),
                trouble=dict(value["trouble"]),
                complete=bool(value["complete"]),
                stalled=bool(value.get("stalled", False)),
            )
            for signal, names in value["sent"].items():
                made.sent[signal] = set(names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            made = cls(path)
        reason = None if made.complete else setbacks.reason(folder)
        if reason is not None:
            made.trouble = {"run": reason}
        return made

    @property
    def given_up(self) -> Dict[Tuple[str, str], int]:
        """How many records will never arrive, by signal and reason.

        The endpoint rejected them, they cannot be converted, the journal took no more of them, or it was damaged
        where they were.
        """
        counts = {(signal, "rejected"): count for signal, count in self.dropped.items()}
        counts.update({(signal, "unconvertible"): count for signal, count in self.unconvertible.items()})
        counts["logs", "unwritten"], counts["logs", "corrupt"] = self.unwritten, self.corrupt
        return {reason: count for reason, count in counts.items() if count}

    def write(self) -> None:
        """Put the checkpoint on disk, whole or not at all.

        Raises:
            OSError: the disk takes no more.
        """
        value: Dict[str, Any] = {
            "version": _VERSION,
            "complete": self.complete,
            "stalled": self.stalled,
            "cursors": {name: cursor.as_json() for name, cursor in self.cursors.items()},
            "sent": {signal: sorted(names) for signal, names in self.sent.items()},
            "delivered": self.delivered,
            "dropped": self.dropped,
            "unconvertible": self.unconvertible,
            "unwritten": self.unwritten,
            "corrupt": self.corrupt,
            "trouble": self.trouble,
        }
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(value, separators=(",", ":")))
        os.replace(temporary, self.path)
