"""Lines that are JSON objects, as the kept loggers write them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import SeverityNumber
from running import Place

from otel_metaflow.model import structured
from otel_metaflow.testing import run

NOON = 1_795_435_200_000_000_000  # 2026-11-23T12:00:00Z


WRITTEN = (
    "2026-11-23T12:00:00Z", "2026-11-23T13:00:00+01:00", "2026-11-23T13:00:00.000+0100", "2026-11-23 12:00:00",
    "2026-11-23T12:00:00.000000000Z", "2026-11-23 12:00:00,000", "2026-11-23 12:00:00 UTC", "20261123T120000Z",
    "2026-11-23T12:00Z", "2026-11-23T06:00:00-06", "1795435200", "1795435200.0", "1795435200000",
)  # fmt: skip
COUNTED = (NOON // 10**9, NOON / 10**9, NOON // 10**6, NOON // 10**3, NOON, float(NOON), NOON / 10**6)
MINUTE = 60 * 10**9


@pytest.mark.parametrize("name", ["timestamp", "time", "ts", "@timestamp"])
@pytest.mark.parametrize("value", WRITTEN + COUNTED)
def test_times_are_read_in_each_form_that_loggers_use(value: object, name: str) -> None:
    for found in (
        structured.parse(json.dumps({"event": "noon", name: value})),
        structured.parse(json.dumps({"event": "noon", name: value}), NOON + 5 * MINUTE, NOON - MINUTE),
    ):
        assert (found.body, found.at, found.attributes) == ("noon", NOON, {})


def test_fractions_of_a_second_are_exact() -> None:
    for value, more in {
        ".5Z": 500_000_000,
        ",123Z": 123_000_000,
        ".123456789Z": 123_456_789,
        ".1234567891Z": 123_456_789,
    }.items():
        assert structured.parse(json.dumps({"msg": "x", "time": f"2026-11-23T12:00:00{value}"})).at == NOON + more


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_time_without_a_zone_is_that_of_the_clock_on_the_wall(in_new_york: None) -> None:
    """Always for asctime; for others what fits when the line was written, for structlog's are UTC."""
    for value in ("2026-11-23 07:00:00,250", "2026-11-23 07:00:00.250"):
        found = structured.parse(json.dumps({"message": "x", "asctime": value}), NOON + MINUTE, NOON)
        assert (found.at, found.attributes) == (NOON + 250_000_000, {})
        assert structured.parse(json.dumps({"message": "x", "timestamp": value}), NOON + MINUTE, NOON).at == found.at
    assert structured.parse(json.dumps({"message": "x", "timestamp": "2026-11-23 12:00:00"}), NOON, NOON).at == NOON
    assert structured.parse(json.dumps({"message": "x", "asctime": "2026-11-23 12:00:00"}), NOON, NOON).at is None


# No time of the line, with whether the line is another day's, so that its level is data, too.
ROWS = {
    "2019-03-01T00:00:00Z": True, "2026-11-23T13:30:00Z": True, "2026-11-23T10:30:00Z": True,
    "1965-03-01 12:00:00": True, "2300-01-01T00:00:00Z": True, "9999-12-31T23:59:59Z": True,
    1_551_398_400: True, 1_551_398_400_000: True, NOON * 2: True, NOON + 3600 * 10**9: True, 9_000_000_000: True,
}  # fmt: skip
NO_TIMES = [
    0, 0.0, "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", 0.53, 17, -1, -NOON, 10**400, -(10**400), 1e308, 99_999_999,
    True, False, "soon", "", "12:00:01", "2026-11-23", "2026-13-23T12:00:00Z", "2026-11-23T25:00:00Z", "9" * 5_000,
    [NOON], {"a": NOON},
]  # fmt: skip


@pytest.mark.parametrize("name", ["timestamp", "time", "ts", "@timestamp", "asctime"])
@pytest.mark.parametrize(("value", "is_row"), [*ROWS.items(), *((value, False) for value in NO_TIMES)])
def test_an_implausible_time_stays_an_attribute(name: str, value: object, is_row: bool) -> None:
    """And the level with it, if it is a row of data that bears a date of its own."""
    fields = {"message": "x", "level": "error", name: value}
    found = structured.parse(json.dumps(fields), NOON, NOON - MINUTE)
    assert found.at is None
    assert found.attributes[name] == value
    assert (found.severity, found.attributes.get("level")) == (
        (None, "error") if is_row else (SeverityNumber.ERROR.value, None)
    )


def test_infinity_and_numbers_out_of_range_are_no_times() -> None:
    for value in ("1e400", "-1e400", "NaN", "Infinity", "1" * 309, "1" * 4_000):
        found = structured.parse(f'{{"message": "x", "time": {value}}}', NOON, NOON)
        assert (found.at, list(found.attributes)) == (None, ["time"])


def test_the_first_time_that_fits_dates_the_line() -> None:
    fields = {"event": "x", "timestamp": "2019-03-01T00:00:00Z", "ts": NOON, "level": "error"}
    found = structured.parse(json.dumps(fields), NOON, NOON)
    assert (found.at, found.severity) == (NOON, SeverityNumber.ERROR.value)
    assert found.attributes == {"timestamp": "2019-03-01T00:00:00Z"}


