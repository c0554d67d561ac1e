"""What both the launcher and a task read from Metaflow, as plain values.

None of it is part of Metaflow's public API, so each function is a `seam`, as in launcher/metaflow_seams.py and
task/metaflow_seams.py.
"""

from __future__ import annotations

from typing import Any

from otel_metaflow.core.guard import let_pass, seam

DEPENDS = (
    "metaflow.__version__",
    "metaflow.current",
    "metaflow.metaflow_current.Current.get",
    "metaflow.util.get_username",
    "metaflow.flowspec.FlowSpec.name",
    "metaflow.graph.FlowGraph.__getitem__",
    "metaflow.graph.DAGNode.type",
    "metaflow.graph.DAGNode.parallel_step",
)
"""The names that this module depends on, where Metaflow 2.19 defines them."""


class Facts:
    """Version, project and user of a run; unknown values are empty."""

    __slots__ = ("branch", "is_production", "namespace", "origin_run", "project", "user", "version")

    def __init__(
        self,
        *,
        version: str = "",
        project: str = "",
        branch: str = "",
        is_production: bool = False,
        namespace: str = "",
        user: str = "",
        origin_run: str = "",
    ) -> None:
        self.version = version
        self.project = project
        self.branch = branch
        self.is_production = is_production
        self.namespace = namespace
        self.user = user
        self.origin_run = origin_run


@seam("Metaflow's version, project and user", Facts)
def facts() -> Facts:
    """The facts of this process's run (metaflow/metaflow_current.py)."""
    import metaflow
    from metaflow import current
    from metaflow.util import get_username

    def of(name: str) -> str:
        value = current.get(name)
        return str(value) if value else ""

    origin = of("origin_run_id")
    return Facts(
        version=str(metaflow.__version__),  # get_version() runs git
        project=of("project_name"),
        branch=of("branch_name"),
        is_production=bool(current.get("is_production")),
        namespace=of("namespace"),
        user=of("username") or str(get_username() or ""),
        origin_run="" if origin == "None" else origin,
    )


def flow_name(flow: Any) -> str:
    """The flow's name: Metaflow's, or else the name of its class."""
    try:
        return str(flow.name)
    except Exception as error:  # noqa: BLE001 - in Metaflow 2.19 it is the name of the class anyway
        let_pass(error)
        return type(flow).__name__


class Node:
    """A step in the graph of its flow."""

    __slots__ = ("is_parallel", "type")

    def __init__(self, type_: str, *, is_parallel: bool) -> None:
        self.type = type_
        self.is_parallel = is_parallel


@seam("types of steps", lambda: Node("", is_parallel=False))
def node(graph: Any, step: str) -> Node:
    """The node of a step (metaflow/graph.py)."""
    found = graph[step]
    return Node(str(found.type), is_parallel=bool(found.parallel_step))
