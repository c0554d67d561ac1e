"""Platforms, an object store and an endpoint for the whole session, and a place to run flows in from each test."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
from batch import Batch
from bed import Argo, AwsBatch, Bed, Kubernetes, ObjectStore, StepFunctions
from cluster import Cluster
from containers import Containers
from endpoint import Endpoint
from kubelet import Kubelet
from measured import Measured
from parts import newer_boto3
from running import Place

# Containers reach no package index: the image has what Metaflow would install.
_IMAGE = {"METAFLOW_SKIP_INSTALL_DEPENDENCIES": "1"}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        data = {name: base64.b64encode(value.encode()).decode() for name, value in store.credentials.items()}
        secret = {"metadata": {"name": Kubernetes.SECRET}, "data": data}
        kubernetes.client.CoreV1Api(cluster.client).create_namespaced_secret("default", secret)
        yield cluster


@pytest.fixture(scope="session")
def kubelet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    with Containers(tmp_path_factory.mktemp("pods"), _IMAGE) as containers, Kubelet(cluster, containers) as kubelet:
        yield kubelet


@pytest.fixture(scope="session")
def batch(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Batch]:
    store.client("dynamodb").create_table(
        TableName=AwsBatch.TABLE,
        KeySchema=[{"AttributeName": "pathspec", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pathspec", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    role = {**store.credentials, "AWS_ENDPOINT_URL_DYNAMODB": store.url}
    folder = tmp_path_factory.mktemp("jobs")
    with Containers(folder, {**_IMAGE, **role}, *newer_boto3()) as containers, Batch(containers) as batch:
        yield batch


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with Endpoint() as receiver:
        yield receiver


@pytest.fixture(params=[Kubernetes, Argo, AwsBatch, StepFunctions], ids=lambda platform: platform.__name__)
def bed(request: pytest.FixtureRequest, tmp_path: Path, store: ObjectStore) -> Bed:
    platform: Any = request.param
    place = Place(tmp_path)
    if issubclass(platform, Kubernetes):
        cluster, kubelet = (request.getfixturevalue(name) for name in ("cluster", "kubelet"))
        return platform(place, store, kubelet.containers, cluster, kubelet)
    jobs = request.getfixturevalue("batch")
    return platform(place, store, jobs.containers, jobs)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def measured() -> Iterator[Measured]:
    """What docs/remote.md has as measured: each test that can adds a line."""
    with Measured() as measured:
        yield measured
