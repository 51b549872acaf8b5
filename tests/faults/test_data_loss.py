# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis loses its data, or a part of it, while messages run: their records are all that is left of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dramatiq_inflight.liveness.lease import KnownBy
from dramatiq_inflight.liveness.subscription import Subscriptions
from dramatiq_inflight.store.replies import Finished
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import RedisServer, another_database, wait_until

MakeCluster = Callable[..., Cluster]

#: The lost data, by the database that keeps it: of the broker, and of the tracker.
LOSSES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "everything": (False, ("",)),
    "the broker's keys": (False, ("broker",)),
    "the tracker's keys": (False, ("tracker",)),
    "the ack sets": (False, ("acks",)),
    "the messages": (False, ("msgs",)),
    "the messages and the records": (False, ("msgs", "tracker")),
    "the ack sets and the records": (False, ("acks", "tracker")),
    "everything, apart": (True, ("",)),
    "the broker's database, apart": (True, ("broker",)),
    "the tracker's database, apart": (True, ("tracker",)),
}


def lose(cluster: Cluster, tracker: Any, what: tuple[str, ...]) -> None:
    """Delete what each name stands for: all keys, a namespace, or the broker's keys of one kind."""
    for kind in what:
        if not kind:
            cluster.client.flushall()
            continue
        client, pattern = {
            "tracker": (tracker, cluster.prefix + "*"),
            "broker": (cluster.client, cluster.broker.namespace + ":*"),
            "acks": (cluster.client, cluster.broker.namespace + ":__acks__*"),
            "msgs": (cluster.client, cluster.broker.namespace + ":*.msgs"),
        }[kind]
        keys = [key for key in client.scan_iter(pattern.replace("[", "\\[")) if b"results" not in key]
        client.delete(*keys)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_runs_survives_a_loss_and_its_worker(
    cluster: MakeCluster, history: History, own_server: RedisServer, tmp_path: Path, loss: str
) -> None:
    """SIGKILL after the next heartbeat: the message runs again, once.

    The copy left with the broker, in an ack set or in no queue at all, is stale by then.
    """
    apart, what = LOSSES[loss]
    tracker_url = another_database(own_server.url) if apart else own_server.url
    tracker: Any = redis.Redis.from_url(tracker_url)
    cluster_ = cluster(TEST_BROKER_URL=own_server.url, **({"PROCESSING_REDIS_URL": tracker_url} if apart else {}))
    worker = cluster_.worker()
    gate = tmp_path / "gate"
    message = cluster_.app.gated.send("m", str(gate))
    key = f"{cluster_.prefix}record:{message.message_id}"
    cluster_.wait(lambda: history.count("start") == 1)
    lose(cluster_, tracker, what)

    def is_mended() -> bool:
        raw = tracker.get(key)
        head = json.loads(raw.partition(b"\n")[0]) if raw else []
        copy_is_counted_on = head and head[11]
        return bool(head) and (apart or what == ("tracker",) or not copy_is_counted_on)

    cluster_.wait(is_mended, what="the heartbeat has mended its record")
    cluster_.worker()
    worker.kill()
    gate.touch()
    cluster_.wait(lambda: history.count("acked") == 1, what="it runs again")
    cluster_.wait(lambda: not tracker.zcard(cluster_.prefix + "waiting"), what="nothing waits")
    assert history.count("start") == 2
    tracker.close()


def test_a_stranded_failure_survives_the_loss_of_its_record(app: App, lab: Lab) -> None:
    """Its retry cannot be enqueued, and Redis has lost its record: it is written with the retry."""
    refusing, told = threading.Event(), list[Finished]()
    enqueue = app.broker.do_enqueue  # type: ignore[attr-defined,unused-ignore]

    def refused(queue: str, copy_id: str, payload: bytes) -> None:
        if refusing.is_set():
            raise ValueError("too long")
        enqueue(queue, copy_id, payload)

    app.broker.do_enqueue = refused  # type: ignore[attr-defined]

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            lab.client.delete(*lab.client.keys(lab.prefix + "record:*"))
            refusing.set()
            raise RuntimeError("as asked for")

    actor = app.actor(work, min_backoff=50, max_backoff=60)
    app.start(threads=1)
    hand_over = app.store.messages.await_copy

    def telling(*args: Any, **kwargs: Any) -> Finished:
        refusing.clear()  # from now on recovery can enqueue it
        told.append(hand_over(*args, **kwargs))
        return told[-1]

    app.store.messages.await_copy = telling  # type: ignore[method-assign]
    app.runtime.heartbeat.stop()
    actor.send()
    wait_until(lambda: told and told[-1] is Finished.HANDED_OVER, what="its record has the retry")
    app.join()
    assert app.ran == ["run", "run"]


