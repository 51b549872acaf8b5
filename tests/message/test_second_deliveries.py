# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A message is delivered again while its first delivery is on its way through the very process that has it."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Middleware
from dramatiq.common import current_millis

from dramatiq_inflight import HandBack
from dramatiq_inflight.delivery import Delivery
from dramatiq_inflight.message.in_flight import Entry
from dramatiq_inflight.store.replies import Finished, Started
from tests.support.hooked import beside
from tests.support.inprocess import App, put_off_briefly
from tests.support.lab import copy_of
from tests.support.servers import count_stored, wait_until

AN_HOUR = 3_600_000


class Holds(Middleware):
    """Holds up a message at a hook, the first time."""

    def __init__(self, hook: str) -> None:
        self.there, self.go = threading.Event(), threading.Event()

        def hold(broker: Any, message: Any, **outcome: Any) -> None:
            if not self.there.is_set():
                self.there.set()
                assert self.go.wait(120)

        setattr(self, hook, hold)


class Skipped:
    """Notes what does not run, when the broker was told."""

    def __init__(self, app: App) -> None:
        self.skipped, self.acked = set[int](), threading.Event()
        beside(app.tracker, "after_skip_message", self.after_skip_message)
        beside(app.tracker, "after_ack", self.after_ack)

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.skipped.add(id(message))

    def after_ack(self, broker: Any, message: Any) -> None:
        if id(message) in self.skipped:
            self.acked.set()


@pytest.mark.parametrize("when", ["it runs", "it has ended"])
def test_a_failure_whose_nack_comes_too_late_is_dead_lettered(app: App, when: str) -> None:
    """RedisBroker has given it away, and its second delivery is acknowledged: the nack of the first moves nothing."""
    put_off_briefly(app.tracker)
    running, go = threading.Event(), threading.Event()

    def work() -> None:
        app.ran.append(1)
        running.set()
        assert go.wait(120)
        raise RuntimeError("as asked for")

    ended, skipped = Holds("before_nack"), Skipped(app)
    app.broker.add_middleware(ended)
    actor = app.actor(work, max_retries=0)
    app.start()
    message = actor.send()
    assert running.wait(120)
    if when == "it has ended":
        go.set()
        assert ended.there.wait(120)
    app.redeliver(message)
    assert skipped.acked.wait(120)
    go.set()
    ended.go.set()
    app.join()
    assert [dead.message_id for dead in app.dead_letters()] == [message.message_id]


def test_a_second_delivery_is_kept_until_the_next_stage_is_sent(app: App) -> None:
    """The first would be lost with its process: the broker had neither it nor what follows from it."""
    put_off_briefly(app.tracker)
    ended, skipped = Holds("after_process_message"), Skipped(app)
    app.broker.add_middleware(ended, before=type(app.tracker))
    after = app.actor(app.ran.append, actor_name="after", track_inflight=False)
    actor = app.actor(lambda: 1, actor_name="work")
    app.start()
    pipe: Any = actor.message() | after.message()
    message = pipe.run().messages[0]
    assert ended.there.wait(120)
    sent = next(iter(app.client.hkeys(f"{app.broker.namespace}:default.msgs"))).decode()
    app.client.rpush(f"{app.broker.namespace}:default", sent)
    assert skipped.acked.wait(120)
    queues = app.broker.get_declared_queues() | app.broker.get_declared_delay_queues()
    assert count_stored(app.client, app.broker.namespace, queues) == 1
    assert app.lab.state(copy_of(message.message_id)) == "running"
    ended.go.set()
    app.join()
    assert app.ran == [1]


