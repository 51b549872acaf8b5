# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Sweeps: recoverers that are killed, many at once, brokers that are away, applications that share a namespace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import SkipMessage

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.recovery.summary import Swept
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.recovery.thread import RecoveryThread
from dramatiq_inflight.store.records import Orphan
from dramatiq_inflight.store.replies import Claim, Start
from dramatiq_inflight.store.scripts import BATCH, Scripts
from dramatiq_inflight.store.store import Store
from tests.support.cluster import Cluster
from tests.support.fleet import Fleet
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until
from tests.support.workers import ROOT

RETURN_STEPS = [
    "before:return_to_broker",
    "after:return_to_broker",
    "before:give_back",
    "between:_requeue",
    "after:give_back",
]
COPY_STEPS = ["before:claim", "after:claim", "before:enqueue", "after:enqueue"]
COPY_STEPS += ["before:enqueue_batch", "within:enqueue_batch", "after:enqueue_batch"]
COPY_STEPS += ["before:confirm_copies", "after:confirm_copies"]
FORGET_STEPS = ["before:forget", "after:forget"]


@pytest.mark.long
@pytest.mark.parametrize("step", RETURN_STEPS + FORGET_STEPS)
def test_a_recoverer_killed_while_returning_loses_nothing(
    step: str, cluster: Callable[..., Cluster], history: History
) -> None:
    """I2: before, between and after each of its steps."""
    _kill_a_recoverer(step, cluster(HEARTBEAT_INTERVAL="0.2", HEARTBEAT_TTL="0.8"), history)


@pytest.mark.long
@pytest.mark.parametrize("step", COPY_STEPS + FORGET_STEPS)
def test_a_recoverer_killed_while_copying_loses_nothing(
    step: str, cluster: Callable[..., Cluster], history: History, server_url: str
) -> None:
    """I2, with the broker's own late redelivery of the old copies (maintenance at every command)."""
    settings = {
        "PROCESSING_REDIS_URL": re.sub(r"/\d+$", "/1", server_url),
        "TEST_MAINTENANCE_CHANCE": "1000000",
        "TEST_HEARTBEAT_TIMEOUT": "4000",
    }
    _kill_a_recoverer(step, cluster(HEARTBEAT_INTERVAL="0.2", HEARTBEAT_TTL="0.8", **settings), history)


@pytest.mark.long
def test_a_message_that_kills_whoever_decodes_it_is_set_aside(
    cluster: Callable[..., Cluster], history: History, server_url: str
) -> None:
    """Three recoverers die with it in hand; the next worker does not, and runs everything else."""
    apart = {"PROCESSING_REDIS_URL": re.sub(r"/\d+$", "/1", server_url)}
    made = cluster(HEARTBEAT_INTERVAL="0.2", HEARTBEAT_TTL="0.8", **apart)
    victim = made.worker(threads=1)
    gate = made.folder / "gate"
    deadly = made.app.gated.send(1, str(gate))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    victim.kill()
    for _ in range(3):
        assert _recoverer_that_dies("before:copy_of", made) == -9
    assert history.count("recoverer killed") == 3
    healthy = made.worker()
    made.app.work.send(2, 0)
    made.wait(lambda: history.keys("end") == {2}, what="another one runs")
    with redis.Redis.from_url(apart["PROCESSING_REDIS_URL"]) as client:
        set_aside = [deadly.message_id.encode()]
        made.wait(lambda: client.hkeys(made.prefix + "aside") == set_aside, what="it is set aside")
        client.delete(*client.keys(made.prefix + "*"))
    healthy.stop()
    assert "killed each process that tried to recover it" in healthy.output()


def _recoverer_that_dies(step: str, cluster: Cluster) -> int:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.dying_recoverer", step],
        env={**os.environ, "PYTHONPATH": str(ROOT), **cluster.env},
        cwd=ROOT,
        timeout=120,
        check=False,
    ).returncode


