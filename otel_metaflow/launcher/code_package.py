"""What of this package goes into Metaflow's code package, for containers where it is not installed.

It lies in a folder of its own, whose name is no module's: what is carried goes last on the path there, after an
installation in the image and after everything of the user's (see the shim, which puts it there).
"""

from __future__ import annotations

from pathlib import Path

import otel_metaflow
from otel_metaflow.journal.layout import CARRIED

# What a container needs: a task and its shipper. A run that a step starts there has no launcher of ours.
_ROOMS = ("core", "journal", "model", "shipper", "task")
_KINDS = (".py", ".sh")
# Of these, only the command line, a launcher, its tasks and its shipper use them, or documentation.
_STAYS = (
    "core/catalog.py",
    "core/requested_resources.py",
    "core/standby.py",
    "journal/unrecorded.py",
    "shipper/dates.py",
    "shipper/log_files.py",
    "shipper/otlp_json.py",
    "shipper/retention.py",
)


def files() -> list[tuple[str, str]]:
    """Each file and where it goes below `.mf_code`, as Metaflow's `add_to_package` takes them."""
    package = Path(otel_metaflow.__file__).parent
    found = [package / "__init__.py"]
    for room in _ROOMS:
        found += sorted(path for path in (package / room).rglob("*") if path.suffix in _KINDS)
    found = [path for path in found if path.relative_to(package).as_posix() not in _STAYS]
    return [(str(path), f"{CARRIED}/{path.relative_to(package.parent)}") for path in found]
