# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The middleware among Dramatiq's own: a real broker, a real worker in this process, a real server."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import (
    Middleware,
    SkipMessage,
    TimeLimitExceeded,
)
from dramatiq.results import ResultFailure

import dramatiq_inflight
from dramatiq_inflight import Current, InFlightTracker, PoisonMessage
from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.delivery import Copy, Delivery, own_enqueue
from dramatiq_inflight.liveness.lease import Lease
from dramatiq_inflight.message.in_flight import Entry, Retry, Table
from dramatiq_inflight.message.state import Phase
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.replies import Start, Started
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.hooked import beside
from tests.support.inprocess import App, put_off_briefly
from tests.support.lab import Lab, ago, copy_of
from tests.support.servers import RedisServer, wait_until
from tests.support.wire import cut_off


def test_a_completed_message_leaves_no_key(app: App) -> None:
    """The ordinary life: recorded while it runs, gone when it is done."""
    seen = threading.Event()
    go = threading.Event()

    def work() -> None:
        seen.set()
        go.wait(120)

    message = app.actor(work).send()
    app.start()
    assert seen.wait(120)
    assert app.records() == {f"record:{message.message_id}"}
    go.set()
    app.join()
    assert app.records() == set()
    app.stop()
    assert app.lab.names() == set()


@pytest.mark.parametrize(
    ("actor_says", "message_says", "default", "tracked"),
    [
        (None, None, False, False),
        (None, None, True, True),
        (True, None, False, True),
        (False, None, True, False),
        (True, False, False, False),
        (False, True, False, True),
        (None, True, False, True),
    ],
)
def test_tracking_is_opted_in_by_actor_or_message(
    actor_says: bool | None, message_says: bool | None, default: bool, tracked: bool, app: App
) -> None:
    """Message over actor over default."""
    app.tracker.policies.settings = dataclasses.replace(app.tracker.settings, track_by_default=default)
    currents: list[Current | None] = []
    options: dict[str, Any] = {} if actor_says is None else {"track_inflight": actor_says}
    actor = dramatiq.actor(broker=app.broker, actor_name="work", **options)(
        lambda: currents.append(dramatiq_inflight.current())
    )
    options_of_message: dict[str, Any] = {} if message_says is None else {"track_inflight": message_says}
    actor.broker.enqueue(actor.message_with_options(**options_of_message))
    app.start()
    app.join()
    assert [current is not None for current in currents] == [tracked]
    assert dramatiq_inflight.current() is None


def test_the_handle_tells_an_actor_of_its_run(app: App) -> None:
    """In a thread and in an async actor; and of nothing once the message is done."""
    seen: list[Current | None] = []

    async def work() -> None:
        await asyncio.sleep(0)
        seen.append(dramatiq_inflight.current())

    message = app.actor(work).send()
    app.start()
    app.join()
    (current,) = seen
    assert current is not None
    assert current.run == 1
    assert (current.message_id, current.generation, current.crashes) == (message.message_id, 1, 0)
    assert current.recovered is False
    assert current.started is not None
    assert current.started == current.first_started
    assert abs(current.started.timestamp() - time.time()) < 60