def _kill_a_recoverer(step: str, cluster: Cluster, history: History) -> None:
    victim = cluster.worker(threads=4)
    cluster.app.work.send(7, 0)
    cluster.wait(lambda: history.keys("end") == {7}, what="one completes")
    gate = cluster.folder / "gate"
    for n in range(6):
        cluster.app.gated.send(n, str(gate))
    cluster.app.work.send_with_options(args=(6, 0), delay=5_000)
    delayed = f"{cluster.broker.namespace}:__acks__.*.default.DQ"
    cluster.wait(lambda: history.count("start") == 5 and cluster.client.keys(delayed), what="four run")
    victim.kill()
    gate.touch()
    assert _recoverer_that_dies(step, cluster) == -9
    assert history.count("recoverer killed") == 1
    healthy = cluster.worker()
    cluster.wait(lambda: history.keys("end") == set(range(8)), what="nothing is lost")
    cluster.wait(lambda: cluster.enqueued() == 0, what="nothing is left")
    runs = Counter(event.key for event in history.events("start") if event.pid == healthy.booted_pid())
    assert runs == Counter(range(7)), "each runs once more, whatever copies there are"
    healthy.stop()


# In one process, on a real server.


@pytest.fixture
def broker(server_url: str, namespace: str) -> Iterator[RedisBroker]:
    """A broker with two actors, whose messages nobody consumes."""
    broker = RedisBroker(url=server_url, namespace=f"{namespace}-broker", middleware=[], maintenance_chance=0)
    for name in ("work", "other"):
        dramatiq.actor(broker=broker, actor_name=name)(lambda: None)
    yield broker
    broker.client.close()


@pytest.mark.parametrize("recoverers", [2, 4])
@pytest.mark.parametrize("apart", [False, True])
def test_many_recoverers_at_once_enqueue_each_orphan_once(recoverers: int, apart: bool, fleet: Fleet) -> None:
    """I8: 2,000 orphans, the lock deleted again and again in the middle."""
    ids = [id for n in range(20) for id in fleet.dead(f"dead{n}", 100, apart=apart)]
    done = threading.Event()
    broken = 0

    def sweep(recovery: Recoverer) -> None:
        while not done.is_set():
            recovery.sweep()
            if not recovery.store.recovery.find_due().dead:
                return

    threads = [threading.Thread(target=sweep, args=(fleet.recovery(f"r{n}", apart=apart),)) for n in range(recoverers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        broken += fleet.lab.client.delete(fleet.lab.prefix + "lock")
        time.sleep(0.002)
    done.set()
    assert broken > 0
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)
    assert fleet.lab.names() & {f"incarnation:dead{n}" for n in range(20)} == set()
    generations = {message.options.get("inflight", {}).get("generation", 1) for message in fleet.enqueued()}
    assert generations == {2 if apart else 1}


def test_hand_back_returns_all_that_was_fetched(fleet: Fleet) -> None:
    """Running, prefetched and delayed; of every queue that the dead worker said it had."""
    running = fleet.dead("dead", 5)
    for queue in ("default", "default.DQ"):
        for n in range(250):
            id = f"{queue}-{n}"
            message: Message[None] = Message(queue, "work", (), {}, {"redis_message_id": id}, id)
            fleet.broker.client.hset(f"{fleet.broker.namespace}:{queue}.msgs", id, message.encode())
            fleet.broker.client.sadd(f"{fleet.broker.namespace}:__acks__.dead.{queue}", id)
    fleet.lab.client.hset(fleet.lab.prefix + "incarnation:dead", "queues", '["default", "default.DQ"]')
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.returned, swept.reaped) == (5, 505, 1)
    assert {message.message_id for message in fleet.enqueued()} == {*running, *(f"default-{n}" for n in range(250))}
    assert fleet.broker.client.llen(f"{fleet.broker.namespace}:default.DQ") == 250
    assert fleet.broker.client.keys(f"{fleet.broker.namespace}:__acks__*") == []


def test_a_worker_that_died_without_a_message_run_is_recovered(fleet: Fleet) -> None:
    """It had prefetched, and had started nothing."""
    fleet.dead("dead", 0)
    fleet.broker.client.hset(f"{fleet.broker.namespace}:default.msgs", "p", b"{}")
    fleet.broker.client.sadd(f"{fleet.broker.namespace}:__acks__.dead.default", "p")
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.returned, swept.reaped) == (0, 1, 1)


