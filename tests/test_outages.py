"""Endpoints that refuse, stall and lie: what can be delivered later is, what cannot is kept and named.

The run is recorded once by a real flow; each test delivers a copy of its journals by the real shipper.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from threading import Thread

import pytest
import trustme
from collectors import ROOT, free_ports
from endpoint import POISON, Endpoint
from running import Finished, Place, eventually

from otel_metaflow.core import settings
from otel_metaflow.journal.delivery_status import DeliveryStatus
from otel_metaflow.shipper import backlog, signal_worker

FLOW = f"""
    from metaflow import FlowSpec, otel, step
    class OutageFlow(FlowSpec):
        @otel
        @step
        def start(self):
            for number in range(200):
                print("line", number)
            print("{POISON} in one of them")
            self.next(self.end)
        @otel
        @step
        def end(self):
            print("done")
    if __name__ == "__main__":
        OutageFlow()
    """
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
LINES = {f"line {number}" for number in range(200)} | {"done"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run without an endpoint."""
    finished = Place(tmp_path_factory.mktemp("recorded")).run(FLOW)
    assert finished.code == 0, finished.stderr
    return finished


@pytest.fixture
def kept(place: Place, recorded: Finished) -> Finished:
    """A copy of that run, not delivered."""
    shutil.copytree(recorded.home, place.home, ignore=shutil.ignore_patterns("*.pipe"))
    return Finished(0, "", "", recorded.flow, recorded.run, place.home)


def shipper(place: Place, kept: Finished, url: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start the shipper as a launcher does; it is patient with an answer for two seconds."""
    return place.start_shipper(kept.folder, url, **{"OTEL_EXPORTER_OTLP_TIMEOUT": "2", **variables})


def log_of(kept: Finished) -> str:
    return (kept.folder / "shipper.log").read_text()


def assert_all_arrived(endpoint: Endpoint, *, without: int = 0, twice: int = 0) -> None:
    """Each record that the journals hold, once."""
    assert set(endpoint.body_counts) >= LINES
    assert (POISON in " ".join(endpoint.body_counts)) == (without == 0)
    assert sum(count - 1 for count in endpoint.uids.values()) <= twice
    assert len(endpoint.span_ids) == 3
    assert set(endpoint.span_ids.values()) == {1} or twice


@pytest.mark.parametrize("fault", ["429", "503", "502", "504", "blackhole", "reset"])
def test_retryable_failures_are_delivered_when_the_endpoint_recovers(place: Place, kept: Finished, fault: str) -> None:
    """By the shipper that lives, each record once; the trouble is named meanwhile."""
    with Endpoint(fault) as endpoint:
        process = shipper(place, kept, endpoint.url)
        endpoint.wait_for(lambda: endpoint.seen >= 3)
        eventually(lambda: kept.status.trouble)
        assert not endpoint.uids
        endpoint.fault = "ok"
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)
    assert kept.status.rejected == {}


@pytest.mark.parametrize("fault", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "blackhole"])
def test_so_it_is_over_grpc(place: Place, kept: Finished, fault: str) -> None:
    """A black hole is DEADLINE_EXCEEDED there, and what follows it comes in smaller requests."""
    with Endpoint(fault, protocol="grpc") as endpoint:
        process = shipper(place, kept, endpoint.url, **GRPC)
        endpoint.wait_for(lambda: endpoint.seen >= 3)
        trouble = eventually(lambda: kept.status.trouble)
        assert {"blackhole": "DEADLINE_EXCEEDED"}.get(fault, fault) in " ".join(trouble.values())
        assert not endpoint.uids
        endpoint.fault = "ok"
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)
    assert kept.status.rejected == {}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_flapping_endpoint_gets_everything_once(place: Place, kept: Finished, protocol: str) -> None:
    """In small requests, so that it flaps many times."""
    with Endpoint("flap", protocol=protocol, seed=4, max_bytes=12_000) as endpoint:
        process = shipper(place, kept, endpoint.url, **(GRPC if protocol == "grpc" else {}))
        kept.wait_delivered(90)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)
        assert endpoint.seen > len(endpoint.requests) > 5
    assert kept.status.rejected == {}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_endpoint_that_takes_small_requests_only_gets_everything(
    place: Place, kept: Finished, protocol: str
) -> None:
    """413, and the message too large of gRPC, blame the size: halves are sent until they fit."""
    with Endpoint(protocol=protocol, max_bytes=6_000) as endpoint:
        process = shipper(place, kept, endpoint.url, **(GRPC if protocol == "grpc" else {}))
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)
    assert kept.status.rejected == {}


def test_a_byte_a_second_times_out_and_is_retried(
    place: Place, kept: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte keeps the client's own timeout from passing; the worker's patience ends it, and it is named."""
    monkeypatch.setattr(signal_worker, "_TIMEOUT", 1.5)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_METAFLOW_HOME", str(place.home))
    with Endpoint("slow", pace=0.9) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
        working = Thread(target=backlog.ship, args=(settings.read(), kept.folder), kwargs={"linger": 60})
        working.start()
        eventually(lambda: "did not finish within" in " ".join(kept.status.trouble.values()))
        endpoint.fault = "ok"
        working.join(60)
        assert not working.is_alive()
        assert kept.status.complete
        # It had taken what it was so slow to acknowledge.
        assert_all_arrived(endpoint, twice=len(endpoint.uids))


def test_a_slow_answer_is_waited_for(place: Place, kept: Finished) -> None:
    """A byte at a time is still an answer: nothing is sent twice because of it."""
    with Endpoint("slow") as endpoint:
        process = shipper(place, kept, endpoint.url, OTEL_EXPORTER_OTLP_TIMEOUT="5")
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)


