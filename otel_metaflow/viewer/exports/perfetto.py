"""Exports a run in the Trace Event Format, which ui.perfetto.dev and chrome://tracing read.

Steps are processes, tasks are threads; arrows point from the inputs of an attempt to the attempt.
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Event = dict[str, Any]
Values = Mapping[str, Any]

_PARTS = (
    ("queued", None, "startTimeUnixNano"),
    ("starting", "startTimeUnixNano", "codeStartTimeUnixNano"),
    ("user code", "codeStartTimeUnixNano", "codeEndTimeUnixNano"),
    ("storing", "codeEndTimeUnixNano", "endTimeUnixNano"),
)
_ARGUMENTS = ("state", "error", "spanId", "queueSeconds", "foreachIndex", "exitCode", "signal", "usage", "artifacts")


class _Track(NamedTuple):
    """The track of an attempt."""

    pid: int
    tid: int


def document(run: Values, spans: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    """The trace of a run, from its plain values (viewer/report.py) and the spans of user code by attempt.

    Times are microseconds since the run began, because doubles would round times since 1970.
    """
    tracks = _tracks(run["attempts"])
    events = list(_names(run, tracks))
    zero = run["startTimeUnixNano"]
    ended = {one["name"]: one["endTimeUnixNano"] - zero for one in run["attempts"]}
    for attempt in run["attempts"]:
        events.extend(_attempt(attempt, tracks[attempt["name"]], zero))
        events.extend(_spans(spans.get(attempt["name"], ()), tracks[attempt["name"]], zero))
        events.extend(_arrows(attempt, tracks, zero, ended))
    about = {"flow": run["flow"], "run": run["run"], "state": run["state"], "traceId": run["traceId"]}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _tracks(attempts: Sequence[Values]) -> dict[str, _Track]:
    """A process for each step and a thread for each task, numbered in order of their start."""
    steps = {step: number for number, step in enumerate(dict.fromkeys(one["step"] for one in attempts), 1)}
    members = dict.fromkeys((one["step"], one["task"]) for one in attempts)
    tasks = {task: number for number, task in enumerate(members, 1)}
    return {one["name"]: _Track(steps[one["step"]], tasks[one["step"], one["task"]]) for one in attempts}


def _names(run: Values, tracks: Mapping[str, _Track]) -> Iterator[Event]:
    for attempt in run["attempts"]:
        if attempt["attempt"]:
            continue
        track = tracks[attempt["name"]]
        about = {"ph": "M", "pid": track.pid, "tid": track.tid}
        yield {**about, "name": "process_name", "args": {"name": attempt["step"]}}
        yield {**about, "name": "process_sort_index", "args": {"sort_index": track.pid}}
        yield {**about, "name": "thread_name", "args": {"name": f"{attempt['step']}/{attempt['task']}"}}


def _attempt(attempt: Values, track: _Track, zero: int) -> Iterator[Event]:
    about = {name: attempt[name] for name in _ARGUMENTS if name in attempt}
    start, end = attempt["startTimeUnixNano"] - zero, attempt["endTimeUnixNano"] - zero
    queued = round(attempt.get("queueSeconds", 0) * 1e9)
    part = (
        " (not recorded)" if attempt.get("recorded") is False else " (partly recorded)" if "partial" in attempt else ""
    )
    title = f"{attempt['name']} {attempt['state']}{part}"
    yield _slice(title, "attempt", start - queued, end, track, about)
    for name, begin, until in _PARTS:
        left: int | None = attempt.get(until)
        began: int | None = start - queued + zero if begin is None else attempt.get(begin)
        if began is not None and left is not None and left > began:
            yield _slice(name, "part", began - zero, left - zero, track, {})


def _slice(name: str, category: str, start: int, end: int, track: _Track, args: Values) -> Event:
    micro = {"ts": start / 1000, "dur": max(0, end - start) / 1000}
    return {"ph": "X", "name": name, "cat": category, **micro, **track._asdict(), "args": dict(args)}


def _spans(spans: Sequence[Values], track: _Track, zero: int) -> Iterator[Event]:
    """As nestable asynchronous events, because spans may overlap, and slices of one thread must not."""
    for span in spans:
        about = {"cat": "span", "id2": {"local": span["spanId"]}, "name": span["name"], **track._asdict()}
        args = {**span["attributes"], **({"error": span["error"]} if span.get("error") else {})}
        yield {"ph": "b", **about, "ts": (span["startTimeUnixNano"] - zero) / 1000, "args": args}
        yield {"ph": "e", **about, "ts": (span["endTimeUnixNano"] - zero) / 1000, "args": {}}


def _arrows(attempt: Values, tracks: Mapping[str, _Track], zero: int, ended: Mapping[str, int]) -> Iterator[Event]:
    sources: list[str] = [*attempt.get("inputs", ()), *([attempt["retries"]] if "retries" in attempt else [])]
    for source in sources:
        if source in tracks:
            about = {"cat": "link", "name": "read by", "id": f"{source} > {attempt['name']}"}
            yield {"ph": "s", **about, "ts": ended[source] / 1000, **tracks[source]._asdict()}
            begin = max(attempt["startTimeUnixNano"] - zero, ended[source])
            yield {"ph": "f", "bp": "e", **about, "ts": begin / 1000, **tracks[attempt["name"]]._asdict()}
