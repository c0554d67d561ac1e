"""What the launcher and a task both read of Metaflow, as plain values of ours.

Nothing here is promised by Metaflow, so each function is a `seam`, as in launcher/metaflow_seams.py and
task/metaflow_seams.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
"""The names that this module needs, each where Metaflow 2.19 defines it."""


class Facts(NamedTuple):
    """Who runs what, as Metaflow knows it; what it does not know is empty."""

    version: str = ""
    project: str = ""
    branch: str = ""
    is_production: bool = False
    namespace: str = ""
    user: str = ""
    origin_run: str = ""


@seam("Metaflow's version, the project and the user of the run", Facts)
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
        version=str(metaflow.__version__),  # get_version() asks git, in a process of its own
        project=of("project_name"),
        branch=of("branch_name"),
        is_production=bool(current.get("is_production")),
        namespace=of("namespace"),
        user=of("username") or str(get_username() or ""),
        origin_run="" if origin == "None" else origin,
    )


def flow_name(flow: Any) -> str:
    """The flow's name: that of its class, unless Metaflow knows another."""
    try:
        return str(flow.name)
    except Exception as error:  # noqa: BLE001 - the class's name is what Metaflow 2.19 answers
        let_pass(error)
        return type(flow).__name__


class Node(NamedTuple):
    """A step as the graph of the flow has it."""

    type: str
    is_parallel: bool


@seam("the type of steps", lambda: Node("", is_parallel=False))
def node(graph: Any, step: str) -> Node:
    """The node of a step (metaflow/graph.py)."""
    found = graph[step]
    return Node(str(found.type), bool(found.parallel_step))
