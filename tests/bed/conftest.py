"""A cluster, an object store and an endpoint for the whole session, and a place to run flows in from each test."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import kubernetes.client
import pytest
from bed import Bed, ObjectStore
from cluster import Cluster
from endpoint import Endpoint
from kubelet import Kubelet
from running import Place


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        data = {name: base64.b64encode(value.encode()).decode() for name, value in store.credentials.items()}
        secret = {"metadata": {"name": Bed.SECRET}, "data": data}
        kubernetes.client.CoreV1Api(cluster.client).create_namespaced_secret("default", secret)
        yield cluster


@pytest.fixture(scope="session")
def kubelet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    # Pods reach no package index: the image has what Metaflow would install.
    with Kubelet(cluster, tmp_path_factory.mktemp("pods"), {"METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1"}) as kubelet:
        yield kubelet


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with Endpoint() as receiver:
        yield receiver


@pytest.fixture
def bed(tmp_path: Path, store: ObjectStore, cluster: Cluster, kubelet: Kubelet) -> Bed:
    return Bed(Place(tmp_path), store, cluster, kubelet)
