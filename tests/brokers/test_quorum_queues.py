# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Quorum queues count what comes back, and dead-letter it at their limit, whether it has ever run or not."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.common import dq_name, iter_queue, xq_name
from dramatiq.middleware import Middleware

from dramatiq_inflight.brokers import consumers
from dramatiq_inflight.brokers.consumers import message_in
from dramatiq_inflight.doctor import examine
from dramatiq_inflight.operations import Done, Operations
from tests.support.rabbit_app import RabbitApp
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import wait_until

pytestmark = pytest.mark.long

#: RabbitMQ's own limit from 4.0 on; 3.10 has none unless it is told.
LIMIT = 20

Make = Callable[..., RabbitApp]


@pytest.fixture
def make(client: redis.Redis, namespace: str) -> Iterator[Make]:
    made: list[RabbitApp] = []

    def new(url: str, **arguments: Any) -> RabbitApp:
        made.append(RabbitApp(url, client, namespace, arguments={"x-queue-type": "quorum", **arguments}))
        return made[-1]

    yield new
    for app in made:
        app.close()


@pytest.fixture(params=["newer", "older"])
def app(request: pytest.FixtureRequest, make: Make) -> RabbitApp:
    """On RabbitMQ 4.3 with its default limit, and on an older one, which counts every return, with the same."""
    if request.param == "newer":
        return make(request.getfixturevalue("newer_rabbitmq_url"))
    return make(request.getfixturevalue("rabbitmq_url"), **{"x-delivery-limit": LIMIT})


class Held(Middleware):
    """Keeps worker threads from their first message."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def after_worker_thread_boot(self, broker: Any, thread: Any) -> None:
        assert self.go.wait(120)


class Stage:
    """A worker whose threads are held up, while a message waits for them and another for its time."""

    def __init__(self, app: RabbitApp, **options: Any) -> None:
        self.app = app
        self.held = Held()
        app.broker.add_middleware(self.held)
        self.work = app.actor(app.ran.append, actor_name="work", **options)
        app.broker.get_queue_message_counts(app.queue)

    def start(self, *, fetched: tuple[int, int] = (1, 1)) -> dramatiq.Worker:
        """A worker that has fetched what there is."""
        self.held.go.clear()
        worker = self.app.start(threads=1)
        wait_until(lambda: self.fetched(worker) == fetched, what="all is fetched")
        return worker

    def fetched(self, worker: dramatiq.Worker) -> tuple[int, int]:
        """Return how many messages wait in memory, and how many for their time."""
        return worker.work_queue.qsize(), worker.consumers[dq_name(self.app.queue)].delay_queue.qsize()

    def stop(self, *, until: Callable[[], bool] = lambda: True) -> None:
        """Begin to shut down, and let the threads go then."""
        stopping = threading.Thread(target=self.app.stop)
        stopping.start()
        try:
            wait_until(until, what="what waited is returned before that")
        finally:
            self.held.go.set()
            stopping.join(120)


def counts(app: RabbitApp) -> list[int]:
    """Return RabbitMQ's counts of all messages in the queue and its delay queue."""
    channel, found = app.channel(), []
    for queue in (app.queue, dq_name(app.queue)):
        while (delivery := channel.basic_get(queue))[0] is not None:
            found.append(int((delivery[1].headers or {}).get("x-delivery-count", 0)))
    channel.connection.close()
    return found


def has_fetched(thread: dramatiq.worker.ConsumerThread) -> bool:
    """Return whether something waits in memory that came by the connection that there is now."""
    waiting = [*thread.work_queue.queue, *thread.delay_queue.queue]
    return any(getattr(message_in(item), "came_by", None) is thread.consumer for item in waiting)


def lose_connection(thread: dramatiq.worker.ConsumerThread) -> None:
    """Cut it, and wait until the message is fetched by another."""
    old: Any = thread.consumer
    old.connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: thread.consumer is not old and has_fetched(thread), what="the message is fetched anew")


def dead(app: RabbitApp) -> int:
    return int(app.channel().queue_declare(xq_name(app.queue), passive=True).method.message_count)


@pytest.mark.parametrize("tracked", [True, False])
def test_an_orderly_stop_is_not_counted(newer_rabbitmq_url: str, make: Make, tracked: bool) -> None:
    """Fetched messages go back at the beginning of the shutdown, not at its end, and by basic.nack."""
    app = make(newer_rabbitmq_url)
    stage = Stage(app, track_inflight=tracked)
    stage.work.send("prefetched")
    stage.work.send_with_options(args=("delayed",), delay=600_000)
    for _ in range(3):
        stage.start()
        stage.stop(until=lambda: app.waiting() == 2)
    assert counts(app) == [0, 0]
    assert app.ran == []


