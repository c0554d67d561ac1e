"""What we stand on in OpenTelemetry: each private name may go, each public one that comes is seen here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import another_metaflow
import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry.context.context import _RuntimeContext
from running import Finished, Place, seen

from otel_metaflow.task.otel_api import api_seams, context, logger_provider, tracer_provider
from otel_metaflow.task.otel_api import meter_provider as meters

FLOW = """
    from metaflow import FlowSpec, step
    class SpeakingFlow(FlowSpec):
        @step
        def start(self):
            from opentelemetry import _logs, metrics, trace
            with trace.get_tracer("mine").start_as_current_span("a span"):
                print("in a span")
            metrics.get_meter("mine").create_counter("mine").add(1)
            _logs.get_logger("mine").emit(_logs.LogRecord(body="a record"))
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        SpeakingFlow()
    """
KINDS = ("span", "metric", "record")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The run as it is without us."""
    return Place(tmp_path_factory.mktemp("plain")).run(FLOW)


def recorded(finished: Finished) -> Iterator[str]:
    for path in finished.folder.glob("start.*.0.jsonl"):
        text = path.read_text()
        yield from (kind for kind in KINDS if f'"kind":"{kind}"' in text)


@pytest.mark.parametrize("name", ["", *api_seams.DEPENDS])
def test_a_missing_private_name_costs_telemetry_of_user_code_and_no_step(
    place: Place, plain: Finished, name: str
) -> None:
    """User code gets the API as it is without us, and one line names what is not recorded."""
    folder = place.path / "changed"
    folder.mkdir()
    finished = place.run(FLOW, "--with", "otel", env=another_metaflow.beside(folder, name))
    assert seen(finished) == seen(plain)
    lines = [line for line in finished.stderr.splitlines() if "incomplete" in line]
    if sorted(recorded(finished)) != sorted(KINDS):
        assert len(lines) == 1
        assert "OpenTelemetry telemetry of user code" in lines[0]
    else:
        assert lines == []
    assert bool(name) or not lines


def test_an_instrument_that_the_sdk_refuses_measures_nothing_and_fails_no_step(place: Place, plain: Finished) -> None:
    """As the API does without a provider."""
    finished = place.run(FLOW.replace('"mine").add', '"a name with blanks").add'), "--with", "otel")
    assert seen(finished) == seen(plain)
    (line,) = (line for line in finished.stderr.splitlines() if "incomplete" in line)
    assert "measurements of user code" in line
    assert sorted(recorded(finished)) == ["record", "span"]


# Theirs, ours, and what of theirs ours leaves to it, with the reason.
CLASSES: list[tuple[type, type, dict[str, str]]] = [
    (trace.TracerProvider, tracer_provider.AttemptTracerProvider, {}),
    (trace.Tracer, tracer_provider.AttemptTracer, dict.fromkeys(("start_span", "start_as_current_span"), "by _tracer")),
    (metrics.MeterProvider, meters.AttemptMeterProvider, {}),
    (metrics.Meter, meters.AttemptMeter, {}),
    (_logs.LoggerProvider, logger_provider.AttemptLoggerProvider, {}),
    (_logs.Logger, logger_provider.AttemptLogger, dict.fromkeys(("emit", "enabled"), "by _logger")),
    (_RuntimeContext, context.AttemptContext, {}),
]


@pytest.mark.parametrize(("theirs", "ours", "left"), CLASSES, ids=[theirs.__name__ for theirs, _, _ in CLASSES])
def test_each_public_callable_of_the_api_is_ours_or_left_for_a_reason(
    theirs: type, ours: type, left: dict[str, str]
) -> None:
    """A method that a new API brings need not be abstract: the proxy would answer it with nothing."""
    public = {
        name
        for kind in theirs.__mro__[:-1]
        for name, value in vars(kind).items()
        if not name.startswith("_") and callable(value)
    }
    assert public - set(vars(ours)) <= set(left)
    assert not inspect.isabstract(ours)


def test_each_instrument_that_a_meter_makes_is_a_proxy_that_measures_by_its_real_one() -> None:
    """Any measurement of it then reaches the instrument of the SDK."""
    meter = meters.AttemptMeter("mine", None, None, None)
    for name in vars(metrics.Meter):
        if name.startswith("create_"):
            callbacks = {"callbacks": []} if "observable" in name else {}
            made = getattr(meter, name)(name, **callbacks)
            assert isinstance(made._real_instrument, meters._Unused), name
            measures = {each for each in dir(made) if not each.startswith("_")} - {"on_meter_set"}
            for each in measures:
                assert "_real_instrument" in inspect.getsource(getattr(type(made), each)), f"{name}: {each}"


def test_the_published_names_exist_in_this_api() -> None:
    """Or else taking one away would prove nothing."""
    import importlib

    for name in api_seams.DEPENDS:
        module = name
        while True:
            module = module.rpartition(".")[0]
            try:
                found = importlib.import_module(module)
            except ImportError:
                continue
            break
        first = name[len(module) + 1 :].split(".")[0]
        assert hasattr(found, first), name
        assert Path(str(found.__file__)).exists()
