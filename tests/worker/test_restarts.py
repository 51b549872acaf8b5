# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker starts and stops again and again in one process: nothing of a stopped one is left."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker, SchemaError, current
from dramatiq_inflight.worker import WorkerProcess
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import RedisServer, another_database, wait_until

#: How the tracker is set up.
SETUPS: dict[str, dict[str, Any]] = {
    "thread": {},
    "process": {"heartbeat": "process"},
    "apart": {"redis_url": "another database"},
    "not watched": {"watch_processes": False},
    "container": {"alone_in": "container"},
    "hand back": {"hand_back": 30.0, "stall_timeout": 30.0},
}


class Left(NamedTuple):
    """The connections, descriptors and threads that are left."""

    connections: int
    descriptors: int
    threads: frozenset[str]


@pytest.fixture
def app(request: pytest.FixtureRequest, own_server: RedisServer, namespace: str) -> Iterator[App]:
    """An application with a server of its own, whose connections can be counted."""
    settings = dict(SETUPS[getattr(request, "param", "thread")])
    if "redis_url" in settings:
        settings["redis_url"] = another_database(own_server.url)
    lab = Lab(own_server.client(), namespace)
    app = App(own_server.url, namespace, lab, **settings)
    yield app
    app.close()


def left(app: App, admin: Any) -> Left:
    """Count what a stopped worker leaves; the application's own connections are closed first."""
    for client in (app.broker.client, app.client):
        client.connection_pool.disconnect()
    gc.collect()
    threads = frozenset(t.name for t in threading.enumerate() if t.name.startswith("dramatiq_inflight"))
    return Left(admin.info("clients")["connected_clients"], len(os.listdir("/proc/self/fd")), threads)


def runs_once(app: App, actor: Any) -> weakref.ref[WorkerProcess]:
    """One worker, from its boot to its end."""
    app.worker = dramatiq.Worker(app.broker, worker_threads=2, worker_timeout=20)
    app.worker.start()
    runtime = weakref.ref(app.runtime)  # no other here: a traceback in a log keeps the frames above it
    before = len(app.ran)
    actor.send()
    wait_until(lambda: len(app.ran) > before, what="the message runs")
    app.join()
    app.stop()
    return runtime


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list descriptors")
@pytest.mark.parametrize("app", list(SETUPS), indirect=True)
def test_a_stopped_worker_leaves_nothing_behind(app: App, own_server: RedisServer) -> None:
    """No connection, descriptor or thread, and no object, though Dramatiq keeps each stopped worker."""

    def work() -> None:
        message = current()
        assert message is not None
        message.checkpoint(1)
        app.ran.append(1)

    actor = app.actor(work)
    admin: Any = own_server.client()
    runs_once(app, actor)
    wait_until(lambda: not left(app, admin).threads, what="its threads have ended")
    before = left(app, admin)
    runtimes = [runs_once(app, actor) for _ in range(4)]
    wait_until(lambda: left(app, admin).connections <= before.connections, what="its connections are closed")
    wait_until(lambda: left(app, admin).descriptors <= before.descriptors, what="its descriptors are closed")
    wait_until(lambda: not left(app, admin).threads, what="its threads have ended")
    assert [runtime() for runtime in runtimes] == [None] * 4


def test_a_message_that_outlives_its_worker_leaves_nothing(app: App, own_server: RedisServer) -> None:
    """Dramatiq gives its thread up; when it ends, its connection is closed."""
    go, began = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        while not go.is_set():
            try:
                go.wait(120)
            except BaseException:
                continue  # it does not let itself be interrupted
        app.ran.append(1)

    actor = app.actor(work, max_retries=0)
    admin: Any = own_server.client()
    app.start(threads=1)
    actor.send()
    assert began.wait(120)
    assert app.worker is not None
    before = admin.info("clients")["connected_clients"]
    app.worker.stop(timeout=100)
    app.worker = None
    assert admin.info("clients")["connected_clients"] < before
    middle = admin.info("clients")["connected_clients"]
    go.set()
    wait_until(lambda: app.ran, what="it ends")
    wait_until(lambda: admin.info("clients")["connected_clients"] <= middle, what="its connections are closed")


def test_a_refused_boot_leaves_nothing_behind(own_server: RedisServer, namespace: str) -> None:
    """The namespace is a later version's."""
    lab = Lab(own_server.client(), namespace)
    lab.incarnation("a")
    lab.client.hset(lab.prefix + "schema", mapping={"schema": 99, "version": "9.8.7", "since": 1_700_000_000_000})
    broker = RedisBroker(client=redis.Redis.from_url(own_server.url), namespace=namespace)
    broker.add_middleware(InFlightTracker(namespace=namespace))
    admin: Any = own_server.client()

    def boot() -> None:
        with pytest.raises(SchemaError):
            dramatiq.Worker(broker, worker_threads=1).start()

    boot()
    before = admin.info("clients")["connected_clients"], len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        boot()
        gc.collect()
    wait_until(
        lambda: (admin.info("clients")["connected_clients"], len(os.listdir("/proc/self/fd"))) <= before,
        what="all is closed",
    )
    broker.client.close()


def test_a_stopped_worker_interrupts_nothing(app: App) -> None:
    """The thread that interrupts would hit whatever runs by then."""
    go, began = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        wait_until(go.is_set)

    actor = app.actor(work, hand_back=3600)
    app.start(threads=1)
    actor.send()
    assert began.wait(120)
    runtime = app.runtime
    runtime.drain()
    name = "dramatiq_inflight-hand-back"
    assert name in {thread.name for thread in threading.enumerate()}
    go.set()
    app.stop()
    wait_until(lambda: name not in {thread.name for thread in threading.enumerate()}, what="it has ended")


def test_a_shutdown_takes_nothing_more_from_the_dead(app: App) -> None:
    """From its first signal on, not from Dramatiq's hook, which comes later: the next signal would cut it off."""
    app.start()
    runtime = app.runtime
    runtime.begin_shutdown()
    wait_until(lambda: not runtime.recovery_thread.is_alive(), what="recovery has ended")
