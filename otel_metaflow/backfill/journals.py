"""Makes the journals of one run from Metaflow's metadata and datastore, or adds to them what has come since.

An attempt is written once, when it is over: first the lines that it printed, then its own journal, then that the
launcher started it and saw its end. So whatever interrupts this, the next call goes on, and nothing is written twice.
The record that closes the run's journal comes when the run is over; until then nobody takes it for one that has died.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from otel_metaflow.backfill import container_journals, endings, log_files, resource
from otel_metaflow.backfill.attempt_journals import AttemptJournals
from otel_metaflow.backfill.attempts import ATTEMPT, StoredAttempt, registered_at
from otel_metaflow.backfill.catalogue import Catalogue
from otel_metaflow.backfill.graph import Known, Lineage
from otel_metaflow.backfill.last_lines import Added, LastLines
from otel_metaflow.backfill.metaflow_seams import Storage, UnreadableError, in_batches
from otel_metaflow.backfill.run_journal import Exit, RunJournal
from otel_metaflow.backfill.stored_run import StoredRun
from otel_metaflow.core import secrets
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.settings import Settings
from otel_metaflow.journal import layout, reader, run_record
from otel_metaflow.journal.keys import AttemptKey, RunKey
from otel_metaflow.model.run import Place, Run, load

DAY = 86_400.0
# Tasks whose files are looked at together: with S3 each look is a process of its own, and their files fill a folder.
_BATCH = 100

# What is known of a run whose journals were to be made.
RUNNING, COMPLETE = "running", "complete"
RECORDED = "recorded"  # by a launcher with `@otel`, which exports it: nothing is made


@dataclass
class Made:
    """What one call has made; `notes` has what could not be read, a line each."""

    key: RunKey
    state: str = RUNNING
    attempts: int = 0
    brought: int = 0
    """How many of the attempts had recorded themselves in their containers."""
    in_doubt: int = 0
    """How many had `@otel` and left no ledger, so that a part of them may have been exported."""
    lines: int = 0
    bytes: int = 0
    oldest: int = 0
    """When the first attempt began, in nanoseconds since 1970."""
    notes: list[str] = field(default_factory=list)


def make(
    catalogue: Catalogue,
    environment: Settings,
    flow: str,
    run: str,
    *,
    dead_after: float = DAY,
    recorded: bool = False,
    cloudwatch: bool = False,
    progress: Callable[[Made], object] = lambda _: None,
) -> Made:
    """Make what is over of FLOW/RUN, and is not there yet, below `environment.home`.

    Args:
        catalogue: Metaflow's metadata, or what else has it.
        environment: What is to be recorded, and where.
        flow: The flow's name.
        run: The run's id.
        dead_after: After how many seconds without a sign of life whatever has not ended counts as dead.
        recorded: Make journals also of a run that a launcher elsewhere has recorded.
        cloudwatch: Of attempts that died with their containers on AWS Batch, add what only CloudWatch has.
        progress: Called from time to time with what was made so far.

    Raises:
        UnreadableError: there is no such run, or Metaflow's metadata or datastore cannot be read.
        BlockingIOError: another process is making these journals.
        OSError: they cannot be written.
    """
    made = Made(RunKey(flow, run, environment.namespace))
    folder = layout.run_folder(environment.home, made.key)
    known = _recorded_here(made.key, folder)
    if known.closed and known.is_backfilled:
        made.state = COMPLETE
        return made
    stored = StoredRun(catalogue, flow, run)
    made.notes = stored.notes
    # As long as nothing was made: a run that is still going may have shown nothing of its launcher before.
    if not known.attempts and not recorded and stored.has_recorded_itself:
        if known.is_backfilled:
            shutil.rmtree(folder, ignore_errors=True)
        made.state = RECORDED
        return made
    layout.create_run_folder(folder)
    with _exclusively(folder):
        known = load(environment.home, folder)
        if known.has_launcher and not known.is_backfilled:
            made.state = COMPLETE if known.closed else RECORDED
            for size in container_journals.fetch_missing(stored, folder, known):
                made.attempts += 1
                made.brought += 1
                made.bytes += size
        else:
            making = _Making(stored, environment, folder, known, made, dead_after, progress, cloudwatch=cloudwatch)
            try:
                making.make()
            finally:
                making.close()
    return made


def _recorded_here(key: RunKey, folder: Path) -> Run:
    """What the run's own journal has, one file: the journals of attempts may be thousands."""
    run = Run(key, Place(folder))
    for record in reader.facts(folder / layout.RUN_FILE):
        run.add(None, record)
    return run


@contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Lock the run's journal, and remove what an interrupted process wrote of its last record.

    If nothing of the run can be read, and nothing was made, its folder goes too: no run is to be shown.
    """
    path = folder / layout.RUN_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in layout.NO_LOCKS:
                raise
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise BlockingIOError  # another process has just removed it
        data = path.read_bytes()
        if data and not data.endswith(b"\n") and run_record.is_backfilled(folder):
            os.ftruncate(descriptor, data.rfind(b"\n") + 1)
        yield
    except UnreadableError:
        if not path.stat().st_size:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


class _Task(NamedTuple):
    """A task as the catalogue has it, its attempts, and of which of them the journals are there."""

    described: Mapping[str, Any]
    attempts: list[StoredAttempt]
    results: dict[int, str]


def _is_settled(task: _Task) -> bool:
    """Whether no other attempt can follow."""
    return task.results.get(max(task.results, default=-1)) in ("success", "skip")


class _Making:
    """Makes the journals of a run that no launcher recorded."""

    def __init__(
        self,
        stored: StoredRun,
        environment: Settings,
        folder: Path,
        known: Run,
        made: Made,
        dead_after: float,
        progress: Callable[[Made], object],
        *,
        cloudwatch: bool,
    ) -> None:
        self._stored = stored
        self._environment = environment
        self._folder = folder
        self._known = known
        self._made = made
        self._patience = endings.Patience(dead_after, time.time_ns())
        self._progress = progress
        self._redaction = Redaction(environment.redact)
        self._mask = secrets.Mask(secrets.known(os.environ))
        self._lineage = Lineage(stored.graph)
        self._attempts = AttemptJournals(
            folder, made.key, environment, stored.graph, self._lineage, self._mask, self._record_line
        )
        self._last_lines = LastLines(folder, environment, self._mask, self._note) if cloudwatch else None
        self._journal = RunJournal(folder, known, self._mask)
        self._resource: dict[str, Any] = {}
        self._ended = 0

    def make(self) -> None:
        tasks = list(self._tasks())
        self._begin([task.attempts[0] for task in tasks])
        for task in tasks:
            self._place(task)
        unknown = [task for task in tasks if len(task.results) < len(task.attempts) or not _is_settled(task)]
        due = [task for task in unknown if not self._is_alive(task)]
        is_over = len(due) == len(unknown)
        for batch in in_batches(due, _BATCH):
            is_over &= self._make_tasks(batch)
            self._progress(self._made)
        if is_over:
            self._end(tasks)

    def close(self) -> None:
        """Close the run's journal, as far as it is made."""
        self._journal.close()

    def _is_alive(self, task: _Task) -> bool:
        """Whether nothing of a task can be made: only its last attempt is left, which has just been heard of."""
        *earlier, last = task.attempts
        return all(each.key.attempt in task.results for each in earlier) and endings.is_alive(last, self._patience)

    def _tasks(self) -> Iterator[_Task]:
        """All tasks of the run; of those that have succeeded nothing is read again."""
        results: dict[tuple[str, str], dict[int, str]] = {}
        for attempt in self._known.attempts.values():
            if attempt.exit is not None or attempt.is_cloned:
                key = attempt.key
                results.setdefault((key.step, key.task), {})[key.attempt] = attempt.result
        for step in self._stored.steps:
            unsettled: list[_Task] = []
            for described in self._stored.tasks(step):
                name = str(described["task_id"])
                done = results.get((step, name), {})
                if done and done[max(done)] == "success":
                    yield _Task(described, [self._remembered(AttemptKey(step, name, each)) for each in done], done)
                else:
                    unsettled.append(_Task(described, [], done))
            self._read(step, unsettled)
            yield from unsettled

    def _read(self, step: str, tasks: Sequence[_Task], *, again: bool = False) -> None:
        """Read the attempts of tasks of a step; with `again`, as they are now."""
        found = self._stored.attempts(step, [task.described for task in tasks], again=again)
        for task, attempts in zip(tasks, found, strict=True):
            task.attempts[:] = attempts

    def _remembered(self, key: AttemptKey) -> StoredAttempt:
        """An attempt of which the journals are there, from these."""
        attempt = self._known.attempts[key]
        places = [index for index, _ in (attempt.start or {}).get("foreach") or ()]
        found = StoredAttempt(key, attempt.started_at, ended=attempt.ended_at, seen=attempt.ended_at, is_ok=True)
        found.facts["foreach-execution-path"] = ",".join(f"{key.step}:{index}" for index in places)
        return found

    def _begin(self, first: list[StoredAttempt]) -> None:
        """Write what is known of the run itself, unless it is there."""
        described, key = self._stored.described, self._made.key
        origin = next((attempt.origin for attempt in first if attempt.origin), "")
        self._resource = resource.of_run(
            key.flow, described, origin, self._redaction, in_doubt=self._stored.has_marked_span
        )
        self._made.oldest = registered_at(described) or min(filter(None, (each.launched for each in first)), default=0)
        if self._known.has_launcher:
            return
        steps = [step.as_record() for step in self._stored.graph.steps.values()]
        self._journal.begin(
            key, self._made.oldest, self._resource, steps, origin=origin, triggers=resource.triggers(first)
        )

    def _place(self, task: _Task) -> None:
        """Note where a task is in the flow, for those that read from it."""
        last = task.attempts[-1]
        origin = self._stored.origin_of(last) if last.cloned_from is not None else None
        place = last.place if origin is None else origin.place
        self._lineage.add(Known(last.key.step, last.key.task, place, last.ended or last.seen))

    def _make_tasks(self, tasks: list[_Task]) -> bool:
        """Make the attempts of these tasks that are over; return whether all of them are."""
        by_storage: dict[int, tuple[Storage | None, list[_Task]]] = {}
        for task in tasks:
            storage = self._stored.storage(task.attempts[-1])
            by_storage.setdefault(id(storage), (storage, []))[1].append(task)
        is_over = True
        for storage, those in by_storage.values():
            folders = [self._stored.folder(task.attempts[0].key) for task in those]
            names = storage.names(folders) if storage is not None else {}
            due: list[StoredAttempt] = []
            self._read_outdated(those, names)
            for task, folder in zip(those, folders, strict=True):
                found = names.get(folder, [])
                self._add_unregistered(task, found)
                for attempt in task.attempts:
                    is_last = attempt is task.attempts[-1]
                    if attempt.key.attempt in task.results:
                        continue
                    if endings.is_attempt_over(attempt, found, self._patience, is_last=is_last):
                        due.append(attempt)
                    else:
                        is_over = False
            self._make_attempts(storage, due, names)
            for task in those:
                for attempt in task.attempts:
                    made = self._known.attempts.get(attempt.key)
                    if made is not None and (made.exit is not None or made.is_cloned):
                        task.results[attempt.key.attempt] = made.result
        return is_over

    def _read_outdated(self, tasks: Iterable[_Task], names: Mapping[str, list[str]]) -> None:
        """Read those again of which files have come since they were read, or of which nothing was heard."""
        outdated: dict[str, list[_Task]] = {}
        for task in tasks:
            last = task.attempts[-1]
            found = names.get(self._stored.folder(last.key), [])
            if last.key.attempt not in task.results and endings.is_outdated(last, found, self._patience):
                outdated.setdefault(last.key.step, []).append(task)
        for step, those in outdated.items():
            self._read(step, those, again=True)
            for task in those:
                self._place(task)

    @staticmethod
    def _add_unregistered(task: _Task, names: Iterable[str]) -> None:
        """Add attempts that died before they could register anything, by the files that the launcher stored of them."""
        last = task.attempts[-1]
        heads = {name.partition(".")[0] for name in names}
        for number in sorted(int(head) for head in heads if ATTEMPT.fullmatch(head)):
            if number > task.attempts[-1].key.attempt:
                facts = {name: value for name, value in last.facts.items() if name.startswith("ds-")}
                at = task.attempts[-1].seen
                task.attempts.append(StoredAttempt(last.key._replace(attempt=number), at, seen=at, facts=facts))

    def _make_attempts(self, storage: Storage | None, due: list[StoredAttempt], names: Mapping[str, list[str]]) -> None:
        paths = []
        for attempt in due:
            number, folder = attempt.key.attempt, self._stored.folder(attempt.key)
            wanted = {f"{number}.runtime", f"{number}.data.json", *log_files.names(number)}
            wanted.update(container_journals.names(number))
            paths += [f"{folder}/{name}" for name in names.get(folder, ()) if name in wanted]
        if storage is None:
            for attempt in due:
                self._make_attempt(attempt, {})
            return
        with storage.opened(paths) as opened:
            files: dict[str, dict[str, Path]] = {}
            for path, file in opened.items():
                folder, _, name = path.rpartition("/")
                files.setdefault(folder, {})[name] = file
            for attempt in due:
                self._make_attempt(attempt, files.get(self._stored.folder(attempt.key), {}))

    def _make_attempt(self, attempt: StoredAttempt, files: Mapping[str, Path]) -> None:
        """Write the journals of one attempt, and then what a launcher would have recorded of it."""
        key = attempt.key
        self._made.attempts += 1
        before = self._known.attempts.get(key._replace(attempt=key.attempt - 1))
        if before is not None and before.exit_code is not None:
            # A launcher tries again at once (metaflow/runtime.py); the process itself is heard of later.
            attempt.launched = before.over_at
        if attempt.is_cloned:
            self._journal.add_clone(attempt, self._stored.origin_of(attempt))
            return
        exit_ = Exit.read(files.get(f"{key.attempt}.runtime"))
        unwritten: Mapping[str, int] = {}
        ended = max(attempt.ended, attempt.seen)
        brought = container_journals.put(self._folder, key, files)
        if brought:
            self._made.brought += 1
            self._made.bytes += brought
        else:
            written = self._attempts.write(attempt, files, self._resource, is_killed=exit_.is_killed)
            self._made.lines += written.lines
            self._made.bytes += written.bytes
            self._made.in_doubt += written.in_doubt
            unwritten, ended = written.unwritten, max(ended, written.last)
        added = self._add_last_lines(attempt, is_brought=bool(brought))
        if added is not None:
            unwritten, ended = Counter(unwritten) + Counter(added.unwritten), max(ended, added.last)
        # Without a launcher there is no exit code: how it ended is in its own journal alone.
        for record in reader.facts(layout.attempt_file(self._folder, key)):
            self._known.add(key, record)
        inputs = self._lineage.inputs(key.step, attempt.place, attempt.begun or attempt.launched)
        exported = added.exported if added is not None else None
        self._journal.add_process(attempt, inputs, exit_, ended, unwritten, is_remote=bool(brought), exported=exported)
        self._ended = max(self._ended, ended)

    def _add_last_lines(self, attempt: StoredAttempt, *, is_brought: bool) -> Added | None:
        """Add to its journals what only CloudWatch has of an attempt, if that is wanted."""
        if self._last_lines is None:
            return None
        step = self._stored.graph.steps.get(attempt.key.step)
        in_doubt = is_brought or (step is not None and step.is_recorded)
        added = self._last_lines.add(attempt, is_brought=is_brought, in_doubt=in_doubt)
        if added is not None:
            self._made.lines += added.lines
            self._made.bytes += added.bytes
        return added

    def _note(self, note: str) -> None:
        if note not in self._made.notes:
            self._made.notes.append(note)

    def _record_line(self, attempt: StoredAttempt, line: log_files.Line) -> None:
        """A line that the launcher printed about an attempt."""
        self._journal.add_line(self._made.key, attempt, line)
        self._made.lines += 1

    def _end(self, tasks: list[_Task]) -> None:
        """Close the run's journal, if the run is over."""
        last = [(task.attempts[-1], self._last_result(task)) for task in tasks]
        result = endings.run_result(self._stored.described, self._stored.graph, last, self._patience)
        if result is None:
            return
        ended = max((each.ended or each.seen for task in tasks for each in task.attempts), default=self._made.oldest)
        ended = max(ended, self._ended, self._made.oldest)
        self._journal.end(ended, result)
        self._made.state = COMPLETE

    def _last_result(self, task: _Task) -> str:
        last = task.attempts[-1]
        made = self._known.attempts.get(last.key)
        is_lost = (
            made is not None and made.end is None and made.exit_code is None and resource.has_launcher(self._resource)
        )
        return endings.LOST if is_lost else task.results.get(last.key.attempt, "error")
