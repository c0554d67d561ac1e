"""The resource of a run and of its attempts, from tags and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otel_metaflow.backfill.attempts import IN_CONTAINER, StoredAttempt
from otel_metaflow.core import names
from otel_metaflow.core.metaflow_seams import Facts
from otel_metaflow.core.redaction import Redaction
from otel_metaflow.core.resource import elsewhere

_AS_THEY_ARE = {
    "kubernetes-pod-namespace": names.K8S_NAMESPACE_NAME,
    "kubernetes-pod-name": names.K8S_POD_NAME,
    "kubernetes-pod-id": names.K8S_POD_UID,
    "aws-batch-awslogs-region": names.CLOUD_REGION,
    "ec2-region": names.CLOUD_REGION,
    "python_version": names.PROCESS_RUNTIME_VERSION,
}
_LISTS = {
    "aws-batch-awslogs-group": names.AWS_LOG_GROUP_NAMES,
    "aws-batch-awslogs-stream": names.AWS_LOG_STREAM_NAMES,
}
_GIT = {"commit_sha": names.VCS_REVISION, "repo_url": names.VCS_URL}
# What only tasks on that platform register.
_COMPUTE = {"kubernetes-pod-name": "kubernetes", "aws-batch-job-id": "aws-batch"}
_LOCAL = "local"
_DEVELOPMENT = "dev"  # Metaflow's name of what `flow.py run` starts
_PRODUCTION = "prod"


def of_run(
    flow: str, run: Mapping[str, Any], origin: str, redaction: Redaction, *, in_doubt: bool = False
) -> dict[str, Any]:
    """The attributes of a run, given as the metadata has it; it resumes the run `origin`, if that is not empty."""
    tags = _system_tags(run)
    branch = tags.get("project_branch", "")
    facts = Facts(
        version=tags.get("metaflow_version", ""),
        project=tags.get("project", ""),
        branch=branch,
        is_production=branch.partition(".")[0] == _PRODUCTION,
        user=tags.get("user") or str(run.get("user_name") or ""),
        origin_run=origin,
    )
    place = {
        names.PROCESS_RUNTIME_NAME: "cpython",
        names.COMPUTE_NAME: _LOCAL,
        names.ORCHESTRATOR_NAME: _orchestrator(tags.get("runtime")),
        names.SOURCE: "backfill",
    }
    if tags.get("python_version"):
        place[names.PROCESS_RUNTIME_VERSION] = tags["python_version"]
    found = elsewhere(flow, str(run["run_number"]), facts, place)
    own = [str(tag) for tag in run.get("tags") or ()]
    if own:
        found[names.RUN_TAGS] = sorted(own)
    if in_doubt:
        found[names.IN_DOUBT] = True
    return redaction.attributes(found)


def of_attempt(
    attempt: StoredAttempt, run: Mapping[str, Any], redaction: Redaction, *, in_doubt: bool
) -> dict[str, Any]:
    """The attributes of an attempt of a run that has those of `run`."""
    facts = attempt.facts
    found: dict[str, Any] = {name: str(facts[fact]) for fact, name in _AS_THEY_ARE.items() if facts.get(fact)}
    found.update({name: [str(facts[fact])] for fact, name in _LISTS.items() if facts.get(fact)})
    compute = next((name for fact, name in _COMPUTE.items() if facts.get(fact)), "")
    if compute:
        found[names.COMPUTE_NAME] = compute
        found[names.ORCHESTRATOR_NAME] = _orchestrator(facts.get("runtime"))
    if compute == "aws-batch":
        found[names.CLOUD_PROVIDER] = "aws"
        found[names.CLOUD_PLATFORM] = "aws_ecs"
    package, git = attempt.parsed("code-package"), attempt.parsed("git-info")
    if isinstance(package, dict) and package.get("sha"):
        found[names.CODE_PACKAGE] = str(package["sha"])
    if isinstance(git, dict):
        found.update({name: str(git[key]) for key, name in _GIT.items() if git.get(key)})
    if in_doubt:
        found[names.IN_DOUBT] = True
    unknown = {names.IN_DOUBT} | ({names.COMPUTE_NAME} if is_in_container(attempt) else set())
    whole = {name: value for name, value in run.items() if name not in unknown}
    return {**whole, **redaction.attributes(found)}


def is_in_container(attempt: StoredAttempt) -> bool:
    """Whether it ran in a container."""
    return any(attempt.facts.get(fact) for fact in (*_COMPUTE, IN_CONTAINER))


def triggers(attempts: Sequence[StoredAttempt]) -> list[str]:
    """The runs, as FLOW/RUN, that triggered the run of these attempts."""
    found: list[str] = []
    for attempt in attempts:
        events = attempt.parsed("execution-triggers")
        found += [
            "/".join(str(event["id"]).split("/")[:2])
            for event in (events if isinstance(events, list) else ())
            if isinstance(event, dict) and event.get("type") == "run" and event.get("id")
        ]
    return list(dict.fromkeys(found))


def has_launcher(run: Mapping[str, Any]) -> bool:
    """Whether a process of `flow.py run` watches over the attempts of a run that has these attributes."""
    return run.get(names.ORCHESTRATOR_NAME) == _LOCAL


def _orchestrator(runtime: Any) -> str:
    return str(runtime) if runtime and runtime != _DEVELOPMENT else _LOCAL


def _system_tags(run: Mapping[str, Any]) -> dict[str, str]:
    pairs = (str(tag).partition(":") for tag in run.get("system_tags") or ())
    return {name: value for name, colon, value in pairs if colon}
