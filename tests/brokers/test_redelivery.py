# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Ways in which a message can be lost, run again or be dead-lettered on RabbitMQ: each of these has failed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware

from dramatiq_inflight import ConfigurationError, InFlightTracker, current
from dramatiq_inflight.brokers.deliveries import Deliveries
from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.delivery import Copy, Mark
from dramatiq_inflight.liveness.lease import Lease
from dramatiq_inflight.store.replies import Start
from dramatiq_inflight.store.scripts import BATCH, Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.bell import Bell
from tests.support.inprocess import App, put_off_briefly
from tests.support.lab import Lab
from tests.support.rabbit_app import RabbitApp
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import wait_until

pytestmark = pytest.mark.long


@pytest.fixture
def make(client: redis.Redis, namespace: str) -> Iterator[Callable[..., RabbitApp]]:
    made: list[RabbitApp] = []

    def new(url: str, **options: Any) -> RabbitApp:
        made.append(RabbitApp(url, client, namespace, **options))
        return made[-1]

    yield new
    for app in made:
        app.close()


def all_at_once(work: Callable[[], None], *, threads: int) -> None:
    """Run it in so many threads, which take turns as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=work) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def records(lab: Lab) -> list[str]:
    return [name for name in lab.names() if name.startswith("record:")]


def freeze(server: RabbitServer) -> None:
    assert server.process is not None
    os.killpg(server.process.pid, signal.SIGSTOP)


def crash(server: RabbitServer) -> None:
    """Kill it, and start it again with what it had on disk."""
    server.remove()
    server.start()


def consumer(worker: dramatiq.Worker, queue: str) -> Any:
    return worker.consumers[queue].consumer


# Acknowledgements that were sent, and never arrived.


class Gate(Middleware):
    """Stops the world just before an acknowledgement."""

    def __init__(self, hook: str, act: Callable[[], None]) -> None:
        self.acted = threading.Event()

        def once(broker: Any, message: Any) -> None:
            if not self.acted.is_set() and not message.queue_name.endswith(".DQ"):
                act()
                self.acted.set()

        setattr(self, hook, once)


def test_an_ack_that_was_sent_and_never_arrived(
    own_rabbitmq: RabbitServer, make: Callable[..., RabbitApp], lab: Lab
) -> None:
    """The completion is forgotten once the ack is in a socket's buffer; RabbitMQ dies without having read it."""
    own_rabbitmq.consumer_timeout = None
    own_rabbitmq.start()
    sent = threading.Event()  # a sender whose publish is not confirmed would wait for the frozen server

    def act() -> None:
        assert sent.wait(120)
        freeze(own_rabbitmq)

    gate = Gate("before_ack", act)
    app = make(own_rabbitmq.url, before=[gate])
    work = app.actor(lambda: app.ran.append(1), actor_name="work")
    app.start()
    work.send()
    sent.set()
    wait_until(gate.acted.is_set, what="it has run")
    time.sleep(1.5)  # several heartbeats, each of which has Redis forget what was acknowledged
    crash(own_rabbitmq)
    wait_until(lambda: consumer(app.workers[0], app.queue).connection.is_open, what="it is back")
    time.sleep(6)
    assert app.ran == [1]


def test_a_nack_of_a_poison_message_that_never_arrived(
    own_rabbitmq: RabbitServer, make: Callable[..., RabbitApp], lab: Lab, namespace: str
) -> None:
    """I7: the verdict holds until the nack has happened. It is given up when the nack was left to another thread."""
    own_rabbitmq.consumer_timeout = None
    own_rabbitmq.start()
    gate = Gate("before_nack", lambda: freeze(own_rabbitmq))
    app = make(own_rabbitmq.url, before=[gate])
    work = app.actor(lambda: app.ran.append(1), actor_name="work")
    message = work.message().copy(options={"inflight": {"origin": "o1"}})
    dead = Store(Scripts(lab.client, namespace, "dead", heartbeat_ttl=20, fence_ttl=600))
    dead.workers.register({"instance": "dead"})
    copy = Copy(message.message_id, 1, "o1", "", False, app.queue, "work")
    started = lab.start(dead, copy, payload=message.encode(), limit=0)
    assert started.answer is Start.RUN
    lab.kill(dead)
    app.start()  # its recovery convicts it, and enqueues a copy to be dead-lettered
    wait_until(gate.acted.is_set, what="it is rejected")
    wait_until(lambda: lab.state(copy) == "dead_lettered", what="the verdict is given up")
    crash(own_rabbitmq)
    wait_until(lambda: consumer(app.workers[0], app.queue).connection.is_open, what="it is back")
    time.sleep(6)
    assert app.ran == []