def test_what_dramatiqs_maintenance_has_moved_is_not_moved_again(fleet: Fleet) -> None:
    """The ack set is empty, the message is in the queue, its record is still running."""
    ids = fleet.dead("dead", 3)
    fleet.broker.client.delete(f"{fleet.broker.namespace}:__acks__.dead.default")
    fleet.broker.client.rpush(f"{fleet.broker.namespace}:default", *(f"r-{id}" for id in ids))
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.returned) == (3, 0)
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)


def test_the_copy_of_a_poison_message_carries_the_reason(fleet: Fleet) -> None:
    """In both ways: a nack moves the stored bytes, so the reason must be in them."""
    for apart in (False, True):
        (id,) = fleet.dead(f"dead{apart}", 1, limit=0, apart=apart)
        swept = fleet.recovery("r", apart=apart).sweep()
        assert (swept.poisoned, swept.copied) == (1, 0)
        (letter,) = [m for m in fleet.enqueued() if m.message_id == id and "inflight" in m.options]
        mark = letter.options["inflight"]
        assert mark["generation"] == 2
        assert mark["reason"] == (
            f"its worker died while running it: once, on pod-dead{apart} (process 1 on h, incarnation dead{apart}) "
            "at 1970-01-01 00:00:01 UTC (its heartbeat has expired); max_recoveries is 0, and the last time it had its "
            "process to itself"
        )


def test_an_innocent_neighbour_goes_back_as_usual(fleet: Fleet) -> None:
    """A poison message in the batch changes nothing for the others."""
    fleet.dead("dead", 1, limit=0)
    lab, me = fleet.lab, Store(Scripts(fleet.lab.client, fleet.lab.namespace, "dead", heartbeat_ttl=60, fence_ttl=60))
    copy = copy_of(origin="n")
    lab.client.zadd(lab.prefix + "heartbeats", {"dead": 10**14})
    lab.runs(me, copy)
    fleet.broker.client.hset(f"{fleet.broker.namespace}:default.msgs", "n", b"{}")
    lab.kill(me)
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.poisoned, swept.reaped) == (1, 1, 1)


def test_only_orphans_of_declared_queues_and_actors_are_copied(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Another application's queue must not be declared here, nor its messages dead-lettered: they wait for it."""
    me = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "dead", heartbeat_ttl=60, fence_ttl=60))
    me.workers.register({"instance": "pod"})
    for queue, actor in (("default", "work"), ("default", "unknown"), ("elsewhere", "work")):
        fleet.lab.start(me, Copy(f"{queue}-{actor}", 1, "o", "o", False, queue, actor), payload=_message(queue, actor))
    fleet.lab.kill(me)
    recovery = fleet.recovery("r", apart=True)
    for copied in (1, 0):
        swept = recovery.sweep()
        assert (swept.copied, swept.left, swept.reaped) == (copied, 2, 0)
    assert len(fleet.enqueued()) == 1
    assert "elsewhere" not in fleet.broker.get_declared_queues()
    other = RedisBroker(client=fleet.broker.client, namespace=fleet.broker.namespace, middleware=[])
    dramatiq.actor(broker=other, actor_name="unknown")(lambda: None)
    dramatiq.actor(broker=other, actor_name="work", queue_name="elsewhere")(lambda: None)
    fleet.broker = other
    swept = fleet.recovery("r2", apart=True).sweep()
    assert (swept.copied, swept.left, swept.reaped) == (2, 0, 1)


def _message(queue: str = "default", actor: str = "work") -> bytes:
    return Message(queue, actor, (), {}, {}).encode()


def test_orphans_of_a_broker_out_of_reach_are_left_and_named(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Two applications by mistake on one namespace: nothing is copied that the other broker still holds."""
    fleet.dead("dead", 2)
    recovery = fleet.recovery("r", apart=True)
    for _ in range(2):
        swept = recovery.sweep()
        assert (swept.left, swept.progress) == (1, 0)
    assert fleet.enqueued() == []
    assert caplog.text.count("cannot be reached from this worker") == 1
    assert "share a namespace" in caplog.text


def test_a_payload_that_cannot_be_decoded_is_set_aside(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Whole, counted, reported; the others go on."""
    me = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "dead", heartbeat_ttl=60, fence_ttl=60))
    me.workers.register({"instance": "pod"})
    for n, payload in enumerate((_message(), b"\x80\x05garbage", _message())):
        fleet.lab.start(me, copy_of(f"m{n}"), payload=payload)
    fleet.lab.kill(me)
    swept = fleet.recovery("r", apart=True).sweep()
    assert (swept.copied, swept.set_aside, swept.reaped) == (2, 1, 1)
    assert fleet.lab.client.hkeys(fleet.lab.prefix + "aside") == [b"m1"]
    assert "message m1" in caplog.text
    assert "Set it aside" in caplog.text


