"""Containers without a cluster: what Metaflow makes for Kubernetes, run by bash in a folder and a bare environment.

Metaflow is as it is. An extension stands where the cluster would, in the process that sends a task away (`flow.py
kubernetes step`): the job that Metaflow has built is not sent to an API server but started here, its command as it is,
with the variables of its specification and none of this machine's. It also makes a folder Google's storage, which
needs no server and no library. In a pod there is a Python with nothing but `requests`, which Metaflow itself needs.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from interpreters import interpreter
from running import Finished, Place

from otel_metaflow.core.launch_context import LAUNCHER_EXPORTS
from otel_metaflow.journal import layout
from otel_metaflow.journal.reader import Tail

ROOT = Path(__file__).resolve().parent.parent
BARE = ROOT / ".pods"

EXTENSION = {
    "mfextinit_cluster.py": """\
DATASTORES_DESC = [("gs", ".storage.FolderStorage")]
STEP_DECORATORS_DESC = [("cluster", ".decorator.ClusterDecorator")]
""",
    "storage.py": """\
import datetime, os, types
from metaflow.metaflow_config import DATASTORE_SYSROOT_GS
from metaflow.plugins.datastores.local_storage import LocalStorage

class FolderStorage(LocalStorage):
    TYPE = "gs"
    SYSROOT_VAR = DATASTORE_SYSROOT_GS

    @property
    def root_client(self):
        return self

    def get_blob_client(self, path):
        stored = datetime.datetime.fromtimestamp(os.stat(self.full_uri(path)).st_mtime)
        return types.SimpleNamespace(updated=stored, reload=lambda: None)
""",
    "decorator.py": """\
import json, os, subprocess, sys, tempfile, types
from metaflow.decorators import StepDecorator

class Pod:
    \"\"\"A running job, with the interface of RunningJob in kubernetes_job.py.\"\"\"

    def __init__(self, process):
        self._process = process
        self.id = "pod t-fake"
        self.status = "Pod is running"
        self.is_waiting = False

    @property
    def is_running(self):
        return self._process.poll() is None

    @property
    def has_failed(self):
        return bool(self._process.poll())

    @property
    def has_succeeded(self):
        return self._process.poll() == 0

    @property
    def reason(self):
        return self._process.poll(), None

class Tail:
    def __init__(self, location):
        self._path, self._offset = location, 0

    def __iter__(self):
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        yield from data.splitlines(keepends=True)

class ClusterDecorator(StepDecorator):
    name = "cluster"
    defaults = {}

    def step_init(self, flow, graph, step_name, decorators, environment, flow_datastore, logger):
        from metaflow.plugins.gcp import gs_utils

        gs_utils.parse_gs_full_path = lambda path: ("bucket", path)
        if "kubernetes" not in sys.argv:
            return
        from kubernetes import client
        from metaflow.plugins.kubernetes import kubernetes as module
        from metaflow.plugins.kubernetes.kubernetes_job import KubernetesJob

        class Client:
            def get(self):
                return client

            def job(self, **options):
                return KubernetesJob(self, **options)

        def execute(job):
            container = job._job.spec.template.spec.containers[0]
            folder = tempfile.mkdtemp(dir=os.environ["PODS"], prefix=step_name + "-")
            env = {each.name: each.value for each in container.env if each.value is not None}
            env["METAFLOW_SKIP_INSTALL_DEPENDENCIES"] = "1"
            env["PATH"] = os.environ["POD_PATH"]
            for name in ("NAMESPACE", "POD_NAMESPACE", "POD_NAME", "POD_ID", "SERVICE_ACCOUNT_NAME", "NODE_IP"):
                env["METAFLOW_KUBERNETES_" + name] = "the-" + name.lower().replace("_", "-")
            env.update(json.loads(os.environ.get("POD_ENVIRONMENT", "{}")))
            env = {name: value for name, value in env.items() if value is not None}
            with open(os.path.join(folder, "pod.json"), "w") as file:
                json.dump({"command": container.command, "env": env}, file)
            with open(folder + "/stdout", "w") as out, open(folder + "/stderr", "w") as err:
                return Pod(subprocess.Popen(container.command, cwd=folder, env=env, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, start_new_session=True))

        module.KubernetesClient = Client
        KubernetesJob.execute = execute
        sys.modules["metaflow.plugins.gcp.gs_tail"] = types.SimpleNamespace(GSTail=Tail)
