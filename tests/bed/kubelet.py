"""A node: runs the pods of a cluster as containers of podman, on the host's network, and reports how they end.

It does what the tests need as the real one does it: containers of a pod in turn and side by side, environment from
literals, secrets and the downward API, `$(NAME)` expanded, emptyDir volumes and claimed ones, memory limits,
out-of-memory kills, deletion with a grace of at least two seconds, after which SIGKILL.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes.client
import kubernetes.watch
import urllib3
from containers import memory_limit

if TYPE_CHECKING:
    import subprocess

    from cluster import Cluster
    from containers import Containers
    from typing_extensions import Self

_NODE = "node-1"
_LEAST_GRACE = 2  # seconds, minimumGracePeriodInSeconds of kuberuntime_container.go
_EXPANDED = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_TOOK = {"ADDED", "MODIFIED"}


class Kubelet:
    """Runs what is scheduled, from entry to exit."""

    def __init__(self, cluster: Cluster, containers: Containers) -> None:
        self.containers = containers
        self._core = kubernetes.client.CoreV1Api(cluster.client)
        self._watch = kubernetes.watch.Watch()
        self._is_over = False
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._core.create_node({"metadata": {"name": _NODE, "labels": {"kubernetes.io/hostname": _NODE}}})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._watch.stop()

    def volume(self, uid: str, name: str) -> Path:
        """Where a volume of the pod of that uid lies."""
        return self.containers.folder / "volumes" / uid / name

    def claimed(self, name: str) -> Path:
        """Where the volume of a claim lies, which outlives pods."""
        return self.containers.folder / "claims" / name

    def _follow(self) -> None:
        seen: set[str] = set()
        deleted: set[str] = set()
        while not self._is_over:
            try:
                for event in self._watch.stream(self._core.list_pod_for_all_namespaces, timeout_seconds=60):
                    if event["type"] in _TOOK:
                        self._take(event["object"], seen, deleted)
            except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError):
                time.sleep(0.1)  # the watch ended early, or the cluster has; a watch lists all again at its start

    def _take(self, pod: Any, seen: set[str], deleted: set[str]) -> None:
        uid = pod.metadata.uid
        if pod.metadata.deletion_timestamp is not None and uid not in deleted:
            deleted.add(uid)
            threading.Thread(target=self._end, args=(pod,), daemon=True).start()
        elif uid not in seen and (pod.status.phase or "Pending") == "Pending":
            seen.add(uid)
            threading.Thread(target=self._run, args=(pod,), daemon=True).start()

    def _run(self, pod: Any) -> None:
        if not pod.spec.node_name:
            binding = {
                "metadata": {"name": pod.metadata.name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": _NODE},
            }
            self._core.create_namespaced_pod_binding(
                pod.metadata.name, pod.metadata.namespace, binding, _preload_content=False
            )
        before = [self._ended(pod, container) for container in pod.spec.init_containers or []]
        started = _now()
        processes = [(container, self._start(pod, container)) for container in pod.spec.containers]
        running = {"running": {"startedAt": started}}
        self._report(pod, "Running", before, [_status(container, running) for container, _ in processes])
        after = [self._wait(pod, container, process, started) for container, process in processes]
        failed = any(status["state"]["terminated"]["exitCode"] for status in after)
        self._report(pod, "Failed" if failed else "Succeeded", before, after)

    def _ended(self, pod: Any, container: Any) -> dict[str, Any]:
        return self._wait(pod, container, self._start(pod, container), _now())

    def _name(self, pod: Any, container: Any) -> str:
        return f"{pod.metadata.name}.{container.name}"

    def _start(self, pod: Any, container: Any) -> subprocess.Popen[bytes]:
        options = [f"--hostname={pod.metadata.name}"]
        for alias in pod.spec.host_aliases or []:
            options += [f"--add-host={name}:{alias.ip}" for name in alias.hostnames]
        claims = {each.name: each.persistent_volume_claim for each in pod.spec.volumes or []}
        for mount in container.volume_mounts or []:
            claim = claims.get(mount.name)
            place = self.volume(pod.metadata.uid, mount.name) if claim is None else self.claimed(claim.claim_name)
            place /= mount.sub_path or ""
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(0o777)  # as an emptyDir is
            options.append(f"--volume={place}:{mount.mount_path}")
        security, limits = container.security_context, (container.resources and container.resources.limits) or {}
        if security is not None and security.read_only_root_filesystem:
            options += ["--read-only", "--read-only-tmpfs=false"]
        if security is not None and security.run_as_user is not None:
            options.append(f"--user={security.run_as_user}")
        if "memory" in limits:
            options += memory_limit(_bytes(limits["memory"]))
        if container.working_dir:
            options.append(f"--workdir={container.working_dir}")
        command = [*(container.command or []), *(container.args or [])]
        environment = self._environment(pod, container)
        return self.containers.start(
            self._name(pod, container), command, environment, *options, of=container.image or ""
        )

    def _wait(self, pod: Any, container: Any, process: subprocess.Popen[bytes], started: str) -> dict[str, Any]:
        code, is_out_of_memory = self.containers.wait(self._name(pod, container), process)
        reason = "OOMKilled" if is_out_of_memory else "Error" if code else "Completed"
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": _now()}
        return _status(container, {"terminated": ended})

    def _environment(self, pod: Any, container: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in container.env_from or []:
            if source.secret_ref is not None:
                secret = self._core.read_namespaced_secret(source.secret_ref.name, pod.metadata.namespace)
                found.update({name: base64.b64decode(value).decode() for name, value in (secret.data or {}).items()})
        for variable in container.env or []:
            reference = variable.value_from and variable.value_from.field_ref
            if reference is not None:
                found[variable.name] = _downward(pod, reference.field_path)
            else:
                found[variable.name] = _EXPANDED.sub(
                    lambda match: found.get(match.group(1), match.group()), variable.value or ""
                )
        return found

    def _report(self, pod: Any, phase: str, before: list[dict[str, Any]], statuses: list[dict[str, Any]]) -> None:
        status = {
            "phase": phase,
            "hostIP": "127.0.0.1",
            "podIP": "127.0.0.1",
            "startTime": _now(),
            "initContainerStatuses": before,
            "containerStatuses": statuses,
            "conditions": [{"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": _now()}],
        }
        try:
            self._core.patch_namespaced_pod_status(pod.metadata.name, pod.metadata.namespace, {"status": status})
        except kubernetes.client.ApiException as error:
            if error.status != 404:  # deleted in between
                raise

    def _end(self, pod: Any) -> None:
        prefix = f"{pod.metadata.name}."
        self.containers.kill(prefix, "TERM")
        deadline = time.monotonic() + max(_LEAST_GRACE, pod.metadata.deletion_grace_period_seconds or 0)
        while self.containers.running(prefix) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.containers.kill(prefix)
        self._core.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _status(container: Any, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": container.name,
        "image": container.image or "",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
        "containerID": f"podman://{container.name}",
    }


def _downward(pod: Any, path: str) -> str:
    metadata = pod.metadata
    keyed = re.fullmatch(r"metadata\.(annotations|labels)\['(.*)'\]", path)
    if keyed:
        return (getattr(metadata, keyed.group(1)) or {}).get(keyed.group(2), "")
    return {
        "metadata.name": metadata.name,
        "metadata.namespace": metadata.namespace,
        "metadata.uid": metadata.uid,
        "spec.nodeName": _NODE,
        "spec.serviceAccountName": pod.spec.service_account_name or "default",
        "status.hostIP": "127.0.0.1",
        "status.podIP": "127.0.0.1",
    }[path]


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi|k|M|G)?", quantity).groups()
    powers = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 10**3, "M": 10**6, "G": 10**9}
    return int(number) * powers.get(unit, 1)
