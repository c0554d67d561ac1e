"""What `ship` prints: its own lines and no others."""

from __future__ import annotations

import json

import pytest
from collectors import free_ports
from endpoint import Endpoint
from journals import Journals
from running import Place


@pytest.fixture
def run(place: Place) -> str:
    """A run to ship."""
    made = Journals(place.home, "Flow", "7")
    made.step("start")
    made.attempt("start", 1, 0, 1, lines=["hello"])
    made.end(2)
    return "Flow/7"


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("fault", ["ok", "refused", "no such host", "headers", "401", "reset", "html"])
def test_the_sdk_prints_nothing(place: Place, run: str, fault: str, protocol: str, as_json: bool) -> None:
    """Neither its loggers nor urllib3's nor gRPC's, which writes to the descriptor; whatever the endpoint does."""
    faults = {"401": "UNAUTHENTICATED", "reset": "UNAVAILABLE", "html": "UNIMPLEMENTED"}
    is_grpc = protocol == "grpc"
    answer = fault if fault in faults else "ok"
    with Endpoint(faults.get(answer, "ok") if is_grpc else answer, protocol="grpc" if is_grpc else "http") as receiver:
        url = {
            "refused": f"http://127.0.0.1:{free_ports(1)[0]}",
            "no such host": "http://nobody.invalid:4318",
        }.get(fault, receiver.url)
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            **({"OTEL_EXPORTER_OTLP_HEADERS": "a=b;bad header"} if fault == "headers" else {}),
        }
        shipped = place.cli("ship", run, "--wait", "0.2", *(["--json"] if as_json else []), env=env)
    assert shipped.stderr == ""
    state = "exported" if fault in ("ok", "headers") else "not exported"
    assert shipped.returncode == (state == "not exported")
    if as_json:
        (result,) = json.loads(shipped.stdout)
        assert (result["run"], result["state"], bool(result["errors"])) == ("7", state, state == "not exported")
        return
    (line,) = shipped.stdout.splitlines()
    assert line.startswith(f"{run}: {state} (")
    if fault == "refused":
        assert line == f"{run}: not exported (nothing sent; logs, metrics, traces: refused the connection)"


def test_output_of_the_sdk_is_in_the_shippers_log(place: Place, run: str) -> None:
    """Where that of a shipper in the background is."""
    place.cli("ship", run, "--wait", "0", env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"})
    assert "refused the connection" in (place.home / run / "shipper.log").read_text()
