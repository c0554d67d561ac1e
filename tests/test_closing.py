"""The wait at the end of a run in a container: for delivery, and for no longer than there is something to wait for."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from collectors import free_ports
from endpoint import Endpoint
from journals import Journals
from running import Place

from otel_metaflow.core import settings
from otel_metaflow.core.settings import Destination
from otel_metaflow.journal import layout
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.journal.layout import LEDGER_FILE
from otel_metaflow.journal.ledger import Changes, Ledger
from otel_metaflow.launcher import summary
from otel_metaflow.shipper.delivery import Delivery
from otel_metaflow.shipper.sinks import otlp
from otel_metaflow.shipper.sinks.answers import Answer, Exporter, Verdict

SECONDS = 5.0


def recorded(home: Path) -> Path:
    """The journals of a run that is over."""
    run = Journals(home)
    run.step("start")
    run.attempt("start", 1, 0.1, 0.5, lines=["a line", "another"])
    run.end(1)
    return run.folder


@contextmanager
def shipping(folder: Path, url: str, build: Callable[[Destination], Exporter] = otlp.build) -> Iterator[None]:
    """Deliver the run to `url` in a thread, as the shipper does, until the test has seen what it wanted."""
    with pytest.MonkeyPatch.context() as patch:
        # The exporters read it by themselves, when they are built.
        patch.setenv("OTEL_METAFLOW_HOME", str(folder.parent.parent))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield from _shipping(folder, build)


def _shipping(folder: Path, build: Callable[[Destination], Exporter]) -> Iterator[None]:
    environment = settings.read()
    is_seen = threading.Event()
    wake = threading.Event()
    delivery = Delivery(environment.home, folder, environment, wake, build)
    thread = threading.Thread(target=delivery.work, args=(60.0, is_seen.is_set))
    thread.start()
    try:
        yield
    finally:
        is_seen.set()
        wake.set()
        thread.join()


def wait_until_it_ends(folder: Path, on_look: Callable[[], None] = lambda: None) -> DeliveryStatus:
    """Wait by a clock that stands still, so that nothing but what the shipper reports ends the wait."""
    limit = time.monotonic() + 60

    def sleep(_: float) -> None:
        on_look()
        time.sleep(0.01)
        assert time.monotonic() < limit, "the wait does not end"

    summary.wait(folder, SECONDS, clock=lambda: 0.0, sleep=sleep)
    return DeliveryStatus.read(folder)


REFUSALS = {
    "refused": "",
    "503": "503",
    "429": "429",
    "401": "401",
    "404": "404",
    "a web page": "html",
    "reset": "reset",
}


@pytest.mark.parametrize("how", REFUSALS)
def test_an_endpoint_that_takes_nothing_is_not_waited_for(tmp_path: Path, how: str) -> None:
    """Once each signal has failed, whether it will be tried again or not."""
    folder = recorded(tmp_path)
    with Endpoint(REFUSALS[how] or "ok") as endpoint:
        (closed,) = free_ports(1)
        url = endpoint.url if REFUSALS[how] else f"http://127.0.0.1:{closed}"
        with shipping(folder, url):
            status = wait_until_it_ends(folder)
    assert not status.complete
    assert status.stalled
    assert {"logs", "traces"} <= set(status.trouble)


def test_an_endpoint_that_takes_all_is_waited_for_until_it_has(tmp_path: Path) -> None:
    """The run then ends with what was delivered."""
    folder = recorded(tmp_path)
    with Endpoint() as endpoint, shipping(folder, endpoint.url):
        assert wait_until_it_ends(folder).complete
        assert {"a line", "another"} <= set(endpoint.body_counts)


def test_an_endpoint_that_swallows_is_waited_for_as_long_as_the_variable_allows(tmp_path: Path) -> None:
    """Nothing has failed yet: it may be slow."""
    folder = recorded(tmp_path)
    looks = 0

    def sleep(_: float) -> None:
        nonlocal looks
        looks += 1

    with Endpoint("blackhole") as endpoint, shipping(folder, endpoint.url):
        endpoint.wait_for(lambda: endpoint.seen > 0)
        summary.wait(folder, SECONDS, clock=lambda: looks * 0.5, sleep=sleep)
        status = DeliveryStatus.read(folder)
        endpoint._released.set()
    assert looks == SECONDS / 0.5
    assert not status.complete
    assert not status.stalled


@pytest.mark.parametrize("refused", ["logs", "traces", "metrics"])
@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.REFUSED])
def test_while_one_signal_fails_the_others_are_waited_for(tmp_path: Path, refused: str, verdict: Verdict) -> None:
    """Until they are delivered, however long the one has failed."""
    folder = recorded(tmp_path)
    opened = threading.Event()
    looks = 0

    def build(destination: Destination) -> Exporter:
        def export(_: Any) -> Answer:
            if destination.signal == refused:
                return Answer(verdict, "refuses")
            opened.wait()
            return Answer(Verdict.DELIVERED)

        return export

    def look() -> None:
        nonlocal looks
        if refused in DeliveryStatus.read(folder).trouble or refused == "metrics":
            looks += 1
        if looks == 20:
            opened.set()

    with shipping(folder, "http://localhost:4318", build):
        status = wait_until_it_ends(folder, look)
    assert looks >= 20
    assert not status.complete
    assert set(status.trouble) == {refused}
    assert set(status.delivered) >= {"logs", "traces"} - {refused}


def test_a_state_of_an_earlier_shipper_ends_no_wait(tmp_path: Path) -> None:
    """A shipper that begins has not failed yet."""
    folder = recorded(tmp_path)
    Ledger(folder / LEDGER_FILE).append(Changes(), DeliveryStatus(stalled=True).as_json())
    with Endpoint() as endpoint, shipping(folder, endpoint.url):
        assert wait_until_it_ends(folder).complete


DYING = """
    import os, sys
    if "otel_metaflow.shipper" in sys.orig_argv:
        os.write(2, b"no such library\\n")
        os._exit(3)
    """
FLOW = """
    from metaflow import FlowSpec, step
    class WaitFlow(FlowSpec):
        @step
        def start(self):
            self.next(self.end)
        @step
        def end(self):
            pass
    if __name__ == "__main__":
        WaitFlow()
    """


def test_a_shipper_that_died_at_its_start_is_not_waited_for(place: Place) -> None:
    """The closing line names its log, which has the reason; what it could not deliver is delivered by `ship`."""
    folder = place.path / "dying"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(DYING))
    with Endpoint() as endpoint:
        there = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}
        # As long as the test may take altogether.
        waiting = {"OTEL_METAFLOW_FLUSH_TIMEOUT": "600", "PYTHONPATH": str(folder)}
        finished = place.run(FLOW, "--with", "otel", env={**there, **waiting}, timeout=120)
        assert finished.code == 0, finished.stderr
        log = finished.folder / layout.SHIPPER_LOG
        message = (
            f"not exported: the shipper died, see {log}. Fix it, then run: otel-metaflow ship WaitFlow/{finished.run}"
        )
        assert message in finished.stderr
        assert "no such library" in log.read_text()
        assert place.cli("ship", f"WaitFlow/{finished.run}", env=there).returncode == 0
        assert endpoint.spans()
