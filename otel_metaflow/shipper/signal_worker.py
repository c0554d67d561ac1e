"""Sends one signal to its endpoint: one batch at a time, until the endpoint has accepted or rejected each record.

Exports run in the worker's own thread, so that an endpoint that stalls only delays its signal. A batch stays with the
worker until it is settled; whatever happens here, the journal is on disk.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple

from otel_metaflow.shipper.sinks import answers
from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict

# Backoff between failed requests, in seconds, doubled each time, with jitter.
_INITIAL_WAIT = 0.5
_MAX_WAIT = 30.0
# An export that takes longer than this, in seconds, is abandoned; the endpoint may be sending a byte a second.
_TIMEOUT = 300.0
# After this many single records were rejected in a row, the endpoint may be the problem rather than the records.
_SUSPICIOUS = 10
# If a response takes less than this fraction of the time after which another one timed out, requests may grow again.
_QUICK = 0.25


class Unfit(NamedTuple):
    """A record that cannot be converted or encoded, and why."""

    record: Any
    reason: str


@dataclass
class Batch:
    """Records that are sent together, or in halves."""

    records: Sequence[Any]
    settled: Callable[[int, List[Unfit]], None]
    """Called once, with the number of rejected records, and with those that were not sent."""


class SignalWorker:
    """Delivers the batches of one signal."""

    def __init__(self, signal: str, build: Callable[[], Exporter], wake: threading.Event) -> None:
        self.signal = signal
        self.trouble = ""
        self.is_parked = False
        self.is_leaving = False  # whether to send nothing more
        self._build = build
        self._wake = wake
        self._batch: Optional[Batch] = None
        self._pieces: Deque[Sequence[Any]] = deque()
        self._bad = 0
        self._unfit: List[Unfit] = []
        self._is_accepted = False  # whether any record of this batch was
        # Batches without an accepted record, and their bad records.
        self._doubted: List[Tuple[Batch, int, List[Unfit]]] = []
        self._has_delivered = False
        self._bad_in_a_row = 0
        self._tolerance = _SUSPICIOUS
        self._skipped = 0
        self._limit: Optional[int] = None  # records per request, once the endpoint was too slow for more
        self._too_long = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._sent_at: Optional[float] = None
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._start_thread()

    def _start_thread(self) -> None:
        self.close()
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
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
                except Exception as error:  # noqa: BLE001 - errors of the exporter's constructor name the variable
                    answer = Answer(Verdict.REFUSED, f"cannot export: {error}")
                answers.put(answer)
                self._wake.set()

        threading.Thread(target=work, name=f"export {self.signal}", daemon=True).start()

    def close(self) -> None:
        """End the worker's thread, after the current request."""
        self._requests.put(None)

    @property
    def is_idle(self) -> bool:
        """Whether the worker accepts a batch."""
        return self._batch is None and not self.is_parked and not self.is_leaving

    @property
    def is_sending(self) -> bool:
        """Whether a response is pending: without waiting for it, the same batch is sent again later."""
        return self._sent_at is not None

    @property
    def is_busy(self) -> bool:
        """Whether a batch is not settled yet."""
        return self._batch is not None and not self.is_parked

    @property
    def has_failed(self) -> bool:
        """Whether the next batch has failed at least once."""
        return self.is_parked or (self._batch is not None and self._failures > 0)

    @property
    def is_done(self) -> bool:
        """Whether all submitted batches are settled."""
        return self._batch is None and not self._doubted

    def may_deliver_by(self, deadline: float) -> bool:
        """Whether its batch may still be taken: not where nobody answers, nor where another try comes later."""
        return self.is_busy and self.trouble not in answers.LASTING and self._retry_at < deadline

    def submit(self, batch: Batch) -> None:
        """Submit a batch; only when idle. A batch without records is settled in order, too."""
        self._batch = batch
        self._pieces = deque([batch.records] if batch.records else [])
        self._bad = 0
        self._unfit = []
        self._is_accepted = False
        if not self._pieces:
            self._settle()
        self.step()

    def retry_now(self) -> None:
        """Do not wait any longer after a failure; whether the endpoint fails is then known anew."""
        self._retry_at, self._failures, self.trouble = 0.0, 0, ""

    def finish(self) -> None:
        """No more batches follow: doubted records are bad if others were accepted; otherwise they stay queued."""
        if self._has_delivered and not self.is_parked:
            self._settle_doubted()

    def step(self) -> None:
        """Process responses and send what is due; does not block."""
        if self._batch is None or self.is_parked:
            return
        now = time.monotonic()
        if self._sent_at is not None:
            took = now - self._sent_at
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                if took < _TIMEOUT:
                    return
                self._start_thread()  # the old thread ends with its request
                answer = Answer(Verdict.RETRY, f"did not finish within {_TIMEOUT:.0f} s", is_late=True)
            self._sent_at = None
            self._take(answer, took)
        while self._batch is not None and self._is_due():
            self._send()

    def _is_due(self) -> bool:
        is_free = self._sent_at is None and not self.is_leaving and not self.is_parked
        return is_free and time.monotonic() >= self._retry_at

    def _send(self) -> None:
        piece = self._next_piece()
        self._sent_at = time.monotonic()
        self._requests.put(piece)

    def _next_piece(self) -> Sequence[Any]:
        """The next piece, no larger than the limit; it remains the first of the pieces."""
        records = self._pieces[0]
        if self._limit is not None and len(records) > self._limit:
            self._pieces.popleft()
            self._pieces.extendleft([records[self._limit :], records[: self._limit]])
        return self._pieces[0]

    def _take(self, answer: Answer, took: float) -> None:
        """Act on an answer that came after `took` seconds."""
        if answer.verdict is Verdict.RETRY:
            self._back_off(answer, took)
            return
        if answer.verdict is Verdict.REFUSED:
            self._park(answer)
            return
        if answer.verdict is Verdict.DELIVERED:
            self._accepted(answer, took)
        elif answer.verdict is Verdict.UNFIT:
            self._find_unfit(answer)
        else:
            self._split(answer)
        if not self._pieces and not self.is_parked:
            self._settle()

    def _accepted(self, answer: Answer, took: float) -> None:
        records = self._pieces.popleft()
        self.trouble = f"rejected records: {answer.reason}" if answer.rejected else ""
        self._bad += min(answer.rejected, len(records))
        if self._bad_in_a_row >= self._tolerance:
            self._tolerance *= 2  # the records were bad
        self._failures = self._bad_in_a_row = self._skipped = 0
        self._has_delivered = self._is_accepted = True
        if self._limit is not None and took < self._too_long * _QUICK:
            self._limit *= 2
        self._settle_doubted()

    def _back_off(self, answer: Answer, took: float) -> None:
        self.trouble = answer.reason
        if answer.is_late:
            # The request may be too large for a slow endpoint, which would never accept the same one again.
            self._limit = max(1, len(self._pieces[0]) // 2)
            self._too_long = took
        wait = min(_MAX_WAIT, _INITIAL_WAIT * 2**self._failures) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._failures = min(self._failures + 1, 16)
        self._retry_at = time.monotonic() + (answer.wait if answer.wait is not None else wait)

    def _split(self, answer: Answer) -> None:
        """Halve a rejected piece until the bad record is isolated.

        After too many bad records in a row, the other pieces are tried as a whole. If none is accepted, the endpoint is
        the problem, and everything stays queued.
        """
        self.trouble = answer.reason
        records = self._pieces.popleft()
        is_suspect = self._bad_in_a_row >= self._tolerance
        if len(records) == 1:
            self._bad += 1
            self._bad_in_a_row += 1
            is_suspect = self._bad_in_a_row >= self._tolerance and not self._pieces
        elif is_suspect:
            self._pieces.append(records)
            self._skipped += 1
        else:
            middle = len(records) // 2
            self._pieces.extendleft([records[middle:], records[:middle]])
        if is_suspect and self._skipped >= len(self._pieces):
            self._park(answer)

    def _find_unfit(self, answer: Answer) -> None:
        """Halve a piece that cannot be encoded until the bad record is isolated; the endpoint is not the problem."""
        records = self._pieces.popleft()
        if len(records) == 1:
            self._unfit.append(Unfit(records[0], answer.reason))
        else:
            middle = len(records) // 2
            self._pieces.extendleft([records[middle:], records[:middle]])

    def _settle(self) -> None:
        """All pieces were processed. If no record was accepted, the batch is doubted until another one is accepted.

        If a worker has delivered nothing, records that cannot be encoded are doubted, too: perhaps none can be.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._doubted.append((batch, self._bad, self._unfit))
        if self._is_accepted or (self._has_delivered and not any(bad for _, bad, _ in self._doubted)):
            self._settle_doubted()
        elif self._unfit:
            self.trouble = f"cannot be encoded: {self._unfit[0].reason}"

    def _settle_doubted(self) -> None:
        doubted, self._doubted = self._doubted, []
        for batch, bad, unfit_ones in doubted:
            batch.settled(bad, unfit_ones)

    def _park(self, answer: Answer) -> None:
        """Send nothing more; the next shipper retries."""
        self.trouble = answer.reason
        self.is_parked = True
