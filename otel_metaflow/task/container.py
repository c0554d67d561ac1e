"""A task without a launcher, in a container: what it tells of where it runs, and the shipper that it starts."""

from __future__ import annotations

from typing import Any, Dict, MutableMapping

from otel_metaflow.journal.processes import process_space, process_start

_WITNESS = "OTEL_METAFLOW_WITNESS"


def describe(environ: MutableMapping[str, str]) -> Dict[str, Any]:
    """What the attempt's first record says besides: where its pids are known, and who will see it end.

    The variable of the witness, task/witness.sh, is the task's alone: it ends with the process number of its shell.
    """
    facts: Dict[str, Any] = {}
    space = process_space()
    if space:
        facts["processSpace"] = space
    number = environ.pop(_WITNESS, "").rpartition("-")[2]
    if number.isdecimal():
        facts["witness"] = {"pid": int(number)}
        started = process_start(int(number))
        if started is not None:
            facts["witness"]["processStart"] = started
    return facts
