"""Makes ids and times of telemetry equal in every run of a flow.

Spans are numbered in the order of their tree, traces in the order in which they occur. The clock starts at START and
advances by one second when a span starts, for each of its events and log records, and when it ends; so parents enclose
their children, and siblings follow one another even if they ran concurrently. The run's id becomes 1, also in
attributes and bodies. Everything else, such as host names and durations, is left unchanged.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

from otel_metaflow.core import names
from otel_metaflow.testing.telemetry import Telemetry, Tree

START = 1_577_836_800_000_000_000  # 2020-01-01T00:00:00Z, in nanoseconds since 1970
TICK = 1_000_000_000
RUN = "1"


def deterministic(telemetry: Telemetry) -> Telemetry:
    """The same telemetry with numbered ids and times; spans and log records are in the order of the tree.

    Spans of attempts that were queued are left out. Metrics and the output of the flow are left unchanged.
    """
    return _Renumbering(telemetry).result()


class _Renumbering:
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._run = re.compile(rf"(?<!\w){re.escape(telemetry.run)}(?!\w)")
        self._order = list(Tree(telemetry.spans).walk())
        self._traces: dict[int, int] = {}
        self._spans: dict[int, int] = {}
        self._now = START - TICK
        for _, span in self._order:
            self._context(span.context)

    def result(self) -> Telemetry:
        """The telemetry, renumbered."""
        spans: list[tuple[ReadableSpan, int, list[Event]]] = []
        ends: dict[int, int] = {}
        logs: list[ReadableLogRecord] = []
        records = self._records()
        open_: list[tuple[int, int]] = []  # depth and id of the spans that have started and not ended
        for depth, span in self._order:
            self._close(open_, depth, ends)
            open_.append((depth, span.context.span_id))
            spans.append((span, self._tick(), [self._event(event) for event in span.events]))
            logs += [self._log(record) for record in records.pop(span.context.span_id, ())]
        self._close(open_, 0, ends)
        logs += [self._log(record) for rest in records.values() for record in rest]
        return dataclasses.replace(
            self._telemetry,
            run=RUN,
            spans=[self._span(span, start, ends[span.context.span_id], events) for span, start, events in spans],
            logs=logs,
        )

    def _close(self, open_: list[tuple[int, int]], depth: int, ends: dict[int, int]) -> None:
        while open_ and open_[-1][0] >= depth:
            ends[open_.pop()[1]] = self._tick()

    def _records(self) -> dict[int, list[ReadableLogRecord]]:
        found: dict[int, list[ReadableLogRecord]] = {}
        for record in sorted(self._telemetry.logs, key=lambda one: one.log_record.timestamp or 0):
            found.setdefault(record.log_record.span_id or 0, []).append(record)
        return found

    def _tick(self) -> int:
        self._now += TICK
        return self._now

    def _context(self, context: SpanContext) -> SpanContext:
        trace = self._traces.setdefault(context.trace_id, len(self._traces) + 1)
        span = self._spans.setdefault(context.span_id, len(self._spans) + 1)
        return SpanContext(trace, span, context.is_remote, context.trace_flags, context.trace_state)

    def _span(self, span: ReadableSpan, start: int, end: int, events: Iterable[Event]) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=self._context(span.context),
            parent=self._context(span.parent) if span.parent is not None else None,
            resource=self._resource(span.resource),
            attributes=self._attributes(span.attributes),
            events=tuple(events),
            links=[Link(self._context(link.context), self._attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=span.status,
            start_time=start,
            end_time=end,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _event(self, event: Event) -> Event:
        return Event(event.name, self._attributes(event.attributes), self._tick())

    def _log(self, record: ReadableLogRecord) -> ReadableLogRecord:
        made = copy.copy(record.log_record)
        made.timestamp = made.observed_timestamp = self._tick()
        if made.trace_id:
            made.trace_id = self._traces.setdefault(made.trace_id, len(self._traces) + 1)
        if made.span_id:
            made.span_id = self._spans.setdefault(made.span_id, len(self._spans) + 1)
        made.body = self._text(made.body)
        made.attributes = self._attributes(made.attributes)
        if names.LOG_RECORD_UID in made.attributes:
            made.attributes = {**made.attributes, names.LOG_RECORD_UID: str((self._now - START) // TICK)}
        return ReadableLogRecord(made, self._resource(record.resource), record.instrumentation_scope, record.limits)

    def _resource(self, resource: Resource) -> Resource:
        return Resource(self._attributes(resource.attributes), resource.schema_url)

    def _attributes(self, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: self._text(value) for name, value in (attributes or {}).items()}

    def _text(self, value: Any) -> Any:
        return self._run.sub(RUN, value) if isinstance(value, str) else value
