"""Prints docs/names.md, the reference of all exported names: `python tools/names_page.py > docs/names.md`."""

from __future__ import annotations

from otel_metaflow.core import catalog


def page() -> str:
    """`docs/names.md`."""
    lines = [_HEAD.rstrip()]
    for title, found in (("Resource", "resource"), ("Spans of attempts", "attempt"), ("Spans of runs", "run"),
                         ("Spans that summarize attempts of a step", "summary"),
                         ("Spans of user code, in addition to their own", "user"),
                         ("Links", "links"), ("Log records", "logs"), ("Metric points", "metrics")):  # fmt: skip
        rows = [name for name in catalog.CATALOG if found in name.on.split(", ")]
        lines += ["", f"## {title}", "", "| attribute | type | status | meaning |", "|---|---|---|---|"]
        lines += [f"| `{row.name}` | {row.form} | {row.status} | {row.text} |" for row in rows]
    events = [name for name in catalog.CATALOG if name.on == "event"]
    lines += ["", "## Events", "", "| event | severity | meaning | attributes |", "|---|---|---|---|"]
    for event in events:
        carried = ", ".join(f"`{row.name}`" for row in catalog.CATALOG if event.name in row.on.split(", "))
        lines.append(f"| `{event.name}` | {event.form} | {event.text} | {carried} |")
    lines += ["", "## Metrics", "", "| metric | kind, unit | meaning | boundaries |", "|---|---|---|---|"]
    for metric in (name for name in catalog.CATALOG if name.on == "metric"):
        bounds = " ".join(f"{bound:g}" for bound in catalog.BOUNDARIES.get(metric.name, ()))
        lines.append(f"| `{metric.name}` | {metric.form} | {metric.text} | {bounds} |")
    return "\n".join(lines) + "\n"


_HEAD = """\
# Names

Generated from `otel_metaflow/core/catalog.py` by `python tools/names_page.py > docs/names.md`. A test compares this
page with that file, and with what a run actually exports.

## The span tree

```
RUN FanoutFlow                       the run
  start                              an attempt, named after its step
  work        metaflow.foreach.index [2], failed, metaflow.attempt.final false
  work        metaflow.attempt 1, linked to the previous attempt
    work load                        with OTEL_METAFLOW_DETAIL=2: before user code,
    work user code                   user code itself,
    work persist                     and storing its artifacts
    train                            a span of user code
  collect queued                     queued for more than a second
  collect                            linked to its inputs
  end
```

Of a step with more attempts than `OTEL_METAFLOW_MAX_ATTEMPT_SPANS` a span called `work summary` stands for those that
have none.
"""


if __name__ == "__main__":
    print(page(), end="")
