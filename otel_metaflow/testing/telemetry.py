"""The telemetry of a run, and its spans as a tree of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, StatusCode

from otel_metaflow.core import names


@dataclass
class Telemetry:
    """The telemetry of a run, as SDK objects, as an exporter would receive them."""

    exit_code: int
    stdout: str
    stderr: str
    flow: str
    run: str
    spans: list[ReadableSpan] = field(default_factory=list)
    logs: list[ReadableLogRecord] = field(default_factory=list)
    metrics: list[MetricsData] = field(default_factory=list)

    def span(self, name: str) -> ReadableSpan:
        """The only span with that name.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            raise LookupError(
                f"{len(found)} spans are named {name!r}; there are {sorted({s.name for s in self.spans})}"
            )
        return found[0]

    def events(self, name: str) -> list[ReadableLogRecord]:
        """The log records that are events with that name, ordered by time."""
        found = [log for log in self.logs if log.log_record.event_name == name]
        return sorted(found, key=lambda log: log.log_record.timestamp or 0)

    def bodies(self, stream: str) -> list[Any]:
        """The lines of one stream, stdout or stderr, of all attempts, ordered by time."""
        found = [
            log.log_record
            for log in self.logs
            if (log.log_record.attributes or {}).get(names.LOG_IOSTREAM) == stream
            and log.instrumentation_scope is not None
            and log.instrumentation_scope.name == names.SCOPE_STDIO
        ]
        return [record.body for record in sorted(found, key=lambda record: record.timestamp or 0)]

    def tree(self) -> str:
        """The spans as indented text, equal in every run of a flow.

        Each line is a span: its name, the indexes of its foreach, its result, and after `<` the spans that it links to.
        Ids, times, hosts and figures are left out, and the spans of attempts that were queued for more than a second,
        which depend on the machine. Siblings are ordered by name.
        """
        return "\n".join(Tree(self.spans).lines())


class Tree:
    """The spans of a run in the order of their tree, which is equal in every run of a flow."""

    def __init__(self, spans: Sequence[ReadableSpan]) -> None:
        self._spans = {span.context.span_id: span for span in spans if not _is_queued(span)}

    def walk(self) -> Iterator[tuple[int, ReadableSpan]]:
        """Each span and its depth, parents before their children."""
        children: dict[int | None, list[ReadableSpan]] = {}
        for span in self._spans.values():
            parent = span.parent.span_id if span.parent is not None else None
            children.setdefault(parent if parent in self._spans else None, []).append(span)

        def descend(parent: int | None, depth: int) -> Iterator[tuple[int, ReadableSpan]]:
            for span in sorted(children.get(parent, []), key=self._order):
                yield depth, span
                yield from descend(span.context.span_id, depth + 1)

        return descend(None, 0)

    def lines(self) -> Iterator[str]:
        """The tree, each level indented by two blanks."""
        for depth, span in self.walk():
            yield "  " * depth + self._line(span)

    def _order(self, span: ReadableSpan) -> tuple[Any, ...]:
        attributes = span.attributes or {}
        index: Any = attributes.get(names.FOREACH_INDEX) or ()
        # Spans with the same name, index and attempt, as in a recursion, are ordered by time.
        return (span.name != "start", span.name, list(index), attributes.get(names.ATTEMPT) or 0, span.start_time)

    def _line(self, span: ReadableSpan) -> str:
        attributes = span.attributes or {}
        words = [self._name(span)]
        result = attributes.get(names.TASK_RESULT) or attributes.get(names.RUN_RESULT)
        if result:
            words.append(str(result))
        if attributes.get(names.ERROR_TYPE):
            words.append(str(attributes[names.ERROR_TYPE]))
        if span.status.status_code is StatusCode.ERROR:
            words.append("ERROR")
        for name, word in ((names.CAUGHT, "caught"), (names.CLONED, "cloned"), (names.FIRST_FAILURE, "failed-first")):
            if attributes.get(name):
                words.append(word)
        if attributes.get(names.FINAL) is False:
            words.append("retried")
        links = sorted(self._link(link) for link in span.links)
        return " ".join(words) + (f" < {', '.join(links)}" if links else "")

    def _name(self, span: ReadableSpan) -> str:
        attributes = span.attributes or {}
        index: Any = attributes.get(names.FOREACH_INDEX)
        attempt = attributes.get(names.ATTEMPT)
        where = f"[{','.join(map(str, index))}]" if index else ""
        return f"{span.name}{where}" + (f"/{attempt}" if attempt else "")

    def _link(self, link: Link) -> str:
        kind = (link.attributes or {}).get(names.LINK_TYPE)
        target = self._spans.get(link.context.span_id)
        name = self._name(target) if target is not None else "another run"
        # Links of user code's own spans have no type.
        return name if kind in ("input", None) else f"{name} ({kind})"


def _is_queued(span: ReadableSpan) -> bool:
    step = (span.attributes or {}).get(names.STEP_NAME)
    scope = span.instrumentation_scope
    return span.name == f"{step} queued" and scope is not None and scope.name == names.SCOPE
