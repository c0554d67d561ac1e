"""Queries the bundled collector: its health, and whether its exporters have sent the telemetry that it accepted.

The health is that of the health_check extension; the counts are the Collector's own metrics in Prometheus text format
(https://opentelemetry.io/docs/collector/internal-telemetry/).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import requests

_HEALTH_PORT, _METRICS_PORT = 13133, 8888
_POLL = 0.25
# Datadog's exporter may take seven seconds to send spans.
_MIN_TIMEOUT = 15.0
_LINE = re.compile(r"^otelcol_exporter_(\w+?)(?:_total)?\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ITEMS = {"logs": "log_records", "traces": "spans", "metrics": "metric_points"}
_ADVICE = (
    ("datadog", "check DD_API_KEY and DD_SITE where the collector runs; its log has Datadog's answer"),
    ("splunk", "check SPLUNK_HEC_URL, SPLUNK_HEC_TOKEN and the indexes where the collector runs; see its log"),
    ("forward", "check COLLECTOR_OTLP_FORWARD_ENDPOINT and …_HEADERS where the collector runs; see its log"),
)

Hop = tuple[str, str, str]
"""Name, message, and how to fix it if something is wrong."""


class Counts(NamedTuple):
    """The counts of the exporters; keys are the name of the count, the exporter, and the signal or an empty string."""

    values: dict[tuple[str, str, str], float]

    @property
    def queues(self) -> Sequence[tuple[str, str]]:
        """Exporter and signal of each queue."""
        return sorted((exporter, signal) for name, exporter, signal in self.values if name == "queue_capacity")

    def of(self, what: str, exporter: str, signal: str) -> float:
        """How many items of a signal were `sent`, or permanently failed (`send_failed`)."""
        return self.values.get((f"{what}_{_ITEMS[signal]}", exporter, ""), 0.0)

    def queued(self, exporter: str, signal: str) -> int:
        """How many items a queue holds."""
        return int(self.values.get(("queue_size", exporter, signal), 0.0))


class Collector:
    """The collector at a host, if there is one; `health` and `metrics` are its URLs if not the default ones."""

    def __init__(self, host: str, health: str | None, metrics: str | None) -> None:
        shown = f"[{host}]" if ":" in host else host
        self._is_named = bool(health)
        self._health = health or f"http://{shown}:{_HEALTH_PORT}/"
        self._metrics = metrics or f"http://{shown}:{_METRICS_PORT}/metrics"

    def health(self, timeout: float) -> Iterator[Hop]:
        """Query its health endpoint."""
        answer = _get(self._health, min(timeout, 2.0))
        if answer is None:
            fix = "check the URL of --health" if self._is_named else ""
            yield "collector", f"{self._health} does not respond" if fix else "", fix
        elif answer.ok:
            yield "collector", f"{self._health} is healthy", ""
        else:
            fix = "see the collector's log: it is starting, stopping or out of memory"
            yield "collector", f"{self._health} returned {answer.status_code}", fix

    def counts(self) -> Counts | None:
        """The counts of its exporters, or None if they cannot be scraped."""
        answer = _get(self._metrics, 2.0)
        if answer is None or not answer.ok:
            return None
        values: dict[tuple[str, str, str], float] = {}
        for name, text, value in _LINE.findall(answer.text):
            labels = dict(_LABEL.findall(text))
            values[name, labels.get("exporter", ""), labels.get("data_type", "")] = float(value)
        return Counts(values)

    def onward(self, before: Counts | None, signals: Sequence[str], timeout: float) -> Iterator[Hop]:
        """Report for each exporter whether it has sent something since `before`."""
        if before is None:
            return
        now = before
        expected = [(exporter, signal) for exporter, signal in before.queues if signal in signals]
        unsent = list(expected)
        deadline = time.monotonic() + max(timeout, _MIN_TIMEOUT)
        while unsent and time.monotonic() < deadline:
            time.sleep(_POLL)
            now = self.counts() or now
            unsent = [one for one in unsent if not _grew(before, now, "sent", *one)]
            if all(_grew(before, now, "send_failed", *one) for one in unsent):
                break
        for exporter in dict.fromkeys(exporter for exporter, _ in expected):
            signals = [signal for name, signal in unsent if name == exporter]
            yield f"to {exporter}", *_result(exporter, signals, before, now)


def _result(exporter: str, unsent: Sequence[str], before: Counts, now: Counts) -> tuple[str, str]:
    if not unsent:
        return "sent", ""
    fix = next((advice for part, advice in _ADVICE if part in exporter), "see the collector's log")
    queued = sum(now.queued(exporter, signal) for signal in unsent)
    if any(_grew(before, now, "send_failed", exporter, signal) for signal in unsent):
        return f"{' and '.join(unsent)} permanently rejected", fix
    return f"{' and '.join(unsent)} not sent yet; {queued} item{'' if queued == 1 else 's'} queued", fix


def _grew(before: Counts, now: Counts, what: str, exporter: str, signal: str) -> bool:
    return now.of(what, exporter, signal) > before.of(what, exporter, signal)


def _get(url: str, timeout: float) -> requests.Response | None:
    try:
        return requests.get(url, timeout=timeout)
    except (requests.exceptions.RequestException, ValueError):  # ValueError for an invalid host name
        return None
