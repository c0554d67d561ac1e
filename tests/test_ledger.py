"""The ledger of a delivery: whatever becomes of the file, nothing counts as sent that was not acknowledged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_metaflow.journal import layout, ledger
from otel_metaflow.journal.cursor import Cursor
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.keys import AttemptKey
from otel_metaflow.journal.ledger import Changes, Ledger, Subject

ATTEMPTS = [AttemptKey("train", str(task), number) for task in range(3) for number in range(2)]
KINDS, NAMES = ("logs", "span", "metric"), ("start", "end", "span", "metrics", "beat 1")
SUBJECTS: list[Subject] = [None, *ATTEMPTS]

subjects = st.sampled_from(SUBJECTS)
cursors = st.builds(Cursor, sent=st.tuples(st.integers(0, 99), st.integers(0, 99)), held=st.lists(st.integers(0, 9)))
changes = st.builds(
    Changes,
    st.dictionaries(st.tuples(subjects, st.sampled_from(KINDS)), cursors, max_size=4),
    st.sets(st.tuples(subjects, st.sampled_from(NAMES)), max_size=6),
    st.lists(st.sampled_from(ATTEMPTS), max_size=2),
)


def path_of(folder: Path) -> Path:
    path = folder / layout.LEDGER_FILE
    path.unlink(missing_ok=True)
    return path


def known(of: Ledger) -> dict[str, Any]:
    """All that a ledger answers."""
    return {
        "cursors": {(subject, kind): of.cursor(subject, kind) for subject in SUBJECTS for kind in KINDS},
        "sent": {(subject, name) for subject in SUBJECTS for name in NAMES if of.is_sent(subject, name)},
        "done": set(of.done),
        "status": of.status,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger")


@settings(deadline=None)
@given(batches=st.lists(changes, min_size=1, max_size=8), data=st.data())
def test_a_ledger_that_is_cut_anywhere_has_all_batches_but_the_one_in_flight(
    folder: Path, batches: list[Changes], data: st.DataObject
) -> None:
    """And goes on from there: what is appended after a torn line is read."""
    path = path_of(folder)
    written = Ledger(path)
    states, ends = [known(written)], [0]
    for number, batch in enumerate(batches):
        written.append(batch, {"count": number})
        states.append(known(Ledger(path)))
        ends.append(path.stat().st_size)
    assert states[-1] == known(written)
    cut = data.draw(st.integers(0, ends[-1]))
    with path.open("rb+") as file:
        file.truncate(cut)
    whole = max(number for number, end in enumerate(ends) if end <= cut)
    again = Ledger(path)
    assert known(again) == states[whole]
    assert ledger.last_status(path) == states[whole]["status"]
    for batch in batches[whole:]:  # what was in flight is acknowledged again, and what follows for the first time
        again.append(batch, {"count": -1})
    after = known(Ledger(path))
    assert after == known(again)
    assert {**after, "status": 0} == {**states[-1], "status": 0}


@settings(deadline=None)
@given(batches=st.lists(st.tuples(changes, st.booleans()), min_size=1, max_size=8))
def test_a_ledger_that_was_written_anew_at_any_point_answers_as_one_that_never_was(
    folder: Path, batches: list[tuple[Changes, bool]]
) -> None:
    """In memory, and for the next reader."""
    plain, compacted = Ledger(path_of(folder)), Ledger(folder / "compacted")
    compacted.path.unlink(missing_ok=True)
    compacted = Ledger(compacted.path)
    for number, (batch, is_due) in enumerate(batches):
        for one in (plain, compacted):
            one.append(batch, {"count": number})
        if is_due:
            compacted.compact()
        assert known(compacted) == known(plain) == known(Ledger(compacted.path))
        assert ledger.last_status(compacted.path) == {"count": number}


@settings(deadline=None)
@given(batches=st.lists(changes, min_size=1, max_size=6), data=st.data())
def test_damage_removes_acknowledgements_and_adds_none(
    folder: Path, batches: list[Changes], data: st.DataObject
) -> None:
    """Of a compacted ledger too; what is lost of it is sent again."""
    path = path_of(folder)
    written = Ledger(path)
    for batch in batches:
        written.append(batch, {})
    before = known(written)
    written.compact()
    content = bytearray(path.read_bytes())
    lines = [at for at, byte in enumerate(content) if byte == ord("\n")]
    begin = data.draw(st.sampled_from([0, *(at + 1 for at in lines)]))
    for at in range(begin, min(len(content), begin + data.draw(st.integers(1, 60)))):
        content[at] = 0  # as a block that a power failure left unwritten
    path.write_bytes(content)
    after = known(Ledger(path))
    assert after["done"] <= before["done"]
    assert after["sent"] <= before["sent"]
    for place, cursor in after["cursors"].items():
        assert cursor in (before["cursors"][place], Cursor())


def test_a_ledger_is_written_anew_when_most_of_it_is_of_no_use_any_more(tmp_path: Path) -> None:
    """So a run of any length costs, on disk, what its attempts are called."""
    path = path_of(tmp_path)
    made = Ledger(path)
    largest = 0
    for task in range(20_000):
        key = AttemptKey("train", str(task), 0)
        made.append(Changes({(key, "logs"): Cursor(sent=(task, task))}, {(key, "start"), (key, "span")}), {"at": task})
        made.append(Changes(done=[key]), {"at": task})
        largest = max(largest, path.stat().st_size)
    assert len(Ledger(path).done) == 20_000
    made.compact()
    assert path.stat().st_size < 20_000 * 25
    assert largest < 5 * path.stat().st_size
    assert ledger.last_status(path) == {"at": 19_999}
    assert [file.name for file in tmp_path.iterdir()] == [layout.LEDGER_FILE]


def test_the_status_of_a_ledger_is_read_from_its_end_however_long_its_lines_are(tmp_path: Path) -> None:
    """Longer than what is read at a time, with damage behind them, and a torn line."""
    path = path_of(tmp_path)
    made = Ledger(path)
    for count in range(3):
        made.append(Changes(sent={(None, f"{count} {number} {'x' * 50}") for number in range(1_000)}), {"count": count})
    with path.open("ab") as file:
        file.write(b"\x00" * 40_000 + b"\n" + b'{"version":1,' + b" " * 20_000)
    assert ledger.last_status(path) == {"count": 2}


def test_a_disk_that_is_full_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is not known to the next reader, and what follows is."""
    path = path_of(tmp_path)
    made = Ledger(path)
    made.append(Changes(sent={(None, "start")}), {"count": 1})
    write = ledger.os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(ledger.os, "write", half)
    with pytest.raises(OSError, match="No space"):
        made.append(Changes(sent={(None, "end")}), {"count": 2})
    monkeypatch.undo()
    assert Ledger(path).status == {"count": 1}
    made.append(Changes(sent={(None, "summary")}), {"count": 3})
    assert Ledger(path).is_sent(None, "end")
    assert Ledger(path).status == {"count": 3}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x00" * 100,
        b'{"version":2,"done":[["train","1",0]],"status":{"complete":true}}\n',
        b'{"version":1,"changes":[{"of":7}],"status":{"complete":true}}\n',
        b'{"version":1,"changes":{"of":null},"status":{"complete":true}}\n',
        b'{"version":1,"done":[["train","1"]],"status":{"complete":true}}\n',
        b'{"version":1,"status":[]}\n',
        b'{"version":1,"status":{"complete":true}}\n',
        b'{"version":1,"done":[["train","1",0]],"status":{"complete":true',
        b"[" * 100_000 + b"\n",
    ],
)
def test_of_a_ledger_that_is_no_ledger_nothing_was_acknowledged(tmp_path: Path, content: bytes) -> None:
    """Damaged, of another version, torn in its first line."""
    path = path_of(tmp_path)
    path.write_bytes(content)
    assert Ledger(path).done == set()
    assert DeliveryStatus.read(tmp_path) == DeliveryStatus()
    made = Ledger(path)
    made.append(Changes(), DeliveryStatus(complete=True).as_json())
    assert DeliveryStatus.read(tmp_path).complete
    assert json.loads(path.read_bytes().splitlines()[-1])["status"]["complete"]