def test_retry_after_is_honoured(place: Place, kept: Finished) -> None:
    """Until the time that the endpoint asked for, it is left alone."""
    with Endpoint("503", retry_after="3") as endpoint:
        process = shipper(place, kept, endpoint.url)
        endpoint.wait_for(lambda: endpoint.seen >= 3)
        asked = time.monotonic()
        endpoint.fault, seen = "ok", endpoint.seen
        endpoint.wait_for(lambda: endpoint.seen > seen)
        assert time.monotonic() - asked > 1.5
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)


def test_retry_info_is_honoured(place: Place, kept: Finished) -> None:
    """The same of gRPC."""
    with Endpoint("RESOURCE_EXHAUSTED", retry_after="3", protocol="grpc") as endpoint:
        process = shipper(place, kept, endpoint.url, **GRPC)
        endpoint.wait_for(lambda: endpoint.seen >= 3)
        asked = time.monotonic()
        endpoint.fault, seen = "ok", endpoint.seen
        endpoint.wait_for(lambda: endpoint.seen > seen)
        assert time.monotonic() - asked > 1.5
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint)


def test_an_endpoint_that_comes_up_after_the_run_gets_all_by_ship(place: Place, kept: Finished) -> None:
    """Refused, the shipper gone: `otel-metaflow ship` delivers, and again has nothing to do."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    process = shipper(place, kept, url)
    eventually(lambda: "refused the connection" in " ".join(kept.status.trouble.values()))
    process.kill()
    process.wait()
    with Endpoint(port=port) as endpoint:
        for arguments in (["ship", f"OutageFlow/{kept.run}"], ["ship", "--all"]):
            assert place.cli(*arguments, env={"OTEL_EXPORTER_OTLP_ENDPOINT": url}).returncode == 0
        assert_all_arrived(endpoint)


def test_the_next_run_delivers_the_backlog(place: Place, kept: Finished) -> None:
    """A run whose shipper died is taken along by the shipper of the next."""
    (port,) = free_ports(1)
    process = shipper(place, kept, f"http://127.0.0.1:{port}")
    eventually(lambda: kept.status.trouble)
    process.kill()
    process.wait()
    with Endpoint() as endpoint:
        place.run(ROOT / "examples/hello.py", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url})
        kept.wait_delivered(60)
        assert set(endpoint.body_counts) >= LINES
        assert max(endpoint.uids.values()) == 1


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        ("401", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("403", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("404", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("302", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("html", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("400", "answered 400"),
        ("413", "answered 413"),
        ("500", "answered 500"),
    ],
)
def test_a_final_answer_is_named_once_and_everything_is_kept(
    place: Place, kept: Finished, fault: str, advice: str
) -> None:
    """The shipper ends by itself, without a loop; after the fix `ship` delivers everything."""
    with Endpoint(fault) as endpoint:
        process = shipper(place, kept, endpoint.url)
        assert process.wait(30) == 0
        assert advice in log_of(kept)
        assert endpoint.seen < 100
        assert not endpoint.uids
        assert not kept.status.complete
        assert "not exported" in place.cli("status").stdout
        endpoint.fault = "ok"
        assert place.cli("ship", "--all", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url}).returncode == 0
        assert_all_arrived(endpoint)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("UNAUTHENTICATED", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("UNIMPLEMENTED", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("INVALID_ARGUMENT", "answered INVALID_ARGUMENT"),
    ],
)
def test_a_final_status_is_named_once_and_everything_is_kept(
    place: Place, kept: Finished, code: str, advice: str
) -> None:
    with Endpoint(code, protocol="grpc") as endpoint:
        process = shipper(place, kept, endpoint.url, **GRPC)
        assert process.wait(30) == 0
        assert advice in log_of(kept)
        assert endpoint.seen < 100
        assert not kept.status.complete
        endpoint.fault = "ok"
        shipped = place.cli("ship", "--all", env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url, **GRPC})
        assert shipped.returncode == 0
        assert_all_arrived(endpoint)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_one_bad_record_does_not_block_the_others(place: Place, kept: Finished, protocol: str) -> None:
    """It is found by halving, counted, and left behind."""
    with Endpoint("bad-record", protocol=protocol) as endpoint:
        process = shipper(place, kept, endpoint.url, **(GRPC if protocol == "grpc" else {}))
        kept.wait_delivered(60)
        assert process.wait(30) == 0
        assert_all_arrived(endpoint, without=1)
    assert kept.status.rejected == {"logs": 1}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_records_that_the_endpoint_rejected_are_counted(place: Place, kept: Finished, protocol: str) -> None:
    """A partial success is a success with a loss, and is reported as one."""
    with Endpoint("partial", protocol=protocol) as endpoint:
        assert shipper(place, kept, endpoint.url, **(GRPC if protocol == "grpc" else {})).wait(60) == 0
    assert kept.status.rejected["logs"] >= 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://no-such-host.invalid:4318", "cannot be resolved"),
        ("http://127.0.0.1:1", "refused the connection"),
    ],
)
def test_an_unreachable_host_is_named(place: Place, kept: Finished, url: str, reason: str, protocol: str) -> None:
    process = shipper(place, kept, url, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    eventually(lambda: reason in " ".join(kept.status.trouble.values()))
    process.kill()
    process.wait()
    assert reason in place.cli("view", f"OutageFlow/{kept.run}").stdout


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls_that_cannot_be_trusted_is_named(place: Place, kept: Finished, protocol: str) -> None:
    """Nothing is sent until the certificate's variable is set, whatever the system trusts."""
    authority = trustme.CA()
    certificate = place.path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    variables = GRPC if protocol == "grpc" else {}
    with Endpoint(protocol=protocol, tls=authority.issue_cert("127.0.0.1")) as endpoint:
        process = shipper(place, kept, endpoint.url, **variables)
        eventually(lambda: "OTEL_EXPORTER_OTLP_CERTIFICATE" in " ".join(kept.status.trouble.values()))
        process.kill()
        process.wait()
        assert not endpoint.seen
        other = place.path / "others.pem"
        trustme.CA().cert_pem.write_to_path(str(other))
        trust = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate), "REQUESTS_CA_BUNDLE": str(other)}
        assert shipper(place, kept, endpoint.url, **variables, **trust).wait(60) == 0
        assert_all_arrived(endpoint)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_endpoint_that_speaks_no_tls_is_named(place: Place, kept: Finished, protocol: str) -> None:
    """It fails the same handshake."""
    with Endpoint(protocol=protocol) as endpoint:
        variables = GRPC if protocol == "grpc" else {}
        process = shipper(place, kept, endpoint.url.replace("http:", "https:"), **variables)
        eventually(lambda: "OTEL_EXPORTER_OTLP_CERTIFICATE" in " ".join(kept.status.trouble.values()))
        process.kill()
        process.wait()


def test_a_shipper_that_is_killed_at_any_moment_loses_nothing(place: Place, kept: Finished) -> None:
    """Killed again and again; at most the batches in flight arrive twice."""
    kills = 0
    with Endpoint() as endpoint:
        while not DeliveryStatus.read(kept.folder).complete:
            process = shipper(place, kept, endpoint.url)
            try:
                process.wait(0.6 + 0.05 * kills)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        assert_all_arrived(endpoint, twice=kills * len(endpoint.uids))
    assert kills


def test_a_folder_that_is_gone_ends_the_shipper(place: Place, kept: Finished) -> None:
    with Endpoint("503") as endpoint:
        process = shipper(place, kept, endpoint.url)
        endpoint.wait_for(lambda: endpoint.seen >= 1)
        shutil.rmtree(kept.folder)
        process.wait(30)
        assert not Path(kept.folder / "run.jsonl").exists()
