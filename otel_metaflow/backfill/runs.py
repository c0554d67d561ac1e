"""Finds runs in Metaflow's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from otel_metaflow.backfill.attempts import registered_at
from otel_metaflow.backfill.catalogue import Catalogue

MAX_UNREADABLE = 3
"""After so many runs in a row that cannot be read, it is the service or the credentials."""


class StoredRunName(NamedTuple):
    """A run of a catalogue, and when it began, in nanoseconds since 1970."""

    flow: str
    run: str
    began: int

    def __str__(self) -> str:
        return f"{self.flow}/{self.run}"


def find(catalogue: Catalogue, flow: str, run: str) -> StoredRunName | None:
    """One run by its id; None if there is none.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    described = catalogue.run(flow, run)
    return None if described is None else _named(flow, described)


def newest(catalogue: Catalogue, flow: str) -> list[StoredRunName]:
    """The runs of a flow, the newest first; with a metadata service, one request.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    return [_named(flow, each) for each in catalogue.runs(flow)]


def since(catalogue: Catalogue, patterns: Sequence[str], began: int) -> Iterator[StoredRunName]:
    """The runs that began at `began` or later, of the flows that match one of `patterns`, the oldest of each first.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    for flow in flows(catalogue, patterns):
        yield from reversed([run for run in newest(catalogue, flow) if run.began >= began])


def flows(catalogue: Catalogue, patterns: Sequence[str]) -> list[str]:
    """The flows that match one of `patterns`; those given by name are not looked for, so that not all are listed.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    found = [pattern for pattern in patterns if not set(pattern) & set("*?[")]
    if len(found) < len(patterns):
        found += [flow for flow in catalogue.flows() if is_wanted(flow, patterns)]
    return list(dict.fromkeys(found))


def is_wanted(flow: str, patterns: Sequence[str]) -> bool:
    """Whether a flow matches one of `patterns`."""
    return any(fnmatchcase(flow, pattern) for pattern in patterns)


def _named(flow: str, described: Mapping[str, Any]) -> StoredRunName:
    return StoredRunName(flow, str(described["run_number"]), registered_at(described))
