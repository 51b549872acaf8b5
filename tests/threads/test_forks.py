# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""An actor forks: its child has connections of its own, takes no lock of the worker's, and is no worker."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker, current
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.replies import Saved
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.forks import tell_children
from tests.support.inprocess import App
from tests.support.inside import lock_of, runtime_of
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system does not fork")

#: A child that hangs ends by itself, seconds.
ENOUGH = 60


def fork(child: Callable[[], object]) -> int:
    """Run something in a child; returns its process id.  It exits with 0 if that is true, 1 if not, 2 if it raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 2
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ENOUGH)
        code = 0 if child() else 1
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(child: Callable[[], object]) -> int:
    """Run something in a child, and wait for it."""
    return exit_code(fork(child))


def refuses(command: Callable[[], object]) -> bool:
    try:
        command()
    except redis.ConnectionError as error:
        return "forked from a worker" in str(error)
    return False


def test_a_child_opens_connections_of_its_own(server_url: str) -> None:
    """And shuts none of the parent's down, neither by closing its pool nor by its end."""
    client: Any = bounded_client(redis.Redis.from_url(server_url))
    pool = client.connection_pool
    held = [pool.get_connection() for _ in range(3)]
    for connection in held:
        pool.release(connection)
    mine = client.client_id()

    def child() -> bool:
        other = client.client_id()
        pool.close()
        return bool(other != mine)

    assert in_child(child) == 0
    assert client.client_id() == mine
    assert {pool.get_connection() for _ in held} == set(held)
    pool.close()


def test_parent_and_child_never_mix_answers(server_url: str) -> None:
    """While both talk as fast as they can, by scripts and by plain commands."""
    client: Any = bounded_client(redis.Redis.from_url(server_url))
    client.ping()

    def talk(who: str) -> bool:
        return all(client.echo(f"{who} {n}") == f"{who} {n}".encode() for n in range(2000))

    children = [fork(lambda n=n: talk(f"child {n}")) for n in range(3)]  # type: ignore[misc]
    mine = talk("parent")
    assert [exit_code(pid) for pid in children] == [0, 0, 0]
    assert mine
    client.connection_pool.close()


def test_a_child_is_no_worker(app: App) -> None:
    """It neither beats, nor starts, ends, mends or recovers anything in the worker's name."""
    app.start()
    runtime = app.runtime
    runtime.heartbeat.stop()
    runtime.presence.stop()
    before = app.store.workers.deadlines()

    def child() -> bool:
        store = runtime.store
        copy = copy_of()
        told = [
            refuses(store.workers.heartbeat),
            refuses(lambda: store.messages.start(copy, b"x", limit=3, here="no")),
            refuses(lambda: store.messages.complete(copy, 1, again=False, contended=False)),
            refuses(lambda: store.messages.release(copy.message_id, 1, contended=False)),
            refuses(store.workers.deregister),
        ]
        return all(told) and threading.active_count() == 1

    assert in_child(child) == 0
    assert app.store.workers.deadlines() == before
    assert runtime.connectivity.failures == 0


def test_a_child_may_be_a_worker_of_its_own(server_url: str, namespace: str, lab: Lab) -> None:
    """It is another incarnation then, and leaves as one."""
    broker = RedisBroker(client=redis.Redis.from_url(server_url), namespace=f"{namespace}-broker", middleware=[])
    tracker = InFlightTracker(namespace=namespace)
    broker.add_middleware(tracker)
    ran: list[int] = []
    actor = dramatiq.actor(broker=broker, track_inflight=True)(lambda: ran.append(1))
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=20)
    worker.start()

    def me() -> str:
        return runtime_of(tracker).store.me

    mine = me()
    actor.send()
    wait_until(lambda: ran, what="the worker works")  # Dramatiq has a lock for its first fetch alone

    def child() -> bool:
        worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=20)
        worker.start()
        both = {mine, me()}
        there = lab.client.zrange(lab.prefix + "heartbeats", 0, -1)
        worker.stop()
        return len(both) == 2 and both <= {id.decode() for id in there}

    try:
        assert in_child(child) == 0
        actor.send()
        wait_until(lambda: len(ran) == 2, what="the worker goes on")
        assert me() == mine
        assert [id for id in lab.client.zrange(lab.prefix + "heartbeats", 0, -1) if id[:1] != b"*"] == [mine.encode()]
    finally:
        worker.stop()
        broker.client.close()


def test_a_child_waits_for_no_lock_of_another_thread(app: App) -> None:
    """The threads that held them at the fork are not there."""
    go, began = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(120)

    actor = app.actor(work)
    app.start()
    actor.send()
    assert began.wait(120)
    runtime = app.runtime
    entry = runtime.table.entries()[0]
    with entry.mutex, lock_of(runtime.table):
        pid = fork(lambda: runtime.checkpoints.save(entry, "from the child", None, "") and runtime.table.entries())
        assert exit_code(pid) == 0
    go.set()
    app.join()


def test_children_keep_checkpoints_beside_a_busy_worker(app: App) -> None:
    """Each message runs once, and each answer gets to the one that asked."""
    codes: list[int] = []
    forked = threading.Event()

    def child(n: int) -> bool:
        message = current()
        assert message is not None
        return all(message.checkpoint([n, i]) for i in range(200))

    def parent() -> None:
        children = [fork(lambda n=n: child(n)) for n in range(2)]  # type: ignore[misc]
        forked.set()
        codes.extend(exit_code(pid) for pid in children)

    forking = app.actor(parent, max_retries=0, actor_name="forking")
    short = app.actor(app.ran.append, max_retries=0, actor_name="short")
    app.start()
    for n in range(20):
        short.send(-n - 1)  # so that there are idle connections
    app.join()
    app.ran.clear()
    forking.send()
    assert forked.wait(120)
    for n in range(150):
        short.send(n)
    app.join()
    assert codes == [0, 0]
    assert Counter(app.ran) == Counter(range(150))
    assert app.runtime.connectivity.failures == 0
    wait_until(lambda: not app.records(), what="nothing is left")


def test_a_child_that_outlives_its_worker_is_silent(server_url: str, namespace: str, lab: Lab) -> None:
    """Its checkpoints would keep a dead worker alive."""
    read, write = os.pipe()

    def worker() -> bool:
        store = Store(
            Scripts(bounded_client(redis.Redis.from_url(server_url)), namespace, "w", heartbeat_ttl=60, fence_ttl=60)
        )
        store.workers.register({"instance": "w"})
        copy = copy_of("m")
        run = lab.runs(store, copy).run

        class Told:
            forked = staticmethod(store.scripts.forked)

        told = Told()
        tell_children(told)
        ready, go = os.pipe()
        parent = os.getpid()

        def child() -> bool:
            kept = store.messages.checkpoint("m", run, {"value": "1"}) is Saved.SAVED
            os.write(go, b"x")
            wait_until(lambda: os.getppid() != parent, what="the worker has died")
            silent = refuses(lambda: store.messages.checkpoint("m", run, {"value": "2"}))
            os.write(write, b"kept and silent" if kept and silent else b"wrong")
            return True

        fork(child)
        os.read(ready, 1)
        return True

    assert in_child(worker) == 0
    os.close(write)
    assert os.read(read, 100) == b"kept and silent"
    os.close(read)
