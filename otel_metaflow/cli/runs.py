"""Resolves FLOW/RUN, where RUN is an id, a unique prefix of one, or `latest`; and completes it in shells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import click

from otel_metaflow.cli.arguments import fail
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey

LATEST = "latest"
FORM = "FLOW/RUN, as in HelloFlow/12 or HelloFlow/latest"
_SHOWN = 5
_COMPLETED = 20  # runs offered as completions, the newest first


def find(environment: settings.Settings, name: str) -> RunKey:
    """The key of a run that has a journal here; ends the program if none or several match `name`."""
    flow, slash, run = name.partition("/")
    if not slash or not flow or not run or "/" in run:
        fail(f"{name!r} is not of the form {FORM}")
    exact = RunKey(flow, run, environment.namespace)
    if layout.run_folder(environment.home, exact).is_dir():
        return exact
    known = newest(environment)
    chosen = pick(flow, run, [key.run for key in known if key.flow == flow])
    if chosen is None:
        shown = ", ".join(map(str, known[:_SHOWN]))
        fail(
            f"no journal of {name} in {environment.home}; "
            + (f"the latest runs: {shown}" if known else "it has no journals")
        )
    return exact._replace(run=chosen)


def pick(flow: str, wanted: str, known: Sequence[str]) -> str | None:
    """The id that matches `wanted` among those `known`, the newest first, or None; ends the program if several do."""
    if wanted in known:
        return wanted
    if wanted == LATEST:
        return known[0] if known else None
    found = [run for run in known if run.startswith(wanted)]
    if len(found) > 1:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        shown = ", ".join(f"{flow}/{run}" for run in found[:_SHOWN])
        fail(f"{flow}/{wanted} is ambiguous: {shown}{more}; type more of the id")
    return found[0] if found else None


def newest(environment: settings.Settings) -> list[RunKey]:
    """The runs that have a journal here, the newest first."""
    found: list[tuple[int, RunKey]] = []
    for folder in layout.run_folders(environment.home):
        key = layout.run_key(environment.home, folder)
        if key.namespace == environment.namespace:
            found.append((layout.started_at(folder), key))
    return [key for _, key in sorted(found, reverse=True)]


def completion(parts: int = 2) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Click's `shell_complete` for an argument that takes the first `parts` of FLOW/RUN/STEP/TASK/ATTEMPT."""

    def complete(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        above, slash, last = incomplete.rpartition("/")
        names = above.split("/") if slash else []
        found = _below(settings.read(), names) if len(names) < parts else ()
        return [above + slash + name for name in dict.fromkeys(found) if name.startswith(last)]

    return complete


def _below(environment: settings.Settings, above: list[str]) -> Iterator[str]:
    """The names that can follow those `above`."""
    known = newest(environment)
    if not above:
        # Two of each flow, so that a shell completes as far as the slash and goes on from there.
        for flow in dict.fromkeys(key.flow for key in known):
            yield from (f"{flow}/{LATEST}", next(str(key) for key in known if key.flow == flow))
        return
    flow, *rest = above
    runs = [key.run for key in known if key.flow == flow]
    if not rest:
        yield from [LATEST, *runs[:_COMPLETED]] if runs else []
        return
    run, *rest = rest
    key = RunKey(flow, runs[0] if runs and run == LATEST else run, environment.namespace)
    for _, attempt in layout.journals(layout.run_folder(environment.home, key)):
        names = [str(name) for name in attempt or ()]
        if names[: len(rest)] == rest:
            yield from names[len(rest) : len(rest) + 1]