""",
}
DOWNLOAD = """\
#!/bin/sh
# download-gcp-object --bucket=B --object=O --output-file=F, which Metaflow installs where it can.
object= output=
for argument; do
  case $argument in
    --object=*) object=${argument#*=} ;;
    --output-file=*) output=${argument#*=} ;;
  esac
done
exec cp "/$object" "$output"
"""


@functools.cache
def bare(version: str) -> Path:
    """The bin folder of an environment with `requests` alone, for one of the Pythons of this machine."""
    program = interpreter(version)
    if program is None:
        pytest.skip(f"there is no Python {version} here")
    folder = BARE / version
    if not (folder / "made").exists():
        subprocess.run([program, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if subprocess.run([*pip, "requests"], check=False).returncode:
            pytest.skip(f"cannot install requests for Python {version}")
        (folder / "made").touch()
    return folder / "bin"


@dataclass(frozen=True)
class Pod:
    """One container that ran: its folder, what it was given, what it left."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "pod.json").read_text())["env"]
        return found

    @property
    def command(self) -> str:
        (*_, command) = json.loads((self.folder / "pod.json").read_text())["command"]
        return str(command)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def home(self) -> Path:
        """Where the container keeps its journals, beside Metaflow's own log files."""
        return self.folder / ".logs" / "otel"

    def records(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The records of the attempt's own journal."""
        (path,) = (path for path in self.home.rglob("*.jsonl") if not layout.is_output(path))
        return [entry.record for entry in Tail(path).read() if kind in (None, entry.record["kind"])]

    def again(self, folder: Path, env: Mapping[str, str | None], *, is_first: bool = True) -> Ran:
        """Run the same container again in an empty folder, with other variables; None removes one.

        As if it were the first of its attempt, unless not `is_first`.
        """
        changed = {**self.env, **env}
        if is_first:
            for stored in Path(self.env["METAFLOW_DATASTORE_SYSROOT_GS"]).rglob("*.otel_*.log"):
                stored.unlink()
        folder.mkdir()
        given = {name: value for name, value in changed.items() if value is not None}
        command = json.loads((self.folder / "pod.json").read_text())["command"]
        (folder / "pod.json").write_text(json.dumps({"command": command, "env": given}))
        began = time.monotonic()
        with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
            process = subprocess.Popen(command, cwd=folder, env=given, stdout=out, stderr=err, start_new_session=True)
            code = process.wait(240)
        return Ran(Pod(folder), code, time.monotonic() - began)


class Ran(NamedTuple):
    """A container that was run again: its exit code, and how many seconds it took."""

    pod: Pod
    code: int
    took: float


@dataclass(frozen=True)
class Cluster:
    """Runs flows whose remote steps run in pods, with the Python of `version` in them."""

    place: Place
    version: str

    @property
    def folder(self) -> Path:
        return self.place.path / "pods"

    def environ(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a flow needs to have its pods here."""
        path = self.place.path
        plugins = path / "cluster" / "metaflow_extensions" / "cluster" / "plugins"
        if not plugins.exists():
            plugins.mkdir(parents=True)
            for name, text in EXTENSION.items():
                (plugins / name).write_text(text)
            self.folder.mkdir()
            tools = path / "tools"
            tools.mkdir()
            (tools / "download-gcp-object").write_text(DOWNLOAD)
            (tools / "download-gcp-object").chmod(0o755)
        return {
            "PYTHONPATH": str(path / "cluster"),
            "METAFLOW_DEFAULT_DATASTORE": "gs",
            "METAFLOW_DATASTORE_SYSROOT_GS": str(path / "datastore"),
            "METAFLOW_KUBERNETES_NAMESPACE": "default",
            "METAFLOW_DECOSPECS": "cluster",
            "PODS": str(self.folder),
            "POD_PATH": os.pathsep.join([str(bare(self.version)), str(path / "tools"), "/usr/bin", "/bin"]),
            **(extra or {}),
        }

    def run(self, flow: str, *arguments: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run a flow to its end; `POD_ENVIRONMENT` in `env` is for pods, as JSON, null to take a variable away."""
        return self.place.run(flow, *arguments, env=self.environ(env))

    def pods(self, step: str = "") -> list[Pod]:
        """The pods that ran, the oldest first."""
        found = [path for path in self.folder.glob(f"{step}*-*") if (path / "pod.json").exists()]
        return [Pod(path) for path in sorted(found, key=lambda path: (path / "pod.json").stat().st_mtime_ns)]

    def pod(self, step: str) -> Pod:
        """The only pod of a step."""
        (found,) = self.pods(step)
        return found

    def pod_without_launcher(self, step: str) -> Pod:
        """The same, for it to be run again as where no launcher is."""
        found = self.pod(step)
        given = json.loads((found.folder / "pod.json").read_text())
        assert given["env"].pop(LAUNCHER_EXPORTS) == "true"
        (found.folder / "pod.json").write_text(json.dumps(given))
        return found
