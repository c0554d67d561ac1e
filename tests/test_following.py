"""Following a run: what a look costs, and what it finds."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from journals import Journals
from running import eventually

from otel_metaflow.core import settings
from otel_metaflow.journal import layout
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.processes import process_start
from otel_metaflow.journal.writer import Journal
from otel_metaflow.model.following import Following
from otel_metaflow.shipper import container
from otel_metaflow.viewer.log_view import Feed

OPENED: list[str] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if OPENED is not None and event in ("open", "os.scandir", "os.listdir"):
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)


def opened(following: Following | Feed, folder: Path) -> set[str]:
    """What a look opens, of the run's files, or lists."""
    global OPENED  # noqa: PLW0603 - an audit hook stays for the life of a process
    OPENED = []
    following.look() if isinstance(following, Feed) else following.poll()
    seen, OPENED = OPENED, None
    return {Path(name).name for name in seen if name.startswith(str(folder))}


def going_on(home: Path) -> Journals:
    """A run whose launcher lives: this process."""
    made = Journals(home, pid=os.getpid(), processStart=process_start())
    made.step("start", "work")
    made.step("work")
    return made


def settle(following: Following, folder: Path) -> None:
    """Look until all is read, and the folder has not changed for so long that it need not be listed again."""
    os.utime(folder, (1, 1))
    for _ in range(3):
        following.poll()
    following.poll(thorough=True)


def test_a_look_opens_the_journals_of_attempts_that_run_and_no_other(tmp_path: Path) -> None:
    """However many are over; and lists no folder that has not changed."""
    run = going_on(tmp_path)
    for task in range(100):
        run.attempt("work", task, task, 1, lines=["a line"])
    run.attempt("work", 100, 100, None, lines=["a line"])
    following = Following(tmp_path, run.folder)
    settle(following, run.folder)
    assert sum(attempt.is_settled for attempt in following.run.attempts.values()) == 100
    assert opened(following, run.folder) == set()
    running = AttemptKey("work", "100", 0)
    with layout.attempt_file(run.folder, running).open("ab") as journal:
        journal.write(b'{"kind":"end","timeUnixNano":1,"result":"success"}\n')
    with layout.attempt_file(run.folder, AttemptKey("work", "7", 0)).open("ab") as journal:
        journal.write(b'{"kind":"line","timeUnixNano":1,"body":"from the grave"}\n')
    assert opened(following, run.folder) == {"work.100.0.jsonl"}
    assert following.run.attempts[running].end is not None
    run.attempt("work", 101, 101, 1)
    os.utime(run.folder, (1, 1))
    assert opened(following, run.folder) == {layout.RUN_FILE, "work.101.0.jsonl"}
    run.end(200)


def test_attempts_that_no_launcher_announced_are_found_by_their_journals(tmp_path: Path) -> None:
    """Those that other tasks started, and whose names are cut."""
    run = going_on(tmp_path)
    run.attempt("start", 1, 0, 1)
    following = Following(tmp_path, run.folder)
    settle(following, run.folder)
    nodes = [AttemptKey("work", "2-node-1", 0), AttemptKey("work", "x" * 300, 0)]
    for key in nodes:
        journal = Journal(layout.attempt_file(run.folder, key), _fail)
        journal.append(layout.START, {"timeUnixNano": 1, **key._asdict(), "within": "work.2.0", "pid": os.getpid()})
        journal.close()
    update = following.poll(thorough=True)
    assert sorted(update.appeared) == sorted(nodes)
    assert following.poll(thorough=True).appeared == []
    assert not following.run_is_over
    run.end(3)


def test_whoever_follows_the_log_opens_the_journals_of_attempts_that_run_and_no_other(tmp_path: Path) -> None:
    """And sees each line once, and that an attempt was retried."""
    run = going_on(tmp_path)
    for task in range(100):
        run.attempt("work", task, task, 1, lines=[f"line of {task}"])
    run.attempt("work", 100, 100, 1, result="failure")
    run.attempt("work", 101, 101, None, lines=["it begins"])
    feed = Feed(tmp_path, run.folder, "", lambda _: True, launcher=False)
    texts = [entry.line.text for entry in feed.read()]
    assert texts[:100] == [f"line of {task}" for task in range(100)]
    assert (texts[100][:13], texts[101:]) == ("attempt ended", ["it begins"])
    assert list(feed.read()) == []
    with layout.attempt_file(run.folder, AttemptKey("work", "101", 0)).open("ab") as journal:
        journal.write(b'{"kind":"line","timeUnixNano":1,"stream":"stdout","body":"it goes on"}\n')
    assert opened(feed, run.folder) == {"work.101.0.jsonl", "work.101.0.output.jsonl"}
    run.attempt("work", 100, 102, 1, attempt=1, lines=["again"])
    texts = [entry.line.text for entry in feed.read()]
    retry = "work/100 is followed by work/100/1"
    assert [text.partition(": ")[0] for text in texts] == ["it goes on", retry, "again"]
    run.end(200)


