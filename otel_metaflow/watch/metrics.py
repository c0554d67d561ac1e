"""What the watcher counts of itself, as a page for Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

_PREFIX = "otel_metaflow_watch_"


@dataclass
class Metrics:
    """Counts since the process was started; times are in seconds since 1970."""

    passes: int = 0
    last_pass: float = 0.0
    """When the last pass without a failure ended."""
    open_runs: int = 0
    requests: int = 0
    attempts: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    """By how they ended: `exported` or, of these, `died`; `recorded` by others, and left to them."""
    records: Counter[str] = field(default_factory=Counter)
    """That were acknowledged, by signal."""
    failures: Counter[str] = field(default_factory=Counter)
    """By what failed: `read`, `export` or `write`."""
    trouble: str = ""
    """What fails at the moment, in one line."""
    moved_at: float = field(default_factory=time.monotonic)
    """When it last got on, of the monotonic clock."""

    def move(self) -> None:
        """It gets on."""
        self.moved_at = time.monotonic()

    def page(self) -> str:
        """The page, in Prometheus's text format (version 0.0.4)."""
        lines: list[str] = []

        def add(name: str, kind: str, text: str, values: dict[str, float]) -> None:
            lines.append(f"# HELP {_PREFIX}{name} {text}")
            lines.append(f"# TYPE {_PREFIX}{name} {kind}")
            lines.extend(f"{_PREFIX}{name}{labels} {value:.15g}" for labels, value in values.items())

        add("up", "gauge", "Whether the last pass had no failure.", {"": float(not self.trouble)})
        add("passes_total", "counter", "Passes over all flows.", {"": self.passes})
        add("last_pass_timestamp_seconds", "gauge", "When a pass without a failure last ended.", {"": self.last_pass})
        add("open_runs", "gauge", "Runs that are going on or not exported yet.", {"": self.open_runs})
        add(
            "metadata_requests_total",
            "counter",
            "Requests to Metaflow's metadata, or to the datastore that is read alone.",
            {"": self.requests},
        )
        add("attempts_total", "counter", "Attempts that were read from Metaflow's datastore.", {"": self.attempts})
        of_runs = {state: self.runs[state] for state in ("exported", "died", "recorded")}
        add("runs_total", "counter", "Runs that are done, by state.", _labelled("state", of_runs))
        of_signals = {signal: self.records[signal] for signal in ("traces", "logs", "metrics")}
        add("records_total", "counter", "Records that were exported.", _labelled("signal", of_signals))
        failures = {what: self.failures[what] for what in ("read", "export", "write")}
        add("failures_total", "counter", "Failures, by what failed.", _labelled("what", failures))
        return "\n".join([*lines, ""])


def _labelled(label: str, counts: dict[str, int]) -> dict[str, float]:
    return {f'{{{label}="{value}"}}': count for value, count in counts.items()}
