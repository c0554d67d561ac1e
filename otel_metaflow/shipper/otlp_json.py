"""Converts a run to OTLP/JSON, one request per line, as written by the file exporter and read by otlpjsonfile.

The run is delivered as usual, but from links to its journals and to exporters that only collect requests, so the file
has exactly what would have been sent, including ids.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence

from otel_metaflow.core.settings import SIGNALS, Destination, Settings
from otel_metaflow.shipper.sinks import answers, sdk_objects
from otel_metaflow.shipper.sinks.answers import Answer
from otel_metaflow.shipper.telemetry import Record

Message = Dict[str, Any]

_ENCODERS = {
    "traces": ("trace_encoder", "encode_spans"),
    "logs": ("_log_encoder", "encode_logs"),
    "metrics": ("metrics_encoder", "encode_metrics"),
}
# Bytes that OTLP/JSON encodes as hex digits, not as base64: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
_IDS = ("traceId", "spanId", "parentSpanId")


@contextlib.contextmanager
def requests(environment: Settings, folder: Path, signals: Sequence[str] = SIGNALS) -> Iterator[Iterator[str]]:
    """The requests that deliver the run in `folder`, each as a line of OTLP/JSON; those of one signal together.

    They are in files meanwhile: those of a foreach of 50,000 are some 200 MB.
    """
    from otel_metaflow.shipper.delivery import Delivery

    whole = environment._replace(
        destinations={signal: Destination(signal, "http/protobuf", "http://file", "--format") for signal in signals},
        sampler="always_on",
        log_dir=None,
    )
    with tempfile.TemporaryDirectory(prefix="otel-metaflow-") as name:
        home, made = Path(name) / "home", Path(name)
        home.mkdir()
        copy = _linked(environment.home, home, folder)
        Delivery(home, copy, whole, threading.Event(), partial(_collecting, made)).work(linger=0.0)
        yield (line for signal in signals for line in _lines(made / signal))


def _linked(home: Path, other: Path, folder: Path) -> Path:
    """A folder with links to the run's journals, in another home with links to all other runs."""
    made = other
    for part in folder.relative_to(home).parts:
        for beside in home.iterdir():
            if beside.name != part:
                os.symlink(beside, made / beside.name)
        home, made = home / part, made / part
        made.mkdir()
    for journal in folder.glob("*.jsonl"):
        os.symlink(journal, made / journal.name)
    return made


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from file


def _collecting(folder: Path, destination: Destination) -> Any:
    module, name = _ENCODERS[destination.signal]
    encode = getattr(importlib.import_module(f"opentelemetry.exporter.otlp.proto.common.{module}"), name)
    convert = sdk_objects.OF[destination.signal]

    def collect(records: Sequence[Record]) -> Answer:
        with (folder / destination.signal).open("a", encoding="utf-8") as file:
            file.write(json.dumps(_as_json(encode(convert(records))), separators=(",", ":")) + "\n")
        return answers.DELIVERED

    return collect


def _as_json(message: Any) -> Message:
    from google.protobuf.json_format import MessageToDict

    values: Message = MessageToDict(message, use_integers_for_enums=True)
    _write_ids(values)
    return values


def _write_ids(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if name in _IDS and isinstance(item, str):
                value[name] = base64.b64decode(item).hex()
            elif name != "attributes":
                _write_ids(item)
    elif isinstance(value, list):
        for item in value:
            _write_ids(item)
