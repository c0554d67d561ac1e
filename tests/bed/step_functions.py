"""AWS Step Functions, as far as Metaflow's state machines use it: runs what `step-functions create --only-json` prints.

Tasks of AWS Batch and DynamoDB, `Map`, `Parallel`, values by JSON path. (moto's interpreter refuses these: it looks for
Batch in moto, changes the case of keys, and its paths give lists where those of AWS give objects.)
"""

from __future__ import annotations

import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEEP = {"Parameters", "Tags"}  # maps whose keys are the user's own
_PART = re.compile(r"\.?\[(\d+)\]|\.\['([^']+)'\]|\.([A-Za-z_][\w-]*)")
_SEVERAL = re.compile(r"\$\.\[('[^']+'(?:,\s*'[^']+')+)\]")


class TaskFailedError(Exception):
    """A job of AWS Batch failed, and with it the execution."""


class Execution:
    """One execution of a state machine; `batch` and `dynamo` are clients of boto3."""

    def __init__(self, definition: dict[str, Any], batch: Any, dynamo: Any) -> None:
        self.name = str(uuid.uuid4())
        self.jobs: list[dict[str, Any]] = []
        self._definition = definition
        self._batch = batch
        self._dynamo = dynamo
        self._context = {"Execution": {"Name": self.name}}

    def run(self) -> str:
        """Run it to its end; SUCCEEDED or FAILED."""
        try:
            self._run(self._definition, {"Parameters": "{}"}, self._context)
        except TaskFailedError:
            return "FAILED"
        return "SUCCEEDED"

    def _run(self, machine: Mapping[str, Any], value: Any, context: Mapping[str, Any]) -> Any:
        name: str | None = machine["StartAt"]
        while name is not None:
            state = machine["States"][name]
            value = self._enter(state, value, context)
            name = state.get("Next")
        return value

    def _enter(self, state: Mapping[str, Any], value: Any, context: Mapping[str, Any]) -> Any:
        if state["Type"] == "Task":
            service = state["Resource"].split(":::")[1]
            result = _SERVICES[service](self, _filled(state["Parameters"], value, context))
        elif state["Type"] == "Parallel":
            result = _each(lambda branch: self._run(branch, value, context), state["Branches"])
        elif state["Type"] == "Map":
            result = _each(
                lambda item: self._run(
                    state["Iterator"],
                    _filled(state["Parameters"], value, {**context, "Map": {"Item": {"Value": item}}}),
                    context,
                ),
                _found(state["ItemsPath"], value),
            )
        else:
            raise NotImplementedError(state["Type"])
        path = state.get("ResultPath", "$")
        whole = result if path == "$" else {**value, path.removeprefix("$."): result}
        return _found(state.get("OutputPath", "$"), whole)

    def _submit(self, parameters: dict[str, Any]) -> dict[str, Any]:
        job_id = self._batch.submit_job(**_lower(parameters))["jobId"]
        while True:
            (job,) = self._batch.describe_jobs(jobs=[job_id])["jobs"]
            if job["status"] in ("SUCCEEDED", "FAILED"):
                break
            time.sleep(0.1)
        self.jobs.append(job)
        if job["status"] == "FAILED":
            raise TaskFailedError(job)
        return {"JobId": job_id, "Parameters": job["parameters"]}

    def _get_item(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {"Item": self._dynamo.get_item(**parameters)["Item"]}


_SERVICES = {"batch:submitJob.sync": Execution._submit, "dynamodb:getItem": Execution._get_item}


def _each(function: Any, values: list[Any]) -> list[Any]:
    with ThreadPoolExecutor(max_workers=max(1, len(values))) as pool:
        return list(pool.map(function, values))


def _filled(template: Any, value: Any, context: Mapping[str, Any]) -> Any:
    """`template` with each `"KEY.$": PATH` replaced by what the path leads to; `$$.` is a path of the context."""
    if isinstance(template, list):
        return [_filled(each, value, context) for each in template]
    if not isinstance(template, dict):
        return template
    filled = {}
    for key, each in template.items():
        if not key.endswith(".$"):
            filled[key] = _filled(each, value, context)
        elif each.startswith("$$"):
            filled[key[:-2]] = _found(each[1:], context)
        else:
            filled[key[:-2]] = _found(each, value)
    return filled


def _found(path: str, value: Any) -> Any:
    """What a path leads to; of several names, an object of those that are there."""
    several = _SEVERAL.fullmatch(path)
    if several:
        return {name: value[name] for name in re.findall(r"'([^']+)'", several.group(1)) if name in value}
    rest = path.removeprefix("$")
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise NotImplementedError(path)
        index, quoted, name = part.groups()
        value = value[int(index)] if index else value[quoted or name]
        rest = rest[part.end() :]
    return value


def _lower(value: Any) -> Any:
    """The parameters of a state as the API of Batch has them: keys begin in lower case."""
    if isinstance(value, list):
        return [_lower(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key[:1].lower() + key[1:]: each if key in _KEEP else _lower(each) for key, each in value.items()}
