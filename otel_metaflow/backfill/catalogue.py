"""What backfilling asks about runs: which there are, of which tasks they consist, and what is noted of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from otel_metaflow.backfill.metaflow_seams import Storage


class Catalogue(Protocol):
    """Flows, runs, steps, tasks, and what is noted, from Metaflow's metadata or from what else has it.

    Everything is a dictionary as Metaflow's metadata has it, with times in milliseconds since 1970 (`ts_epoch`); what
    is unknown is not there. Each method raises `UnreadableError` if what it asks cannot be read.
    """

    @property
    def place(self) -> str:
        """What it reads, and where, for people."""

    @property
    def reads_files(self) -> bool:
        """Whether it has nothing but what files of tasks in the datastore have: as long as none comes, nothing changes.

        But the last sign of life of a task may.
        """

    def flows(self) -> list[str]:
        """The names of all flows."""

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """All runs of a flow, the newest first."""

    def run(self, flow: str, run: str) -> dict[str, Any] | None:
        """One run; None if there is none."""

    def steps(self, flow: str, run: str) -> list[str]:
        """The steps of a run that have begun, with `_parameters`."""

    def tasks(self, flow: str, run: str, step: str) -> list[dict[str, Any]]:
        """The tasks of a step, in their order."""

    def metadata(
        self, flow: str, run: str, step: str, tasks: Sequence[str], *, again: bool = False
    ) -> dict[str, list[dict[str, Any]]]:
        """What is noted of each of some tasks: `field_name`, `value`, `tags` (among them its attempt's), `ts_epoch`.

        With `again`, as it is now: what is remembered will not do.
        """

    def storage(self, kind: str, root: str) -> Storage:
        """The datastore of a kind and root, which an attempt names."""
