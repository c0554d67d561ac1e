"""One signal's way to its endpoint: one batch at a time, until the endpoint has answered for each record.

Exports run in a thread of the lane's own, so that an endpoint that stalls holds up its signal and
nothing else. What the lane was offered stays with it until it is settled; the journal stays on disk
whatever happens here.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Optional, Sequence

from otel_metaflow.shipper.answers import Answer, Verdict
from otel_metaflow.shipper.exporters import Exporter

# Backoff between attempts that failed, in seconds, doubled each time, with jitter.
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
# An export that has not ended after so long is given up; the endpoint may be sending a byte a second.
_PATIENCE = 300.0
# So many records refused one by one, and none ever accepted: it is the endpoint, not the records.
_ALL_BAD = 10


@dataclass
class Batch:
    """What is sent together; `records` can be halved, `wrap` makes of a part what the exporter takes."""

    records: Sequence[Any]
    settled: Callable[[int], None]
    """Called once, with the number of records that the endpoint will never take."""
    wrap: Callable[[Sequence[Any]], Any] = field(default=lambda records: records)


class Lane:
    """Delivers the batches of one signal."""

    def __init__(self, signal: str, build: Callable[[], Exporter], wake: threading.Event) -> None:
        self.signal = signal
        self.trouble = ""
        self.is_parked = False
        self._build = build
        self._wake = wake
        self._batch: Optional[Batch] = None
        self._pieces: Deque[Sequence[Any]] = deque()
        self._bad = 0
        self._has_delivered = False
        self._failures = 0
        self._retry_at = 0.0
        self._sent_at: Optional[float] = None
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._start_thread()

    def _start_thread(self) -> None:
        self.close()
        requests, answers = queue.SimpleQueue[Any](), queue.SimpleQueue[Answer]()
        self._requests, self._answers = requests, answers

        def work() -> None:
            exporter: Optional[Exporter] = None
            while True:
                data = requests.get()
                if data is None:
                    return
                try:
                    exporter = exporter or self._build()
                    answer = exporter(data)
                except Exception as error:  # noqa: BLE001 - what the exporter's constructor raises names the variable
                    answer = Answer(Verdict.REFUSED, f"cannot export: {error}")
                answers.put(answer)
                self._wake.set()

        threading.Thread(target=work, name=f"export {self.signal}", daemon=True).start()

    def close(self) -> None:
        """End the lane's thread, as soon as its endpoint lets it."""
        self._requests.put(None)

    @property
    def is_idle(self) -> bool:
        """Whether the lane can take a batch."""
        return self._batch is None and not self.is_parked

    @property
    def is_busy(self) -> bool:
        """Whether a batch is not settled."""
        return self._batch is not None and not self.is_parked

    def offer(self, batch: Batch) -> None:
        """Take a batch to deliver; only when idle."""
        self._batch = batch
        self._pieces = deque([batch.records])
        self._bad = 0
        self.step()

    def step(self) -> None:
        """Take in what was answered and send what is due; never waits."""
        if self._batch is None or self.is_parked:
            return
        now = time.monotonic()
        if self._sent_at is not None:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                if now - self._sent_at < _PATIENCE:
                    return
                self._start_thread()  # the old one ends when the endpoint lets it
                answer = Answer(Verdict.RETRY, f"did not finish within {_PATIENCE:.0f} s")
            self._sent_at = None
            self._take(answer, now)
        if self._batch is not None and not self.is_parked and self._sent_at is None and now >= self._retry_at:
            self._sent_at = now
            self._requests.put(self._batch.wrap(self._pieces[0]))

    def _take(self, answer: Answer, now: float) -> None:
        if answer.verdict is Verdict.DELIVERED:
            self._has_delivered = True
            self._failures = 0
            self.trouble = f"rejected records: {answer.reason}" if answer.rejected else ""
            self._bad += answer.rejected
            self._pieces.popleft()
        elif answer.verdict is Verdict.RETRY:
            self._back_off(answer, now)
            return
        elif answer.verdict is Verdict.SPLIT:
            self._split(answer)
        else:
            self._park(answer)
        if not self._pieces and not self.is_parked:
            self._settle(answer)

    def _back_off(self, answer: Answer, now: float) -> None:
        self.trouble = answer.reason
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**self._failures) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._failures = min(self._failures + 1, 16)
        self._retry_at = now + (answer.wait if answer.wait is not None else wait)

    def _split(self, answer: Answer) -> None:
        """Halve what the endpoint blames; a single record that it blames is put aside, for good or for bad."""
        self.trouble = answer.reason
        records = self._pieces.popleft()
        if len(records) > 1:
            middle = len(records) // 2
            self._pieces.extendleft([records[middle:], records[:middle]])
            return
        self._bad += 1
        if self._bad >= _ALL_BAD and not self._has_delivered:
            self._park(answer)

    def _settle(self, answer: Answer) -> None:
        """All pieces are answered for. If none was ever taken, the endpoint is to blame: nothing is given up."""
        batch = self._batch
        if batch is None:
            return
        if self._bad and not self._has_delivered:
            self._park(answer)
            return
        self._batch = None
        batch.settled(self._bad)

    def _park(self, answer: Answer) -> None:
        """Send nothing more; the next shipper tries again."""
        self.trouble = answer.reason
        self.is_parked = True
