# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The consequences of a message are enqueued, even if the broker is away then: pipelines and callbacks go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Retries
from pika.exceptions import ChannelClosedByBroker

from dramatiq_inflight import HandBack
from dramatiq_inflight.message import continuations
from dramatiq_inflight.store.replies import Finished
from tests.support.inprocess import App
from tests.support.lab import Lab, ago, copy_of
from tests.support.servers import wait_until


@pytest.fixture
def app(server_url: str, namespace: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(continuations, "PAUSE", 0.01)
    app = App(server_url, namespace, lab)
    yield app
    app.close()


class Fault:
    """Makes the broker refuse a worker's enqueues, as long as it is on."""

    def __init__(self, app: App, error: Exception) -> None:
        self.failed = 0
        self.on = False
        enqueue = app.broker.do_enqueue

        def fail_or_enqueue(*args: Any) -> Any:
            if self.on:
                self.failed += 1
                raise error
            return enqueue(*args)

        app.broker.do_enqueue = fail_or_enqueue  # type: ignore[attr-defined]


def pipeline(app: App, work: Callable[[], None], **options: Any) -> Any:
    """Two stages, of which the first one does this."""
    first = app.actor(work, actor_name="first")
    second = app.actor(lambda *_: app.ran.append("second"), actor_name="second")
    return first.message() | second.message_with_options(**options)


KINDS = ["pipeline", "delayed stage", "group callback", "callback", "callback of a failure"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_is_enqueued_when_the_broker_is_back(
    app: App, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Dramatiq would have logged that it could not be, and acknowledged."""
    fault = Fault(app, redis.ConnectionError("away"))

    def work() -> None:
        app.ran.append("first")
        fault.on = True
        if kind == "callback of a failure":
            raise RuntimeError("as asked for")

    app.start(threads=1)
    if kind in ("pipeline", "delayed stage"):
        pipeline(app, work, **({"delay": 50} if kind == "delayed stage" else {})).run()
    else:
        second = app.actor(lambda *_: app.ran.append("second"), actor_name="second")
        on = {"callback": {"on_success": "second"}, "callback of a failure": {"on_failure": "second"}}.get(kind, {})
        first = app.actor(work, actor_name="first", max_retries=0, **on)
        if kind == "group callback":
            group = dramatiq.group([first.message()], broker=app.broker)
            group.add_completion_callback(second.message())
            group.run()
        else:
            first.send()
    wait_until(lambda: fault.failed >= 3, what="it is tried again")
    states = [head.state for head in app.store.messages.peek(app.store.messages.running_here()) if head]
    assert states == ["running"], "should the worker die now, it is recovered"
    fault.on = False
    wait_until(lambda: app.ran == ["first", "second"], what="the broker is back")
    app.join()
    assert app.ran == ["first", "second"]
    assert app.unsettled() == set()
    assert "Could not enqueue message" in caplog.text


def test_a_retry_is_enqueued_when_the_broker_is_back(app: App) -> None:
    """With its count of retries, and before the failure is acknowledged."""
    fault = Fault(app, redis.ConnectionError("away"))

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            fault.on = True
            raise RuntimeError("as asked for")

    app.start(threads=1)
    app.actor(work, min_backoff=50, max_backoff=60, max_retries=1).send()
    wait_until(lambda: fault.failed >= 3, what="it is tried again")
    assert [head.state for head in app.store.messages.peek(app.store.messages.running_here()) if head] == ["running"]
    fault.on = False
    app.join()
    assert app.ran == ["run", "run"]
    assert not app.dead_letters()
    assert app.unsettled() == set()


def test_a_failure_is_acknowledged_once_redis_knows_of_its_end(app: App) -> None:
    """Its retry cannot be enqueued for good, and Redis is away just then: killed after the ack, it would be lost."""
    fault, away = Fault(app, ValueError("too long")), [0]
    acked: list[int] = []
    states: list[str] = []

    class Looks(dramatiq.Middleware):
        def after_ack(self, broker: Any, message: Any) -> None:
            acked.append(away[0])
            states.extend(head.state for head in app.store.messages.peek([message.message_id]) if head)

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            fault.on = True
            raise RuntimeError("as asked for")

    app.broker.add_middleware(Looks())
    app.start(threads=1)
    store = app.store
    hand_over = store.messages.await_copy

    def fails_twice(*args: Any, **kwargs: Any) -> Any:
        away[0] += 1
        if away[0] <= 2:
            raise redis.ConnectionError("away")
        fault.on = False
        return hand_over(*args, **kwargs)

    store.messages.await_copy = fails_twice  # type: ignore[method-assign]
    app.actor(work, min_backoff=50, max_backoff=60).send()
    wait_until(lambda: len(app.ran) == 2, what="recovery has enqueued it")
    app.join()
    assert acked[0] == 3
    assert states[0] in ("requeued", "recovering", "running")


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ValueError("too long"), 1),
        (RuntimeError("why not"), continuations.TRIES),
        (redis.ResponseError("WRONGTYPE no hash"), continuations.TRIES),
        (ConnectionClosed(ChannelClosedByBroker(406, "too large")), continuations.TRIES),
    ],
    ids=["wrong", "unknown", "refused", "refused by RabbitMQ"],
)
def test_what_can_never_be_enqueued_is_given_up(
    app: App, caplog: pytest.LogCaptureFixture, error: Exception, tries: int
) -> None:
    """A worker's thread is not blocked for ever."""
    fault = Fault(app, error)

    def work() -> None:
        fault.on = True

    app.start(threads=1)
    pipeline(app, work).run()
    app.join()
    assert fault.failed == 1 + tries
    assert f"({type(error).__name__}: {error}); giving up" in caplog.text


def test_a_failure_that_nobody_wants_to_retry_is_over(app: App) -> None:
    """A middleware in the place of Retries may choose so: it is not recovered."""

    class Choosy(Retries):
        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            return

    app.broker.middleware[:] = [Choosy() if type(m) is Retries else m for m in app.broker.middleware]

    def work() -> None:
        app.ran.append("run")
        raise RuntimeError("as asked for")

    app.start(threads=1)
    app.actor(work).send()
    app.join()
    assert app.ran == ["run"]
    assert app.unsettled() == set()


def test_the_record_has_the_message_as_it_came(app: App) -> None:
    """The actor has changed its arguments by the time that the record is lost, and written again."""
    begun, go = threading.Event(), threading.Event()

    def work(items: list[int]) -> None:
        items.clear()
        begun.set()
        go.wait(120)

    actor = app.actor(work)
    app.start(threads=1)
    message = actor.send([1, 2, 3])
    assert begun.wait(120)
    key = app.lab.prefix + f"record:{message.message_id}"
    app.client.delete(key, app.lab.prefix + f"running:{app.store.me}")
    wait_until(lambda: app.client.exists(key), what="it is written again")
    payload = app.client.get(key).partition(b"\n")[2]
    go.set()
    app.join()
    assert list(dramatiq.Message.decode(payload).args) == [[1, 2, 3]]


def test_what_a_middleware_refuses_is_not_tried_again(app: App) -> None:
    refused: list[str] = []

    class Refuses(dramatiq.Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "second":
                refused.append(message.message_id)
                raise dramatiq.middleware.SkipMessage("not wanted")

    app.broker.add_middleware(Refuses())  # after the tracker, which has seen it by then
    app.start(threads=1)
    pipeline(app, lambda: app.ran.append("first")).run()
    app.join()
    assert app.ran == ["first"]
    assert len(refused) == 2


def test_nothing_follows_once_another_worker_has_the_message(app: App) -> None:
    """The broker was away for so long that the message was recovered: its new owner goes on with the pipeline."""
    fault = Fault(app, redis.ConnectionError("away"))

    def work() -> None:
        app.ran.append("first")
        fault.on = True

    app.start(threads=1)
    pipe = pipeline(app, work)
    pipe.run()
    wait_until(lambda: fault.failed >= 2, what="it is tried again")
    runtime = app.runtime
    runtime.heartbeat.stop()
    runtime.recovery_thread.stop()
    (entry,) = runtime.table.entries()
    copy = copy_of(entry.copy.message_id, origin=entry.copy.origin)
    other = app.other()
    app.lab.kill(runtime.store)
    other.recovery.return_to_broker(runtime.store.me, [(copy.message_id, True)])
    app.lab.runs(other, copy)
    runtime.lease.last_contact = ago(11)  # half a TTL of silence
    wait_until(lambda: not runtime.table.entries(), what="it has given up")
    fault.on = False
    app.join()
    assert app.ran == ["first"]
    head = app.lab.head(copy)
    assert head is not None
    assert (head.state, head.owner) == ("running", "other")


def test_a_lost_retry_is_recovered_though_its_run_sent_another(app: App) -> None:
    """The other enqueue, which is with the broker, is not its retry."""
    enqueue, refused = app.broker.do_enqueue, list[Any]()

    def refuse_retries(queue: str, copy_id: str, data: bytes) -> Any:
        if b'"retries"' in data and len(refused) < 2:
            refused.append(data)
            raise ValueError("as asked for")
        return enqueue(queue, copy_id, data)

    app.broker.do_enqueue = refuse_retries  # type: ignore[attr-defined]

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            app.broker.enqueue(message.copy(options={"redis_message_id": None}))
            raise RuntimeError("as asked for")

    actor = app.actor(work)
    message = actor.message()
    app.start()
    app.broker.enqueue(message)
    wait_until(lambda: len(app.ran) == 3, what="both run")
    assert len(refused) == 2
    app.join()


def test_a_copy_that_cannot_be_handed_back_keeps_what_follows(app: App) -> None:
    """Redis is away as well, just then.  This encoder takes all that there is."""
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        fault = Fault(app, ValueError("as asked for"))

        def work() -> None:
            app.ran.append("first")
            if len(app.ran) == 1:
                fault.on = True
                raise HandBack("as asked for")

        pipe = pipeline(app, work)
        app.start()
        hand_over = app.store.messages.await_copy

        def away(*args: Any, **kwargs: Any) -> Finished:
            app.store.messages.await_copy = hand_over  # type: ignore[method-assign]
            raise redis.ConnectionError("as asked for")

        app.store.messages.await_copy = away  # type: ignore[method-assign]
        pipe.run()
        wait_until(lambda: fault.failed, what="it cannot be enqueued")
        fault.on = False
        wait_until(lambda: app.ran == ["first", "first", "second"], what="it runs again, and the next stage")
        app.join()
    finally:
        dramatiq.set_encoder(dramatiq.JSONEncoder())