# Copies that are put off.


def test_a_redelivered_copy_is_not_put_off_by_its_first_worker(
    own_rabbitmq: RabbitServer, make: Callable[..., RabbitApp], lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The second copy of a poison message was taken for a replay, once the first one had been dead-lettered."""
    caplog.set_level("INFO")
    own_rabbitmq.consumer_timeout = None
    own_rabbitmq.start()
    app = make(own_rabbitmq.url)
    message = app.actor(lambda: None, actor_name="work").send()
    assert lab.start(lab.incarnation("other"), Copy.of(message), payload=message.encode()).answer is Start.RUN
    enqueue = app.broker.enqueue

    def fail_once(message: Any, *, delay: int | None = None) -> Any:
        """RabbitMQ goes away just before the message is put off."""
        app.broker.enqueue = enqueue  # type: ignore[method-assign]
        own_rabbitmq.remove()
        return enqueue(message, delay=delay)

    app.broker.enqueue = fail_once  # type: ignore[method-assign]
    app.start()
    wait_until(lambda: "could not be put off" in caplog.text, what="RabbitMQ is away")
    own_rabbitmq.start()
    wait_until(lambda: caplog.text.count("Skipped this copy of message") == 2, what="both deliveries are refused")
    assert caplog.text.count("this copy is put off") == 1
    assert caplog.text.count("the broker has given it to another worker") == 1


# Copies that Dramatiq makes when it moves a message from its delay queue.


def test_a_delayed_message_that_was_moved_twice(
    rabbitmq_url: str, make: Callable[..., RabbitApp], client: redis.Redis, lab: Lab
) -> None:
    """All that are due are moved before any of those moves is acknowledged: a lost connection doubles them."""
    app = make(rabbitmq_url)
    work = app.actor(app.ran.append, actor_name="work")
    for key in range(200):
        work.send_with_options(args=(key,), delay=1500)
    app.broker.get_queue_message_counts(app.queue)
    worker = app.start()
    wait_until(lambda: len(set(app.ran)) >= 20, what="some have been moved, and have run")
    consumer(worker, f"{app.queue}.DQ").connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: len(set(app.ran)) == 200, what="all have run")
    time.sleep(6)  # the consumer's restart, and the redelivered ones
    app.join()
    doubled = [key for key in set(app.ran) if app.ran.count(key) > 1]
    assert doubled == []


# Copies in memory whose connection is gone.


def test_a_copy_in_memory_of_a_sender_without_the_tracker(
    rabbitmq_url: str, make: Callable[..., RabbitApp], client: redis.Redis, namespace: str
) -> None:
    """Until the consumer is replaced, three seconds later, nobody sees that its connection is gone.

    The thread that comes to it has just ended a message of another queue: an ack by the lost connection would hold it
    up for five seconds.
    """
    gate, begun = threading.Event(), threading.Event()
    a, b = make(rabbitmq_url), make(rabbitmq_url)

    def hold() -> None:
        begun.set()
        gate.wait(120)

    held = a.actor(hold, actor_name="hold", queue_name=f"{a.queue}-other")
    for app in (a, b):
        app.actor(lambda: a.ran.append(1), actor_name="work")
        app.broker.get_queue_message_counts(app.queue)
    held.send()
    worker = a.start(threads=1)
    wait_until(begun.is_set, what="its thread is busy")
    a.channel().basic_publish("", a.queue, Message(a.queue, "work", (), {}, {}).encode())
    wait_until(lambda: worker.work_queue.qsize() == 1, what="one is in memory")
    old = consumer(worker, a.queue)
    b.start(threads=2)
    old.connection.add_callback_threadsafe(old.connection.close)
    wait_until(lambda: len(a.ran) == 1, what="it runs elsewhere")
    gate.set()
    time.sleep(8)
    assert a.ran == [1]


def test_a_final_failure_on_a_lost_connection_is_dead_lettered(
    rabbitmq_url: str, make: Callable[..., RabbitApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Its nack is left out, and the copy that RabbitMQ has delivered again was put off: that is all there is of it."""
    caplog.set_level("INFO")
    app = make(rabbitmq_url)
    put_off_briefly(app.tracker)
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        app.ran.append(1)
        begun.set()
        assert go.wait(120)
        raise RuntimeError("as asked for")

    actor = app.actor(work, actor_name="work", max_retries=0)
    worker = app.start(threads=2)
    actor.send()
    assert begun.wait(120)
    old = consumer(worker, app.queue)
    old.connection.add_callback_threadsafe(old.connection.close)
    wait_until(lambda: "this copy is put off" in caplog.text, what="its copy is put off")
    go.set()
    wait_until(lambda: app.broker.get_queue_message_counts(app.queue)[2] == 1, what="it is dead-lettered")
    app.join()


def test_a_failure_on_a_lost_connection_runs_as_its_retry_alone(
    rabbitmq_url: str, make: Callable[..., RabbitApp]
) -> None:
    """Its ack is left out, and what RabbitMQ has delivered again waits in memory until its record is settled."""
    app = make(rabbitmq_url)
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        handle = current()
        assert handle is not None
        app.ran.append(handle.fence)
        if len(app.ran) == 1:
            begun.set()
            assert go.wait(120)
            raise RuntimeError("as asked for")

    actor = app.actor(work, actor_name="work")
    worker = app.start(threads=1)
    actor.send()
    assert begun.wait(120)
    old = consumer(worker, app.queue)
    old.connection.add_callback_threadsafe(old.connection.close)
    wait_until(lambda: worker.work_queue.qsize() == 1, what="it is delivered again")
    go.set()
    wait_until(lambda: len(app.ran) == 2, what="its retry, or the copy, runs")
    app.join()
    assert len(app.ran) == 2
    assert app.ran[0] < app.ran[1]


# Origins.


def test_a_message_that_failed_runs_when_a_shovel_moves_it_back(
    rabbitmq_url: str, make: Callable[..., RabbitApp], lab: Lab
) -> None:
    """A shovel moves the very bytes: same origin. It was delivered twice before it failed, so that is remembered."""
    app = make(rabbitmq_url)

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")

    actor = app.actor(work, actor_name="work", max_retries=0)
    actor.send()
    other = app.channel()
    wait_until(lambda: other.basic_get(app.queue)[0] is not None, what="another worker has it")
    other.connection.close()  # which dies
    app.start()
    wait_until(lambda: app.broker.get_queue_message_counts(app.queue)[2] == 1, what="it is dead-lettered")
    channel = app.channel()
    _, _, body = channel.basic_get(f"{app.queue}.XQ", auto_ack=True)
    channel.basic_publish("", app.queue, body)
    wait_until(lambda: len(app.ran) == 2, what="the replay runs")


def test_a_message_that_was_with_a_redis_broker_before(rabbitmq_url: str, make: Callable[..., RabbitApp]) -> None:
    """It has that broker's id in its options, is given no origin here, and its next round is taken for the last."""
    app = make(rabbitmq_url)

    def work(rounds: int) -> None:
        app.ran.append(rounds)
        if len(app.ran) < 3:
            app.broker.enqueue(message)

    message = app.actor(work, actor_name="work").message(3).copy(options={"redis_message_id": "from-before"})
    app.broker.enqueue(message)
    app.start()
    wait_until(lambda: len(app.ran) == 3, what="all rounds run")


def test_one_message_object_is_enqueued_by_several_threads(rabbitmq_url: str, make: Callable[..., RabbitApp]) -> None:
    """The origin is put into the message's own options: two enqueues may get the same, and one is lost."""
    app = make(rabbitmq_url)
    message = app.actor(lambda: None, actor_name="work").message()

    def send() -> None:
        for _ in range(100):
            app.broker.enqueue(message)
        del app.broker.connection

    all_at_once(send, threads=4)
    channel, origins = app.channel(), []
    while (body := channel.basic_get(app.queue, auto_ack=True)[2]) is not None:
        mark: Mark = Message.decode(body).options["inflight"]
        origins.append(mark["origin"])
    assert len(origins) == len(set(origins)) == 400


# Two of something in one process.


def test_two_trackers_on_one_broker_are_refused(app: App) -> None:
    """The second would take what the first has started for a duplicate, and the first the skip for a success."""
    app.broker.add_middleware(InFlightTracker(namespace=f"{app.namespace}-2"))
    with pytest.raises(ConfigurationError, match="two InFlightTrackers"):
        app.start()
    app.worker = None
    assert get_event_loop_thread() is None  # AsyncIO's: with it the process would never exit


def test_two_workers_of_one_broker_in_a_process_are_refused(rabbitmq_url: str, make: Callable[..., RabbitApp]) -> None:
    """Dramatiq advises against it; the tracker would not know which of them has a message."""
    app = make(rabbitmq_url)
    work = app.actor(lambda: app.ran.append(1), actor_name="work")
    app.start()
    with pytest.raises(ConfigurationError, match="one worker of a broker"):
        app.start()
    for _ in range(30):
        work.send()
    wait_until(lambda: len(app.ran) == 30, what="all run")  # before join(): RabbitMQ may not count the last yet
    app.join()
    app.stop()
    assert (len(app.ran), app.waiting()) == (30, 0)


def test_a_worker_that_is_stopped_and_started_again(rabbitmq_url: str, make: Callable[..., RabbitApp]) -> None:
    app = make(rabbitmq_url)
    work = app.actor(lambda: app.ran.append(1), actor_name="work")
    for total in (10, 20, 30):
        app.start()
        for _ in range(10):
            work.send()
        wait_until(lambda total=total: len(app.ran) == total, what="all run")  # type: ignore[misc]
        app.join()
        app.stop()
    assert (len(app.ran), app.waiting()) == (30, 0)


# A worker that shuts down.


def test_a_consumer_returns_all_and_fetches_no_more(
    rabbitmq_url: str, lab: Lab, make: Callable[..., RabbitApp]
) -> None:
    """Once its worker shuts down; what was handed out before can be acknowledged."""
    app = make(rabbitmq_url)
    work = app.actor(lambda: None, actor_name="work")
    drains = threading.Event()
    deliveries = Deliveries(lab.incarnation("me"), Lease(60, 2, Bell()), BrokerQueues(), is_draining=drains.is_set)
    deliveries.attach(app.broker)
    draining: Any = app.broker.consume(app.queue, prefetch=4, timeout=50)
    deliveries.detach(app.broker)

    def fetched(consumer: Any) -> Any:
        found = None
        while found is None:
            found = next(consumer)
        return found

    first = work.send()
    running = fetched(draining)
    assert running.message_id == first.message_id
    second = work.send()
    wait_until(lambda: app.waiting() == 0, what="it is fetched")
    drains.set()
    for _ in range(5):
        assert next(draining) is None
    assert app.waiting() == 1
    draining.ack(running)
    other: Any = app.broker.consume(app.queue, timeout=50)
    again = fetched(other)
    assert (again.message_id, again.redelivered) == (second.message_id, True)
    other.ack(again)
    other.close()
    assert next(draining) is None
    draining.close()
    assert app.waiting() == 0


# Threads.


def test_several_threads_forget_acknowledged_messages_at_once(lab: Lab, namespace: str) -> None:
    """The heartbeat's thread and the workers' empty one queue: its length is not what can be taken from it."""
    store = lab.incarnation("me")
    acked, sent = store.messages.shorten_retention, list[int]()

    def noting(batch: Any) -> Any:
        sent.append(len(batch))
        return acked(batch)

    store.messages.shorten_retention = noting  # type: ignore[method-assign,assignment]
    deliveries = Deliveries(store, Lease(60, 2, Bell()), BrokerQueues())
    errors: list[BaseException] = []

    message: Message[Any] = Message(queue_name="q", actor_name="a", args=(), kwargs={}, options={})

    def finish() -> None:
        try:
            for _ in range(4000):
                deliveries.acked(message, 1, 0)
        except BaseException as error:
            errors.append(error)

    all_at_once(finish, threads=8)
    assert errors == []
    assert sum(sent) > 8 * (4000 - BATCH)
