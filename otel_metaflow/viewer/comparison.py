"""Compares two runs: which steps became slower or faster, or use more or less."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from otel_metaflow.model import story
from otel_metaflow.model.run import Attempt, Run
from otel_metaflow.viewer import formatting, report, table
from otel_metaflow.viewer.formatting import STYLES, plain, seconds, size

# A change is more than a fifth, and more than the usual variation between runs.
_MIN_RATIO = 0.2
_MIN_CHANGE = {"took": 0.1, "queued": 0.1, "cpu": 0.1, "memory": 10 << 20}
_MIN_ATTEMPTS = 4  # in each run, for the interquartile ranges to be compared, too
RULE = (
    "marked: the median differs by more than 20 % and by more than 0.1 s or 10 MiB, "
    "and with 4 attempts or more the interquartile ranges do not overlap"
)


@dataclass(frozen=True)
class Change:
    """One figure of one step in both runs, the median over its attempts; None if it has none."""

    step: str
    figure: str
    before: float | None
    after: float | None
    is_notable: bool


def changes(before: Run, after: Run) -> Iterator[Change]:
    """Each figure of each step of either run, in the order in which the steps began in `after`."""
    old, new = _by_step(before), _by_step(after)
    for step in dict.fromkeys([*new, *old]):
        for figure, read in _FIGURES.items():
            was = [value for value in (read(before, one) for one in old.get(step, ())) if value is not None]
            now = [value for value in (read(after, one) for one in new.get(step, ())) if value is not None]
            if was or now:
                one, other = (statistics.median(values) if values else None for values in (was, now))
                yield Change(step, figure, one, other, _is_notable(was, now, _MIN_CHANGE[figure]))


def _by_step(run: Run) -> dict[str, list[Attempt]]:
    found = report.by_step(run, [attempt for attempt in run.in_order if not attempt.is_running()])
    return {step: attempts for step, attempts in found.items() if attempts}


def _used(name: str) -> Callable[[Run, Attempt], float | None]:
    return lambda _, attempt: attempt.usage.get(name)


def _queued(run: Run, attempt: Attempt) -> float | None:
    queued = story.queue_time(run, attempt)
    return None if queued is None else queued / 1e9


_FIGURES: dict[str, Callable[[Run, Attempt], float | None]] = {
    "took": lambda _, attempt: (attempt.ended_at - attempt.started_at) / 1e9,
    "queued": _queued,
    "cpu": _used("cpu"),
    "memory": _used("memoryPeak"),
}


def _is_notable(was: Sequence[float], now: Sequence[float], min_change: float) -> bool:
    if not was or not now:
        return False
    one, other = statistics.median(was), statistics.median(now)
    if abs(other - one) <= max(min_change, _MIN_RATIO * one):
        return False
    if min(len(was), len(now)) < _MIN_ATTEMPTS:
        return True
    (low, _, high), (other_low, _, other_high) = statistics.quantiles(was), statistics.quantiles(now)
    return other_low > high or other_high < low


def as_values(before: Run, after: Run) -> dict[str, Any]:
    """Both runs and every change, for scripts."""
    found = [
        {"step": one.step, "figure": one.figure, "before": one.before, "after": one.after, "notable": one.is_notable}
        for one in changes(before, after)
    ]
    return {"before": report.summary(before), "after": report.summary(after), "changes": found, "rule": RULE}


def show(before: Run, after: Run) -> None:
    """Print both runs, a row for each step, and a sentence for each change."""
    console = formatting.console()
    for run in (before, after):
        values = report.summary(run)
        state = Text(values["state"], style=STYLES.get(values["state"], ""))
        took = seconds(values["durationSeconds"])
        console.print(Text.assemble((plain(str(run.key)), "bold"), "  ", state, f"  {took}"))
    found: dict[str, dict[str, Change]] = {}
    for change in changes(before, after):
        found.setdefault(change.step, {})[change.figure] = change
    counts = [{step: len(attempts) for step, attempts in _by_step(run).items()} for run in (before, after)]
    rows = []
    for step, figures in found.items():
        was, now = (count.get(step, 0) for count in counts)
        count = Text(f"{was} > {now}" if was != now else str(now))
        rows.append([Text(plain(step)), count, *(_cell(figures.get(figure)) for figure in _FIGURES)])
    table.show(console, ("step", "attempts", *_FIGURES), rows, left=("step",))
    notable = [change for figures in found.values() for change in figures.values() if change.is_notable]
    console.print(Text("; ".join(map(_sentence, notable)) or "no step changed notably"))
    console.print(Text(RULE, style="dim"))


def _cell(change: Change | None) -> Text:
    if change is None:
        return Text("")
    was, now = (_shown(change.figure, value) for value in (change.before, change.after))
    if not change.is_notable:
        return Text(now if was == now else f"{was} > {now}")
    grew = (change.after or 0) > (change.before or 0)
    return Text(f"{was} > {now} {'▲' if grew else '▼'}", style="red" if grew else "green")


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    return (size(int(value)) or "0 B") if figure == "memory" else seconds(value)


_WORDS: dict[str, tuple[str, str]] = {
    "took": ("slower", "faster"),
    "queued": ("queues longer", "queues less"),
    "cpu": ("uses more CPU", "uses less CPU"),
    "memory": ("uses more memory", "uses less memory"),
}


def _sentence(change: Change) -> str:
    before, after = change.before or 0, change.after or 0
    word = _WORDS[change.figure][0 if after > before else 1]
    ratio = f" {after / before:.1f} times" if before > 0 else ""
    return f"{plain(change.step)} {word}:{ratio} {_shown(change.figure, before)} > {_shown(change.figure, after)}"
