"""Where a container runs, by its environment variables: Metaflow's, and the platform's own.

Metaflow names the place and whatever starts tasks there in variables that each of its platforms sets, those of
extensions too; so there is no list of them here.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping

from otel_metaflow.core import names

_AS_THEY_ARE = {
    "METAFLOW_RUNTIME_ENVIRONMENT": names.COMPUTE_NAME,
    "METAFLOW_RUNTIME_NAME": names.ORCHESTRATOR_NAME,
    "METAFLOW_KUBERNETES_POD_NAMESPACE": names.K8S_NAMESPACE_NAME,
    "METAFLOW_KUBERNETES_POD_NAME": names.K8S_POD_NAME,
    "METAFLOW_KUBERNETES_POD_ID": names.K8S_POD_UID,
}
_BATCH = "AWS_BATCH_JOB_ID"
# Container runtimes name the container's folder by its id, in one of these files.
_PLACES = ("/proc/self/cgroup", "/proc/self/mountinfo")
_ID = re.compile(r"(?:/|-)([0-9a-f]{64})(?:\.scope)?(?:$|/(?:hostname|resolv\.conf|hosts)\b)", re.MULTILINE)


def of(environ: Mapping[str, str]) -> Dict[str, Any]:
    """Resource attributes; empty on a machine of one's own."""
    found: Dict[str, Any] = {
        name: environ[variable] for variable, name in _AS_THEY_ARE.items() if environ.get(variable)
    }
    if environ.get(_BATCH):
        found[names.CLOUD_PROVIDER] = "aws"
        found[names.CLOUD_PLATFORM] = "aws_ecs"
        region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
        if region:
            found[names.CLOUD_REGION] = region
    if names.COMPUTE_NAME in found:
        container = _container_id()
        if container:
            found[names.CONTAINER_ID] = container
    return found


def _container_id() -> str:
    for place in _PLACES:
        try:
            with open(place) as file:
                match = _ID.search(file.read())
        except OSError:
            continue
        if match is not None:
            return match.group(1)
    return ""