def test_what_is_fetched_and_not_handed_out_is_not_counted(newer_rabbitmq_url: str, make: Make) -> None:
    """Pika has it in its own memory, or in the socket, when the consumer is cancelled."""
    app = make(newer_rabbitmq_url)
    stage = Stage(app)
    for number in range(40):
        stage.work.send(number)
    worker = stage.start(fetched=(2, 0))  # as many as it fetches ahead
    thread: Any = worker.consumers[app.queue]
    thread.stop()  # it hands nothing out any more
    thread.join(120)
    for item in iter_queue(worker.work_queue):
        thread.consumer.ack(message_in(item))  # others take their places
    thread.consumer.connection.process_data_events(0.1)
    wait_until(lambda: app.waiting() == 36, what="two more are fetched")
    stage.stop()
    assert counts(app) == [0] * 38


def test_25_orderly_stops_dead_letter_nothing(app: RabbitApp) -> None:
    """A message that was only prefetched, and one that was delayed, would be dead-lettered after 21."""
    stage = Stage(app)
    stage.work.send("prefetched")
    stage.work.send_with_options(args=("delayed",), delay=600_000)
    for _ in range(25):
        stage.start()
        stage.stop(until=lambda: app.waiting() == 2)
    assert (app.waiting(), dead(app), app.ran) == (2, 0, [])


