"""One signal's way to its endpoint: one batch at a time, until the endpoint has answered for each record.

Exports run in a thread of the worker's own, so that an endpoint that stalls holds up its signal and
nothing else. What the worker was submitted stays with it until it is settled; the journal stays on disk
whatever happens here.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple

from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict

# Backoff between attempts that failed, in seconds, doubled each time, with jitter.
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
# An export that has not ended after so long is given up; the endpoint may be sending a byte a second.
_PATIENCE = 300.0
# So many records refused one by one, and none taken in between: it may be the endpoint, not the records.
_ALL_BAD = 10
# An answer that took less than this part of the time that another did not come in: the endpoint can take more.
_QUICK = 0.25


class Unfit(NamedTuple):
    """A record that cannot be converted or encoded, and why."""

    record: Any
    reason: str


@dataclass
class Batch:
    """What is sent together, or in halves."""

    records: Sequence[Any]
    settled: Callable[[int, List[Unfit]], None]
    """Called once, with the number of records that the endpoint will never take, and those that it was not asked."""


class SignalWorker:
    """Delivers the batches of one signal."""

    def __init__(self, signal: str, build: Callable[[], Exporter], wake: threading.Event) -> None:
        self.signal = signal
        self.trouble = ""
        self.is_parked = False
        self.is_leaving = False  # nothing more is to be sent
        self._build = build
        self._wake = wake
        self._batch: Optional[Batch] = None
        self._pieces: Deque[Sequence[Any]] = deque()
        self._bad = 0
        self._unfit: List[Unfit] = []
        self._is_taken = False  # of this batch, something
        # Batches of which nothing was taken, and their bad records.
        self._doubted: List[Tuple[Batch, int, List[Unfit]]] = []
        self._has_delivered = False
        self._bad_in_a_row = 0
        self._tolerance = _ALL_BAD
        self._passed_over = 0
        self._most: Optional[int] = None  # records a request, once the endpoint was too slow for more
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
                except Exception as error:  # noqa: BLE001 - what the exporter's constructor raises names the variable
                    answer = Answer(Verdict.REFUSED, f"cannot export: {error}")
                answers.put(answer)
                self._wake.set()

        threading.Thread(target=work, name=f"export {self.signal}", daemon=True).start()

    def close(self) -> None:
        """End the worker's thread, as soon as its endpoint lets it."""
        self._requests.put(None)

    @property
    def is_idle(self) -> bool:
        """Whether the worker can take a batch."""
        return self._batch is None and not self.is_parked and not self.is_leaving

    @property
    def is_sending(self) -> bool:
        """Whether an answer is due: who leaves before it comes sends the same again another time."""
        return self._sent_at is not None

    @property
    def is_busy(self) -> bool:
        """Whether a batch is not settled."""
        return self._batch is not None and not self.is_parked

    @property
    def has_failed(self) -> bool:
        """Whether what is to be sent next was tried, and not taken."""
        return self.is_parked or (self._batch is not None and self._failures > 0)

    @property
    def is_done(self) -> bool:
        """Whether all that was submitted is settled."""
        return self._batch is None and not self._doubted

    def submit(self, batch: Batch) -> None:
        """Take a batch to deliver; only when idle. One without records is settled in its turn."""
        self._batch = batch
        self._pieces = deque([batch.records] if batch.records else [])
        self._bad = 0
        self._unfit = []
        self._is_taken = False
        if not self._pieces:
            self._settle()
        self.step()

    def retry_now(self) -> None:
        """Do not wait any longer after a failure; whether the endpoint fails is then known anew."""
        self._retry_at, self._failures, self.trouble = 0.0, 0, ""

    def finish(self) -> None:
        """Nothing more will be submitted: doubted records are bad if others were accepted, else kept."""
        if self._has_delivered and not self.is_parked:
            self._settle_doubted()

    def step(self) -> None:
        """Take in what was answered and send what is due; never waits."""
        if self._batch is None or self.is_parked:
            return
        now = time.monotonic()
        if self._sent_at is not None:
            took = now - self._sent_at
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                if took < _PATIENCE:
                    return
                self._start_thread()  # the old one ends when the endpoint lets it
                answer = Answer(Verdict.RETRY, f"did not finish within {_PATIENCE:.0f} s", is_late=True)
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
        """What is sent next, as much as the endpoint takes in time; it stays the first of the pieces."""
        records = self._pieces[0]
        if self._most is not None and len(records) > self._most:
            self._pieces.popleft()
            self._pieces.extendleft([records[self._most :], records[: self._most]])
        return self._pieces[0]

    def _take(self, answer: Answer, took: float) -> None:
        """Do what follows from an answer that came after `took` seconds."""
        if answer.verdict is Verdict.RETRY:
            self._back_off(answer, took)
            return
        if answer.verdict is Verdict.REFUSED:
            self._park(answer)
            return
        if answer.verdict is Verdict.DELIVERED:
            self._taken(answer, took)
        elif answer.verdict is Verdict.UNFIT:
            self._find_unfit(answer)
        else:
            self._split(answer)
        if not self._pieces and not self.is_parked:
            self._settle()

    def _taken(self, answer: Answer, took: float) -> None:
        records = self._pieces.popleft()
        self.trouble = f"rejected records: {answer.reason}" if answer.rejected else ""
        self._bad += min(answer.rejected, len(records))
        if self._bad_in_a_row >= self._tolerance:
            self._tolerance *= 2  # it was the records
        self._failures = self._bad_in_a_row = self._passed_over = 0
        self._has_delivered = self._is_taken = True
        if self._most is not None and took < self._too_long * _QUICK:
            self._most *= 2
        self._settle_doubted()

    def _back_off(self, answer: Answer, took: float) -> None:
        self.trouble = answer.reason
        if answer.is_late:
            # It may be too slow for so much, and the same request again would be too much for it for ever.
            self._most = max(1, len(self._pieces[0]) // 2)
            self._too_long = took
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**self._failures) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        self._failures = min(self._failures + 1, 16)
        self._retry_at = time.monotonic() + (answer.wait if answer.wait is not None else wait)

    def _split(self, answer: Answer) -> None:
        """Halve what the endpoint blames, until the bad record is alone.

        After too many bad ones in a row the other pieces are tried as they are. If none is taken, the
        endpoint would take nothing: it is to blame, and everything is kept.
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
            self._passed_over += 1
        else:
            middle = len(records) // 2
            self._pieces.extendleft([records[middle:], records[:middle]])
        if is_suspect and self._passed_over >= len(self._pieces):
            self._park(answer)

    def _find_unfit(self, answer: Answer) -> None:
        """Halve what cannot be encoded, until the one is alone that cannot: that is never the endpoint's fault."""
        records = self._pieces.popleft()
        if len(records) == 1:
            self._unfit.append(Unfit(records[0], answer.reason))
        else:
            middle = len(records) // 2
            self._pieces.extendleft([records[middle:], records[:middle]])

    def _settle(self) -> None:
        """All pieces are answered for. If none was taken, that is in doubt until another batch is.

        So is, in a worker that has delivered nothing, what cannot be encoded: perhaps nothing can.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self._doubted.append((batch, self._bad, self._unfit))
        if self._is_taken or (self._has_delivered and not any(bad for _, bad, _ in self._doubted)):
            self._settle_doubted()
        elif self._unfit:
            self.trouble = f"cannot be encoded: {self._unfit[0].reason}"

    def _settle_doubted(self) -> None:
        doubted, self._doubted = self._doubted, []
        for batch, bad, unfit_ones in doubted:
            batch.settled(bad, unfit_ones)

    def _park(self, answer: Answer) -> None:
        """Send nothing more; the next shipper tries again."""
        self.trouble = answer.reason
        self.is_parked = True