@pytest.mark.parametrize("is_parallel", [True, False])
def test_the_folder_is_listed_during_a_run_only_if_a_step_starts_tasks_itself(
    tmp_path: Path, *, is_parallel: bool
) -> None:
    """Otherwise at the run's end, if somebody did so all the same."""
    run = going_on(tmp_path)
    run.step("train", parallel=is_parallel)
    run.attempt("start", 1, 0, 1)
    following = Following(tmp_path, run.folder)
    settle(following, run.folder)
    node = AttemptKey("train", "2-node-1", 0)
    journal = Journal(layout.attempt_file(run.folder, node), _fail)
    journal.append(layout.START, {"timeUnixNano": 1, **node._asdict(), "within": "train.2.0"})
    journal.close()
    eventually(following._listing.is_due)
    assert (run.folder.name in opened(following, run.folder)) == is_parallel
    assert (node in following.run.attempts) == is_parallel
    run.end(3)
    following.poll()
    assert node in following.run.attempts


def test_a_run_is_over_with_its_launchers_last_record_and_not_before(tmp_path: Path) -> None:
    """And then it is known of each failed attempt that no other follows."""
    run = going_on(tmp_path)
    run.attempt("start", 1, 0, 1, result="failure")
    run.attempt("start", 1, 2, 1, attempt=1, result="failure")
    following = Following(tmp_path, run.folder)
    first = following.poll()
    assert first.settled == [AttemptKey("start", "1", 0), AttemptKey("start", "1", 1)]
    assert first.decided == [AttemptKey("start", "1", 0)]
    assert following.poll().read == first.settled
    assert not following.run_is_over
    run.end(4, "failure")
    last = following.poll()
    assert following.run_is_over
    assert last.decided == [AttemptKey("start", "1", 1)]


def test_much_of_a_launchers_journal_is_read_bit_by_bit_where_only_some_is_wanted(tmp_path: Path) -> None:
    """So that a run that is delivered afterwards is not in memory as a whole."""
    run = going_on(tmp_path)
    for task in range(3_000):
        run.launched("work", task, task, 1)
    run.end(3_001)
    following = Following(tmp_path, run.folder)
    following.poll(max_bytes=100_000)
    assert 0 < len(following.run.attempts) < 3_000
    assert following.is_behind
    assert not following.run_is_over
    looks = 1
    while not following.run_is_over:
        following.poll(max_bytes=100_000)
        looks += 1
    assert looks > 2
    assert len(following.run.attempts) == 3_000


def _fail(error: OSError) -> None:
    raise error


@pytest.mark.parametrize("grows", ["MFLOG_STDERR", "journal"])
def test_what_a_container_prints_after_a_silence_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grows: str
) -> None:
    """Not only at the next look; that a silent step is seldom looked at costs no line."""
    run = going_on(tmp_path)
    run.attempt("start", 1, 0, None)
    key = AttemptKey("start", "1", 0)
    files = {name: tmp_path / name for name in ("MFLOG_STDOUT", "MFLOG_STDERR")}
    for name, file in files.items():
        monkeypatch.setenv(name, str(file))
    files["journal"] = layout.attempt_file(run.folder, key)
    journal = files["journal"].read_text().replace('"logs":[]', '"logs":["stdout","stderr"]')
    files["journal"].write_text(journal)
    monkeypatch.setattr(container, "_LONGEST", 600.0)
    following = container.ContainerFollowing(tmp_path, run.folder, key, settings.read())
    following.poll()
    following.wait(threading.Event(), 0.0)  # the sizes were unknown
    silent = threading.Event()

    def wait() -> None:
        following.wait(threading.Event(), 0.0)
        silent.set()

    threading.Thread(target=wait, daemon=True).start()
    assert not silent.wait(0.1)
    with files[grows].open("a") as file:
        file.write("[MFLOG|0|2026-11-28T10:00:00.000000Z|task|x]a line\n")
    assert silent.wait(30)