def test_a_broker_that_is_away_loses_nothing_and_is_tried_again(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """The claimed orphans are the next sweep's first work; what did get through is not enqueued twice."""
    ids = fleet.dead("dead", 5, apart=True)
    recovery = fleet.recovery("r", apart=True)
    enqueue, calls = recovery.enqueue, 0

    def failing(message: Message[object], *, delay: int | None = None) -> Message[object]:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise ConnectionError("the broker is away")
        return enqueue(message, delay=delay)

    recovery.enqueue = failing
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.reaped) == (2, 3, 0)
    assert not recovery.sweep().progress, "those that were tried wait for a moment, and the dead worker with them"
    fleet.are_due(*ids)
    assert recovery.sweep().failed
    fleet.are_due(*ids)
    recovery.enqueue = enqueue
    swept = recovery.sweep()
    assert (swept.copied, swept.failed, swept.reaped) == (3, False, 1)
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)
    assert "Nothing is lost" in caplog.text


def test_recovery_waits_for_a_copy_that_the_broker_holds(fleet: Fleet) -> None:
    """Past its deadline, in a long queue: the deadline moves; no second copy."""
    (id,) = fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    recovery.sweep()
    fleet.lab.overdue(copy_of(id))
    recovery.sweep()
    assert len(fleet.enqueued()) == 1
    assert fleet.lab.state(copy_of(id)) == "requeued"
    assert (fleet.lab.deadline(copy_of(id)) or 0) > 1


def test_a_recovered_copy_that_was_purged_is_settled(fleet: Fleet) -> None:
    """An operator has flushed the queue: the message does not rise from the dead, and leaves no key for ever."""
    (id,) = fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    recovery.sweep()
    fleet.broker.flush("default")
    fleet.lab.overdue(copy_of(id))
    assert recovery.sweep().settled == 1
    assert fleet.enqueued() == []
    assert fleet.lab.deadline(copy_of(id)) is None
    assert 0 < fleet.lab.expiry(copy_of(id)) <= 60


def test_a_broker_apart_is_asked_too(fleet: Fleet) -> None:
    """In a long queue the copy is waited for; if that Redis has lost it, another one is made."""
    (id,) = fleet.dead("dead", 1, apart=True)
    recovery = fleet.recovery("r", apart=True, blind=False)
    recovery.sweep()
    fleet.lab.overdue(copy_of(id))
    assert recovery.sweep().copied == 0
    assert (fleet.lab.deadline(copy_of(id)) or 0) > 1
    fleet.broker.flush("default")
    fleet.lab.overdue(copy_of(id))
    assert recovery.sweep().copied == 1
    assert [message.options["inflight"]["tries"] for message in fleet.enqueued()] == [2]


def test_a_lost_copy_is_enqueued_again_if_no_broker_can_tell(fleet: Fleet) -> None:
    """A publish without confirmation: past the deadline another copy goes out, and whichever comes first runs."""
    (id,) = fleet.dead("dead", 1, apart=True)
    recovery = fleet.recovery("r", apart=True)
    recovery.sweep()
    fleet.lab.overdue(copy_of(id))
    assert recovery.sweep().copied == 1
    marks = [message.options["inflight"] for message in fleet.enqueued()]
    assert [(mark["generation"], mark["tries"]) for mark in marks] == [(2, 1), (2, 2)]


