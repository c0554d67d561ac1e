"""Finds runs in Metaflow's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from otel_metaflow.backfill.metaflow_seams import Catalogue


class StoredRunName(NamedTuple):
    """A run of Metaflow's metadata, and when it began, in nanoseconds since 1970."""

    flow: str
    run: str
    began: int

    def __str__(self) -> str:
        return f"{self.flow}/{self.run}"


def newest(catalogue: Catalogue, flow: str) -> list[StoredRunName]:
    """The runs of a flow, the newest first; with a metadata service, one request.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    return [
        StoredRunName(flow, str(each["run_number"]), int(each.get("ts_epoch") or 0) * 1_000_000)
        for each in catalogue.runs(flow)
    ]


def since(catalogue: Catalogue, patterns: Sequence[str], began: int) -> Iterator[StoredRunName]:
    """The runs that began at `began` or later, of the flows that match one of `patterns`, the oldest of each first.

    Raises:
        UnreadableError: the metadata cannot be read.
    """
    # A name is found without listing all flows.
    are_names = not any(set(pattern) & set("*?[") for pattern in patterns)
    flows = patterns if are_names else catalogue.flows()
    for flow in flows:
        if any(fnmatchcase(flow, pattern) for pattern in patterns):
            yield from reversed([run for run in newest(catalogue, flow) if run.began >= began])