@given(
    st.dictionaries(
        st.sampled_from(["time", "ts", "asctime", "level", "msg"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(),
            st.datetimes().map(str),
            st.sampled_from(["info"]),
        ),
    )
)
@settings(deadline=None)
def test_no_line_is_too_odd_to_be_read(fields: dict[str, object]) -> None:
    for written in (None, 0, NOON):
        found = structured.parse(json.dumps(fields), written, written)
        if found is not None:
            assert found.at is None or 0 < found.at < 1 << 63
            expected = {name: value for name, value in fields.items() if value is not None and name != "msg"}
            taken = set(expected) - set(found.attributes)
            assert len(taken) == (found.at is not None) + (found.severity is not None)


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
def test_json_without_a_message_stays_a_line(line: str) -> None:
    assert structured.parse(line) is None


def test_an_unknown_level_or_time_stays_an_attribute() -> None:
    """A level or a time of the user's own meaning is not lost."""
    fields = {"msg": "x", "level": "purple", "time": "soon", "ts": True, "nested": {"a": [1, {"b": None}]}}
    found = structured.parse(json.dumps(fields))
    assert (found.severity, found.at) == (None, None)
    assert found.attributes == {name: value for name, value in fields.items() if name != "msg"}


def test_structured_lines_and_extras_of_a_real_flow(place: Place) -> None:
    """Types and maps survive, names like those of secrets are masked, the level is the severity."""
    flow = place.write("""
        import datetime, json, logging, logging.config, sys, time
        import structlog
        from metaflow import FlowSpec, step
        class StructuredFlow(FlowSpec):
            @step
            def start(self):
                at = int(time.time())
                value = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isoformat()
                print(json.dumps({"event": "row", "level": "error", "timestamp": "2019-03-01T00:00:00Z", "at": at}))
                print(json.dumps({"event": "trained", "level": "warning", "timestamp": value,
                                  "loss": 0.5, "epoch": 3, "best": True, "model": {"layers": [1, 2]},
                                  "api_token": "abcdefghijkl"}))
                logging.basicConfig(format="%(message)s")
                logging.getLogger("plain").warning("stored", extra={"rows": 7, "where": {"disk": "a"}, "ok": False})
                logging.getLogger("json").error(json.dumps({"message": "inner", "shard": 4}))
                self.by_structlog()
                self.next(self.end)
            def by_structlog(self):
                wrap = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
                structlog.configure(
                    processors=[structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso"), wrap],
                    logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger)
                def hide(logger, name, event):
                    return {**event, **({"ssn": "***"} if "ssn" in event else {})}
                for name, render in (("json", structlog.processors.JSONRenderer()),
                                     ("console", structlog.dev.ConsoleRenderer(colors=False))):
                    handler = logging.StreamHandler(sys.stdout)
                    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
                        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, hide, render]))
                    logger = logging.getLogger("structlog." + name)
                    logger.propagate, logger.handlers[:] = False, [handler]
                    logger.setLevel(logging.INFO)
                    made = structlog.get_logger("structlog." + name)
                    made.info(name + " event", loss=0.5, model={"layers": [1, 2]}, ssn="123-45-6789")
                    made.debug("not shown")
                logging.getLogger("maps").error({"message": "a map", "shard": 4})
                logging.getLogger("maps").error({"shard": 5})
                from pythonjsonlogger.json import JsonFormatter
                handler = logging.StreamHandler()
                handler.setFormatter(JsonFormatter("%(levelname)s %(message)s"))
                logger = logging.getLogger("jsonlogger")
                logger.propagate, logger.handlers[:] = False, [handler]
                logger.error({"event": "of a map", "rows": 3}, extra={"more": 1})
                logger.error("plain", extra={"rows": 4})
            @step
            def end(self):
                pass
        if __name__ == "__main__":
            StructuredFlow()
        """)
    telemetry = run(flow, env={name: value for name, value in place.environ().items() if name.startswith("METAFLOW_")})
    records = {log.log_record.body: log.log_record for log in telemetry.logs}
    trained, row = records["trained"], records["row"]
    at = row.attributes["at"] * 10**9
    assert (trained.severity_number, trained.timestamp) == (SeverityNumber.WARN, at)
    fields = {name: trained.attributes[name] for name in ("loss", "epoch", "best", "model", "api_token")}
    assert fields == {"loss": 0.5, "epoch": 3, "best": True, "model": {"layers": [1, 2]}, "api_token": "[REDACTED]"}
    assert (row.severity_number, row.attributes["level"]) == (SeverityNumber.INFO, "error")
    assert row.timestamp >= at
    assert row.attributes["timestamp"] == "2019-03-01T00:00:00Z"
    stored = records["stored"].attributes
    assert (stored["rows"], dict(stored["where"]), stored["ok"]) == (7, {"disk": "a"}, False)
    assert (records["inner"].severity_number, records["inner"].attributes["shard"]) == (SeverityNumber.ERROR, 4)
    for name in ("json", "console"):
        event = records[f"{name} event"]
        assert event.severity_number == SeverityNumber.INFO
        assert (event.attributes["loss"], event.attributes["model"]) == (0.5, {"layers": [1, 2]})
    assert records["json event"].attributes["ssn"] == "***"
    assert (records["a map"].attributes["shard"], records["{'shard': 5}"].attributes["shard"]) == (4, 5)
    assert (records["of a map"].attributes["rows"], records["of a map"].attributes["more"]) == (3, 1)
    assert records["plain"].attributes["rows"] == 4
    assert not [body for body in records if body.startswith("{") and body != "{'shard': 5}"]
    assert not [name for log in telemetry.logs for name in log.log_record.attributes if name.startswith("_")]