def test_a_duplicate_is_put_off_and_then_skipped(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The broker keeps it until the owner has finished; it does not run, and the result stays."""
    caplog.set_level("INFO")
    go = threading.Event()

    def work() -> str:
        app.ran.append(1)
        go.wait(120)
        return "the result"

    put_off_briefly(app.tracker)
    actor = app.actor(work, store_results=True)
    app.start()
    message = actor.send()
    wait_until(lambda: app.ran)
    app.redeliver(message)
    wait_until(lambda: caplog.text.count("is put off for") >= 2, what="put off, and again")
    delays = [float(line.rsplit("put off for ", 1)[1].split()[0]) for line in caplog.messages if "put off" in line]
    assert delays[1] > delays[0]
    go.set()
    assert message.get_result(backend=app.backend, block=True) == "the result"
    app.join()
    assert app.ran == [1]
    assert "it has completed" in caplog.text
    assert message.get_result(backend=app.backend) == "the result"


def test_a_duplicate_is_deferred_for_15_minutes_at_most(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Amazon SQS delays for no longer, and refuses what it is asked for beyond."""
    caplog.set_level("INFO")
    go = threading.Event()
    delays: list[int] = []
    enqueue = app.broker.enqueue

    def work() -> None:
        app.ran.append(1)
        go.wait(120)

    def delaying(message: Any, *, delay: int | None = None) -> Any:
        delays.append(delay or 0)
        return enqueue(message, delay=delay)

    app.broker.enqueue = delaying  # type: ignore[method-assign]
    actor = app.actor(work)
    app.start()
    message = actor.message().copy(options={"redis_message_id": "r1", "inflight": {"generation": 1, "deferrals": 12}})
    app.deliver(message)
    wait_until(lambda: app.ran, what="it runs")
    app.redeliver(message)
    wait_until(lambda: delays, what="its duplicate is put off")
    go.set()
    assert delays == [900_000]


def test_a_message_sent_again_under_its_id_runs_after_the_first(app: App) -> None:
    """Not the same enqueue: it waits its turn, and runs."""
    running = threading.Semaphore(1)

    def work() -> None:
        assert running.acquire(blocking=False), "two at once"
        app.ran.append(1)
        time.sleep(0.3)
        running.release()

    put_off_briefly(app.tracker)
    actor = app.actor(work, max_retries=0)
    app.start()
    message = actor.send()
    wait_until(lambda: app.ran)
    app.broker.enqueue(message)
    app.join()
    assert app.ran == [1, 1]
    app.broker.enqueue(message)
    app.join()
    assert app.ran == [1, 1, 1]
    assert app.dead_letters() == []


def test_a_poll_loop_that_enqueues_its_own_message_goes_on(app: App) -> None:
    """Each round is released, not completed; nothing is left in the end."""

    def poll() -> None:
        app.ran.append(dramatiq_inflight.current())
        if len(app.ran) < 5:
            app.broker.enqueue(message)

    actor = app.actor(poll)
    message = actor.message()
    app.start()
    app.broker.enqueue(message)
    wait_until(lambda: len(app.ran) == 5)
    app.join()
    assert app.unsettled() == set()  # where a copy came before the former run's end, it is remembered for a while


def test_pipelines_and_groups_go_on_once(app: App) -> None:
    """The ordinary case, with all stages tracked."""
    done = threading.Event()

    def add(x: int, y: int) -> int:
        app.ran.append(("add", x, y))
        return x + y

    def finished() -> None:
        app.ran.append("callback")
        done.set()

    actor, callback = app.actor(add), app.actor(finished)
    app.start()
    pipe = actor.message(1, 2) | actor.message(10) | actor.message(100)
    group = dramatiq.group([pipe, actor.message(5, 5)], broker=app.broker)
    group.add_completion_callback(callback.message())
    group.run()
    assert done.wait(120)
    app.join()
    assert sorted(map(str, app.ran)) == sorted(
        map(str, [("add", 1, 2), ("add", 10, 3), ("add", 100, 13), ("add", 5, 5), "callback"])
    )
    assert app.records() == set()


def test_a_success_is_settled_after_its_next_stage_is_enqueued(app: App) -> None:
    """I6: finished any earlier, a kill before Pipelines has enqueued it loses the next stage."""
    states: list[tuple[str, str | None]] = []

    class Witness(Middleware):
        def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.actor_name == "second":
                states.append(("enqueued", app.lab.state(copy_of(first.message_id))))

        def after_ack(self, broker: Any, message: Any) -> None:
            if message.actor_name == "one":
                states.append(("acked", app.lab.state(copy_of(first.message_id))))

    app.broker.add_middleware(Witness())
    one = app.actor(lambda: app.ran.append(1), actor_name="one")
    second = app.actor(lambda _: app.ran.append(2), actor_name="second")
    pipe = one.message() | second.message()
    first = pipe.messages[0]
    app.start()
    pipe.run()
    app.join()
    assert states == [("enqueued", "running"), ("acked", None)]


def test_a_failure_is_released_after_the_broker_has_its_retry(app: App) -> None:
    """I6: in after_ack, not before."""
    states: list[str | None] = []

    class Witness(Middleware):
        def before_ack(self, broker: Any, message: Any) -> None:
            states.append(app.lab.state(copy_of(message.message_id)))

    def fail() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")

    app.broker.add_middleware(Witness())
    actor = app.actor(fail, min_backoff=200, max_backoff=300)
    app.start()
    actor.send()
    wait_until(lambda: len(app.ran) == 2)
    app.join()
    assert states[0] == "running"
    assert app.records() == set()


def test_a_final_failure_is_in_the_dead_letter_queue_alone(app: App) -> None:
    """Retries exhausted, or an expected error."""
    app.actor(lambda: 1 / 0, actor_name="exhausted", max_retries=0).send()
    app.actor(lambda: 1 / 0, actor_name="expected", throws=ZeroDivisionError).send()
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 2)
    app.join()
    assert app.records() == set()


def test_a_dead_letter_of_ordinary_failure_can_be_replayed(app: App) -> None:
    """With the same id, of course."""

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")

    app.actor(work, max_retries=0).send()
    app.start()
    wait_until(app.dead_letters)
    app.broker.enqueue(app.dead_letters()[0])
    wait_until(lambda: len(app.ran) == 2)
    app.join()


