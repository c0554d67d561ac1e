"""Everything that a task reads from Metaflow's internals, as plain values.

None of this is part of Metaflow's public API. So each function is a `seam`: if Metaflow's internals change, it returns
a default, one line reports what goes unrecorded, and the step runs as without us. No other module of the task touches
Metaflow's attributes. tests/test_seams.py removes each name of DEPENDS in turn.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from otel_metaflow.core.guard import seam
from otel_metaflow.journal import layout

DEPENDS = (
    "metaflow.current",
    "metaflow.flowspec.FlowSpec._foreach_stack",
    "metaflow.tuple_util.ForeachFrame.index",
    "metaflow.tuple_util.ForeachFrame.num_splits",
    "metaflow.tuple_util.ForeachFrame.value",
    "metaflow.metadata_provider.MetaDatum",
    "metaflow.metadata_provider.metadata.MetadataProvider.register_metadata",
    "metaflow.datastore.task_datastore.TaskDataStore.pathspec",
    "metaflow.datastore.task_datastore.TaskDataStore.attempt",
    "metaflow.datastore.task_datastore.TaskDataStore._info",
    "metaflow.datastore.task_datastore.TaskDataStore._storage_impl",
    "metaflow.datastore.task_datastore.TaskDataStore._path",
    "metaflow.plugins.timeout_decorator.TimeoutException",
    "metaflow.metaflow_current.Parallel.node_index",
    "metaflow.metaflow_current.Parallel.num_nodes",
    "metaflow.decorators.Decorator.name",
    "metaflow.decorators.Decorator.attributes",
    "metaflow.plugins.cards.card_decorator.CardDecorator.card_creator",
    "metaflow.plugins.cards.card_decorator.CardDecorator.card_options",
    "metaflow.plugins.cards.card_decorator.CardDecorator._card_uuid",
    "metaflow.plugins.cards.card_decorator.CardDecorator._user_set_card_id",
    "metaflow.plugins.cards.card_decorator.CardDecorator._logger",
    "metaflow.plugins.cards.card_creator.CardCreator.create",
)
"""The names that this module depends on, where Metaflow 2.19 defines them."""

_CARD_TYPE = "otel"
# Whatever deploys a flow makes a task of this name for its parameters, before all others.
_PARAMETERS = "_parameters"


class Frame:
    """One foreach that the task is in."""

    __slots__ = ("index", "splits", "value")

    def __init__(self, index: int, splits: Optional[int], value: Any) -> None:
        self.index = index
        self.splits = splits
        self.value = value


@seam("foreach indexes", list)
def frames(flow: Any) -> List[Frame]:
    """The foreach loops that a task is in, innermost last (metaflow/flowspec.py)."""
    return [
        Frame(int(each.index), each.num_splits, each.value) for each in flow._foreach_stack if each.index is not None
    ]


@seam("inputs of tasks", dict)
def inputs(datastores: Any) -> Dict[str, Any]:
    """What the task reads from, given as Metaflow's datastores."""
    if datastores is None:
        return {"inputs": {}}
    if iter(datastores) is datastores:
        raise TypeError("the inputs can be read only once, by the step")
    return {"inputs": layout.grouped(_read(datastores))}


def _read(datastores: Iterable[Any]) -> Iterator[Tuple[str, str, int]]:
    for each in datastores:
        _, step, task = str(each.pathspec).split("/")
        if step != _PARAMETERS:  # not a task of the user's
            yield step, task, int(each.attempt or 0)


@seam("node indexes of @parallel tasks", dict)
def parallel() -> Dict[str, Any]:
    """The node index and the number of nodes of this attempt of a `@parallel` step."""
    from metaflow import current

    return {"parallel": [int(current.parallel.node_index), int(current.parallel.num_nodes)]}


@seam("sizes of artifacts", dict)
def artifacts(datastore: Any) -> Dict[str, Any]:
    """How many artifacts the attempt stored, and their bytes before compression.

    From a datastore's private `_info` (metaflow/datastore/task_datastore.py): every public way reads each artifact.
    """
    sizes = [info.get("size") for info in dict(datastore._info).values() if isinstance(info, dict)]
    return {"artifacts": {"count": len(sizes), "bytes": sum(size for size in sizes if isinstance(size, int))}}