class Older:
    """A server which is killed, and comes back with the snapshot that was saved last."""

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self.server = server
        self.client: Any = server.client()
        self.app = App(server.url, namespace, Lab(self.client, namespace), heartbeat_ttl=2)
        self.gate = threading.Event()
        self._believed_until = 0.0

    def save(self) -> None:
        self.client.save()
        self._believed_until = max(self._beats().values()) / 1000

    def _beats(self) -> dict[bytes, float]:
        return dict(self.client.zrange(f"{self.app.lab.prefix}heartbeats", 0, -1, withscores=True))

    def fetched(self, queue: str = "default") -> int:
        """Return how many messages of a queue the worker has, as its ack set says."""
        keys = list(self.client.scan_iter(f"{self.app.broker.namespace}:__acks__*.{queue}"))
        return sum(self.client.scard(key) for key in keys)

    def come_back(self, *, expired: bool) -> None:
        self.server.kill()
        if expired:
            wait_until(lambda: time.time() > self._believed_until, what="the saved heartbeat is over")
        self.server.start()


@pytest.fixture
def older(server_binary: str, tmp_path: Path, namespace: str) -> Iterator[Older]:
    server = RedisServer(server_binary, tmp_path / "redis").start()
    older = Older(server, namespace)
    yield older
    older.gate.set()
    older.app.close()
    server.kill()


@pytest.mark.parametrize("expired", [False, True], ids=["", "heartbeat expired"])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
def test_what_was_fetched_runs_after_an_older_snapshot(older: Older, tracked: bool, expired: bool) -> None:
    """The worker's memory has the last copy of it, though Redis still knows that worker."""
    app = older.app

    def work(name: str) -> None:
        app.ran.append(name)
        if name == "long":
            older.gate.wait()

    actor = app.actor(work, track_inflight=tracked)
    app.start(threads=1)
    older.save()
    actor.send("long")
    wait_until(lambda: app.ran == ["long"])
    actor.send("fetched")
    wait_until(lambda: older.fetched() == 2, what="it is fetched, and waits")
    older.come_back(expired=expired)
    older.gate.set()
    wait_until(lambda: "fetched" in app.ran)
    app.join()
    assert app.ran.count("fetched") == 1


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise redis.ConnectionError("unreachable")


@pytest.mark.parametrize("subscribes", [True, False], ids=["", "not subscribed yet"])
def test_a_message_after_a_restart_runs_beside_no_other_worker(
    older: Older, monkeypatch: pytest.MonkeyPatch, subscribes: bool
) -> None:
    """A restart long ago says nothing of a message that was fetched since: the broker gave it to somebody else."""
    app = older.app

    def work(name: str) -> None:
        app.ran.append(name)
        older.gate.wait()

    actor = app.actor(work)
    app.start(threads=1)
    wait_until(lambda: app.runtime.lease.known_by is KnownBy.ENTERED)
    before = app.store.workers.server
    older.save()
    if not subscribes:
        monkeypatch.setattr(Subscriptions, "open", unreachable)
    older.come_back(expired=False)
    if subscribes:
        wait_until(
            lambda: app.store.workers.server not in ("", before), what="the worker has seen which server this is"
        )
    else:
        wait_until(lambda: app.runtime.lease.known_by is KnownBy.LOST, what="its subscription is known to be lost")
    actor.send("long")
    wait_until(lambda: app.ran == ["long"], what="it is fetched after the restart")
    rid = actor.send("elsewhere").options["redis_message_id"]
    wait_until(lambda: older.fetched() == 2, what="it is fetched, and waits")
    # RedisBroker's maintenance gives it to another worker, by a clock that is off; that completes it.
    queue = f"{app.broker.namespace}:default.msgs"
    older.client.srem(f"{app.broker.namespace}:__acks__.{app.broker.broker_id}.default", rid)
    older.client.hdel(queue, rid)
    older.gate.set()
    actor.send("last")
    wait_until(lambda: "last" in app.ran)
    app.join()
    assert app.ran == ["long", "last"]


@pytest.mark.parametrize("expired", [False, True], ids=["", "heartbeat expired"])
def test_a_retry_runs_after_an_older_snapshot(older: Older, expired: bool) -> None:
    """It was fetched again, and waits behind another message, when Redis comes back without it."""
    app = older.app
    long = app.actor(older.gate.wait, actor_name="long")

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            long.send()  # before its retry
            raise RuntimeError("as asked for")

    actor = app.actor(work, min_backoff=50, max_backoff=60)
    app.start(threads=1)
    older.save()
    rid = actor.send().options["redis_message_id"]
    stored = f"{app.broker.namespace}:default.msgs"
    wait_until(lambda: app.ran and not older.client.hexists(stored, rid), what="its first run is acknowledged")
    wait_until(lambda: older.fetched() == 2, what="its retry is fetched")
    older.come_back(expired=expired)
    older.gate.set()
    wait_until(lambda: len(app.ran) == 2, what="it is retried")
    app.join()
