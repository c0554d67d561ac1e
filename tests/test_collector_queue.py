"""The collector's queues on disk: damaged files, and a volume that is full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import requests
from collectors import Collector, Vendors, free_ports
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from test_collector import everything, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors import Vendor

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
    """The collector starts, names the file in one line, and accepts and delivers as before."""
    shutil.copytree(queue, tmp_path / "queue")
    path = tmp_path / "queue/exporter_splunk_hec__logs"
    DAMAGES[damage](path)
    with Collector(tmp_path, vendors.environment) as collector:
        vendors.wait_for(lambda: len(vendors.datadog.logs()) >= 40)
        send(collector, "http/protobuf", "after")
        vendors.wait_for(lambda: any(log.body == "after" for log in vendors.splunk.logs()))
        vendors.wait_for(lambda: all(len(items) >= 42 for items in everything(vendors.datadog)[:2]))
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


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    place = tmp_path / "volume"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False)
    if mounted.returncode != 0:
        # A CI run that quietly left this out would prove nothing about it.
        (pytest.fail if os.environ.get("CI") and os.geteuid() == 0 else pytest.skip)(
            "a volume can be mounted by root only"
        )
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def lines(names: list[str]) -> bytes:
    """An OTLP request with a log record of some 200 bytes for each name."""
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for name in names:
        scope.log_records.add(time_unix_nano=time.time_ns(), body=AnyValue(string_value=name + 180 * "."))
    return request.SerializeToString()


def offer(collector: Collector, names: list[str]) -> bool:
    """Whether the collector accepted a request."""
    answer = requests.post(
        f"{collector.http}/v1/logs", lines(names), headers={"content-type": "application/x-protobuf"}, timeout=30
    )
    assert answer.status_code in (200, 503), answer.text
    return answer.ok


def names_of(vendor: Vendor) -> Counter[str]:
    return Counter(log.body.rstrip(".") for log in vendor.logs())


def test_records_accepted_before_the_volume_was_full_are_delivered_after_a_restart(
    tmp_path: Path, vendors: Vendors, volume: Path
) -> None:
    """60,000 records to two vendors that are away: refused in time, nothing lost, accepted again when there is room."""
    environment = vendors.environment | {"COLLECTOR_QUEUE_DIR": str(volume / "queue")}
    vendors.stop()
    requested = [[f"{number}-{each}" for each in range(500)] for number in range(120)]
    with Collector(tmp_path, environment) as collector:
        accepted = [names for names in requested if offer(collector, names)]
        assert 5 < len(accepted) < len(requested)
        collector.wait_for_output("refusing telemetry", timeout=10)
        assert "no space left" not in collector.output
        assert collector.stop() == 0
    with Vendors(tmp_path / "vendors", vendors.ports) as again, Collector(tmp_path, environment) as collector:
        wanted = {name for names in accepted for name in names}
        again.wait_for(lambda: all(names_of(vendor).keys() >= wanted for vendor in again.both), timeout=120)
        for vendor in again.both:
            assert names_of(vendor).keys() == wanted
            assert set(names_of(vendor).values()) == {1}
        # What was refused comes again, as a sender would have it, and there is room as soon as the files have shrunk.
        deadline = time.monotonic() + 60
        while not offer(collector, ["late"]):
            assert time.monotonic() < deadline, collector.output
            time.sleep(0.2)
        again.wait_for(lambda: all("late" in names_of(vendor) for vendor in again.both))


def test_the_queues_keep_to_a_limit(tmp_path: Path) -> None:
    """On a volume that has more."""
    splunk = {"SPLUNK_HEC_URL": f"http://localhost:{free_ports(1)[0]}", "SPLUNK_HEC_TOKEN": "t"}
    with Collector(tmp_path, splunk | {"COLLECTOR_QUEUE_LIMIT_MIB": "16"}) as collector:
        sent = [offer(collector, [f"{number}-{each}" for each in range(500)]) for number in range(200)]
        assert not all(sent)
        collector.wait_for_output("and 16 MiB are allowed", timeout=10)
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "queue").iterdir())
    assert 8 << 20 < used <= 16 << 20