@seam("trace URLs in the metadata of tasks")
def register_link(metadata: Any, field: str, url: str, run: str, step: str, task: str, attempt: int) -> None:
    """Register a link as metadata of the task; with a metadata service, one request."""
    from metaflow.metadata_provider import MetaDatum

    datum = MetaDatum(field=field, value=url, type=field, tags=[f"attempt_id:{attempt}"])
    metadata.register_metadata(run, step, task, [datum])


@seam("errors of artifacts that cannot be stored")
def watch_registering(metadata: Any, note: Callable[[], None]) -> None:
    """Call `note` whenever Metaflow registers metadata of this task.

    It registers `attempt_ok` while the error of an artifact that cannot be pickled is being handled (metaflow/task.py),
    and no hook is called for that error.
    """
    kind = type(metadata)
    kind.register_metadata = _Noted(kind.register_metadata, note)


class _Noted:
    """A method that calls `note` when it is looked up: no frame of ours is in the traceback of what it raises."""

    def __init__(self, method: Any, note: Callable[[], None]) -> None:
        self._method = method
        self._note = note

    def __get__(self, instance: Any, owner: Any) -> Any:
        self._note()
        return self._method.__get__(instance, owner)


@seam("attempts that are made again", lambda: False)
def was_made_before(output: Any, attempt: int) -> bool:
    """Whether another container has stored a journal of the attempt: a deployed run that had failed goes on."""
    storage = output._storage_impl
    return bool(storage.is_file([storage.path_join(output._path, layout.stored_name(attempt, "journal"))])[0])


@seam("the storage of a datastore")
def storage_of(datastore: Any) -> Any:
    """The storage that a datastore of Metaflow's is in."""
    return datastore._storage_impl


@seam("the storage of a datastore")
def open_storage(kind: str, root: str) -> Any:
    """That of some kind below `root`, for a process without a datastore (metaflow/mflog/save_logs.py)."""
    from metaflow.datastore import FlowDataStore
    from metaflow.plugins import DATASTORES

    implementation = next(each for each in DATASTORES if kind == each.TYPE)
    return storage_of(FlowDataStore("otel", None, storage_impl=implementation, ds_root=root))


@seam("the start of the run", lambda: (0, False))
def stored_run(storage: Any, flow: str, run: str) -> Tuple[int, bool]:
    """When a run began, in nanoseconds since 1970, 0 if unknown, and whether its span was written before.

    One listing, one reading, one look; nobody else knows of a run that no launcher launched.
    """
    import json

    places = _parameters_of(storage, flow, run)
    began: List[float] = []
    with storage.load_bytes([storage.path_join(place, "0.attempt.json") for place in places]) as loaded:
        for _, path, _ in loaded:
            if path is not None:
                with open(path, "rb") as file:
                    began.append(json.load(file)["time"])  # metaflow/datastore/task_datastore.py, init_task
    marks = [storage.path_join(place, layout.RUN_MARK) for place in places]
    return int(min(began, default=0.0) * 1e9), any(storage.is_file(marks))


@seam("whether the span of the run was written before")
def mark_run(storage: Any, flow: str, run: str) -> None:
    """Note that the run's span was written."""
    import io

    marks = [storage.path_join(place, layout.RUN_MARK) for place in _parameters_of(storage, flow, run)[:1]]
    storage.save_bytes(iter([(mark, io.BytesIO(b"{}")) for mark in marks]), overwrite=True)


def _parameters_of(storage: Any, flow: str, run: str) -> List[str]:
    return [str(found.path) for found in storage.list_content([storage.path_join(flow, run, _PARAMETERS)])]


@seam("timeouts of attempts", lambda: False)
def is_timeout(error: Optional[BaseException]) -> bool:
    """Whether `@timeout` raised `error`."""
    from metaflow.plugins.timeout_decorator import TimeoutException

    return isinstance(error, TimeoutException)


@seam("cards of failed steps")
def render_failed_cards(decorators: Iterable[Any]) -> None:
    """Make the cards of type otel among the step's decorators, which Metaflow does not for a failed step.

    As in metaflow/plugins/cards/card_decorator.py, CardDecorator.task_finished.
    """
    for decorator in decorators:
        if decorator.name == "card" and decorator.attributes.get("type") == _CARD_TYPE:
            decorator.card_creator.create(
                mode="render",
                final=True,
                card_uuid=decorator._card_uuid,
                user_set_card_id=decorator._user_set_card_id,
                runtime_card=False,
                decorator_attributes=decorator.attributes,
                card_options=decorator.card_options,
                logger=decorator._logger,
            )
