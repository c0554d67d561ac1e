"""The last lines of an attempt that was killed with its container: those that only CloudWatch has.

Its shipper exports what is printed until then, and the journals that are fetched are as old as the last time that
Metaflow stored its log files. What of the difference the endpoint has, nobody knows here: these lines are for people to
read, and are not exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.backfill.metaflow_seams import UnreadableError
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.reader import Tail

_NANO_OF_MILLI = 1_000_000


class Line(NamedTuple):
    """One event of a stream: when, in nanoseconds since 1970, and its text."""

    at: int
    text: str


def of_attempt(folder: Path, key: AttemptKey, group: str, stream: str) -> list[Line]:
    """The lines of a stream after the last one that the attempt's journals in `folder` have.

    Raises:
        UnreadableError: CloudWatch cannot be read.
    """
    journaled = _texts(layout.attempt_file(folder, key)) | _texts(layout.output_file(folder, key))
    found: list[Line] = []
    for line in _events(group, stream):
        if journaled[line.text]:
            journaled[line.text] -= 1
            found.clear()
        else:
            found.append(line)
    return found


def _texts(journal: Path) -> Counter[str]:
    """How often a journal has each line; the task's and its container's have the same ones, if not all of them."""
    tail, before = Tail(journal, only=layout.LINE), -1
    texts: Counter[str] = Counter()
    while tail.offset != before:
        before = tail.offset
        texts.update(str(entry.record.get("body", "")) for entry in tail.read())
    return texts


def _events(group: str, stream: str) -> Iterator[Line]:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise UnreadableError("CloudWatch cannot be read without boto3; type: pip install boto3") from error
    token: dict[str, Any] = {}
    try:
        client = boto3.client("logs")
        while True:
            page = client.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **token)
            for event in page["events"]:
                yield Line(event["timestamp"] * _NANO_OF_MILLI, event["message"].rstrip("\r\n"))
            if page["nextForwardToken"] == token.get("nextToken"):  # as the API says that there is no more
                return
            token = {"nextToken": page["nextForwardToken"]}
    except (BotoCoreError, ClientError) as error:
        raise UnreadableError(f"CloudWatch's {group}, {stream}: {error}") from error
