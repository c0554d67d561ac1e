"""The collector's queues on disk: damaged files, and a volume that is full."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Callable

import pytest
from collectors import Collector, Vendors
from test_collector import everything, send

if TYPE_CHECKING:
    from pathlib import Path

SEED = 11


def truncated(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: max(1, int(len(content) * share))])

    return damage


def overwritten(make: Callable[[int], bytes], start: float = 0.0, end: float = 1.0) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first, last = int(len(content) * start), int(len(content) * end)
        content[first:last] = make(last - first)
        path.write_bytes(content)

    return damage


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("")


def a_cycle(path: Path) -> None:
    """A page that is its own child: each page takes the header and the elements of a branch."""
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        header = page.to_bytes(8, "little") + (1).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(4)
        element = (16).to_bytes(4, "little") + (1).to_bytes(4, "little") + page.to_bytes(8, "little") + b"k"
        content[page * 4096 : page * 4096 + len(header + element)] = header + element
    path.write_bytes(content)


noise = random.Random(SEED).randbytes
DAMAGES: dict[str, Callable[[Path], None]] = {
    "one byte": truncated(0.0),
    "cut in its first page": truncated(0.01),
    "cut in the middle": truncated(0.5),
    "zeros": overwritten(bytes),
    "zeros behind its head": overwritten(bytes, 0.1),
    "zeros in the middle": overwritten(bytes, 0.3, 0.7),
    "noise": overwritten(noise),
    "noise behind its head": overwritten(noise, 0.1),
    "ones behind its head": overwritten(lambda size: b"\xff" * size, 0.1),
    "a folder": a_folder,
    "a cycle": a_cycle,
}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a collector left that was killed while both vendors were away."""
    folder = tmp_path_factory.mktemp("left")
    vendors = Vendors(folder / "vendors")
    with Collector(folder, vendors.environment) as collector:
        for number in range(20):
            send(collector, "http/protobuf", f"line {number}")
        collector.kill()
    return folder / "queue"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_queue_file_is_set_aside_and_the_rest_is_delivered(
    tmp_path: Path, vendors: Vendors, queue: Path, damage: str
) -> None:
    """The collector starts, says in one line which file it was, and takes and delivers as ever."""
    shutil.copytree(queue, tmp_path / "queue")
    path = tmp_path / "queue/exporter_splunk_hec__logs"
    DAMAGES[damage](path)
    with Collector(tmp_path, vendors.environment) as collector:
        vendors.wait_for(lambda: len(vendors.datadog.logs()) >= 40)
        send(collector, "http/protobuf", "after")
        vendors.wait_for(lambda: any(log.body == "after" for log in vendors.splunk.logs()))
        vendors.wait_for(lambda: all(len(items) >= 42 for items in everything(vendors.datadog)))
        (line,) = (line for line in collector.output.splitlines() if "damaged" in line)
        assert collector.stop() == 0
    assert str(path) in line
    assert "\terror\t" in line
    assert "goroutine" not in collector.output
    (aside,) = path.parent.glob("exporter_splunk_hec__logs.damaged-*")
    assert aside.is_dir() == (damage == "a folder")
    # Every other file was whole.
    assert len(vendors.splunk.spans()) == 42
    with Collector(tmp_path, vendors.environment) as again:
        assert "damaged" not in again.output


@pytest.mark.parametrize("where", ["every file", *range(8)])
def test_whatever_is_in_the_queue_folder_the_collector_starts(
    tmp_path: Path, vendors: Vendors, queue: Path, where: str | int
) -> None:
    """Random bytes at random places, in one file or in all of them."""
    chance = random.Random(f"{SEED} {where}")
    shutil.copytree(queue, tmp_path / "queue")
    for path in sorted((tmp_path / "queue").iterdir()):
        if where == "every file" or chance.random() < 0.4:
            content = bytearray(path.read_bytes())
            for _ in range(chance.choice((1, 8, 200))):
                start = chance.randrange(len(content))
                bytes_ = chance.randbytes(min(chance.choice((1, 4, 16, 4096)), len(content) - start))
                content[start : start + len(bytes_)] = bytes_
            if chance.random() < 0.3:
                del content[chance.randrange(len(content)) :]
            path.write_bytes(content)
    with Collector(tmp_path, vendors.environment) as collector:
        send(collector, "http/protobuf", "after")
        vendors.wait_for(lambda: all(any(log.body == "after" for log in vendor.logs()) for vendor in vendors.both))
        assert collector.stop() == 0
