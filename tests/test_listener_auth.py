"""Authentication of senders, TLS, and no secret in the output."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trustme
from collectors import PRODUCT, PRODUCT_CONFIG, ROOT, Collector, CollectorError, Container, Vendors
from running import Place, eventually
from test_collector import send

from otel_metaflow.journal.delivery_status import DeliveryStatus

TOKEN = "0f3c2a7be41d"
SECRETS = {
    "COLLECTOR_OTLP_TOKEN": TOKEN,
    "DD_API_KEY": "0123456789abcdef0123456789abcdef",
    "SPLUNK_HEC_TOKEN": "5d1c0e5a-0000-4000-8000-8c2f1e7d3b9a",
    "COLLECTOR_OTLP_FORWARD_HEADERS": "{authorization: Basic dXNlcjpwYXNz}",
}


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Path]:
    """Certificates of an authority: of the collector, and of a client."""
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("authority", "certificate", "key", "client", "client_key")}
    authority.cert_pem.write_to_path(str(files["authority"]))
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client@example.org")
    server.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    server.private_key_pem.write_to_path(str(files["key"]))
    client.cert_chain_pems[0].write_to_path(str(files["client"]))
    client.private_key_pem.write_to_path(str(files["client_key"]))
    return files


def speaks_tls(tls: dict[str, Path]) -> dict[str, str]:
    return {"COLLECTOR_OTLP_TLS_CERT_FILE": str(tls["certificate"]), "COLLECTOR_OTLP_TLS_KEY_FILE": str(tls["key"])}


def endpoint(collector: Collector, protocol: str, tls: dict[str, Path]) -> dict[str, str]:
    """What a user sets to send to a collector over TLS."""
    url = collector.grpc if protocol == "grpc" else collector.http
    return {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url.replace("http:", "https:"),
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tls["authority"]),
        "OTEL_METAFLOW_FLUSH_TIMEOUT": "0",
    }


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_sender_with_the_token_is_accepted_over_tls(
    place: Place, tmp_path: Path, vendors: Vendors, tls: dict[str, Path], protocol: str
) -> None:
    """One without it learns which variable to check; the run is not delayed, and nothing is lost."""
    listener = {"COLLECTOR_OTLP_TOKEN": TOKEN, **speaks_tls(tls)}
    with Collector(tmp_path, {**vendors.splunk_environment, **listener}) as collector:
        env = endpoint(collector, protocol, tls)
        finished = place.run(ROOT / "examples/hello.py", "--with", "otel", env=env)
        assert finished.code == 0
        eventually(lambda: "OTEL_EXPORTER_OTLP_HEADERS" in " ".join(finished.status.trouble.values()))
        env["OTEL_EXPORTER_OTLP_HEADERS"] = f"Authorization=Bearer%20{TOKEN}"
        shipped = place.cli("ship", f"HelloFlow/{finished.run}", env=env)
        assert shipped.returncode == 0, shipped.stderr
        assert TOKEN not in shipped.stdout + shipped.stderr
        assert DeliveryStatus.read(finished.folder).complete
        vendors.wait_for(lambda: any(span.name == "RUN HelloFlow" for span in vendors.splunk.spans()))
    assert len(vendors.splunk.spans()) == len({span.span_id for span in vendors.splunk.spans()})


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_client_certificate_replaces_the_token(
    place: Place, tmp_path: Path, vendors: Vendors, tls: dict[str, Path], protocol: str
) -> None:
    """Nobody without one is accepted then, so it may listen beyond this machine."""
    listener = {
        "COLLECTOR_OTLP_TLS_CLIENT_CA_FILE": str(tls["authority"]),
        "COLLECTOR_LISTEN_HOST": "0.0.0.0",
        **speaks_tls(tls),
    }
    with Collector(tmp_path, {**vendors.splunk_environment, **listener}) as collector:
        env = endpoint(collector, protocol, tls)
        env["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(tls["client"])
        env["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(tls["client_key"])
        place.run(ROOT / "examples/hello.py", "--with", "otel", env=env).wait_delivered()
        vendors.wait_for(lambda: any(span.name == "RUN HelloFlow" for span in vendors.splunk.spans()))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_it_does_not_start_open_to_unauthenticated_senders(tmp_path: Path, host: str) -> None:
    """Unless that is allowed explicitly; one line names the variable."""
    with pytest.raises(CollectorError) as error, Collector(tmp_path, {"COLLECTOR_LISTEN_HOST": host}):
        pass
    (line,) = (line for line in str(error.value).splitlines() if line.startswith("Error"))
    assert "would accept telemetry from anybody: set COLLECTOR_OTLP_TOKEN" in line
    with Collector(tmp_path, {"COLLECTOR_LISTEN_HOST": host, "COLLECTOR_OTLP_ALLOW_ANONYMOUS": "true"}) as collector:
        send(collector, "http/protobuf", line="from anybody")
        collector.wait_for_output("from anybody", timeout=10)


def test_the_image_does_not_start_open_to_unauthenticated_senders(tmp_path: Path, image: str) -> None:
    """It listens on all addresses, so it requires a token or an explicit permission."""
    with (
        pytest.raises(CollectorError, match="set COLLECTOR_OTLP_TOKEN to a secret that senders must send"),
        Container(tmp_path, {"COLLECTOR_LISTEN_HOST": "0.0.0.0"}, image),
    ):
        pass


def test_an_empty_variable_counts_as_not_set(tmp_path: Path, vendors: Vendors) -> None:
    """Compose files and charts pass on empty variables: every default holds for those too."""
    rows = [line.split("|")[1] for line in (ROOT / "collector/README.md").read_text().splitlines() if "| `" in line]
    variables = {name.strip(" `"): "" for row in rows for name in row.split(",") if name.strip(" `").isupper()}
    assert len(variables) > 30
    ports = {name for name in variables if name.endswith("_PORT")}
    with Collector(
        tmp_path,
        {name: "" for name in variables if name not in {*ports, "COLLECTOR_QUEUE_DIR"}} | vendors.splunk_environment,
    ) as collector:
        send(collector, "http/protobuf")
        vendors.wait_for(vendors.splunk.logs)
    for route in ("", "exporter", "otlp"):
        chosen = {"DD_API_KEY": SECRETS["DD_API_KEY"], "COLLECTOR_DATADOG_ROUTE": route, "HOME": str(tmp_path)}
        subprocess.run([PRODUCT, "validate", f"--config={PRODUCT_CONFIG}"], env=variables | chosen, check=True)


def test_no_secret_is_in_its_output(tmp_path: Path) -> None:
    """Not at start, not while every vendor is away, not in the help; and no variable holds one by default."""
    away = {
        "DD_DD_URL": "http://localhost:1",
        "DD_APM_DD_URL": "http://localhost:1",
        "DD_LOGS_CONFIG_LOGS_DD_URL": "http://localhost:1",
        "SPLUNK_HEC_URL": "http://localhost:1",
        "COLLECTOR_OTLP_FORWARD_ENDPOINT": "http://localhost:1",
    }
    with Collector(tmp_path, {**SECRETS, **away}) as collector:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{TOKEN}")
            send(collector, "http/protobuf")
        for exporter in ("splunk_hec", "otlp_http/forward"):
            collector.wait_for_output(f'"{exporter}"', timeout=20)
        collector.wait_for_output("connection refused", timeout=20)
    for command in (["--help"], ["components"], ["validate", f"--config={PRODUCT_CONFIG}"]):
        done = subprocess.run([PRODUCT, *command], env=SECRETS | away, capture_output=True, text=True, check=True)
        assert not [name for name, secret in SECRETS.items() if secret in done.stdout + done.stderr]
    assert not [line for line in collector.output.splitlines() if any(secret in line for secret in SECRETS.values())]