def test_a_retry_that_was_not_enqueued_is_recovered_with_count(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """I6: Retries' enqueue fails, Dramatiq swallows that and acknowledges: the record is all there is."""
    retries: list[int] = []

    class Saboteur(Middleware):
        def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
            if message.options.get("retries") == 1 and "generation" not in message.options["inflight"]:
                raise SkipMessage("the broker is away")

        def before_ack(self, broker: Any, message: Any) -> None:
            # Already: killed between the ack and what comes after it, it would be lost.
            states.extend(head.state for head in app.store.messages.peek([message.message_id]) if head)

    def work() -> None:
        entry = app.runtime.table.entries()[0]
        retries.append(Message.decode(entry.delivery.encoded()).options.get("retries", 0))
        if len(retries) == 1:
            raise RuntimeError("as asked for")

    states: list[str] = []
    app.broker.add_middleware(Saboteur())
    actor = app.actor(work, min_backoff=200, max_backoff=300)
    app.start(threads=1)
    actor.send()
    wait_until(lambda: len(retries) == 2, what="recovery has enqueued it")
    app.join()
    assert retries == [0, 1]
    assert "its next copy could not be enqueued. Recovery enqueues it" in caplog.text
    assert states[0] in ("requeued", "recovering")


def test_an_ack_that_a_full_redis_refuses_is_tried_again(own_server: RedisServer, namespace: str) -> None:
    """Dramatiq gives it up after any error but a lost connection; and what it settles is remembered."""
    client: Any = own_server.client()
    app = App(own_server.url, namespace, Lab(client, namespace))
    refused = threading.Event()

    def work() -> None:
        app.ran.append(1)
        client.config_set("maxmemory", 1)

    class Watcher(Middleware):
        def before_ack(self, broker: Any, message: Any) -> None:
            refused.set()

    app.broker.add_middleware(Watcher())
    message = app.actor(work).send()
    app.start(threads=1)
    assert refused.wait(120)
    wait_until(lambda: app.runtime.connectivity.away, what="Redis refuses")
    client.config_set("maxmemory", 0)
    app.join()
    assert app.ran == [1]
    head = app.store.messages.peek([message.message_id])[0]
    assert head is None or head.state == "completed"
    assert app.unsettled() == set()
    app.close()


@pytest.mark.parametrize("tracked", [True, False])
def test_a_first_delivery_does_not_acknowledge_the_second(app: App, tracked: bool) -> None:
    """RedisBroker's ack goes by the id, which both deliveries have: the message would be gone before it ran."""
    rid, acks = "r1", f"{app.broker.namespace}:__acks__.{app.broker.broker_id}.default"
    kept: list[bool] = []
    gate = threading.Event()

    def before_ack(broker: Any, message: Any) -> None:
        if message.options["redis_message_id"] == rid and not kept:
            app.client.sadd(acks, rid)  # fetched again, by this very worker

    def after_ack(broker: Any, message: Any) -> None:
        if message.options["redis_message_id"] == rid and not kept:
            kept.append(app.client.hexists(f"{app.broker.namespace}:default.msgs", rid))
            app.redeliver(message)

    blocked = threading.Event()

    def block() -> None:
        blocked.set()
        gate.wait(120)

    beside(app.tracker, "before_ack", before_ack)
    beside(app.tracker, "after_ack", after_ack)
    blocks = app.actor(block, track_inflight=False)
    actor = app.actor(lambda: app.ran.append(1), actor_name="work", track_inflight=tracked)
    app.start(threads=1)
    blocks.send()
    assert blocked.wait(120)
    app.deliver(actor.message().copy(options={"redis_message_id": rid}))
    worker, runtime = app.worker, app.runtime
    assert worker is not None
    wait_until(lambda: worker.work_queue.qsize() == 1, what="it waits in memory")
    app.client.srem(acks, rid)  # taken by somebody
    runtime.lease.revived = True  # as is a worker that others have taken something from
    gate.set()
    app.join()
    assert kept == [True]
    assert app.ran == [1]


def test_without_retries_an_acknowledged_failure_is_over(server_url: str, namespace: str, lab: Lab) -> None:
    """As Dramatiq has it: nothing is recovered then."""
    app = App(server_url, namespace, lab)
    app.broker = RedisBroker(url=server_url, namespace=f"{namespace}-b", middleware=[app.tracker])

    def work() -> None:
        app.ran.append(1)
        raise RuntimeError("as asked for")

    app.actor(work).send()
    app.start()
    wait_until(lambda: app.ran)
    app.join()
    app.stop()
    assert app.ran == [1]
    assert lab.names() == set()


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_message_that_another_middleware_skips_is_settled(at: str, app: App) -> None:
    """After our start, and before it."""

    class Skipper(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            app.ran.append(message.actor_name)
            if message.actor_name == "fails":
                message.fail()
            raise SkipMessage("not today")

    app.broker.middleware.insert(0 if at == "before" else len(app.broker.middleware), Skipper())
    for name in ("skipped", "fails"):
        app.actor(lambda: None, actor_name=name).send()
    app.start()
    wait_until(lambda: len(app.ran) == 2)
    app.join()
    assert app.unsettled() == set()


def test_a_time_limit_is_an_ordinary_failure(app: App) -> None:
    """The interrupt ends the run; the retry runs."""

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            while True:
                time.sleep(0.01)

    actor = app.actor(work, time_limit=100, min_backoff=200, max_backoff=300)
    app.start()
    actor.send()
    wait_until(lambda: len(app.ran) >= 2)
    app.join()
    assert app.records() == set()


def test_an_interrupt_in_a_later_hook_makes_a_success_a_failure(app: App) -> None:
    """Hole 1: Dramatiq then calls after_process_message a second time, and the last outcome counts."""

    class Interrupter(Middleware):
        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            if exception is None and len(app.ran) == 1:
                raise TimeLimitExceeded

    # Before the tracker in the list, so after it in the reversed order.
    app.broker.add_middleware(Interrupter(), before=InFlightTracker)
    actor = app.actor(lambda: app.ran.append(1), min_backoff=200, max_backoff=300)
    app.start()
    actor.send()
    wait_until(lambda: len(app.ran) == 2, what="the retry runs")
    app.join()
    assert app.records() == set()


def test_a_message_that_starts_before_the_heartbeat_is_tracked(app: App) -> None:
    """Consumers start before after_worker_boot."""
    go = threading.Event()
    seen: list[set[str]] = []

    def work() -> None:
        app.ran.append(1)
        go.wait(120)

    message = app.actor(work).send()

    class SlowBoot(Middleware):
        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            wait_until(lambda: app.ran)
            assert not app.runtime.heartbeat.is_alive()
            seen.append(app.records())

    app.broker.add_middleware(SlowBoot())  # last, so its after-hook is first
    app.start()
    go.set()
    app.join()
    assert seen == [{f"record:{message.message_id}"}]


def test_hooks_of_a_delayed_copy_leave_the_running_message_alone(app: App) -> None:
    """Hole 5: the delay queue's thread enqueues and acknowledges a copy with the id of a message that runs here."""
    go = threading.Event()

    def work() -> None:
        app.ran.append(1)
        go.wait(120)

    actor = app.actor(work)
    app.start()
    message = actor.send()
    wait_until(lambda: app.ran)
    mark = {"inflight": {"origin": message.options["redis_message_id"]}}
    with own_enqueue():
        app.broker.enqueue(message.copy(options=mark), delay=50)
    copy = copy_of(message.message_id)

    def contended() -> bool:
        head = app.lab.head(copy)
        return head is not None and head.contended == 1

    wait_until(contended, what="the copy was moved, and met the running message")
    head = app.lab.head(copy)
    assert head is not None
    assert (head.state, head.run) == ("running", 1)
    entry = app.runtime.table.entries()[0]
    assert (entry.state.phase, entry.follow_up.enqueued_again) == (Phase.RUNNING, False)
    go.set()


def test_poison_fails_with_its_reason(app: App) -> None:
    """Results keeps the reason, and neither pipelines nor callbacks take it for a success."""
    first = app.actor(lambda: app.ran.append("first"), actor_name="first", store_results=True, max_recoveries=0)
    app.actor(lambda _: app.ran.append("next"), actor_name="next_")
    pipe = first.message() | app.broker.get_actor("next_").message()
    pipe.run()
    dead = app.other("dead")
    message = pipe.messages[0]
    (rid,) = app.client.lrange(f"{app.broker.namespace}:default", 0, -1)
    data = app.client.hget(f"{app.broker.namespace}:default.msgs", rid)
    copy = copy_of(message.message_id, origin=rid.decode())
    app.lab.start(dead, copy, payload=data, limit=0)
    app.lab.kill(dead)
    app.start()
    with pytest.raises(ResultFailure, match="is poison: it"):
        message.get_result(backend=app.backend, block=True)
    wait_until(app.dead_letters)
    app.join()
    assert app.ran == []
    (letter,) = app.dead_letters()
    assert "its worker died while running it: once, on dead" in letter.options["inflight"]["reason"]
    assert app.lab.state(copy) == "dead_lettered"
    app.broker.enqueue(letter)
    wait_until(lambda: app.ran == ["first", "next"], what="the replay runs, with its pipeline")


def test_a_poison_message_is_a_failure_and_a_skip() -> None:
    """An exception that is a SkipMessage: so Dramatiq stuffs it into the message, and Results stores it."""
    assert issubclass(PoisonMessage, SkipMessage)


def test_a_copy_that_is_too_old_settles_its_record(app: App) -> None:
    """Hole 13: AgeLimit rejects it before it ever comes to us."""
    dead = app.other("dead")
    dead.workers.register({"broker_namespace": app.broker.namespace, "broker_id": "dead", "queues": '["default"]'})
    actor = app.actor(lambda: app.ran.append(1), max_age=1)
    message = actor.send()
    (rid,) = app.client.lrange(f"{app.broker.namespace}:default", 0, -1)
    app.client.delete(f"{app.broker.namespace}:default")
    app.client.sadd(f"{app.broker.namespace}:__acks__.dead.default", rid)
    copy = copy_of(message.message_id, origin=rid.decode())
    app.lab.runs(dead, copy)
    app.lab.kill(dead)
    app.start()
    wait_until(app.dead_letters, what="it is handed back, and rejected as too old")
    wait_until(lambda: app.lab.state(copy) == "dead_lettered", what="its record is settled")
    assert app.lab.deadline(copy) is None
    assert app.ran == []


def test_a_zombies_pipeline_does_not_go_on(app: App) -> None:
    """Hole 11: silent for too long, it looks up whether it still owns the message before anything follows from it."""
    go = threading.Event()

    def first() -> None:
        app.ran.append("first")
        go.wait(120)

    one = app.actor(first, store_results=True)
    app.actor(lambda _: app.ran.append("next"), actor_name="next_")
    pipe = one.message() | app.broker.get_actor("next_").message()
    app.start()
    pipe.run()
    wait_until(lambda: app.ran)
    runtime = app.runtime
    runtime.heartbeat.stop()
    runtime.recovery_thread.stop()
    # Meanwhile: taken for dead, handed back, started by another worker.
    message = pipe.messages[0]
    copy = copy_of(message.message_id, origin=runtime.table.entries()[0].copy.origin)
    other = app.other()
    app.lab.kill(runtime.store)
    other.recovery.return_to_broker(runtime.store.me, [(copy.message_id, True)])
    app.lab.runs(other, copy)
    runtime.lease.last_contact = ago(11)  # half a TTL of silence
    go.set()
    app.join()
    assert app.ran == ["first"]
    head = app.lab.head(copy)
    assert head is not None
    # Not complete: should the other worker die, somebody has to enqueue the next stage.
    assert (head.state, head.owner) == ("running", "other")


def test_a_start_that_was_answered_long_ago_is_asked_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process was frozen behind it: another worker has completed the message meanwhile."""
    app.actor(lambda: app.ran.append("here"), actor_name="work")
    app.start()
    message = app.broker.get_actor("work").message().copy(options={"redis_message_id": "rid"})
    runtime, start, answers = app.runtime, app.store.messages.start, list[Started]()

    def frozen(copy: Copy, payload: bytes, **named: Any) -> Started:
        answers.append(start(copy, payload, **named))
        if len(answers) == 1:
            other = app.other()
            app.lab.kill(runtime.store)
            other.recovery.return_to_broker(runtime.store.me, [(copy.message_id, True)])
            run = app.lab.runs(other, copy).run
            other.messages.complete(copy, run, again=False, contended=True)
        return answers[-1]

    monkeypatch.setattr(Lease, "is_outdated", lambda lease, begun: len(answers) == 1)
    monkeypatch.setattr(app.store.messages, "start", frozen)
    app.deliver(message)
    wait_until(lambda: len(answers) == 2, what="it asks again")
    app.join()
    assert [answer.answer for answer in answers] == [Start.RUN, Start.COMPLETED]
    assert app.ran == []


def test_a_zombies_retry_is_fenced(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """It fails, and its retry would double the message: there is none."""
    caplog.set_level("INFO")
    go = threading.Event()

    def work() -> None:
        app.ran.append(1)
        go.wait(120)
        raise RuntimeError("as asked for")

    actor = app.actor(work, min_backoff=200, max_backoff=300)
    app.start()
    message = actor.send()
    wait_until(lambda: app.ran)
    runtime = app.runtime
    runtime.heartbeat.stop()
    runtime.recovery_thread.stop()
    copy = copy_of(message.message_id, origin=message.options["redis_message_id"])
    other = app.other()
    app.lab.kill(runtime.store)
    other.recovery.return_to_broker(runtime.store.me, [(copy.message_id, True)])
    app.lab.runs(other, copy)
    runtime.lease.last_contact = ago(11)  # half a TTL of silence
    go.set()
    wait_until(
        lambda: "was taken from this worker, because the worker was silent" in caplog.text, what="it sees its loss"
    )
    app.join()
    assert app.ran == [1]
    assert "Retrying message" not in caplog.text
    assert app.dead_letters() == []
    head = app.lab.head(copy)
    assert head is not None
    assert (head.state, head.owner) == ("running", "other")


def test_a_finish_that_fails_is_tried_again_with_its_outcome(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Hole 7: and a copy met meanwhile is skipped, not run."""
    actor = app.actor(lambda: app.ran.append(1))
    app.start()
    runtime = app.runtime
    finish = runtime.store.messages.complete
    failures: list[Phase] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        if len(failures) < 2:
            failures.append(runtime.table.entries()[0].state.phase)
            raise redis.TimeoutError("as asked for")
        return finish(*args, **kwargs)

    runtime.store.messages.complete = failing  # type: ignore[method-assign]
    runtime.queues.completes_with_ack = False  # as where the tracker has a Redis of its own
    runtime.queues.detach()
    message = actor.send()
    wait_until(lambda: len(failures) == 2)
    app.join()
    assert failures == [Phase.ACKING, Phase.UNTOLD]
    assert app.ran == [1]
    # It is remembered: its broker may have given it to others meanwhile.
    head = app.store.messages.peek([message.message_id])[0]
    assert head is not None
    assert head.state == "completed"
    assert app.unsettled() == set()


def test_a_full_redis_is_logged_once_though_it_answers_reads(
    own_server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is tracked until it takes writes again, so it is not back before that."""
    caplog.set_level("INFO")
    client: Any = own_server.client()
    app = App(own_server.url, namespace, Lab(client, namespace))
    app.start()
    runtime = app.runtime
    client.config_set("maxmemory", 1)
    wait_until(lambda: runtime.connectivity.away, what="Redis refuses")
    failures, sweeps = runtime.connectivity.failures, runtime.recovery_thread.sweeps
    runtime.recovery_thread.wake()
    wait_until(lambda: runtime.recovery_thread.sweeps > sweeps + 1, what="it was asked what is due, and answered")
    wait_until(lambda: runtime.connectivity.failures > failures, what="the next heartbeat was refused")
    assert caplog.text.count("Redis cannot be used") == 1
    assert "Redis is back" not in caplog.text
    client.config_set("maxmemory", 0)
    wait_until(lambda: not runtime.connectivity.away, what="Redis is back")
    app.close()
    assert caplog.text.count("Redis cannot be used") == caplog.text.count("Redis is back") == 1


def test_an_outage_leaves_work_untracked_until_redis_is_back(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Promise 6: said once each way; the record is written when Redis is back."""
    caplog.set_level("INFO")
    go = threading.Event()
    runs: list[Current | None] = []

    def work() -> None:
        runs.append(dramatiq_inflight.current())
        go.wait(120)

    actor = app.actor(work)
    app.start()
    runtime = app.runtime
    away = cut_off(runtime)
    runtime.lease.lost()  # which says, too, that Redis may be another one
    messages = [actor.send() for _ in range(3)]
    wait_until(lambda: len(runs) == 3, what="they run all the same")
    assert app.records() == set()
    assert all(current is not None and (current.run, current.fence) == (0, 0) for current in runs)
    away.clear()
    wait_until(lambda: app.records() == {f"record:{m.message_id}" for m in messages}, what="tracked again")
    go.set()
    app.join()
    assert app.unsettled() == set()  # remembered: their starts may arrive yet
    assert caplog.text.count("Redis cannot be used") == caplog.text.count("Redis is back") == 1


@pytest.mark.parametrize("mark", [{"generation": 2, "origin": "e1", "crashes": 1}, {"generation": 1, "origin": "e1"}])
def test_a_recovered_copy_waits_while_redis_is_away(
    app: App, mark: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be one of two: it runs when Redis can be asked."""
    away = threading.Event()
    away.set()
    put_off_briefly(app.tracker)
    actor = app.actor(lambda: app.ran.append(away.is_set()))
    app.start()
    start, asked = app.store.messages.start, list[Any]()

    def starts(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        if away.is_set():
            start(*args, **kwargs)  # its answer is lost
            raise redis.ConnectionError("as asked for")
        return start(*args, **kwargs)

    monkeypatch.setattr(app.store.messages, "start", starts)
    with own_enqueue():
        app.broker.enqueue(actor.message().copy(options={"inflight": mark}))
    wait_until(lambda: len(asked) > 1, what="it was put off, and asks again")
    assert app.ran == []
    away.clear()
    app.join()
    assert app.ran == [False]
    wait_until(lambda: not app.unsettled(), what="its record is settled")


def test_a_copy_that_never_ran_leaves_the_waiting_copys_record(app: App) -> None:
    """Redis was away at its start, so it was put off: to write its record anew would end the copy that waits."""
    app.start()
    runtime = app.runtime
    copy, dead, other = copy_of(), app.other("dead"), app.other()
    app.lab.runs(dead, copy)
    app.lab.kill(dead)
    orphan = app.lab.claim(other, copy, dead)
    assert other.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead=dead.me)
    entry = Entry(Delivery(app.lab.recovered(copy, orphan), app.broker, payload=b"m"))
    entry.withdraw()
    runtime.ledger.let_go(entry)
    assert app.lab.state(copy) == "requeued"
    assert app.lab.start(other, entry.copy).answer is Start.RUN


def test_a_lone_record_that_nobody_runs_is_let_go(app: App) -> None:
    """Hole 7: a record of ours that the process does not know, two heartbeats in a row."""
    app.start()
    copy = copy_of()
    app.lab.runs(app.store, copy)
    wait_until(lambda: app.lab.state(copy) == "let_go", what="it is let go")
    assert app.store.messages.running_here() == set()


def test_a_process_that_only_sends_starts_nothing(app: App) -> None:
    """A web process has the tracker in its broker's middleware, and never a worker."""
    actor = dramatiq.actor(broker=app.broker, actor_name="sent", track_inflight=True)(print)
    before = set(threading.enumerate())
    actor.send()
    assert set(threading.enumerate()) <= before, "one that another test left may have ended"
    assert app.lab.names() == set()
    assert not app.tracker.healthy()


@pytest.mark.parametrize("knows", ["nothing", "that it is unknown"])
def test_nothing_is_fetched_until_it_is_registered(app: App, monkeypatch: pytest.MonkeyPatch, knows: str) -> None:
    """It was frozen, recovered and forgotten: should it die again, nobody would know what it has fetched since."""
    actor = app.actor(lambda: app.ran.append(1))
    app.start()
    runtime = app.runtime
    for service in (runtime.heartbeat, runtime.presence, runtime.recovery_thread):
        service.stop()
    app.lab.kill(runtime.store)
    other = app.other()
    assert other.recovery.return_to_broker(runtime.store.me, []) == []
    assert other.workers.forget(runtime.store.me, "")
    if knows == "nothing":
        runtime.lease.last_contact = ago(20)
    else:
        assert not runtime.store.workers.heartbeat()
    refused: list[Lease] = []
    asked: Any = vars(Lease)["may_be_forgotten"]

    def noting(lease: Lease) -> bool:
        is_refused = bool(asked.fget(lease))
        if is_refused:
            refused.append(lease)
        return is_refused

    monkeypatch.setattr(Lease, "may_be_forgotten", property(noting))
    wait_until(lambda: refused, what="its consumer asks whether it may fetch")
    actor.send()
    refused.clear()
    wait_until(lambda: len(refused) >= 8, what="its consumers have asked again")
    assert app.client.llen(f"{app.broker.namespace}:default") == 1
    runtime.heartbeat.run_once()
    wait_until(lambda: app.ran, what="it is registered, and runs the message")


def test_a_worker_that_may_fetch_nothing_asks_for_a_beat(app: App) -> None:
    """The heartbeat's thread pauses by a clock that stands still in a suspension, and a whole interval may be left."""
    actor = app.actor(lambda: app.ran.append(1))
    app.start()
    runtime = app.runtime
    runtime.presence.stop()
    runtime.recovery_thread.stop()
    runtime.lease.without()  # nothing else has it beat
    runtime.heartbeat.interval = 3600.0
    before = runtime.lease.last_contact
    runtime.heartbeat.wake()
    wait_until(lambda: runtime.lease.last_contact is not before, what="it has beaten, and pauses")
    runtime.lease.last_contact = ago(3600)
    actor.send()
    wait_until(lambda: app.ran, what="it runs the message")


def test_a_worker_that_may_fetch_nothing_lives_for_the_broker(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else RedisBroker's maintenance would give others what it runs."""
    app.actor(lambda: None)
    app.start()
    refused: list[bool] = []

    def always(lease: Lease) -> bool:
        refused.append(True)
        return True

    monkeypatch.setattr(Lease, "may_be_forgotten", property(always))
    wait_until(lambda: len(refused) >= 8, what="its consumers fetch nothing")
    living, me = f"{app.broker.namespace}:__heartbeats__", app.broker.broker_id
    app.client.zrem(living, me)
    wait_until(lambda: app.client.zscore(living, me) is not None, what="the broker hears of it")


def test_a_worker_can_be_started_again_in_the_same_process(app: App) -> None:
    """Another incarnation each time."""
    actor = app.actor(lambda: app.ran.append(app.store.me))
    for _ in range(2):
        app.start()
        actor.send()
        app.join()
        app.stop()
    assert len(set(app.ran)) == 2
    assert app.lab.names() == set()


def test_recovery_and_the_worker_agree_on_the_copy_way(app: App, server_url: str) -> None:
    """A tracker whose Redis is not the broker's: the recovered copy runs, the old one is stale."""
    dead = app.other("dead")
    message = app.actor(lambda: app.ran.append(1), actor_name="work").send()
    (rid,) = app.client.lrange(f"{app.broker.namespace}:default", 0, -1)
    data = app.client.hget(f"{app.broker.namespace}:default.msgs", rid)
    app.lab.start(dead, copy_of(message.message_id, origin=rid.decode()), payload=data)
    app.lab.kill(dead)
    recovery = Recoverer(
        store=Store(Scripts(bounded_client(app.client), app.namespace, "r", heartbeat_ttl=20, fence_ttl=60)),
        enqueue=app.broker.enqueue,
        declared=lambda: ({"default"}, {"work"}),
        queues=BrokerQueues(),
        lock_ttl=60,
    )
    recovery.store.workers.register({})
    assert recovery.sweep().copied == 1
    assert app.client.llen(f"{app.broker.namespace}:default") == 2  # the old copy is still there, as if redelivered
    app.start()
    app.join()
    assert app.ran == [1]


def test_a_worker_that_declares_a_queue_later_says_so(app: App) -> None:
    """Its registration is what hand back goes by."""
    app.start()
    app.broker.declare_queue("late")
    key = app.lab.prefix + f"incarnation:{app.store.me}"
    wait_until(lambda: b'"late"' in app.client.hget(key, "queues"), what="it is registered")


def test_an_ack_given_up_does_not_run_the_message_again(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dramatiq gives up after anything but a connection error: it logs, and leaves the copy in the ack set."""
    monkeypatch.setattr("dramatiq_inflight.message.reconcile.ACK_PATIENCE", 0.5)

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")

    actor = app.actor(work, min_backoff=200, max_backoff=300)
    app.start()
    do_ack = app.broker.do_ack
    failed: list[Any] = []

    def failing(queue: str, copy_id: str) -> Any:
        if queue == "default" and not failed:
            failed.append(copy_id)
            raise ValueError("as asked for")
        return do_ack(queue, copy_id)

    app.broker.do_ack = failing  # type: ignore[attr-defined]
    actor.send()
    wait_until(lambda: "Unhandled error during post_process_message" in caplog.text)
    wait_until(lambda: len(app.ran) == 2, what="the retry runs")
    app.stop()
    assert app.client.hlen(f"{app.broker.namespace}:default.msgs") == 0
    app.start()
    app.join()
    assert app.ran == [1, 1]


def test_a_success_is_settled_in_the_same_write_as_its_ack(app: App) -> None:
    """So a kill cannot come between.  The ack of anything else goes by itself, over the tracker's connections too."""
    sent: list[list[str]] = []
    actor = app.actor(lambda: app.ran.append(1))
    plain = app.actor(lambda: app.ran.append(2), actor_name="plain", track_inflight=False)
    app.start()
    wire = app.store.scripts.wire
    exchange = wire.exchange

    def noted(calls: Any) -> Any:
        sent.append([str(call.args[0]) for call in calls])
        return exchange(calls)

    wire.exchange = noted  # type: ignore[method-assign]
    actor.send()
    app.join()
    plain.send()
    app.join()
    assert [calls for calls in sent if "ack" in calls] == [[app.store.me, "ack"], ["ack"]]
    app.stop()
    assert "do_ack" not in vars(app.broker)


def test_a_message_that_ends_during_the_boot_leaves_no_key(app: App) -> None:
    """Dramatiq's threads run what waits in the queue before its boot is over."""
    taken_along: list[bool] = []

    class Boots(Middleware):
        def after_worker_boot(self, broker: Any, worker: Any) -> None:
            taken_along.append("do_ack" in vars(broker))
            wait_until(lambda: not app.client.hlen(f"{broker.namespace}:default.msgs"), what="all are acknowledged")

    app.broker.add_middleware(Boots())  # behind the tracker: it comes first after the boot
    actor = app.actor(app.ran.append, actor_name="work")
    for n in range(20):
        actor.send(n)
    app.start()
    app.join()
    app.stop()
    assert sorted(app.ran) == list(range(20))
    assert taken_along == [True], "their acks settle them, in the same write"
    assert app.lab.names() == set()


def test_a_consumer_that_acknowledges_by_itself_leaves_no_key(app: App) -> None:
    """One of the application's own, which does not call the broker's ``do_ack``: the message is settled behind it."""
    actor = app.actor(app.ran.append, actor_name="work")
    app.start()
    del app.broker.do_ack
    for n in range(20):
        actor.send(n)
    app.join()
    assert sorted(app.ran) == list(range(20))
    assert app.records() == set()


def test_a_late_beat_does_not_revive_a_worker_that_has_left(app: App) -> None:
    """The one that says that it shuts down: nothing waits for its answer for longer than two seconds."""
    app.start()
    wire, left, late = app.store.scripts.wire, threading.Event(), threading.Event()
    exchange = wire.exchange

    def held_up(calls: Any) -> Any:
        announces = threading.current_thread().name == "dramatiq_inflight-shutdown"
        if announces:
            left.wait(120)
        replies = exchange(calls)
        if announces:
            late.set()
        return replies

    wire.exchange = held_up  # type: ignore[method-assign]
    app.stop()
    assert app.lab.names() == set()
    left.set()
    assert late.wait(120)
    assert app.lab.names() == set()


def test_an_ack_that_times_out_with_its_finish_is_tried_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Dramatiq, which does so after connection errors."""
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)
    failed: list[Any] = []
    actor = app.actor(lambda: app.ran.append(1))
    app.start()
    wire = app.store.scripts.wire
    exchange = wire.exchange

    def failing(calls: Any) -> Any:
        if len(calls) == 2 and len(failed) < 2:
            failed.append(calls)
            if len(failed) == 2:
                exchange(calls)  # executed, and the answer lost
            raise redis.TimeoutError("as asked for")
        return exchange(calls)

    wire.exchange = failing  # type: ignore[method-assign]
    actor.send()
    app.join()
    assert len(failed) == 2
    assert app.ran == [1]
    # The second finish found neither record nor delivery: it cannot know that they were its own.
    assert {app.lab.state(copy_of(name.removeprefix("record:"))) for name in app.records()} <= {"completed"}


def test_poison_does_not_run_even_while_redis_seems_away(app: App) -> None:
    """A stall has just ended, and the next message is a copy that is to be dead-lettered."""
    app.actor(lambda: app.ran.append(1), actor_name="work")
    app.start()
    runtime = app.runtime
    dead = app.other("dead")
    copy = copy_of(origin="o1")
    message: Message[None] = Message("default", "work", (), {}, {}, copy.message_id)
    app.lab.start(dead, copy, payload=message.encode(), limit=0)
    runtime.connectivity.away_since = ago(-3600)  # whatever succeeds was begun before that
    app.lab.kill(dead)
    wait_until(app.dead_letters, what="recovery has enqueued it, and it was rejected")
    app.join()
    assert app.ran == []


def test_the_table_keeps_a_run_that_overlaps_the_last_one() -> None:
    """A poll loop's next round is fetched while the last one is still being acknowledged."""
    table = Table()
    first, second = Entry(Delivery(copy_of("m"))), Entry(Delivery(copy_of("m")))
    a, b = object(), object()
    assert table.reserve(a, first) == "no"
    table.run(first)
    first.end(succeeded=True)
    first.follow()
    first.acknowledge()
    assert table.reserve(b, second) == "ended"
    table.run(second)
    table.forget(a)
    assert table.entries() == [second]
    table.forget(b)
    assert table.entries() == []


@pytest.mark.parametrize("what", ["a success", "a failure", "a retry"])
def test_the_table_has_not_ended_what_is_all_that_the_broker_has(what: str) -> None:
    """Another delivery of it is acknowledged only when what follows is with the broker."""
    table = Table()
    first = Entry(Delivery(copy_of("m")))
    table.reserve(first, first)
    table.run(first)
    first.end(succeeded=what == "a success")
    assert table.reserve(object(), Entry(Delivery(copy_of("m")))) == "running"
    if what == "a retry":
        first.follow_up.retry = Retry.ENQUEUED
    first.follow()
    first.acknowledge()
    assert table.reserve(object(), Entry(Delivery(copy_of("m")))) == ("running" if what == "a failure" else "ended")


def test_the_table_says_what_was_handed_back() -> None:
    """Until that is forgotten, or lost: what waits for it may run then."""
    table = Table()
    first = Entry(Delivery(copy_of("m")))
    table.reserve(first, first)
    table.run(first)
    first.end(succeeded=False)
    first.hand_back()
    assert table.reserve(object(), Entry(Delivery(copy_of("m")))) == "handed_back"
    first.lose()
    assert table.reserve(object(), Entry(Delivery(copy_of("m")))) == "no"


def test_the_table_keeps_what_redis_is_still_to_be_told() -> None:
    """Even when another run of the message has taken its place."""
    table = Table()
    first, second = Entry(Delivery(copy_of("m"))), Entry(Delivery(copy_of("m")))
    a, b = object(), object()
    table.reserve(a, first)
    table.run(first)
    first.end(succeeded=True)
    first.follow()
    first.acknowledge()
    first.leave_untold()
    table.forget(a)
    assert table.reserve(b, second) == "ended"
    table.run(second)
    assert table.entries() == [second, first]
    table.drop(first)
    assert table.entries() == [second]


def test_a_success_stays_unsettled_while_its_hooks_run(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long another middleware takes: a kill would lose the next stage."""
    monkeypatch.setattr("dramatiq_inflight.message.reconcile.ACK_PATIENCE", 0.0)
    go, there = threading.Event(), threading.Event()

    class Slow(Middleware):
        def after_process_message(
            self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
        ) -> None:
            there.set()
            go.wait(120)

    app.broker.add_middleware(Slow(), before=InFlightTracker)
    message = app.actor(lambda: app.ran.append(1)).send()
    app.start()
    assert there.wait(120)
    for _ in range(3):
        app.runtime.keep_books()
    assert app.lab.state(copy_of(message.message_id)) == "running"
    go.set()
    app.join()


def test_a_stranger_is_let_go_by_its_run(app: App) -> None:
    """A fast loop of one message, looked at twice in a bad moment: its present run stays."""
    app.start()
    runtime = app.runtime
    runtime.heartbeat.stop()
    runtime.bookkeeping.stop()
    copy = copy_of()
    app.lab.runs(app.store, copy)
    runtime.keep_books()
    assert app.lab.runs(app.store, copy).run == 2
    runtime.keep_books()
    assert app.lab.state(copy) == "running"
    runtime.keep_books()
    assert app.lab.state(copy) == "let_go"