def test_25_lost_connections_dead_letter_nothing(app: RabbitApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is counted, on every RabbitMQ: what is tracked is published anew before the limit, and runs once."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    stage = Stage(app)
    stage.work.send("prefetched")
    delayed = stage.work.send_with_options(args=("delayed",), delay=600_000)
    worker = stage.start()
    for _ in range(25):
        for queue in (app.queue, dq_name(app.queue)):
            lose_connection(worker.consumers[queue])
    stage.held.go.set()
    wait_until(lambda: app.ran == ["prefetched"], what="the prefetched one runs")
    wait_until(lambda: worker.work_queue.unfinished_tasks == 0, what="its copies are skipped")
    stage.stop()
    channel = app.channel()
    body = channel.basic_get(dq_name(app.queue))[2]
    assert Message.decode(body).message_id == delayed.message_id
    assert (app.ran, dead(app)) == (["prefetched"], 0)


def test_a_message_that_is_refused_anew_keeps_its_place(
    make: Make, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ takes no more connections, or publishes."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.05)
    monkeypatch.setattr(consumers, "RENEW_WITHIN", 1e-6)
    app = make(rabbitmq_url, **{"x-delivery-limit": LIMIT})
    stage = Stage(app)
    stage.work.send("prefetched")
    worker = stage.start(fetched=(1, 0))
    for _ in range(14):
        lose_connection(worker.consumers[app.queue])
    stage.held.go.set()
    wait_until(lambda: app.ran == ["prefetched"], what="it runs")
    stage.stop()
    assert (app.ran, dead(app)) == (["prefetched"], 0)
    assert "It keeps its place" in caplog.text


def test_a_consumer_that_rabbitmq_cancels_runs_each_message_once(
    own_newer_rabbitmq: RabbitServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds a message for longer than consumer_timeout; Dramatiq restarts it, and has the delayed ones still."""
    caplog.set_level("INFO")
    own_newer_rabbitmq.start()
    app = make(own_newer_rabbitmq.url)
    stage = Stage(app)
    stage.held.go.set()
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(120)

    busy = app.actor(hold, actor_name="busy")
    plain = app.actor(app.ran.append, actor_name="plain", track_inflight=False)
    worker = app.start(threads=2)
    busy.send()
    wait_until(begun.is_set, what="it runs")
    for key in range(8):
        stage.work.send_with_options(args=(key,), delay=12_000)
        plain.send_with_options(args=(100 + key,), delay=12_000)
    wait_until(lambda: len(set(app.ran)) == 16, what="all have run")
    go.set()
    app.join()
    wait_until(lambda: worker.work_queue.unfinished_tasks == 0, what="all is done")
    print(caplog.text.count("Restarting consumer"), caplog.text.count("this copy is put off"))
    assert sorted(app.ran) == sorted([*range(8), *range(100, 108)])
    assert caplog.text.count("Restarting consumer") >= 2
    assert caplog.text.count("this copy is put off") <= 6


def test_no_consumer_is_held_up_while_rabbitmq_takes_nothing(lasting_rabbitmq: RabbitServer, make: Make) -> None:
    """It reads nothing more from a connection that publishes; a worn message runs as it is, and all is acknowledged."""
    app = make(lasting_rabbitmq.url)
    work = app.actor(app.ran.append, actor_name="work")
    work.send("worn")
    for _ in range(10):
        channel = app.channel()
        wait_until(functools.partial(has_fetched_from, channel, app.queue), what="it is there")
        channel.connection.close()
    channel = app.channel()
    tag = channel.basic_get(app.queue)[0].delivery_tag
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go.wait(120)

    app.actor(hold, actor_name="hold").send()
    worker = app.start()
    wait_until(begun.is_set, what="another one runs")
    lasting_rabbitmq.run_out_of_memory()
    channel.basic_nack(tag, requeue=True)
    wait_until(lambda: app.ran == ["worn"], what="it runs as it is")
    go.set()
    wait_until(lambda: worker.work_queue.unfinished_tasks == 0, what="both are done")
    app.stop()
    assert app.waiting() == 0


def has_fetched_from(channel: Any, queue: str) -> bool:
    return bool(channel.basic_get(queue)[0])


@pytest.fixture
def worn_out(app: RabbitApp) -> tuple[RabbitApp, list[str]]:
    """Two messages, one of them delayed, that RabbitMQ has dead-lettered, beside one that a worker has; their ids."""
    work = app.actor(app.ran.append, actor_name="work")
    sent = [work.send("prefetched"), work.send_with_options(args=("delayed",), delay=3_000)]
    for queue in (app.queue, dq_name(app.queue)):
        for _ in range(LIMIT + 1):
            channel = app.channel()
            wait_until(functools.partial(has_fetched_from, channel, queue), what="it is there")
            channel.connection.close()
    failing = app.actor(lambda: 1 / 0, actor_name="failing", max_retries=0)
    failing.send()
    app.start(threads=1)
    wait_until(lambda: dead(app) == 3, what="all are dead letters")
    app.stop()
    return app, [message.message_id for message in sent]


def test_the_doctor_finds_what_rabbitmq_has_dead_lettered(worn_out: tuple[RabbitApp, list[str]]) -> None:
    """No worker has rejected it, and the tracker has no record of it; looking changes nothing."""
    app, ids = worn_out
    for _ in range(2):
        found = [finding for finding in examine(app.broker) if finding.code == "worn-out"]
        assert [(finding.severity, "by itself: 2" in finding.title) for finding in found] == [("warning", True)]
        assert any(id in found[0].title for id in ids)
    wait_until(lambda: dead(app) == 3, what="all are dead letters still")


def test_what_rabbitmq_has_dead_lettered_can_be_requeued(worn_out: tuple[RabbitApp, list[str]]) -> None:
    """By its id, from whichever queue it came; the rest stays where it is."""
    app, ids = worn_out
    operations = Operations(app.broker)
    assert operations.requeue("nobody") is Done.UNKNOWN
    assert [operations.requeue(id) for id in ids] == [Done.DONE, Done.DONE]
    assert operations.requeue(ids[0]) is Done.REQUEUED
    app.start()
    wait_until(lambda: sorted(app.ran) == ["delayed", "prefetched"], what="both run")
    app.join()
    assert (sorted(app.ran), dead(app)) == (["delayed", "prefetched"], 1)
    assert [finding.severity for finding in examine(app.broker) if finding.code == "worn-out"] == ["ok"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 13), ("ok", "ok")), ((4, 2), ("warning", "note")), ((4, 3), ("note", "ok"))],
)
def test_the_doctor_knows_what_a_version_counts(
    rabbitmq_url: str,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    expected: tuple[str, str],
) -> None:
    """From 4.0 to 4.2 each look at a quorum queue's message wears it out: the doctor does not look."""
    monkeypatch.setattr("dramatiq_inflight.brokers.rabbitmq.version_of", lambda channel: version)
    app = make(rabbitmq_url)
    app.actor(app.ran.append, actor_name="work").send("m")
    found = {finding.code: finding.severity for finding in examine(app.broker)}
    unchecked = any("RabbitMQ's dead letters" in one.title for one in examine(app.broker) if one.code == "unchecked")
    assert (found["delivery-limit"], found.get("worn-out", "note")) == expected
    assert unchecked == (expected[1] == "note")
