"""The last lines of an attempt that was killed with its container: those that only CloudWatch has.

The journals, and the log files, that Metaflow stored of it are some time older than its death, by up to half a minute.
What was printed since then is in CloudWatch. If the step had `@otel`, its container has exported most of that, and
nobody knows here how much: the ids of these records would be places in a journal that is gone. They are marked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.backfill.attempts import StoredAttempt
from otel_metaflow.backfill.metaflow_seams import UnreadableError, in_batches, reason
from otel_metaflow.core import long_lines, secrets
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout, reader
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.raw_journal import RawJournal
from otel_metaflow.journal.reader import Tail
from otel_metaflow.journal.writer import Journal

_MILLI = 1_000_000
_NANO = 1_000_000_000
# So much of the stream before the last journaled line is read to find where the two meet, in nanoseconds.
_OVERLAP = 10 * _NANO
# An event is at most so long, in bytes, and the rest of a line is the next event: Docker's awslogs driver takes 26 of
# the 256 KiB that CloudWatch allows, and up to three more to split between characters.
_FULL_EVENT = (256 << 10) - 26 - 3
# What a container's shipper had not read, or was just sending, when the container was killed, in nanoseconds.
_ON_ITS_WAY = _NANO
_STREAM = "stdout"  # CloudWatch has both streams as one
_BATCH = 1_000
_TIMEOUT = 20.0  # of a request, in seconds
_FACTS = ("group", "stream", "region")  # of what Metaflow notes as aws-batch-awslogs-…


class Line(NamedTuple):
    """A line of a log stream: when it came, in nanoseconds since 1970, its text, and an id."""

    at: int
    text: str
    id: str


class Added(NamedTuple):
    """What was added to the journals of an attempt."""

    lines: int
    bytes: int
    last: int
    """When its last line came, in nanoseconds since 1970."""
    exported: list[int] | None
    """Up to where, in its own journal and in its output, a container is taken to have exported it."""
    unwritten: Mapping[str, int]
    """How many records of each kind the journal did not take."""


class LastLines:
    """Adds to the journals of a run's attempts what only CloudWatch has of them."""

    def __init__(
        self, folder: Path, environment: Settings, mask: secrets.Mask, report: Callable[[str], object]
    ) -> None:
        """`report` is called with a line on what cannot be read."""
        self._folder = folder
        self._environment = environment
        self._mask = mask
        self._report = report
        self._fails = False

    def add(self, attempt: StoredAttempt, *, is_brought: bool, in_doubt: bool) -> Added | None:
        """Add those of an attempt whose journals are there; None if it has none, or did not die with its container.

        Its container has stored its journals itself if it `is_brought`; lines that are `in_doubt` may have been
        exported.
        """
        group, stream, region = (str(attempt.facts.get(f"aws-batch-awslogs-{name}") or "") for name in _FACTS)
        if not group or not stream or attempt.ended or self._fails or not self._may_have_more(attempt.key):
            return None
        try:
            lines = of_attempt(self._folder, attempt.key, group, stream, region)
        except _MissingError as error:
            self._report(str(error))
            return None
        except UnreadableError as error:  # as of every other stream
            self._fails = True
            self._report(f"{error}; left out what only CloudWatch has")
            return None
        return self._write(attempt.key, lines, is_brought=is_brought, in_doubt=in_doubt) if lines else None

    def _may_have_more(self, key: AttemptKey) -> bool:
        """Whether nobody saw the attempt end; and both streams are wanted, which CloudWatch does not tell apart."""
        streams: Sequence[str] = self._environment.logs
        for record in reader.facts(layout.attempt_file(self._folder, key)):
            if record["kind"] in (layout.END, layout.EXIT):
                return False
            if record["kind"] == layout.START:
                streams = record.get("logs", streams)
        return {"stdout", "stderr"} <= set(streams)

    def _write(self, key: AttemptKey, lines: Sequence[Line], *, is_brought: bool, in_doubt: bool) -> Added:
        own, output = layout.attempt_file(self._folder, key), layout.output_file(self._folder, key)
        before = _end_of_whole_lines(output)
        journal = Journal(output, lambda _: None, max(0, self._environment.journal_max_bytes - before))
        raw = RawJournal(journal, own)
        exported = None
        clock = 0
        # As of all that a container has recorded some time before it is killed (shipper/undelivered.py).
        old = [line for line in lines if is_brought and line.at < lines[-1].at - _ON_ITS_WAY]
        for part in (old, lines[len(old) :]):
            for batch in in_batches(part, _BATCH):
                clock += _NANO
                records = [(line.id, (line.at, _STREAM, line.text.encode("utf-8", "replace"))) for line in batch]
                raw.append_stored(records, self._mask, clock, ',"inDoubt":true' if in_doubt else "")
            if exported is None and is_brought:
                exported = [own.stat().st_size, output.stat().st_size]
        raw.close()
        return Added(len(lines), output.stat().st_size - before, lines[-1].at, exported, raw.unwritten)


