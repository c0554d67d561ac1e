"""Remembers which runs were exported, also when their journals are deleted, so that none is exported twice."""

from __future__ import annotations

import json
import os
from pathlib import Path

from otel_metaflow.journal.keys import RunKey

_FILE = "backfilled.ledger"  # in HOME; a line for each run


class History:
    """The runs that were backfilled and exported from one home."""

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE
        self._runs: set[RunKey] = set()
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            try:
                flow, run, namespace = json.loads(line)
            except (ValueError, TypeError):  # cut off by a kill: it is exported, and noted, again
                continue
            self._runs.add(RunKey(str(flow), str(run), str(namespace)))

    def __contains__(self, key: RunKey) -> bool:
        return key in self._runs

    def add(self, key: RunKey) -> None:
        """All of a run was acknowledged.

        Raises:
            OSError: it cannot be noted.
        """
        if key in self._runs:
            return
        self._runs.add(key)
        # One write, with the newline first, too: what a kill left of the line before is its own line then.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\n" + json.dumps(key).encode() + b"\n")
        finally:
            os.close(descriptor)
