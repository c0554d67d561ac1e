"""The resource of a run's telemetry: who ran what, where. Never parameters, arguments or environment."""

from __future__ import annotations

import os
import sys
from typing import Any, Dict, Mapping
from urllib.parse import unquote

from otel_metaflow.core import names, platform_facts
from otel_metaflow.core.metaflow_seams import Facts
from otel_metaflow.core.version import __version__

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm32", "i686": "x86"}


def describe(flow: str, run: str, facts: Facts, environ: Mapping[str, str] = os.environ) -> Dict[str, Any]:
    """The resource attributes of this process's telemetry, named as in names.py.

    OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence over detected values, but not over the names of flow
    and run, by which all telemetry of a run is correlated.
    """
    uname = os.uname()
    place = {
        names.HOST_NAME: uname.nodename,
        names.HOST_ARCH: _ARCHITECTURES.get(uname.machine, uname.machine),
        names.OS_TYPE: sys.platform,
        names.PROCESS_RUNTIME_NAME: sys.implementation.name,
        names.PROCESS_RUNTIME_VERSION: sys.version.split()[0],
        names.COMPUTE_NAME: "local",
        names.ORCHESTRATOR_NAME: "local",
        **platform_facts.of(environ),
    }
    return elsewhere(flow, run, facts, place, environ)


def elsewhere(
    flow: str, run: str, facts: Facts, place: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> Dict[str, Any]:
    """Like `describe`, of a process that ran at another time and place; `place` has attributes of that."""
    attributes: Dict[str, Any] = {names.SERVICE_NAME: "metaflow", **place}
    _put(attributes, names.METAFLOW_VERSION, facts.version)
    _put(attributes, names.PROJECT_NAME, facts.project)
    _put(attributes, names.SERVICE_NAMESPACE, facts.project)
    _put(attributes, names.BRANCH_NAME, facts.branch)
    attributes[names.DEPLOYMENT_ENVIRONMENT_NAME] = "production" if facts.is_production else facts.branch or "dev"
    _put(attributes, names.NAMESPACE, facts.namespace)
    _put(attributes, names.USER_NAME, facts.user)
    _put(attributes, names.ORIGIN_RUN_ID, facts.origin_run)
    attributes.update(_from_environment(environ))
    attributes.update(
        {
            names.FLOW_NAME: flow,
            names.RUN_ID: run,
            names.CICD_PIPELINE_NAME: flow,
            names.CICD_PIPELINE_RUN_ID: run,
            names.TELEMETRY_DISTRO_NAME: names.DISTRO,
            names.TELEMETRY_DISTRO_VERSION: __version__,
        }
    )
    return attributes


def _from_environment(environ: Mapping[str, str]) -> Dict[str, str]:
    """OTEL_RESOURCE_ATTRIBUTES, then OTEL_SERVICE_NAME, as the specification defines them."""
    attributes: Dict[str, str] = {}
    for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        name, equals, value = pair.partition("=")
        if equals and name.strip():
            attributes[name.strip()] = unquote(value.strip())
    if environ.get("OTEL_SERVICE_NAME"):
        attributes[names.SERVICE_NAME] = environ["OTEL_SERVICE_NAME"]
    return attributes


def _put(attributes: Dict[str, Any], name: str, value: str) -> None:
    if value:
        attributes[name] = value
