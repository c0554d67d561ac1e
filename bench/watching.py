"""What `otel-metaflow watch` takes while 1,000 tasks run: of a core, of memory, of requests to the metadata service.

python bench/watching.py --runs 1
python bench/watching.py --runs 100 --age 3600
python bench/watching.py --datastore-only

The tasks are copies of those of a real run, which send heartbeats and do not end, in a service of this process. Of each
look the flow's graph is read from the datastore of that run. With `--datastore-only` they are files in that datastore,
and requests are those that an object store would get. CPU is that of the watcher's process, after its first
minute.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import click
import psutil
from endpoint import Endpoint
from metadata_service import MetadataService
from running import Place
from tasks import fan_out
from test_watch import Watching

_FLOW = fan_out(1, 1, 1).source
_HEARTBEAT = 10.0
_WARM = 60.0


def _copies(service: MetadataService, runs: int, tasks: int, age: float) -> None:
    """Put as many runs into the place of the one that is there, each with so many tasks that run."""
    was, service.objects = service.objects, {}
    (base,) = (path for path in was if path.rpartition("/")[0].endswith("/runs"))
    moment = int((time.time() - age) * 1000)

    def put(path: str, value: dict[str, Any], **changed: Any) -> None:
        made = {**copy.deepcopy(value), **changed, "ts_epoch": moment}
        service.objects[path] = made

    for path, value in was.items():
        if not path.startswith(base):
            put(path, value)
    for run in range(runs):
        number = f"{run + 1:06}"
        for path, value in was.items():
            if not path.startswith(base) or any(f"/steps/{step}" in path for step in ("join", "end")):
                continue
            new = path.replace(base, f"{base.rpartition('/')[0]}/{number}")
            changed = {"run_number": number} if "run_number" in value else {}
            if "/steps/work/tasks/" not in path:
                put(new, value, **changed)
            elif value.get("field_name") not in ("attempt_ok", "attempt-done"):
                head, _, rest = new.partition("/steps/work/tasks/")
                _, slash, rest = rest.partition("/")
                for task in range(1_000, 1_000 + tasks):
                    own = {"task_id": str(task)} if "task_id" in value else {}
                    put(f"{head}/steps/work/tasks/{task}{slash}{rest}", value, **changed, **own)


def _stored_copies(place: Place, runs: int, tasks: int, age: float) -> None:
    """The same in the datastore, where no file but those of their beginning is there of tasks that run."""
    (stored,) = place.path.glob("datastore/.metaflow/BenchFlow/[0-9]*")
    began = time.time() - age
    for run in range(runs):
        copied = stored.with_name(str(int(began * 1e6) + run))
        for step in ("_parameters", "start"):
            shutil.copytree(stored / step, copied / step)
        for task in range(1_000, 1_000 + tasks):
            folder = copied / "work" / str(task)
            folder.mkdir(parents=True)
            (folder / "0.attempt.json").write_text(json.dumps({"time": began}))
            (folder / "0.task_begin").write_text("{}")
    shutil.rmtree(stored)


def _send_heartbeats(service: MetadataService, end: threading.Event) -> None:
    alive = [
        each
        for path, each in service.objects.items()
        if path.rpartition("/")[0].endswith(("/runs", "/steps/work/tasks"))
    ]
    while True:
        now = int(time.time())
        for each in alive:
            each["last_heartbeat_ts"] = now
        if end.wait(_HEARTBEAT):
            return


@click.command()
@click.option("--runs", default=1, show_default=True, help="Runs with the tasks.")
@click.option("--tasks", default=1_000, show_default=True, help="Tasks that run, of all of them together.")
@click.option("--age", default=600.0, show_default=True, help="Since how many seconds.")
@click.option("--seconds", default=180.0, show_default=True, help="How long to measure.")
@click.option("--datastore-only", is_flag=True, help="Without metadata.")
def main(runs: int, tasks: int, age: float, seconds: float, *, datastore_only: bool) -> None:
    """Measure it."""
    with tempfile.TemporaryDirectory() as folder, Endpoint() as endpoint, MetadataService() as service:
        place = Place(Path(folder))
        env = {} if datastore_only else service.environ
        done = place.run(_FLOW, env=env)
        assert done.code == 0, done.stderr
        if datastore_only:
            _stored_copies(place, runs, tasks // runs, age)
        else:
            _copies(service, runs, tasks // runs, age)
        end = threading.Event()
        threading.Thread(target=_send_heartbeats, args=(service, end), daemon=True).start()
        time.sleep(1)
        how = ["--datastore-only"] if datastore_only else []
        watching = Watching(place, place.path / "team", endpoint, "BenchFlow", *how, env=env, every="30s")
        with watching as watcher:

            def requested() -> int:
                return int(watcher.metric("metadata_requests_total")) if datastore_only else service.requests

            process = psutil.Process(watcher.process.pid)
            watcher.prints("watching")
            time.sleep(_WARM)
            print(f"first minute: {_cpu(process):.2f} s of CPU, {requested():,} requests")
            requests, cpu = requested(), _cpu(process)
            time.sleep(seconds)
            share = (_cpu(process) - cpu) / seconds
            each_minute = (requested() - requests) * 60 / seconds
            memory = process.memory_info().rss / 2**20
            print(f"{tasks:,} tasks in {runs:,} runs, {age:.0f} s old: ", end="")
            print(f"{share:.1%} of a core, {memory:.0f} MiB, {each_minute:.0f} requests a minute")
            print(watcher.output)
        end.set()


def _cpu(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:4])


if __name__ == "__main__":
    main()
