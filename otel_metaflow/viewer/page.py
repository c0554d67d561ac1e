"""Writes a run as one self-contained HTML file: it loads nothing from the network and runs only its own script.

Data of the run is embedded as compressed JSON and inserted as text, never as markup; a content security policy allows
no script except the page's own, by its hash. docs/design.md explains why it is drawn without a library.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Settings
from otel_metaflow.core.version import __version__
from otel_metaflow.model import story
from otel_metaflow.model.critical_path import critical_path
from otel_metaflow.model.run import Attempt, Run, load
from otel_metaflow.viewer import log_lines, report, spans
from otel_metaflow.viewer.log_lines import Line

MAX_LINES = 200_000
"""The number of log lines that a page holds; of a larger run, each attempt keeps its errors and its last lines."""

_MIN_LINES = 100  # that every attempt may keep, however many the others have
_CHUNK = 1 << 18  # characters of log lines that are decompressed together
_MAX_SPANS = 20_000  # of user code
_MAX_LENGTH = 20_000  # characters of a line
_LAUNCHER = "launcher"
_SCRIPTS = ("graph.js", "dom.js", "virtual_list.js", "header.js", "log_text.js", "page.js")  # one script, in this order


class Part(NamedTuple):
    """The lines of one attempt, or of the launcher; `omitted` is the number of lines left out."""

    name: str
    lines: list[Line]
    omitted: int = 0


def html(environment: Settings, folder: Path) -> str:
    """The page of the run in `folder`, from its journals so far."""
    run = load(environment.home, folder)
    redaction = Redaction(environment.redact)
    values = report.of_run(run, redaction, environment.trace_url)
    values["drawnTimeUnixNano"] = time.time_ns()
    values["version"] = __version__
    values["spans"] = spans.of_users(folder, run, redaction, _MAX_SPANS)
    chunks: list[str] = []
    values["logs"] = {}
    batch: list[Part] = []
    size = 0
    for part in _parts(folder, run, environment.redact):
        values["logs"][part.name] = _about(part, len(chunks))
        batch.append(part)
        size += sum(len(line.text) + 20 for line in part.lines)
        if size > _CHUNK:
            chunks.append(_packed(_columns(batch, run.started_at)))
            batch, size = [], 0
    chunks.append(_packed(_columns(batch, run.started_at)))
    return _filled(run, [_packed(values), *chunks])


def note(text: str) -> str:
    """A page with only a message."""
    return f'<!DOCTYPE html><meta charset="utf-8"><title>otel-metaflow</title><p>{_escaped(text)}</p>'


def _filled(run: Run, blocks: Sequence[str]) -> str:
    static = resources.files("otel_metaflow.viewer") / "static"
    style, page, *scripts = ((static / name).read_text("utf-8") for name in ("page.css", "page.html", *_SCRIPTS))
    script = "\n".join(scripts)
    policy = (
        f"default-src 'none'; script-src 'sha256-{_hash(script)}'; style-src 'sha256-{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    texts = {
        "POLICY": policy,
        "TITLE": _escaped(f"{run.key} · {report.run_state(run)}"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": "\n".join(f'<script type="text/plain" class="packed">{block}</script>' for block in blocks),
    }
    return re.sub("@@([A-Z]+)@@", lambda placeholder: texts[placeholder.group(1)], page)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _packed(values: Any) -> str:
    """JSON, compressed and base64-encoded: a tenth of the size, and without characters that are special in HTML."""
    try:
        text = _dumps(values)
    except ValueError:
        text = _dumps(_finite(values))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 5, mtime=0)).decode()


def _dumps(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), default=str, allow_nan=False)


def _finite(values: Any) -> Any:
    """`values` with text for NaN and infinity, which JSON does not allow."""
    if isinstance(values, dict):
        return {name: _finite(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return str(values) if isinstance(values, float) and not math.isfinite(values) else values


def _about(part: Part, chunk: int) -> dict[str, Any]:
    return {
        "chunk": chunk,
        "count": len(part.lines),
        "errors": sum(line.level >= log_lines.ERROR for line in part.lines),
        "omitted": part.omitted,
    }


def _columns(parts: Sequence[Part], zero: int) -> dict[str, list[list[Any]]]:
    """For each attempt: microseconds since the previous line (at first since the run's start), levels, sources, texts.

    As columns, because similar values next to each other compress better.
    """
    found: dict[str, list[list[Any]]] = {}
    for part in parts:
        times = [0, *((line.at - zero) // 1000 for line in part.lines)]
        since = [now - before for before, now in pairwise(times)]
        found[part.name] = [since, *([line[index] for line in part.lines] for index in (1, 2, 3))]
    return found


def _parts(folder: Path, run: Run, pattern: str) -> Iterator[Part]:
    """The lines of the launcher and of each attempt, the most important attempts first."""
    left = MAX_LINES
    attempts = sorted(run.attempts.values(), key=_rank(run))
    launcher = log_lines.of_launcher(folder, run, pattern)
    part = _limited(_LAUNCHER, launcher, max(_MIN_LINES, left - _MIN_LINES * len(attempts)))
    yield part
    left -= len(part.lines)
    for number, attempt in enumerate(attempts, 1):
        limit = max(_MIN_LINES, left - _MIN_LINES * (len(attempts) - number))
        part = _limited(story.name(attempt.key), log_lines.of_attempt(folder, run, attempt, pattern), limit)
        left -= len(part.lines)
        yield part


def _rank(run: Run) -> Any:
    critical = {attempt.key for attempt in critical_path(run).attempts}

    def rank(attempt: Attempt) -> tuple[bool, bool, int, Any]:
        return not attempt.failed, attempt.key not in critical, attempt.started_at, attempt.key

    return rank


def _limited(name: str, found: Iterator[Line], limit: int) -> Part:
    """At most `limit` lines: errors first, up to half of them, and the last of the others."""
    lines: list[Line] = []
    count = 0
    for count, line in enumerate(found, 1):  # noqa: B007 - read after the loop
        lines.append(line if len(line.text) <= _MAX_LENGTH else line._replace(text=line.text[:_MAX_LENGTH] + " …"))
        if len(lines) > 2 * limit:
            lines = _shortened(lines, limit)
    lines = _shortened(lines, limit)
    return Part(name, sorted(lines, key=lambda line: line.at), count - len(lines))


def _shortened(lines: list[Line], limit: int) -> list[Line]:
    if len(lines) <= limit:
        return lines
    errors = [line for line in lines[:-limit] if line.level >= log_lines.ERROR][: limit // 2]
    return [*errors, *lines[len(lines) - (limit - len(errors)) :]]
