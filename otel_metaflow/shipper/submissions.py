"""Remembers what is on its way: submitted to a signal's worker, and not acknowledged yet."""

from __future__ import annotations

from typing import Set, Tuple

from otel_metaflow.journal.ledger import Changes, Ledger, Subject


class Submissions:
    """The spans, metrics and events in batches that are not settled; log records have cursors instead."""

    def __init__(self, ledger: Ledger) -> None:
        """`ledger` has what was acknowledged."""
        self._ledger = ledger
        self._on_their_way: Set[Tuple[Subject, str]] = set()

    def is_new(self, subject: Subject, name: str) -> bool:
        """Whether the item `name` is still to be submitted."""
        return (subject, name) not in self._on_their_way and not self._ledger.is_sent(subject, name)

    def add(self, changes: Changes) -> None:
        """A batch was submitted that makes these changes once it is acknowledged."""
        self._on_their_way |= changes.sent

    def remove(self, changes: Changes) -> None:
        """That batch is settled; the ledger has the changes."""
        self._on_their_way -= changes.sent