def _end_of_whole_lines(journal: Path) -> int:
    """The size of a journal, of which a line that was stored while it was written is removed."""
    with journal.open("ab+") as file:
        end = file.tell()
        while end and file.seek(end - 1) >= 0 and file.read(1) != b"\n":
            end -= 1
        file.truncate(end)
    journal.chmod(0o600)
    return end


def of_attempt(folder: Path, key: AttemptKey, group: str, stream: str, region: str = "") -> list[Line]:
    """The lines of a stream after the last one that the attempt's journals in `folder` have.

    Raises:
        UnreadableError: CloudWatch cannot be read.
    """
    paths = layout.attempt_file(folder, key), layout.output_file(folder, key)
    last = max((at for path in paths for at, _ in _journaled(path)), default=0)
    # In milliseconds, as CloudWatch has them: a line that is journaled since then has come since then.
    since = max(0, last - _OVERLAP) // _MILLI
    journaled = _Texts(_count(path, since * _MILLI) for path in paths)
    found: list[Line] = []
    for line in _lines(_events(group, stream, region, since)):
        if journaled.take(line.text):
            found.clear()
        else:
            found.append(line)
    return found


def _journaled(journal: Path) -> Iterator[tuple[int, str]]:
    """The lines of a journal, each with its time, those that logging's handlers wrote included."""
    tail, before = Tail(journal), -1
    while tail.offset != before:
        before = tail.offset
        for entry in tail.read():
            record = entry.record
            record = record.get("output") or record if record["kind"] == layout.LOG else record
            if "stream" in record:
                yield record["timeUnixNano"], str(record.get("body", ""))


def _count(journal: Path, since: int) -> Counter[str]:
    return Counter(text.rstrip("\r") for at, text in _journaled(journal) if at >= since)


class _Texts:
    """The lines that one of two journals has, or both: the task's and its container's, if not all of them."""

    def __init__(self, counts: Iterator[Counter[str]]) -> None:
        self._left: Counter[str] = Counter()
        for each in counts:
            self._left |= each
        self._masked = {
            text: re.compile(".+".join(map(re.escape, text.split(secrets.MASK))), re.DOTALL)
            for text in self._left
            if secrets.MASK in text
        }

    def take(self, text: str) -> bool:
        """Whether they have a line once more, with secrets masked perhaps."""
        shown = long_lines.truncated(text, len(text)).rstrip("\r")
        if not self._left[shown]:
            shown = next(
                (each for each, like in self._masked.items() if self._left[each] and like.fullmatch(shown)), ""
            )
        if not self._left[shown]:
            return False
        self._left[shown] -= 1
        return True


def _lines(events: Iterator[tuple[int, str]]) -> Iterator[Line]:
    """Events, with their times in milliseconds, as lines: those that were split are joined again."""
    same, before = 0, -1
    begun: Line | None = None
    for at, text in events:
        same, before = same + 1 if at == before else 0, at
        line = begun or Line(at * _MILLI, "", f"cloudwatch-{at}-{same}")
        line = line._replace(text=line.text + text)
        begun = line if len(text.encode("utf-8", "replace")) >= _FULL_EVENT else None
        if begun is None:
            yield line._replace(text=line.text.rstrip("\r\n"))
    if begun is not None:
        yield begun


def _events(group: str, stream: str, region: str, since: int) -> Iterator[tuple[int, str]]:
    """The events of a stream since a time, in milliseconds since 1970."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise UnreadableError("CloudWatch cannot be read without boto3; type: pip install boto3") from error
    more: dict[str, Any] = {"startTime": since} if since else {}
    try:
        config = Config(connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT, retries={"total_max_attempts": 3})
        client = boto3.client("logs", region_name=region or None, config=config)
        while True:
            page = client.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **more)
            for event in page["events"]:
                yield event["timestamp"], event["message"]
            if page["nextForwardToken"] == more.get("nextToken"):  # as the API says that there is no more
                return
            more["nextToken"] = page["nextForwardToken"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
            raise _MissingError(f"CloudWatch has no log stream {stream} in {group}") from error
        raise UnreadableError(f"cannot read CloudWatch's {group}: {reason(error)}") from error
    except BotoCoreError as error:
        raise UnreadableError(f"cannot read CloudWatch's {group}: {reason(error)}") from error


class _MissingError(UnreadableError):
    """The group or the stream does not exist; others may."""
