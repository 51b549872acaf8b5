# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis loses its data, or a part of it, while messages run: their records are all that is left of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from dramatiq_inflight.outcomes import Finished

from .support.cluster import Cluster
from .support.history import History
from .support.inprocess import App
from .support.lab import Lab
from .support.servers import RedisServer, another_database, wait_until

MakeCluster = Callable[..., Cluster]

#: What is lost, by what is kept in which database: of the broker, and of the tracker.
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

    What is left with the broker, in an ack set or in no queue at all, is a stale copy by then.
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
        copy_is_counted_on = head and head[11] != "-"
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

    app.start(threads=1)
    hand_over = app.registry.hand_over

    def telling(*args: Any, **kwargs: Any) -> Finished:
        refusing.clear()  # from now on recovery can enqueue it
        told.append(hand_over(*args, **kwargs))
        return told[-1]

    app.registry.hand_over = telling  # type: ignore[method-assign]
    app.tracker._runtime.heartbeat.stop()  # type: ignore[union-attr]
    app.actor(work, min_backoff=50, max_backoff=60).send()
    wait_until(lambda: told and told[-1] is Finished.HANDED_OVER, what="its record has the retry")
    app.join()
    assert app.ran == ["run", "run"]
