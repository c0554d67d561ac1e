"""A Kubernetes cluster without nodes: etcd, API server and controller manager, as processes on loopback ports."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import kubernetes.client
import urllib3
from collectors import free_ports
from parts import kubernetes as binary

if TYPE_CHECKING:
    from typing_extensions import Self

START_TIMEOUT = 120.0
"""Seconds that the API server may take to be ready; three on an idle machine."""
_TOKEN = "bed"
_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: bed
clusters: [{{name: bed, cluster: {{server: {url}, insecure-skip-tls-verify: true}}}}]
contexts: [{{name: bed, context: {{cluster: bed, user: bed, namespace: default}}}}]
users: [{{name: bed, user: {{token: {token}}}}}]
"""


class Cluster:
    """Starts on entry and ends on exit; pods stay pending until somebody runs them (kubelet.py)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._etcd, self._peer, port, self._manager = free_ports(4)
        self.url = f"https://127.0.0.1:{port}"
        self.port = port
        self._certificates = folder / "certificates"

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(_KUBECONFIG.format(url=self.url, token=_TOKEN))
        key, public = self.folder / "accounts.key", self.folder / "accounts.pub"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], check=True, stderr=subprocess.DEVNULL)
        etcd, peer = f"http://127.0.0.1:{self._etcd}", f"http://127.0.0.1:{self._peer}"
        self._start(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
            ),
        )
        self._start(
            binary("kube-apiserver"),
            f"--etcd-servers={etcd}",
            *("--bind-address=127.0.0.1", f"--secure-port={self.port}", f"--cert-dir={self._certificates}"),
            *(f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=AlwaysAllow"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
            *(f"--service-account-signing-key-file={key}", "--disable-admission-plugins=ServiceAccount"),
            "--service-cluster-ip-range=10.96.0.0/16",
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        self._start(
            binary("kube-controller-manager"),
            *(f"--kubeconfig={self.kubeconfig}", f"--secure-port={self._manager}", "--bind-address=127.0.0.1"),
            *("--leader-elect=false", "--controllers=job-controller,garbage-collector-controller"),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    @property
    def client(self) -> kubernetes.client.ApiClient:
        """A client of the API server, with all rights."""
        configuration = kubernetes.client.Configuration(host=self.url)
        configuration.ssl_ca_cert = str(self._certificates / "apiserver.crt")  # of its own authority
        configuration.api_key = {"authorization": f"Bearer {_TOKEN}"}
        return kubernetes.client.ApiClient(configuration)

    def _start(self, *command: object) -> None:
        log = (self.folder / f"{Path(str(command[0])).name}.log").open("wb")
        with log:
            self._processes.append(subprocess.Popen([str(part) for part in command], stdout=log, stderr=log))

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                kubernetes.client.CoreV1Api(self.client).read_namespace("default")
                return
            except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
                ended = [process.args for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"the cluster does not start ({ended or error}); see {self.folder}/*.log"
                    ) from error
                time.sleep(0.2)
