"""Records telemetry of user code: in the journal of the attempt, masked, and with the attempt's span as the parent."""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence

from otel_metaflow.core.guard import guarded


class AttemptRecorder:
    """Records what user code reports through the OpenTelemetry API as part of one attempt."""

    def __init__(
        self,
        parent: str,
        append_lines: Callable[[Sequence[str]], None],
        mask: Callable[[str], str],
        is_logged: Callable[[], bool],
        pid: int,
    ) -> None:
        """`parent` is the traceparent of the attempt, `pid` its process.

        `is_logged` returns True while this thread handles a logging record that is already in the journal.
        """
        self.traceparent = parent
        self.append_lines = append_lines
        self.mask = mask
        self.is_logged = is_logged
        self.pid = pid
        self._closing: List[Callable[[], None]] = []

    def at_end(self, close: Callable[[], None]) -> None:
        """Call `close` when the attempt ends."""
        self._closing.append(guarded(close))

    def close(self) -> None:
        """Record what is only known at the end of the attempt."""
        for close in self._closing:
            close()


current: Optional[AttemptRecorder] = None
"""The recorder of this process's attempt; global because the API's hooks take no arguments."""


def set_current(recorder: AttemptRecorder) -> None:
    """Use `recorder` from now on."""
    global current
    current = recorder