def test_a_second_delivery_is_skipped_after_its_hand_back(app: App) -> None:
    """Redis could not be told that it stops; and nobody has fetched the second delivery yet."""
    taken = list[str]()

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            raise HandBack("as asked for")

    class Maintenance(Middleware):
        def before_ack(self, broker: Any, message: Any) -> None:
            if not taken:
                taken.append(message.options["redis_message_id"])
                app.client.srem(f"{app.broker.namespace}:__acks__.{app.broker.broker_id}.default", *taken)

    def away(*args: Any, **kwargs: Any) -> Finished:
        app.store.messages.await_copy = hand_over  # type: ignore[method-assign]
        raise redis.ConnectionError("as asked for")

    app.broker.add_middleware(Maintenance())
    actor = app.actor(work)
    app.start(threads=1)
    runtime, hand_over = app.runtime, app.store.messages.await_copy
    app.store.messages.await_copy = away  # type: ignore[method-assign]
    actor.send()
    wait_until(lambda: len(app.ran) == 2 and not runtime.table.entries(), what="it has run again")
    app.client.rpush(f"{app.broker.namespace}:default", *taken)
    app.join()
    assert app.ran == ["run", "run"]


# Other enqueues of the same message.


def test_a_message_sent_again_waits_for_an_unrecorded_run(app: App) -> None:
    """The record is about an earlier enqueue, which is complete, until the next beat."""
    at_once, running, more = list[int](), set[int](), threading.Event()

    def work() -> None:
        running.add(threading.get_ident())
        app.ran.append(1)
        if len(app.ran) == 2:
            again()
            more.wait(1.5)
        elif len(app.ran) == 3:
            more.set()
        at_once.append(len(running))
        running.discard(threading.get_ident())

    actor = app.actor(work, remember_completed=60)
    app.start()
    runtime = app.runtime
    runtime.heartbeat.stop()
    message, start = actor.send(), app.store.messages.start

    def again() -> None:
        app.broker.enqueue(message.copy(options={"redis_message_id": None}))

    def away(*args: Any, **kwargs: Any) -> Started:
        app.store.messages.start = start  # type: ignore[method-assign]
        raise redis.ConnectionError("as asked for")

    app.join()
    app.store.messages.start = away  # type: ignore[method-assign]
    again()
    wait_until(lambda: len(at_once) == 3, what="both have run")
    assert at_once == [1, 1, 1]


def test_an_unrecorded_run_that_is_lost_ends_no_other_run(app: App) -> None:
    """It has no number, and its message has come back to this very process since."""
    app.start()
    runtime = app.runtime
    copy = copy_of()
    app.lab.runs(app.store, copy)
    lost = Entry(Delivery(copy))
    lost.begin()
    lost.lose()
    lost.end(succeeded=True)
    lost.follow()
    lost.acknowledge()
    runtime.ledger.complete(lost)
    assert app.lab.state(copy) == "running"
    assert lost.state.told


# Delayed copies of one message.


@pytest.mark.parametrize("given_away", ["the first", "the second"])
def test_a_delayed_copy_that_was_given_away_is_not_moved(
    app: App, given_away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was taken for dead asks about each by its own id, though both are of one message."""
    actor = app.actor(app.ran.append, actor_name="work")
    app.start()
    worker, runtime = app.worker, app.runtime
    assert worker is not None
    runtime.lease.revived = True
    later = current_millis() + AN_HOUR
    first, second = (
        dataclasses.replace(
            actor.message(n), message_id="m", queue_name="default.DQ", options={"redis_message_id": id, "eta": eta}
        )
        for n, id, eta in ((1, "r1", later), (2, "r2", later + 1))
    )
    app.deliver(first)
    app.deliver(second)
    wait_until(lambda: worker.consumers["default.DQ"].delay_queue.qsize() == 2, what="both are in memory")
    lost, kept = ("r1", 2) if given_away == "the first" else ("r2", 1)
    app.client.srem(f"{app.broker.namespace}:__acks__.{app.broker.broker_id}.default.DQ", lost)
    monkeypatch.setattr(dramatiq.worker, "current_millis", lambda: current_millis() + 2 * AN_HOUR)
    wait_until(lambda: app.ran, what="the other one runs")
    assert app.ran == [kept]
    app.client.hdel(f"{app.broker.namespace}:default.DQ.msgs", lost)
    app.join()
