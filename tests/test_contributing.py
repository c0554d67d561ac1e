"""The docs name files and names that exist."""

from __future__ import annotations

import re

import pytest
from collectors import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "examples/README.md",
]


def test_the_walks_of_contributing_lead_somewhere() -> None:
    """Each file in backticks exists, and each name is in the file beside it."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Find your way")[2].partition("## Versions")[0]
    files = re.findall(r"`([\w/]+\.(?:py|yaml|md))`", table)
    assert len(files) > 10
    for name in files:
        assert any((ROOT / folder / name).is_file() for folder in ("otel_metaflow", ".")), name
    assert "FOREACH_INDEX" in (ROOT / "otel_metaflow/core/names.py").read_text()
    assert "SPLUNK_DEVELOPMENT_INDEX" in (ROOT / "collector/config/config.yaml").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_docs_lead_somewhere(page: str) -> None:
    """Within the tree; a link to a heading names one that exists."""
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", (ROOT / page).read_text()):
        name, _, heading = target.partition("#")
        found = (ROOT / page).parent / name if name else ROOT / page
        assert found.exists(), target
        if heading:
            headings = re.findall(r"(?m)^#+ (.*)$", found.read_text())
            assert heading in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, target


def test_files_of_the_design_are_there() -> None:
    """The paths in docs/design.md name files below otel_metaflow/ or the root."""
    text = (ROOT / "docs/design.md").read_text()
    walks = text.partition("## The path of a line, a span and a death")[2].partition("## Decisions")[0]
    files = re.findall(r"[\w/]+\.(?:py|yaml)", walks)
    assert len(files) > 12
    for name in files:
        assert any((ROOT / folder / name).is_file() for folder in ("otel_metaflow", ".")), name