def test_an_unknown_record_does_not_block_overdue_ones_behind_it(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """More than a batch of records that only another application can recover: it is named, once, and stays."""
    store = fleet.recovery("r", apart=True).store
    for n in range(BATCH + 20):
        actor = "work" if n == BATCH + 10 else "unknown"
        copy = Copy(f"m{n:03}", 1, "o", "o", False, "default", actor)
        fleet.lab.start(store, copy, payload=_message(actor=actor))
        store.messages.await_copy(copy.message_id, 1, _message(actor=actor))
    recovery = fleet.recovery("r2", apart=True)
    swept = recovery.sweep()
    assert (swept.copied, swept.left) == (1, BATCH + 19)
    assert recovery.sweep().left == BATCH + 19
    assert caplog.text.count("Cannot recover messages of queue 'default' and actor 'unknown'") == 1


def test_the_lock_is_released_by_its_holder_alone(fleet: Fleet) -> None:
    """And a sweep that finds it taken says so."""
    fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    fleet.recovery("other")
    assert fleet.lab.client.set(fleet.lab.prefix + "lock", "other", px=60_000)
    assert recovery.sweep().locked
    assert fleet.enqueued() == []
    fleet.lab.client.delete(fleet.lab.prefix + "lock")
    hand_back = recovery.store.recovery.return_to_broker

    def meanwhile(*args: Any) -> Any:
        fleet.lab.client.set(fleet.lab.prefix + "lock", "other", px=60_000)
        return hand_back(*args)

    recovery.store.recovery.return_to_broker = meanwhile  # type: ignore[method-assign,assignment]
    assert recovery.sweep().handed_back == 1
    assert fleet.lab.client.get(fleet.lab.prefix + "lock") == b"other"


def test_the_lock_is_extended_while_work_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives its TTL as long as there is progress; a recoverer that has lost it ends its sweep."""
    for n in range(4):
        fleet.dead(f"dead{n}", 1)
    recovery = fleet.recovery("r", lock_ttl=900)
    hand_back, left, lock = recovery.store.recovery.return_to_broker, list[float](), fleet.lab.prefix + "lock"
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr("dramatiq_inflight.recovery.sweep.time", clock)

    def slow(*args: Any) -> Any:
        nonlocal passed
        assert fleet.lab.client.get(lock) == b"r"
        left.append(fleet.lab.client.ttl(lock))
        passed += 600
        assert fleet.lab.client.expire(lock, 300)
        return hand_back(*args)

    recovery.store.recovery.return_to_broker = slow  # type: ignore[method-assign,assignment]
    assert recovery.sweep().reaped == 4
    assert len(left) > 4
    assert min(left) > 300


def test_a_recoverer_with_an_expired_heartbeat_spares_itself(fleet: Fleet) -> None:
    """It woke from a freeze, and sweeps before its heartbeat thread has beaten."""
    recovery = fleet.recovery("r")
    copy = copy_of()
    fleet.lab.runs(recovery.store, copy)
    fleet.lab.kill(recovery.store)
    recovery.sweep()
    assert fleet.lab.state(copy) == "running"
    assert recovery.store.recovery.find_due().dead == []


def test_sweeps_follow_the_deadlines(fleet: Fleet) -> None:
    """An orphan is enqueued as soon as its owner's heartbeat has expired; nothing is asked for in between."""
    (id,) = fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    calls: list[float] = []
    deadline = float("inf")
    due = recovery.store.recovery.find_due

    def counted(**skip: int) -> Any:
        nonlocal deadline
        calls.append(time.time() * 1000)
        if len(calls) == 1:
            deadline = calls[0] + 1500
            fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"dead": deadline})
        return due(**skip)

    recovery.store.recovery.find_due = counted  # type: ignore[method-assign]
    thread = RecoveryThread(recovery, interval=3600)
    thread.start()
    wait_until(fleet.enqueued)
    assert time.time() * 1000 > deadline
    early = [call for call in calls if call < deadline - 100]
    assert len(early) == 1, "one look at boot, none until the deadline"
    thread.stop()
    assert not thread.is_alive()
    assert [m.message_id for m in fleet.enqueued()] == [id]


