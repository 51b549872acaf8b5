# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Which message is which: sent again under one id, without an id of the tracker's, with ids that are no strings."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message
from dramatiq.brokers.stub import StubBroker

from dramatiq_inflight import InFlightTracker, current
from dramatiq_inflight.config.policies import Policies
from dramatiq_inflight.config.settings import load_settings
from dramatiq_inflight.delivery import OPTION, Copy
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import wait_until


class Plain:
    """A broker that gives no ids and marks no redelivery, as RabbitMQ does for a sender without the tracker."""

    def __init__(self, url: str, namespace: str, **settings: Any) -> None:
        self.broker = StubBroker()
        self.tracker = InFlightTracker(
            namespace=namespace, redis_url=url, heartbeat_interval=0.1, heartbeat_ttl=0.6, **settings
        )
        self.broker.add_middleware(self.tracker)
        self.ran: list[Any] = []
        self._workers: list[dramatiq.Worker] = []

    def start(self, threads: int = 2) -> None:
        self._workers.append(dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=20))
        self._workers[-1].start()

    def put(self, message: Message[Any]) -> None:
        """Deliver it as its sender has encoded it."""
        self.broker.queues[message.queue_name].put(message.encode())

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


@pytest.fixture
def plain(server_url: str, namespace: str) -> Any:
    made = Plain(server_url, namespace)
    yield made
    made.close()


def test_a_second_enqueue_runs_after_the_first(plain: Plain) -> None:
    """Its sender has no tracker, and sent it under one id while it ran."""
    go = threading.Event()

    @dramatiq.actor(broker=plain.broker, track_inflight=True)
    def work() -> None:
        plain.ran.append(current())
        assert go.wait(120)

    message = work.message()
    plain.start()
    plain.put(message)
    wait_until(lambda: plain.ran, what="it runs")
    plain.put(message)
    wait_until(lambda: plain.broker.queues["default.DQ"].qsize() or plain.broker.queues["default.DQ"].unfinished_tasks)
    assert len(plain.ran) == 1
    go.set()
    wait_until(lambda: len(plain.ran) == 2, what="the second one runs")
    plain.broker.join("default", timeout=120_000)
    assert len(plain.ran) == 2


def test_a_second_enqueue_runs_though_it_is_put_off_often(plain: Plain) -> None:
    """It has an id from its first put-off on."""
    begun: list[float] = []

    @dramatiq.actor(broker=plain.broker, track_inflight=True)
    def work() -> None:
        begun.append(time.monotonic())
        if len(begun) == 1:
            time.sleep(2)

    message = work.message()
    plain.start()
    plain.put(message)
    wait_until(lambda: begun, what="it runs")
    plain.put(message)
    wait_until(lambda: len(begun) == 2, what="the second one runs")
    plain.broker.join("default", timeout=120_000)
    assert len(begun) == 2


@pytest.mark.parametrize("id", [7, 3.5, None, True])
def test_an_id_that_is_no_string_is_one_everywhere(app: App, id: Any) -> None:
    """Other languages send numbers: recorded, retried, put off and recovered all the same."""
    seen: list[Any] = []

    def work() -> None:
        running = current()
        seen.append(running and running.message_id)
        if len(seen) == 1:
            raise ValueError("as asked for")

    actor = app.actor(work, min_backoff=1, max_backoff=2)
    app.start()
    message = dataclasses.replace(actor.message(), message_id=id)
    app.broker.enqueue(message)
    wait_until(lambda: len(seen) == 2, what="its retry runs")
    app.join()
    assert seen == [str(id), str(id)]
    assert app.unsettled() == set()


def test_an_orphan_whose_id_is_a_number_is_recovered(app: App) -> None:
    """By a copy, whose id is the number again."""
    seen: list[Any] = []
    actor = app.actor(lambda: seen.append(current()), recovery_delay=0.001)
    message = dataclasses.replace(actor.message(), message_id=12).copy(options={"redis_message_id": "r12"})
    app.deliver(message)
    assert json.loads(app.client.hget(f"{app.broker.namespace}:default.msgs", "r12"))["message_id"] == 12
    copy = Copy.of(message)
    assert copy.message_id == "12"
    dead = app.other("dead")
    app.lab.start(dead, copy, payload=message.encode(), tailored=True)
    app.lab.kill(dead)
    app.start()
    wait_until(lambda: seen, what="it runs")
    app.join()
    assert [(one.message_id, one.generation > 1) for one in seen if one] == [("12", True)]


@pytest.mark.parametrize("mark", [{"generation": 2, "origin": "e1", "crashes": 1}, {"deferrals": 1, "origin": "e1"}])
def test_a_copy_is_tracked_whatever_its_actor_says_by_now(
    server_url: str, namespace: str, mark: dict[str, Any]
) -> None:
    """Tracking was switched off while the message was in flight: its record waits for this copy to end."""
    plain = Plain(server_url, namespace)
    try:

        @dramatiq.actor(broker=plain.broker)
        def work() -> None:
            plain.ran.append(current())

        message = work.message().copy(options={OPTION: {"origin": "e1"}})
        assert Policies(load_settings({})).tracks(plain.broker, message) is False
        copy = message.copy(options={OPTION: mark})
        assert Policies(load_settings({})).tracks(plain.broker, copy) is True
    finally:
        plain.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_replay_that_loses_its_mark_is_an_enqueue_of_its_own(server_url: str, namespace: str, enabled: bool) -> None:
    """The sender may not track, or not know the actor.  Without an id of its own it would be taken for the old copy."""
    sent: list[Message[Any]] = []

    class Keeps(Broker):
        def declare_queue(self, queue_name: str) -> None:
            pass

        def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
            sent.append(message)
            return message

    broker = Keeps(middleware=[])
    broker.add_middleware(InFlightTracker(namespace=namespace, redis_url=server_url, enabled=enabled))
    dramatiq.actor(broker=broker)(print)
    letter: Message[Any] = Message("default", "print" if enabled else "unknown", (), {}, {})
    broker.enqueue(letter.copy(options={OPTION: {"generation": 2, "origin": "e1", "tries": 1, "crashes": 1}}))
    (replay,) = sent
    assert replay.options[OPTION].keys() == {"generation", "origin"}
    assert replay.options[OPTION]["origin"] != "e1"


@pytest.fixture
def forgetful(server_url: str, namespace: str) -> Callable[[], Plain]:
    return lambda: Plain(server_url, namespace, recovery_interval=0.1)


def test_a_recovered_message_runs_once_where_tracking_is_off(forgetful: Callable[[], Plain], lab: Lab) -> None:
    """Its first worker tracked the actor, and has died; today's do not."""
    plain = forgetful()
    try:

        @dramatiq.actor(broker=plain.broker)
        def work() -> None:
            plain.ran.append(1)

        before = lab.incarnation("before")
        message = work.message().copy(options={OPTION: {"origin": "e1"}})
        lab.start(before, Copy.of(message), payload=message.encode())
        lab.kill(before)
        plain.start()
        wait_until(lambda: plain.ran, what="it is recovered")
        wait_until(lambda: lab.state(Copy.of(message)) == "completed", what="its record is settled")
        assert plain.ran == [1]
        assert lab.client.zcard(f"{lab.prefix}waiting") == 0
    finally:
        plain.close()
