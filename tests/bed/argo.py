"""Argo Workflows, as far as Metaflow's templates use it: runs what `argo-workflows create --only-json` prints.

Runs DAGs with `depends` and `withParam`, steps with `when`, parameters in and out, retries, `onExit`, and what
`argo retry` does. Each template with a container is run as a pod of the cluster, by its own command; a JobSet
(`@parallel`) as the pods that its controller would make. (Argo's `argoexec` cannot be built from its Go module.)
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import kubernetes.client
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster import Cluster
    from kubelet import Kubelet

_REFERENCE = re.compile(r"\{\{([^{}]+)\}\}")
_PARAMETER = re.compile(r"inputs\.parameters(?:\['([\w-]+)'\]|\.([\w-]+))")
_FUNCTIONS = {"__builtins__": {}, "asInt": int, "int": int, "sub": int.__sub__}  # of Argo's, those that Metaflow calls
_CONDITION = re.compile(r"\s*(\S+)\s*(==|!=)\s*(\S+)\s*")
_OVER = {"Succeeded", "Failed"}


class Workflow:
    """One run of a template; `failures` is what `{{workflow.failures}}` becomes."""

    def __init__(self, template: dict[str, Any], cluster: Cluster, kubelet: Kubelet) -> None:
        self._spec = template["spec"]
        self._templates = {each["name"]: each for each in self._spec["templates"]}
        self._core = kubernetes.client.CoreV1Api(cluster.client)
        self._kubelet = kubelet
        self._lock = threading.Lock()
        self.name = f"{template['metadata']['name']}-{secrets.token_hex(3)}"
        self.failures: list[dict[str, Any]] = []
        self.pods: dict[tuple[str, int], list[str]] = {}  # by template and retry
        self.status = "Running"
        self._succeeded: dict[tuple[str, str], dict[str, str]] = {}  # outputs of pods, by template and inputs
        self._globals = {
            "workflow.name": self.name,
            "workflow.namespace": "default",
            "workflow.uid": str(uuid.uuid4()),
            "workflow.creationTimestamp": _now(),
        }
        for parameter in self._spec.get("arguments", {}).get("parameters") or []:
            self._globals[f"workflow.parameters.{parameter['name']}"] = parameter["value"]

    def run(self) -> str:
        """Run it to its end and then its exit handler; Succeeded or Failed.

        Once more after it has failed it is what `argo retry` does: pods that succeeded are not run again.
        """
        self.failures.clear()
        self.status = "Succeeded" if self._run(self._spec["entrypoint"], {}) is not None else "Failed"
        self._globals["workflow.status"] = self.status
        self._globals["workflow.failures"] = json.dumps(json.dumps(self.failures))
        if self._spec.get("onExit"):
            self._run(self._spec["onExit"], {})
        return self.status

    def _run(self, name: str, inputs: Mapping[str, str]) -> dict[str, str] | None:
        """Run a template; its output parameters, None if it failed."""
        template = self._templates[name]
        known = {**self._globals, **{f"inputs.parameters.{key}": value for key, value in inputs.items()}}
        if "dag" in template:
            known = self._run_dag(template["dag"]["tasks"], known)
            return None if known is None else _outputs(template, known)
        if "steps" in template:
            return {} if all(self._run_group(group, known) for group in template["steps"]) else None
        place = (name, json.dumps(inputs, sort_keys=True))
        if place in self._succeeded:
            return self._succeeded[place]
        limit = int((template.get("retryStrategy") or {}).get("limit", 0))
        run = self._run_job_set if "resource" in template else self._run_pod
        for retry in range(limit + 1):
            outputs = run(template, {**known, "retries": str(retry)}, retry)
            if outputs is not None:
                self._succeeded[place] = outputs
                return outputs
        return None

    def _run_group(self, group: list[dict[str, Any]], known: Mapping[str, str]) -> bool:
        return all(
            self._run_task(step, known) is not None for step in group if _holds(_filled(step.get("when", ""), known))
        )

    def _run_dag(self, tasks: list[dict[str, Any]], known: dict[str, str]) -> dict[str, str] | None:
        results: dict[str, dict[str, str] | None] = {}
        with ThreadPoolExecutor(max_workers=32) as pool:
            running: dict[str, Any] = {}
            while len(results) < len(tasks):
                for task in tasks:
                    name = task["name"]
                    if name not in running and name not in results and _is_due(task.get("depends") or "", results):
                        running[name] = pool.submit(self._run_task, task, dict(known))
                ended = [name for name, future in running.items() if future.done()]
                for name in ended:
                    results[name] = running.pop(name).result()
                    for key, value in (results[name] or {}).items():
                        known[f"tasks.{name}.outputs.parameters.{key}"] = value
                if not running and not ended:
                    return None  # what is left depends on what failed
                time.sleep(0.05)
        return None if None in results.values() else known

    def _run_task(self, task: dict[str, Any], known: Mapping[str, str]) -> dict[str, str] | None:
        def one(item: object) -> dict[str, str] | None:
            values = {**known, "item": item if isinstance(item, str) else json.dumps(item)}
            parameters = (task.get("arguments") or {}).get("parameters") or []
            return self._run(task["template"], {each["name"]: _filled(each["value"], values) for each in parameters})

        if "withParam" not in task:
            return one("")
        items = json.loads(_filled(task["withParam"], known))
        with ThreadPoolExecutor(max_workers=max(1, len(items))) as pool:
            found = list(pool.map(one, items))
        if None in found:
            return None
        outputs = [each for each in found if each is not None]
        return {key: json.dumps([each[key] for each in outputs]) for key in (outputs[0] if outputs else {})}

    def _run_pod(self, template: dict[str, Any], known: Mapping[str, str], retry: int) -> dict[str, str] | None:
        filled = json.loads(_filled(json.dumps(_without_null(template)), {**known, **_quoted(known)}))
        name = f"{self.name}-{template['name']}-{secrets.token_hex(4)}".lower()
        metadata = {**(filled.get("metadata") or {}), "name": name}
        container = {**filled["container"], "name": "main"}
        spec = {"restartPolicy": "Never", "containers": [container], "volumes": filled.get("volumes", [])}
        created = self._core.create_namespaced_pod("default", {"metadata": metadata, "spec": spec})
        with self._lock:
            self.pods.setdefault((template["name"], retry), []).append(name)
        status = self._wait(name)
        if status is not None and status.phase == "Succeeded":
            volume = self._kubelet.volume(created.metadata.uid, "out")
            return {
                each["name"]: (volume / each["valueFrom"]["path"].rpartition("/")[2]).read_text().strip()
                for each in (filled.get("outputs") or {}).get("parameters") or []
            }
        ended = status and status.container_statuses and status.container_statuses[0].state.terminated
        self.failures.append(
            {
                "displayName": f"{template['name']}({retry})",
                "message": f"Error (exit code {ended.exit_code})" if ended else "pod deleted",
                "templateName": template["name"],
                "phase": "Failed",
                "podName": name,
                "finishedAt": _now(),
            }
        )
        return None

    def _run_job_set(self, template: dict[str, Any], known: Mapping[str, str], retry: int) -> dict[str, str] | None:
        made = yaml.safe_load(_filled(template["resource"]["manifest"], known))
        name = made["metadata"]["name"]
        names = []
        for job in made["spec"]["replicatedJobs"]:
            for index in range(job["replicas"]):
                pod = _without_null(job["template"]["spec"]["template"])
                pod["metadata"]["name"] = f"{name}-{job['name']}-{index}-0-{secrets.token_hex(3)}"
                of_set = {"jobset-name": name, "job-index": str(index), "restart-attempt": "0"}
                pod["metadata"]["annotations"] |= {f"jobset.sigs.k8s.io/{key}": value for key, value in of_set.items()}
                # As the name service of the cluster would resolve it.
                control = f"{name}-control-0-0.{name}.default.svc.cluster.local"
                pod["spec"]["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": [control]}]
                self._core.create_namespaced_pod("default", pod)
                names.append(pod["metadata"]["name"])
        with self._lock:
            self.pods.setdefault((template["name"], retry), []).extend(names)
        ended = [self._wait(name) for name in names]
        if not all(status is not None and status.phase == "Succeeded" for status in ended):
            return None
        labels = made["metadata"]["labels"]  # of which its outputs are, `{.metadata.labels.NAME}`
        parameters = template["outputs"]["parameters"]
        return {each["name"]: labels[each["valueFrom"]["jsonPath"].rpartition(".")[2][:-1]] for each in parameters}

    def _wait(self, name: str) -> Any:
        """The status of a pod that has ended; None of one that was deleted."""
        while True:
            try:
                status = self._core.read_namespaced_pod(name, "default").status
            except kubernetes.client.ApiException as error:
                if error.status != 404:
                    raise
                return None
            if status.phase in _OVER:
                return status
            time.sleep(0.1)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _filled(text: str, known: Mapping[str, str]) -> str:
    """`text` with each reference that is known replaced, and each expression."""

    def value(match: re.Match[str]) -> str:
        reference = match.group(1).strip()
        if not reference.startswith("="):
            return str(known.get(reference, match.group()))
        text = _PARAMETER.sub(lambda name: repr(known[f"inputs.parameters.{name[1] or name[2]}"]), reference[1:])
        return str(eval(text.replace("sprig.", ""), _FUNCTIONS))

    return _REFERENCE.sub(value, text)


def _quoted(known: Mapping[str, str]) -> dict[str, str]:
    """The values as they stand inside a string of JSON."""
    return {name: json.dumps(str(value))[1:-1] for name, value in known.items()}


def _is_due(depends: str, results: Mapping[str, object]) -> bool:
    """Whether an expression such as `(a.Succeeded && b.Succeeded)` holds of what has ended."""

    def word(match: re.Match[str]) -> str:
        return str(results.get(match.group(1)) is not None)

    text = re.sub(r"([\w-]+)\.Succeeded", word, depends).replace("&&", " and ").replace("||", " or ")
    return not text.strip() or bool(eval(text, {"__builtins__": {}}))


def _holds(condition: str) -> bool:
    """Whether an expression such as `Failed != Succeeded` holds."""
    if not condition:
        return True
    left, operator, right = _CONDITION.fullmatch(condition).groups()
    return (left == right) is (operator == "==")


def _outputs(template: dict[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    parameters = (template.get("outputs") or {}).get("parameters") or []
    return {each["name"]: _filled(each["valueFrom"]["parameter"], known) for each in parameters}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(item) for name, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value
