"""A run as one HTML file that holds all it needs: it asks the network for nothing, and runs nothing that was printed.

What the run printed travels as compressed JSON and is put on the page as text, never as markup; a policy in the
page's head lets no script run but its own, known by its hash. Why it is drawn by hand stands in docs/design.md.
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
from otel_metaflow.model.run import Attempt, Run, load
from otel_metaflow.viewer import log_lines, report, spans
from otel_metaflow.viewer.log_lines import Line

MOST_LINES = 200_000
"""How many log lines a page holds; of more, each attempt keeps its errors and its last lines."""

_LEAST = 100  # lines that every attempt may keep, however many the others have
_CHUNK = 1 << 18  # characters of log lines that are unpacked together
_MOST_SPANS = 20_000  # spans of user code
_LONGEST = 20_000  # characters of a line: more is nothing to look at on a page
_LAUNCHER = "launcher"
_SCRIPTS = ("graph.js", "log_text.js", "page.js")  # one script, in this order


class Part(NamedTuple):
    """The lines of one attempt, or of the launcher; `cut` is how many more there are."""

    name: str
    lines: list[Line]
    cut: int = 0


def html(environment: Settings, folder: Path) -> str:
    """The page of the run in `folder`, as far as its journals go now."""
    run = load(environment.home, folder)
    redaction = Redaction(environment.redact)
    values = report.of_run(run, redaction, environment.trace_url)
    values["drawnTimeUnixNano"] = time.time_ns()
    values["version"] = __version__
    values["spans"] = spans.of_users(folder, run, redaction, _MOST_SPANS)
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
    """A page that only states why there is none."""
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
    return re.sub("@@([A-Z]+)@@", lambda place: texts[place.group(1)], page)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _packed(values: Any) -> str:
    """JSON, gzip, base64: a tenth of the size, and no character in it that means anything to HTML."""
    try:
        text = _dumps(values)
    except ValueError:
        text = _dumps(_finite(values))
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 5, mtime=0)).decode()


def _dumps(values: Any) -> str:
    return json.dumps(values, separators=(",", ":"), default=str, allow_nan=False)


def _finite(values: Any) -> Any:
    """`values` with a word for each number that the journal can hold and JSON cannot: one would spoil the page."""
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
        "cut": part.cut,
    }


def _columns(parts: Sequence[Part], zero: int) -> dict[str, list[list[Any]]]:
    """By attempt: microseconds since the line before, at first since the run began; levels; streams, loggers; texts.

    By columns, because what is alike is then side by side, which makes it smaller.
    """
    found: dict[str, list[list[Any]]] = {}
    for part in parts:
        times = [0, *((line.at - zero) // 1000 for line in part.lines)]
        since = [now - before for before, now in pairwise(times)]
        found[part.name] = [since, *([line[index] for line in part.lines] for index in (1, 2, 3))]
    return found


def _parts(folder: Path, run: Run, pattern: str) -> Iterator[Part]:
    """The lines of the launcher and of each attempt: first those of the attempts that matter most."""
    left = MOST_LINES
    waiting = sorted(run.attempts.values(), key=_rank(run))
    part = _kept(_LAUNCHER, log_lines.of_launcher(folder, run, pattern), max(_LEAST, left - _LEAST * len(waiting)))
    yield part
    left -= len(part.lines)
    for number, attempt in enumerate(waiting, 1):
        most = max(_LEAST, left - _LEAST * (len(waiting) - number))
        part = _kept(story.name(attempt.key), log_lines.of_attempt(folder, run, attempt, pattern), most)
        left -= len(part.lines)
        yield part


def _rank(run: Run) -> Any:
    critical = {attempt.key for attempt in story.critical_path(run).attempts}

    def rank(attempt: Attempt) -> tuple[bool, bool, int, Any]:
        return not attempt.failed, attempt.key not in critical, attempt.started_at, attempt.key

    return rank


def _kept(name: str, found: Iterator[Line], most: int) -> Part:
    """At most `most` lines: all errors as far as they fit, and of the rest the last."""
    kept: list[Line] = []
    cut = 0
    for line in found:
        kept.append(line if len(line.text) <= _LONGEST else line._replace(text=line.text[:_LONGEST] + " …"))
        if len(kept) > 2 * most:
            shorter = _shortened(kept, most)
            cut += len(kept) - len(shorter)
            kept = shorter
    shorter = _shortened(kept, most)
    cut += len(kept) - len(shorter)
    return Part(name, sorted(shorter, key=lambda line: line.at), cut)


def _shortened(kept: list[Line], most: int) -> list[Line]:
    if len(kept) <= most:
        return kept
    errors = [line for line in kept[:-most] if line.level >= log_lines.ERROR][: most // 2]
    return [*errors, *kept[len(kept) - (most - len(errors)) :]]
