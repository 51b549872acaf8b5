# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The context of a message ends with the message, and belongs to the broker that has delivered it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Shutdown

from dramatiq_inflight import InFlightTracker, current
from dramatiq_inflight.delivery import OPTION, is_own_enqueue, own_enqueue
from tests.support.boundaries import interruptions
from tests.support.inprocess import App
from tests.support.servers import wait_until


class Background:
    """A task of the event loop that the first message creates, and that outlives it."""

    def __init__(self, app: App) -> None:
        self.go, self.failures = threading.Event(), list[str]()
        self.sent: list[int] = []
        self.ran: Counter[int] = Counter()
        self.currents: list[Any] = []
        self._event = app.actor(self.ran.update, actor_name="event", track_inflight=False)
        self._stop = False
        self._task: asyncio.Task[None] | None = None

    async def first(self) -> None:
        """The actor."""
        self._task = asyncio.create_task(self._send())
        while not self.go.is_set():
            await asyncio.sleep(0.005)

    async def _send(self) -> None:
        number = 0
        while not self._stop:
            self.currents.append(current())
            try:
                await asyncio.get_running_loop().run_in_executor(None, self._event.send, [number])
                self.sent.append(number)
            except Exception as error:
                self.failures.append(repr(error))
            number += 1
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        self._stop = True


@pytest.fixture
def background(app: App) -> Iterator[Background]:
    made = Background(app)
    yield made
    made.go.set()
    made.stop()


def test_a_task_outlives_its_lost_message(app: App, background: Background) -> None:
    """The messages that it sends do not follow from the message that happened to create it."""
    app.actor(background.first, actor_name="first").send()
    app.start()
    wait_until(lambda: background.sent, what="the task sends")
    runtime = app.runtime
    (entry,) = [entry for entry in runtime.table.entries() if entry.copy.actor == "first"]
    runtime.ledger.lose(entry)
    background.go.set()
    wait_until(lambda: entry not in runtime.table.entries(), what="the message is over")
    before = len(background.sent)
    wait_until(lambda: len(background.sent) > before + 10, what="the task goes on")
    assert background.failures == []
    assert background.currents[0] is not None
    assert background.currents[-1] is None


def test_a_task_sends_once_while_its_message_ends(app: App, background: Background) -> None:
    """Another thread enqueues meanwhile; its messages do not follow from the one that ends."""
    held = threading.Event()

    class Slow(Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            if message.actor_name == "first":
                held.set()
                before = len(background.sent)
                wait_until(lambda: len(background.sent) > before + 5, what="the task sends meanwhile")

        def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
            if held.is_set():
                threading.Event().wait(
                    0.01
                )  # it is being enqueued for a while, now and when the message is acknowledged

    app.broker.add_middleware(Slow())
    app.actor(background.first, actor_name="first").send()
    app.start()
    wait_until(lambda: background.sent, what="the task sends")
    background.go.set()
    assert held.wait(120)
    wait_until(lambda: not app.unsettled(), what="the message is over")
    background.stop()
    app.join()
    assert background.failures == []
    assert set(background.ran.values()) == {1}


def test_a_thread_pool_has_no_message_that_is_over(app: App) -> None:
    """A context that was copied is of use as long as the actor runs."""
    pool, contexts, seen = ThreadPoolExecutor(1), list[contextvars.Context](), list[Any]()

    def work() -> None:
        contexts.append(contextvars.copy_context())
        seen.append(pool.submit(contexts[0].run, current).result(20))

    message = app.actor(work).send()
    app.start()
    app.join()
    assert [one.message_id for one in seen] == [message.message_id]
    assert pool.submit(contexts[0].run, current).result(20) is None
    pool.shutdown()


def test_what_goes_to_another_broker_stays_there(app: App, server_url: str, namespace: str) -> None:
    """While that is away, what a hook sends to it is lost there, and does not turn up on this one."""
    elsewhere = redis.Redis.from_url(server_url)
    other = RedisBroker(client=elsewhere, namespace=f"{namespace}-other", maintenance_chance=0)
    other.add_middleware(InFlightTracker(namespace=f"{namespace}o"))
    audit = dramatiq.actor(broker=other, queue_name="audit", actor_name="audit")(lambda id: None)
    failures: list[str] = []

    class Audit(Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            try:
                audit.send(message.message_id)
            except redis.RedisError as error:
                failures.append(repr(error))

    def away(*args: Any, **kwargs: Any) -> None:
        raise redis.ConnectionError("as asked for")

    app.broker.add_middleware(Audit())
    actor = app.actor(lambda: app.ran.append(1))
    app.start()
    actor.send()
    app.join()
    assert elsewhere.hlen(f"{other.namespace}:audit.msgs") == 1
    other.do_enqueue = away  # type: ignore[attr-defined]
    actor.send()
    wait_until(lambda: failures, what="the other broker is away")
    app.join()
    assert not app.client.exists(f"{app.broker.namespace}:audit.msgs")
    assert elsewhere.hlen(f"{other.namespace}:audit.msgs") == 1
    elsewhere.close()


def test_a_message_that_is_forwarded_leaves_its_own_record_alone(app: App, server_url: str, namespace: str) -> None:
    """Its id is sent to another broker while it runs: it was not enqueued again here."""
    elsewhere = redis.Redis.from_url(server_url)
    other = RedisBroker(client=elsewhere, namespace=f"{namespace}-other", maintenance_chance=0)
    other.add_middleware(InFlightTracker(namespace=f"{namespace}o"))
    dramatiq.actor(broker=other, actor_name="work")(lambda: None)
    again: list[bool] = []

    def work() -> None:
        runtime, running = app.runtime, current()
        assert running is not None
        (entry,) = runtime.table.entries()
        forwarded = other.enqueue(entry.delivery.message.copy())
        again.extend([entry.follow_up.enqueued_again, OPTION in forwarded.options])

    app.actor(work, actor_name="work").send()
    app.start()
    app.join()
    assert again == [False, False]
    elsewhere.close()


def test_an_interrupt_leaves_no_own_enqueue_behind() -> None:
    """At each boundary at which Python can deliver one."""

    def work() -> None:
        with own_enqueue():
            assert is_own_enqueue.get()

    places = []
    for place in interruptions(work, Shutdown):
        assert not is_own_enqueue.get(), str(place)
        places.append(place)
    assert places
