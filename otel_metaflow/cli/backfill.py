"""`otel-metaflow backfill`: exports runs that nobody recorded, from what Metaflow stored of them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otel_metaflow.cli import runs, ship, stored_runs
from otel_metaflow.cli.arguments import (
    EXPORTED,
    NOT_EXPORTED,
    check_endpoint,
    fail,
    print_json,
    print_problems,
    reasons_of,
)
from otel_metaflow.cli.arguments import as_json as json_option
from otel_metaflow.cli.arguments import wait as wait_option
from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import RunKey
from otel_metaflow.viewer.terminal import echo

if TYPE_CHECKING:
    from otel_metaflow.backfill.catalogue import Catalogue
    from otel_metaflow.backfill.history import History
    from otel_metaflow.backfill.journals import Made
    from otel_metaflow.backfill.runs import StoredRunName

_NANO = 1_000_000_000
# What happened to a run, beside being exported or not.
_EARLIER, _RUNNING, _RECORDED, _UNREADABLE, _WOULD = (
    "exported earlier",
    "running",
    "recorded",
    "unreadable",
    "would export",
)


@click.command()
@click.argument("what", metavar="[FLOW/RUN | FLOW]", required=False, shell_complete=runs.completion())
@click.option(
    "--since",
    type=stored_runs.Duration(),
    metavar="DURATION",
    help="Runs that began within this time, such as 7d, of FLOW (* stands for any text) or of all flows.",
)
@click.option("--all", "everything", is_flag=True, help="All runs of FLOW, or of all flows.")
@click.option("--dry-run", is_flag=True, help="Print what would be exported: runs, attempts, lines and bytes.")
@click.option(
    "--date-now", is_flag=True, help="Send each run as if it had just ended, for back ends that take nothing old."
)
@click.option(
    "--recorded", is_flag=True, help="Also runs that a launcher with @otel recorded elsewhere, and may export."
)
@stored_runs.datastore_only
@stored_runs.dead_after
@stored_runs.cloudwatch
@wait_option
@json_option
@click.pass_obj
def backfill(
    environment: settings.Settings,
    what: str | None,
    since: float | None,
    dead_after: float,
    wait: float,
    *,
    everything: bool,
    dry_run: bool,
    date_now: bool,
    recorded: bool,
    datastore_only: bool,
    cloudwatch: bool,
    as_json: bool,
) -> None:
    """Export runs that nobody recorded, from what Metaflow stored.

    What was exported is noted: type the same again to go on after an interruption, or to export only what is new.
    Exits with 1 if something could not be read or exported.
    """
    from otel_metaflow.backfill import sources

    print_problems(environment)
    check_endpoint(environment, "or only look at a run: otel-metaflow fetch FLOW/RUN", is_needed=not dry_run)
    began = 0 if everything or since is None else time.time_ns() - round(since * _NANO)
    with stored_runs.readable():
        catalogue = sources.catalogue(stored_runs.report, datastore_only=datastore_only)
        chosen = _chosen(catalogue, what, began, is_bounded=everything or since is not None)
        with _journals_in(environment, dry_run=dry_run) as place:
            work = _Backfill(catalogue, place, dead_after, wait, date_now, recorded, cloudwatch, dry_run, quiet=as_json)
            work.warn(chosen)
            work.export(chosen)
    if as_json:
        print_json(work.results)
    else:
        work.summarize()
    sys.exit(1 if work.has_failed else 0)


def _chosen(catalogue: Catalogue, what: str | None, began: int, *, is_bounded: bool) -> list[StoredRunName]:
    """The runs to export; ends the program if it is not clear which."""
    from otel_metaflow.backfill import runs as stored

    if what is not None and "/" in what:
        if is_bounded:
            fail(f"{what} is one run; drop --since and --all")
        return [stored_runs.resolved(catalogue, what)]
    if not is_bounded:
        fail("no run given; type one, as in `otel-metaflow backfill HelloFlow/latest`, or --since 7d, or --all")
    found = list(stored.since(catalogue, [what or "*"], began))
    if not found:
        echo(f"no run to export in {catalogue.place}", err=True)
    return found


@contextmanager
def _journals_in(environment: settings.Settings, *, dry_run: bool) -> Iterator[settings.Settings]:
    """The settings, of a dry run with a home that is deleted afterwards."""
    if not dry_run:
        environment.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="otel-metaflow-dry-run-") as home:
        yield environment._replace(home=Path(home))


class _Backfill:
    """Makes journals and exports them, one run after the other."""

    def __init__(
        self,
        catalogue: Catalogue,
        environment: settings.Settings,
        dead_after: float,
        wait: float,
        date_now: bool,
        recorded: bool,
        cloudwatch: bool,
        dry_run: bool,
        *,
        quiet: bool,
    ) -> None:
        from otel_metaflow.backfill.history import History

        self._catalogue = catalogue
        self._environment = environment
        self._dead_after = dead_after
        self._wait = wait
        self._date_now = date_now
        self._recorded = recorded
        self._cloudwatch = cloudwatch
        self._dry_run = dry_run
        self._quiet = quiet
        self._home = settings.read().home  # not that of a dry run
        self._history: History = History(self._home)
        self._unreadable = 0  # in a row
        self._totals = {"attempts": 0, "lines": 0, "bytes": 0}
        self.results: list[dict[str, Any]] = []

    @property
    def has_failed(self) -> bool:
        """Whether something could not be read or exported."""
        return any(result["state"] in (NOT_EXPORTED, _UNREADABLE) for result in self.results)

    def _key(self, run: StoredRunName) -> RunKey:
        return RunKey(run.flow, run.run, self._environment.namespace)

    def _is_exported(self, key: RunKey) -> bool:
        from otel_metaflow.journal.delivery_status import DeliveryStatus

        return key in self._history or DeliveryStatus.read(layout.run_folder(self._home, key)).complete

    def warn(self, chosen: Sequence[StoredRunName]) -> None:
        """Report, before anything is sent, what of it a back end may find too old."""
        from otel_metaflow.backfill.windows import too_old

        if self._date_now:
            return
        due = [run.began for run in chosen if not self._is_exported(self._key(run))]
        old = too_old(due, self._environment.destinations or settings.SIGNALS)
        if old:
            echo(
                f"otel: {old}; for those use --date-now, or write a file: otel-metaflow export --format otlp-json",
                err=True,
            )

    def export(self, chosen: Sequence[StoredRunName]) -> None:
        """Export the runs, until one cannot be exported or several in a row cannot be read."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=len(chosen))
            for run in chosen:
                progress.update(bar, description=str(run))

                def show(made: Made, name: str = str(run)) -> None:
                    progress.update(bar, description=f"{name}: {made.attempts:,} attempts, {made.lines:,} lines")

                if not self._export(run, show):
                    return
                progress.advance(bar)

    def _export(self, run: StoredRunName, show: Any) -> bool:
        """Export one run; whether it makes sense to go on with the next."""
        from otel_metaflow.backfill import journals
        from otel_metaflow.backfill.metaflow_seams import UnreadableError

        key = self._key(run)
        folder = layout.run_folder(self._environment.home, key)
        if self._is_exported(key):
            self._result(key, _EARLIER, "exported earlier")
            return True
        try:
            made = journals.make(
                self._catalogue,
                self._environment,
                *key[:2],
                dead_after=self._dead_after,
                recorded=self._recorded,
                cloudwatch=self._cloudwatch,
                progress=show,
            )
        except (UnreadableError, BlockingIOError) as error:
            return self._cannot_read(key, error)
        self._unreadable = 0
        for note in made.notes:
            echo(f"otel: {key}: {note}", err=True)
        if made.state == journals.RUNNING:
            self._result(key, _RUNNING, "is still going, as far as Metaflow knows; export it once it has ended", made)
        elif made.state == journals.RECORDED:
            self._result(key, _RECORDED, _why_recorded(folder), made)
        elif self._dry_run:
            self._result(key, _WOULD, f"would export {stored_runs.described(made)}", made)
        else:
            return self._deliver(key, folder, made)
        return True

    def _deliver(self, key: RunKey, folder: Path, made: Made) -> bool:
        how = {"build": self._dated(folder)} if self._date_now else {}
        found = ship.deliver(self._environment, folder, self._wait, quiet=True, **how)
        state = found["state"]
        counts = ", ".join(f"{count:,} {signal}" for signal, count in sorted(found.get("exported", {}).items()))
        if state == EXPORTED:
            self._history.add(key)
            self._result(key, EXPORTED, f"exported {counts or 'nothing'}", made)
            self.results[-1]["exported"] = found.get("exported", {})
            return True
        reasons = reasons_of(found.get("errors", {})) or f"see {folder / layout.SHIPPER_LOG}"
        self._result(key, NOT_EXPORTED, f"not exported ({reasons}); fix it, and type the same again", made)
        return False

    def _dated(self, folder: Path) -> Any:
        from otel_metaflow.model.run import load
        from otel_metaflow.shipper import dates
        from otel_metaflow.shipper.sinks import choice

        moved = dates.shift(folder, load(self._environment.home, folder).ended_at)
        return lambda destination: dates.Dated(choice.build(destination), moved)

    def _cannot_read(self, key: RunKey, error: Exception) -> bool:
        from otel_metaflow.backfill.runs import MAX_UNREADABLE

        self._unreadable += 1
        reason = "another process is making its journals" if isinstance(error, BlockingIOError) else str(error)
        self._result(key, _UNREADABLE, reason)
        if self._unreadable < MAX_UNREADABLE:
            return True
        echo(
            f"otel: stopped after {MAX_UNREADABLE} runs that cannot be read; fix that, and type the same again",
            err=True,
        )
        return False

    def _result(self, key: RunKey, state: str, text: str, made: Made | None = None) -> None:
        result: dict[str, Any] = {"flow": key.flow, "run": key.run, "state": state, "reason": text}
        if made is not None:
            result.update(stored_runs.values(made), state=state)
            for name in self._totals:
                self._totals[name] += getattr(made, name)
        self.results.append(result)
        if not self._quiet and state != _EARLIER:
            echo(f"{key}: {text}")

    def summarize(self) -> None:
        """Print how many runs went which way."""
        from otel_metaflow.viewer import formatting

        counts = {state: sum(result["state"] == state for result in self.results) for state in _ORDER}
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
        total = "1 run" if len(self.results) == 1 else f"{len(self.results):,} runs"
        attempts, lines, size = self._totals.values()
        made = f" ({attempts:,} attempts, {lines:,} lines, {formatting.size(size)})" if attempts else ""
        echo(f"{total}: {told or 'nothing to do'}{made}")


_ORDER = (EXPORTED, _WOULD, _EARLIER, _RECORDED, _RUNNING, _UNREADABLE, NOT_EXPORTED)


def _why_recorded(folder: Path) -> str:
    if folder.exists():
        return "is still going here, and is exported by its own shipper"
    return "was recorded by @otel, and is exported by the machine that ran it; to export it from here: --recorded"
