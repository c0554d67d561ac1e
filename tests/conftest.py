"""Fixtures that all tests share, and what each test needs beside Python."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import hypothesis
import pytest
from running import Place

# How long an example takes depends more on the machine than on the code.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

pytest_plugins = ["browser", "collectors"]

# A test that asks for one of these fixtures gets the marker.
NEEDS = {"browser": {"chromium"}, "container": {"image", "watch_image"}, "collector": {"vendors", "collector", "image"}}
# Modules that run many flows or commands, kill, wait for real timeouts or build environments: not in `make check`.
SLOW = {
    "test_backfill", "test_backfill_clouds", "test_backfill_damage", "test_backfill_remote", "test_backfill_service",
    "test_backfill_wide", "test_bare_shipper", "test_bounds", "test_card", "test_choice", "test_cli",
    "test_cli_backfill", "test_cli_ship", "test_clocks", "test_deaths", "test_doctor", "test_encodings",
    "test_errors", "test_examples", "test_export", "test_finalization", "test_handlers", "test_installations",
    "test_lines", "test_links", "test_log_files", "test_names", "test_otel_seams", "test_outages", "test_package",
    "test_partial", "test_providers", "test_public", "test_quiet", "test_redirects", "test_remote_deploy",
    "test_remote_home", "test_remote_pods", "test_remote_runs", "test_remote_shipping", "test_remote_volume",
    "test_seams", "test_setbacks", "test_soak", "test_span_limit", "test_standby", "test_testing", "test_unfelt",
    "test_unrecorded", "test_watch", "test_watch_image", "test_wide_runs", "test_witness",
}  # fmt: skip
TOOLS = {
    "page": ["chromium or chromium-browser or google-chrome"],
    "collector's image": ["podman", "buildah", "runc"],
    "watcher's image": ["podman", "buildah", "runc", "mmdebstrap"],
    "datastore of Azure": [str(Path(sys.prefix) / "azurite/node_modules/.bin/azurite-blob")],
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder of its own to run flows in."""
    return Place(tmp_path)


def pytest_configure() -> None:
    """Take Ctrl-C, which a shell has its background jobs ignore, and with them the flows that tests start and stop."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what it asks for."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
        if hasattr(getattr(item, "module", None), "Collector"):  # its tests start one without the fixture
            item.add_marker("collector")
        for marker, fixtures in NEEDS.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


def pytest_report_header() -> list[str]:
    """What this machine lacks, before the tests that need it are skipped (or fail, where CI is set)."""
    missing = {
        what: [names for names in tools if not any(map(shutil.which, names.split(" or ")))]
        for what, tools in TOOLS.items()
    }
    return [f"the {what} is not tested without {', '.join(names)}" for what, names in missing.items() if names]