def test_a_restarted_instance_recovers_once_its_old_self_expires(server_url: str, namespace: str, lab: Lab) -> None:
    """When the old heartbeat has expired: not before, not at the next sweep, not never (I12)."""
    app = App(server_url, namespace, lab, instance_id="pod-0", recovery_interval=3600)
    message = app.actor(lambda: app.ran.append(time.time()), actor_name="work").send()
    rid, broker = message.options["redis_message_id"], app.broker.namespace
    old = app.other("old")
    old.workers.register(
        {"instance": "pod-0", "broker_namespace": broker, "broker_id": "gone", "queues": '["default"]'}
    )
    assert lab.start(old, Copy.of(message), payload=message.encode()).answer is Start.RUN
    app.client.lrem(f"{broker}:default", 0, rid)
    app.client.sadd(f"{broker}:__acks__.gone.default", rid)
    expiry = time.time() + 3
    app.client.zadd(f"{lab.prefix}heartbeats", {"old": expiry * 1000})
    app.start()
    app.join()
    app.close()
    (ran,) = app.ran
    assert ran > expiry


def test_with_an_interval_of_zero_there_is_one_sweep_at_boot(fleet: Fleet) -> None:
    """Nothing more, unless a worker thread has something to be put back."""
    fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    sweeps: list[float | None] = []
    thread = RecoveryThread(recovery, interval=0)
    sweep = thread.run_once

    def counted() -> float | None:
        sweeps.append(sweep())
        return sweeps[-1]

    thread.run_once = counted  # type: ignore[method-assign]
    thread.start()
    wait_until(lambda: sweeps and sweeps[-1] is None, what="it sleeps")
    assert len(fleet.enqueued()) == 1
    number = len(sweeps)
    thread.wake()
    wait_until(lambda: len(sweeps) > number, what="it is woken")
    thread.stop()


def test_one_message_that_cannot_be_enqueued_holds_up_no_other(fleet: Fleet) -> None:
    """A middleware of the user's refuses it, say; the broker is not away."""
    ids = fleet.dead("dead", 4, apart=True)
    recovery = fleet.recovery("r", apart=True)
    enqueue = recovery.enqueue

    def refusing(message: Message[object], *, delay: int | None = None) -> Message[object]:
        if message.message_id == ids[0]:
            raise SkipMessage("refused")
        return enqueue(message, delay=delay)

    recovery.enqueue = refusing
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.failed) == (3, 1, False)
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.reaped) == (0, 0, 0), "it waits by itself"
    recovery.enqueue = enqueue
    fleet.are_due(ids[0])
    swept = recovery.sweep()
    assert (swept.copied, swept.reaped) == (1, 1)
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)


def test_a_tailored_message_is_left_to_those_that_know_its_actor(fleet: Fleet) -> None:
    """Its policy is its actor's; another deployment on the same broker does not know it."""
    fleet.dead("dead", 1, tailored=True)
    stranger = fleet.recovery("stranger")
    declared = stranger.declared
    stranger.declared = lambda: (declared()[0], set())
    swept = stranger.sweep()
    assert (swept.copied, swept.left, swept.reaped) == (0, 1, 0)
    assert fleet.recovery("r").sweep().copied == 1


def test_a_sweep_asks_redis_as_often_as_there_are_batches(fleet: Fleet, client: Any) -> None:
    """I10: O(instances + orphans); nothing is looked through that is not due."""
    for n in range(30):
        Store(
            Scripts(fleet.lab.client, fleet.lab.namespace, f"living{n}", heartbeat_ttl=60, fence_ttl=60)
        ).workers.register({})
    fleet.dead("dead", 3 * BATCH)
    recovery = fleet.recovery("r")
    calls: list[Any] = []
    exchange = recovery.store.scripts.wire.exchange

    def counted(scripts: Any) -> Any:
        calls.append(scripts)
        return exchange(scripts)

    recovery.store.scripts.wire.exchange = counted  # type: ignore[method-assign,assignment]
    assert recovery.sweep().handed_back == 3 * BATCH
    assert len(calls) < 25


def test_recovery_dead_letters_orphans_convicted_at_a_start(fleet: Fleet) -> None:
    """A redelivery met the record of a dead owner first; the recovery only does what the start has claimed."""
    (id,) = fleet.dead("dead", 1, limit=0)
    recovery = fleet.recovery("r")
    copy = copy_of(id, origin=f"r-{id}")
    started = fleet.lab.start(recovery.store, copy, limit=0)
    assert started.answer is Start.CONVICTED
    assert recovery.sweep().handed_back == 0
    assert recovery.store.recovery.claim([id], dead="dead", hold=60) == [Claim.MINE]  # the start's own thread does it
    (again,) = recovery.store.recovery.claim([id], dead="dead", hold=60, leftovers=True)
    assert isinstance(again, Orphan)
    assert recovery.put_back([again], recovery.store.workers.incarnation("dead"), Swept())
    assert fleet.lab.state(copy) == "requeued, dead_letter"


