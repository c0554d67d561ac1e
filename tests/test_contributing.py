"""The docs name files and names that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from collectors import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "examples/README.md",
]


def in_tree(name: str) -> str:
    """The text of a file below otel_metaflow/ or the root; none, if it is not there."""
    found = [ROOT / folder / name for folder in ("otel_metaflow", ".") if (ROOT / folder / name).is_file()]
    return found[0].read_text() if found else ""


def test_the_walks_of_contributing_lead_somewhere() -> None:
    """Each file in backticks exists, and each name is in the file beside it."""
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("## Find your way")[2].partition("## Versions")[0]
    files = re.findall(r"`([\w/]+\.(?:go|md|py|yaml))`", table)
    assert len(files) > 10
    for name in files:
        assert in_tree(name), name
    for name, file in re.findall(r"`(\w+)` in `([\w/.]+)`", table):
        assert re.search(rf"\b{name}\b", in_tree(file)), f"{name} in {file}"


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
        assert in_tree(name), name


# Not names of the left column themselves, but where these were to be met.
CONTEXT = {
    "compare --json", "doctor --json", "metaflow.link.type", "metaflow.telemetry.dropped", "ship --json",
    "status --json", "view --json", "view HelloFlow --logs",
}  # fmt: skip
# The page that explains what an update changes, and a list of variables without their prefix.
ALLOWED = {("checkpoint.json", "docs/journal.md"), ("log-files.json", "docs/journal.md"), ("REDACT", "docs/remote.md")}
PLACEHOLDER = r"…|\d+|\bX\b|'x'|\ba and b\b"


def old_names() -> set[str]:
    """Names and phrases of three words and more; of words like `kept` a search finds all that are right."""
    table = (ROOT / "CHANGELOG.md").read_text().partition("### Old and new names")[2].partition("###")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| ")]
    names: set[str] = set()
    for text in set(re.findall(r"`([^`]+)`", " ".join(cells))) - CONTEXT:
        if re.fullmatch(r"[A-Z]{4,}_?…?|[\w.-]*(\w[._-]\w|[a-z]{3}[A-Z])[\w.-]*", text):
            names.add(re.sub(r"^\w+\.(?=[a-z]+[A-Z])", "", text))  # waitingSeconds, wherever it stood
        else:
            phrase = max((piece.strip(" ;:,.()") for piece in re.split(PLACEHOLDER, text)), key=len)
            names.update([phrase] if len(re.findall(r"\w+", phrase)) > 2 else [])
    return names


def holds(text: str, old: str) -> bool:
    """Whether the name is in the text, and not just as a part of another."""
    literal = old.rstrip("…")
    after = "" if old.endswith("…") else r"(?![\w-])"
    return literal in text and bool(re.search(rf"(?<![\w.-]){re.escape(literal)}{after}", text))


def test_no_old_name_is_left() -> None:
    """What CHANGELOG.md calls old is nowhere in the tree: a reader, or a query, would look for it in vain."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    here = Path(__file__).relative_to(ROOT).as_posix()
    files = [name for name in listed.split("\0") if (ROOT / name).is_file() and name not in (here, "CHANGELOG.md")]
    texts = {name: (ROOT / name).read_bytes().decode("utf-8", "replace") for name in files}
    found = {(old, name) for old in old_names() for name, text in texts.items() if holds(text, old)}
    assert len(old_names()) > 60
    assert found == ALLOWED
