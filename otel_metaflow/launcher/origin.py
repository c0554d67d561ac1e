"""What a run comes from and what it is made of: its trace, the run it resumes, its trigger, its steps."""

from __future__ import annotations

from typing import Any, Dict, Iterable, Iterator, List, Mapping

from otel_metaflow import traceparent

# What a step may ask of the machine, and the decorators that ask.
_ASKED = ("cpu", "gpu", "memory")
_ASKING = ("resources", "kubernetes", "batch")
_OURS = "otel"


def describe(environ: Mapping[str, str]) -> Dict[str, Any]:
    """`traceparent` if the launcher was started inside a trace, `origin` if it resumes a run, `triggers`."""
    from metaflow import current

    facts: Dict[str, Any] = {}
    joined = traceparent.read(environ)
    if joined:
        facts["traceparent"] = joined
    resumed = current.get("origin_run_id")
    if resumed and resumed != "None":
        facts["origin"] = str(resumed)
    triggers = _triggers(current.get("trigger"))
    if triggers:
        facts["triggers"] = triggers
    return facts


def _triggers(trigger: Any) -> List[str]:
    """FLOW/RUN of each run whose end started this one (metaflow/events.py)."""
    events = getattr(trigger, "events", None) or [getattr(trigger, "event", None)]
    runs = ["/".join(str(event.id).split("/")[:2]) for event in events if event and event.type == "run" and event.id]
    return list(dict.fromkeys(runs))


def describe_steps(flow: Any, graph: Any) -> Iterator[Dict[str, Any]]:
    """Each step of the flow, by name: its place in the graph, what it asks for, whether it has `@otel`."""
    for step in flow:
        decorators = step.decorators
        described = _step(graph[step.__name__], decorators)
        if not any(decorator.name == _OURS for decorator in decorators):
            described["recorded"] = False
        yield described


def _step(node: Any, decorators: Iterable[Any]) -> Dict[str, Any]:
    """Its type, what follows it, where its code stands, what it asks for."""
    asked: Dict[str, float] = {}
    for decorator in decorators:
        if decorator.name in _ASKING:
            for name in _ASKED:
                amount = _number(decorator.attributes.get(name))
                if amount:
                    asked[name] = max(amount, asked.get(name, 0.0))
    return {
        "step": node.name,
        "type": node.type,
        "parallel": bool(getattr(node, "parallel_step", False)),
        "next": list(node.out_funcs),
        "file": str(node.source_file),
        "line": int(node.func_lineno),
        "asked": asked,  # cpu in cores, memory in megabytes, gpu in devices, as Metaflow counts them
    }


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