def test_a_recovery_thread_survives_a_redis_that_is_away(own_server: Any, namespace: str, tmp_path: Path) -> None:
    """It tries again, less and less often, and goes on when Redis is back."""
    client = redis.Redis(port=own_server.port, socket_timeout=1)
    lab = Lab(client, namespace)
    broker = RedisBroker(client=client, namespace=f"{namespace}-broker", middleware=[])
    fleet = Fleet(lab, broker)
    recovery = fleet.recovery("r")
    thread, sweep, failures = RecoveryThread(recovery, interval=0.05), recovery.sweep, list[redis.RedisError]()

    def noting(*args: Any) -> Swept:
        try:
            return sweep(*args)
        except redis.RedisError as error:
            failures.append(error)
            raise

    recovery.sweep = noting  # type: ignore[method-assign,assignment]
    thread.start()
    own_server.stop()
    wait_until(lambda: len(failures) >= 2, what="it tries again")
    own_server.start()
    dead = Store(Scripts(client, namespace, "dead", heartbeat_ttl=60, fence_ttl=60))
    dead.workers.register({"broker_namespace": broker.namespace, "broker_id": "dead", "queues": "[]"})
    recovery.store.workers.heartbeat()
    lab.kill(dead)
    wait_until(lambda: "incarnation:dead" not in lab.names(), what="it recovers")
    thread.stop()


def test_a_copy_stranded_with_a_living_worker_is_taken_back(fleet: Fleet) -> None:
    """Its fetch timed out on a stalled Redis, which executed it all the same: in its ack set, in nobody's memory."""
    (id,) = fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    recovery.sweep()
    living = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "living", heartbeat_ttl=60, fence_ttl=60))
    living.workers.register(
        {"broker_namespace": fleet.broker.namespace, "broker_id": "living", "queues": '["default"]'}
    )
    client: Any = fleet.broker.client
    rid = client.lpop(f"{fleet.broker.namespace}:default")
    client.sadd(f"{fleet.broker.namespace}:__acks__.living.default", rid)
    fleet.lab.overdue(copy_of(id))
    assert recovery.sweep().returned == 1
    assert [message.message_id for message in fleet.enqueued()] == [id]
    assert client.keys(f"{fleet.broker.namespace}:__acks__*") == []
    beaten = client.zscore(f"{fleet.broker.namespace}:__heartbeats__", "living")
    assert abs(beaten / 1000 - time.time()) < 60, "Dramatiq must not take it for dead"


def test_a_dead_workers_late_queue_is_returned_as_well(fleet: Fleet) -> None:
    """It was declared after the boot: the records know it."""
    fleet.broker.declare_queue("late")
    me = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "dead", heartbeat_ttl=60, fence_ttl=60))
    me.workers.register({"broker_namespace": fleet.broker.namespace, "broker_id": "dead", "queues": '["default"]'})
    fleet.lab.start(me, Copy("m", 1, "r", "r", False, "late", "work"), payload=_message("late"))
    fleet.broker.client.hset(f"{fleet.broker.namespace}:late.msgs", "r", _message("late"))
    for name in ("late", "late.DQ"):
        fleet.broker.client.sadd(f"{fleet.broker.namespace}:__acks__.dead.{name}", "r")
    fleet.lab.kill(me)
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.reaped) == (1, 1)
    assert fleet.broker.client.lrange(f"{fleet.broker.namespace}:late", 0, -1) == [b"r"]
    assert fleet.broker.client.keys(f"{fleet.broker.namespace}:__acks__*") == []


def test_dead_workers_of_another_broker_do_not_hide_ours(fleet: Fleet) -> None:
    """More than a batch of another broker's, older than ours."""
    for n in range(BATCH + 5):
        other = Store(Scripts(fleet.lab.client, fleet.lab.namespace, f"other{n}", heartbeat_ttl=60, fence_ttl=60))
        other.workers.register({"broker_namespace": "elsewhere", "broker_id": f"other{n}", "queues": "[]"})
        fleet.lab.kill(other)
    fleet.dead("zdead", 1)
    fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"zdead": 2})
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.reaped, swept.left) == (1, 1, BATCH + 5)


