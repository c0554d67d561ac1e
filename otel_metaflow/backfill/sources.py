"""Chooses what is read of runs: Metaflow's metadata, or the datastore alone."""

from __future__ import annotations

from collections.abc import Callable

from otel_metaflow.backfill.catalogue import Catalogue
from otel_metaflow.backfill.datastore_catalogue import DatastoreCatalogue
from otel_metaflow.backfill.metadata_catalogue import MetadataCatalogue
from otel_metaflow.backfill.metaflow_seams import default_datastore

MISSING = "without tags, users, versions, platforms, and the runs that were resumed"
"""What of runs is missing if they are read from the datastore alone."""


def catalogue(
    report: Callable[[str], object],
    before_request: Callable[[], object] = lambda: None,
    *,
    datastore_only: bool = False,
) -> Catalogue:
    """What Metaflow's configuration names; the datastore alone, if that is wanted, or all that can be read from here.

    That is so if there is no metadata service, none of the metadata that Metaflow keeps in a folder instead is on this
    machine, and the datastore is elsewhere. `report` is called with a line on that, and on whatever is left out, and
    `before_request` before each request.

    Raises:
        UnreadableError: Metaflow is configured to something that cannot be used.
    """
    if not datastore_only:
        metadata = MetadataCatalogue(before_request, report)
        if not metadata.is_absent or default_datastore()[0] == "local":
            return metadata
    found = DatastoreCatalogue(before_request)
    why = "" if datastore_only else "there is no metadata service, and no local metadata here; "
    report(f"{why}reading runs from {found.place} alone, {MISSING}")
    return found
