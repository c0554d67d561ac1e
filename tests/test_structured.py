"""Lines that are JSON objects, as the kept loggers write them."""

from __future__ import annotations

import json

import pytest
from opentelemetry._logs import SeverityNumber
from running import Place

from otel_metaflow.shipper import structured
from otel_metaflow.testing import run

NOON = 1_795_435_200_000_000_000  # 2026-11-23T12:00:00Z


WRITTEN = ("2026-11-23T12:00:00Z", "2026-11-23T13:00:00+01:00", "2026-11-23 12:00:00")
COUNTED = (NOON // 10**9, NOON / 10**9, NOON // 10**6, NOON // 10**3, NOON)


@pytest.mark.parametrize("said", WRITTEN + COUNTED)
def test_times_are_read_in_each_form_that_loggers_use(said: object) -> None:
    found = structured.parse(json.dumps({"event": "noon", "timestamp": said}))
    assert (found.body, found.at, found.attributes) == ("noon", NOON, {})


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "{}",
        "[1]",
        '{"a": 1}',
        '{"message": 5}',
        '{"message": "x"} tail',
        "{not json}",
        '{"message": "x"',
        "[" * 10**5,
    ],
)
def test_what_is_not_one_object_with_a_message_stays_a_line(line: str) -> None:
    assert structured.parse(line) is None


def test_what_cannot_be_understood_stays_an_attribute() -> None:
    """A level or a time of the user's own meaning is not lost."""
    fields = {"msg": "x", "level": "purple", "time": "soon", "ts": True, "nested": {"a": [1, {"b": None}]}}
    found = structured.parse(json.dumps(fields))
    assert (found.severity, found.at) == (None, None)
    assert found.attributes == {name: value for name, value in fields.items() if name != "msg"}


def test_structured_lines_and_extras_of_a_real_flow(place: Place) -> None:
    """Types and maps survive, names that say secret are masked, the level is the severity."""
    flow = place.write("""
        import json, logging
        from metaflow import FlowSpec, step
        class StructuredFlow(FlowSpec):
            @step
            def start(self):
                print(json.dumps({"event": "trained", "level": "warning", "timestamp": "2026-11-23T12:00:00Z",
                                  "loss": 0.5, "epoch": 3, "best": True, "model": {"layers": [1, 2]},
                                  "api_token": "abcdefghijkl"}))
                logging.basicConfig(format="%(message)s")
                logging.getLogger("plain").warning("stored", extra={"rows": 7, "where": {"disk": "a"}, "ok": False})
                logging.getLogger("json").error(json.dumps({"message": "inner", "shard": 4}))
                self.next(self.end)
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            StructuredFlow()
        """)
    telemetry = run(flow, env={name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")})
    records = {log.log_record.body: log.log_record for log in telemetry.logs}
    trained = records["trained"]
    assert (trained.severity_number, trained.timestamp) == (SeverityNumber.WARN, NOON)
    told = {name: trained.attributes[name] for name in ("loss", "epoch", "best", "model", "api_token")}
    assert told == {"loss": 0.5, "epoch": 3, "best": True, "model": {"layers": [1, 2]}, "api_token": "[REDACTED]"}
    stored = records["stored"].attributes
    assert (stored["rows"], dict(stored["where"]), stored["ok"]) == (7, {"disk": "a"}, False)
    assert (records["inner"].severity_number, records["inner"].attributes["shard"]) == (SeverityNumber.ERROR, 4)
