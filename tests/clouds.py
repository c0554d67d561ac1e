"""The object stores of Google and Azure: emulators of both, and what answers Metaflow's requests for a token."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import trustme
from collectors import free_ports
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from http_service import HttpService
from running import eventually

AZURITE = Path(sys.prefix) / "azurite/node_modules/.bin/azurite-blob"
"""Where `make test` installs it, by npm."""
_BUCKET = "bucket"
# Azurite's own account, with the key that its documentation has.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def google(folder: Path) -> Iterator[dict[str, str]]:
    """An emulator of Google Cloud Storage, as the variables that Metaflow needs to use it."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={port}"]
    command += ["--in-memory", f"--default-bucket={_BUCKET}"]
    token = {"access_token": "any", "expires_in": 3600, "token_type": "Bearer"}
    with _running(command, folder, port), _tokens(token) as tokens:
        credentials = folder / "google.json"
        credentials.write_text(json.dumps(_service_account(tokens)))
        yield {
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
            "METAFLOW_DEFAULT_DATASTORE": "gs",
            "METAFLOW_DATASTORE_SYSROOT_GS": f"gs://{_BUCKET}/metaflow",
        }


@contextmanager
def azure(folder: Path) -> Iterator[dict[str, str]]:
    """Microsoft's emulator of Azure's blobs, as the variables that Metaflow needs to use it.

    With TLS, since Azure's client sends a token by nothing else; the token is that of an identity of the machine.
    """
    from azure.storage.blob import BlobServiceClient

    (port,) = free_ports(1)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    command = [str(AZURITE), "--blobHost=127.0.0.1", f"--blobPort={port}", "--location=blobs", "--oauth=basic"]
    command += ["--cert=cert.pem", "--key=key.pem", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    with _running(command, folder, port):
        url = f"https://127.0.0.1:{port}/{_ACCOUNT}"
        key = {"account_name": _ACCOUNT, "account_key": _KEY}
        with BlobServiceClient(url, credential=key, connection_verify=str(folder / "ca.pem")) as client:
            client.create_container(_BUCKET)
        with _tokens(_azure_token()) as tokens:
            yield {
                "IDENTITY_ENDPOINT": tokens,
                "IDENTITY_HEADER": "any",
                "REQUESTS_CA_BUNDLE": str(folder / "ca.pem"),
                "METAFLOW_AZURE_STORAGE_BLOB_SERVICE_ENDPOINT": url,
                "METAFLOW_DEFAULT_DATASTORE": "azure",
                "METAFLOW_DATASTORE_SYSROOT_AZURE": f"{_BUCKET}/metaflow",
            }


@contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A server of `folder`, once it listens."""
    with (folder / "server.txt").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, 60, command[0])
        assert process.poll() is None, (folder / "server.txt").read_text()
        yield
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _tokens(token: dict[str, Any]) -> Iterator[str]:
    """The address of a service that answers everything with a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            data = json.dumps(token).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - as the library calls it

    with HttpService(Handler) as service:
        yield service.url


def _service_account(tokens: str) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "project",
        "client_email": "reader@project.example",
        "private_key": pem,
        "private_key_id": "1",
        "token_uri": tokens,
    }


def _azure_token() -> dict[str, str]:
    """A token of an hour, of which Azurite reads who made it, for whom, and until when."""
    now = int(time.time())
    resource, ends = "https://storage.azure.com", now + 3600
    claims = {"aud": resource, "iss": "https://sts.windows.net/any/", "iat": now - 60, "nbf": now - 60, "exp": ends}
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts]
    return {
        "access_token": ".".join([*encoded, "any"]),
        "expires_on": str(ends),
        "resource": resource,
        "token_type": "Bearer",
    }