def test_a_lock_left_by_a_sweep_that_was_cut_off_is_ours(fleet: Fleet) -> None:
    """Redis was away when it was to be released: the next sweep does not wait for it to run out."""
    fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    assert recovery.store.recovery.lock(300).acquire(blocking=False, token="r")
    swept = recovery.sweep()
    assert (swept.locked, swept.handed_back) == (False, 1)
    assert fleet.lab.client.get(fleet.lab.prefix + "lock") is None


def test_interval_zero_recovers_workers_dead_before_the_boot(fleet: Fleet) -> None:
    """Even if their heartbeats expire only after it."""
    fleet.dead("dead", 1)
    seconds, micros = fleet.lab.client.time()
    fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"dead": seconds * 1000 + micros // 1000 + 700})
    thread = RecoveryThread(fleet.recovery("r"), interval=0, at_boot=1.5)
    thread.start()
    wait_until(fleet.enqueued, what="it recovers")
    thread.stop()


@pytest.mark.parametrize("stops_behind", ["give_back", "return_to_broker"])
def test_a_sweep_that_stops_forgets_a_worker_with_nothing_left(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, stops_behind: str
) -> None:
    """Its worker shuts down: it would leave the heartbeats behind, and what the dead one had said of itself."""
    (id,) = fleet.dead("dead", 1)
    recovery = fleet.recovery("r")
    side: Any = fleet.queues if stops_behind == "give_back" else recovery.store.recovery
    step, stopping = getattr(side, stops_behind), threading.Event()

    def then_stop(*args: Any) -> Any:
        if args[1]:  # the first `hand_back` is of no message
            stopping.set()
        return step(*args)

    monkeypatch.setattr(side, stops_behind, then_stop)
    swept = recovery.sweep(stopping.is_set)
    given_back = stops_behind == "give_back"
    assert (swept.handed_back, swept.returned, swept.reaped) == (1, given_back, given_back)
    assert recovery.store.workers.deregister() == 0
    assert fleet.lab.names() - {f"record:{id}", "waiting", "handed"} == (
        set() if given_back else {"heartbeats", "incarnation:dead"}
    )


def test_a_worker_with_a_dead_ones_broker_id_keeps_its_messages(fleet: Fleet) -> None:
    """Stopped with messages running, and started again in the same process: the broker's id is the broker's."""
    (id,) = fleet.dead("dead", 1)
    again = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "again", heartbeat_ttl=60, fence_ttl=60))
    again.workers.register({"broker_namespace": fleet.broker.namespace, "broker_id": "dead", "queues": '["default"]'})
    client: Any = fleet.broker.client
    acks = f"{fleet.broker.namespace}:__acks__.dead.default"
    client.hset(f"{fleet.broker.namespace}:default.msgs", "living", b"{}")
    client.sadd(acks, "living")
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.returned, swept.reaped) == (1, 1, 1)
    assert client.smembers(acks) == {b"living"}
    assert [message.message_id for message in fleet.enqueued()] == [id]


def test_a_broker_ids_last_dead_worker_returns_all_its_messages(fleet: Fleet) -> None:
    """Two that shared it have died, and one sweep recovers both: what they had fetched is nobody's any more."""
    fleet.dead("dead", 1)
    again = Store(Scripts(fleet.lab.client, fleet.lab.namespace, "again", heartbeat_ttl=60, fence_ttl=60))
    again.workers.register({"broker_namespace": fleet.broker.namespace, "broker_id": "dead", "queues": '["default"]'})
    fleet.lab.kill(again)
    client: Any = fleet.broker.client
    acks = f"{fleet.broker.namespace}:__acks__.dead.default"
    client.hset(f"{fleet.broker.namespace}:default.msgs", "fetched", _message("default"))
    client.sadd(acks, "fetched")
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.reaped) == (1, 2)
    assert client.smembers(acks) == set()
    assert len(fleet.enqueued()) == 2
