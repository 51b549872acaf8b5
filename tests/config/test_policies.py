# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Policies for messages whose worker died: options, callbacks and the last chance, in a real worker."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from datetime import UTC
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage
from dramatiq.results import ResultFailure

import dramatiq_inflight
from dramatiq_inflight import ConfigurationError, Current, Incident, InFlightTracker, Kind
from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.config.policy import OPTIONS, Policy, check_options
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.records import Head
from dramatiq_inflight.store.replies import Returned
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import RedisServer, wait_until

#: Values that are nearly right.
WRONG = {
    "max_recoveries": -1,
    "on_orphan": "requeued",
    "recovery_queue": "default.XQ",
    "recovery_delay": 10**400,
    "on_recovery": 7,
    "on_poison": "",
    "interrupt_on_loss": "yes",
    "hand_back": -1,
    "stall_timeout": 0,
    "remember_completed": None,
}


# Declaring.


@pytest.mark.parametrize(("option", "value"), [*WRONG.items(), *((option, ...) for option in OPTIONS)])
def test_a_wrong_option_is_an_error_when_the_actor_is_declared(app: App, option: str, value: object) -> None:
    """That names the actor, the option, its value and what would be right."""
    with pytest.raises(ConfigurationError, match=f"{option} of actor 'work' is {value!r}; it must be"):
        app.actor(lambda: None, actor_name="work", **{option: value})


def test_a_wrong_option_of_a_message_gives_way_to_its_actors_own(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The sender may be another version; the message is not to be lost for it."""
    actor = app.actor(lambda: None, actor_name="work", recovery_delay=7)
    app.start()
    message = actor.message_with_options(recovery_delay=-3, on_orphan="dead_letter")
    policy = app.tracker.policies.of(message)
    assert (policy.recovery_delay, policy.on_orphan) == (7, "dead_letter")
    assert f"recovery_delay of message {message.message_id} is -3" in caplog.text


def test_an_actor_may_be_given_as_such() -> None:
    """As well as by its name."""
    broker = StubBroker(middleware=[InFlightTracker()])
    handler = dramatiq.actor(broker=broker, actor_name="handler")(print)
    assert check_options({"on_poison": handler}, "x") == {"on_poison": "handler"}


def test_the_delay_doubles_with_every_crash_up_to_an_hour() -> None:
    """And a shutdown costs no time."""
    policy = Policy(recovery_delay=10)
    assert [policy.delay(crashes) for crashes in (0, 1, 2, 3, 4)] == [0, 10, 20, 40, 80]
    assert policy.delay(1000) == 3600
    assert Policy(recovery_delay=86400).delay(5) == 86400
    assert Policy().delay(5) == 0


def test_an_actor_that_nobody_declares_is_said_at_boot(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Not when it is needed."""
    app.actor(lambda: None, actor_name="work", on_poison="tell")
    app.start()
    assert "on_poison of actor 'work' is 'tell', but this worker declares no such actor" in caplog.text


# The last chance.


def waiting(app: App) -> int:
    """Return how many messages wait at the gate."""
    return len(app.runtime.gate.queue)


def test_the_last_chance_is_alone_in_the_worker(app: App) -> None:
    """Tracked or not, nothing else runs beside it, and everything runs."""
    mutex, running, most_beside = threading.Lock(), set(), []

    def work(key: str, seconds: float) -> None:
        with mutex:
            running.add(key)
            most_beside.append((key, len(running)))
        time.sleep(seconds)
        with mutex:
            if "last" in running:
                most_beside.append(("last", len(running)))
            running.discard(key)
        app.ran.append(key)

    tracked = app.actor(work, actor_name="tracked")
    untracked = app.actor(work, actor_name="untracked", track_inflight=False)
    for i in range(10):
        (tracked, untracked)[i % 2].send(f"before-{i}", 0.05)
    last = tracked.send("last", 0.2)
    for i in range(20):
        (tracked, untracked)[i % 2].send(f"after-{i}", 0.01)
    app.orphan(last, crashes=2)
    app.start(threads=4)
    wait_until(lambda: len(app.ran) == 31, what="all have run")
    assert {number for key, number in most_beside if key == "last"} == {1}
    assert max(number for _, number in most_beside) > 1
    app.join()
    assert app.records() == {f"record:{last.message_id}"}


def test_a_message_at_the_gate_does_not_use_up_its_time_limit(app: App) -> None:
    """Neither the neighbours of a last chance, nor the one that has it."""
    release = threading.Event()

    def slow() -> None:
        assert release.wait(120)

    def quick() -> None:
        app.ran.append("quick")

    slow_actor = app.actor(slow, actor_name="slow")
    quick_actor = app.actor(quick, actor_name="quick", time_limit=1500, max_retries=0)
    last_chance = app.actor(quick, actor_name="last_chance", time_limit=1500, max_retries=0)
    slow_actor.send()
    app.start(threads=3)
    wait_until(app.records, what="the slow one runs")
    app.send_orphan(last_chance, crashes=2)
    wait_until(lambda: waiting(app) == 1, what="the last chance waits")
    quick_actor.send()
    wait_until(lambda: waiting(app) == 2, what="a neighbour waits")
    time.sleep(2)  # longer than both time limits
    release.set()
    app.join()
    assert app.ran == ["quick", "quick"]
    assert not app.dead_letters()


def test_a_worker_that_shuts_down_leaves_last_chances_to_others(app: App) -> None:
    """It waits to be alone; the deploy does not wait for it, and it is not lost."""
    release = threading.Event()
    slow = app.actor(lambda: release.wait(120) and None, actor_name="slow")
    last_chance = app.actor(lambda: app.ran.append("last"), actor_name="last_chance")
    slow.send()
    app.start(threads=2)
    wait_until(app.records, what="the slow one runs")
    app.send_orphan(last_chance, crashes=2)
    wait_until(lambda: waiting(app) == 1, what="the last chance waits")
    stopping = threading.Thread(target=app.stop)
    stopping.start()
    wait_until(lambda: waiting(app) == 0, what="it waits no more")
    release.set()
    stopping.join(120)
    assert app.ran == []
    app.start(threads=2)
    app.join()
    assert app.ran == ["last"]


def test_a_last_chance_in_company_is_said_so(
    server_url: str, namespace: str, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The neighbour does not end in time."""
    app = App(server_url, namespace, lab, alone_timeout=0.1)
    release = threading.Event()
    slow = app.actor(lambda: release.wait(120) and None, actor_name="slow")
    heads: list[Any] = []

    def last() -> None:
        current = dramatiq_inflight.current()
        assert current is not None
        name = f"record:{current.message_id}"
        heads.append(app.client.get(app.lab.prefix + name).partition(b"\n")[0])

    last_chance = app.actor(last, actor_name="last_chance")
    slow.send()
    app.start(threads=2)
    wait_until(app.records, what="the slow one runs")
    message = app.send_orphan(last_chance, crashes=2)
    wait_until(lambda: heads, what="it runs beside the slow one")
    release.set()
    app.join()
    app.close()
    head = Head.of(json.loads(heads[0]))
    assert (head.drains, head.alone, head.tailored) == (0, 0, 0)
    assert f"Message {message.message_id} could not run alone within 0.1 seconds" in caplog.text


def test_neighbours_get_in_when_the_last_chance_takes_too_long(server_url: str, namespace: str, lab: Lab) -> None:
    """And the record says that it is not alone any more."""
    app = App(server_url, namespace, lab, alone_timeout=0.3)
    running, release = threading.Event(), threading.Event()

    def last() -> None:
        running.set()
        assert release.wait(120)

    last_chance = app.actor(last, actor_name="last_chance")
    neighbour = app.actor(lambda: app.ran.append("neighbour"), actor_name="neighbour", track_inflight=False)

    def alone() -> int:
        raw = app.client.get(f"{lab.prefix}record:{message.message_id}")
        return Head.of(json.loads(raw.partition(b"\n")[0])).alone

    message = last_chance.send()
    app.orphan(message, crashes=2)
    app.start(threads=2)
    # The dead worker's record says alone as well: only once it runs here is it this one's.
    wait_until(lambda: running.is_set() and alone() == 1, what="Running it alone")
    neighbour.send()
    wait_until(lambda: app.ran, what="the neighbour runs")
    assert alone() == 0
    release.set()
    app.join()
    app.close()


@pytest.mark.parametrize("fails", [False, True])
def test_the_gate_opens_once_the_record_does_not_say_alone(
    app: App, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that kills the process right then must not convict what has just ended."""
    states: list[str | None] = []

    def last() -> None:
        runtime = app.runtime
        leave = runtime.gate.leave

        def look(*, told: bool) -> None:
            raw = app.client.get(f"{app.lab.prefix}record:{message.message_id}")
            states.append(raw and json.loads(raw.partition(b"\n")[0])[0])
            assert told
            leave()

        monkeypatch.setattr(runtime.gate, "leave", look)
        if fails:
            raise RuntimeError("as asked for")

    actor = app.actor(last, actor_name="last", max_retries=1, min_backoff=10_000)
    app.start(threads=2)  # first: what is acknowledged during the boot is told by the heartbeat
    message = app.send_orphan(actor, crashes=2)
    wait_until(lambda: states, what="it has ended")
    assert states == ["released" if fails else "completed"]


def handed_back(app: App, actor: Any, *, crashes: int = 0, **orphan: Any) -> Message[Any]:
    """A message that has crashed, and whose stored copy is with the broker again once it is delivered."""
    message: Message[Any] = actor.message().copy(options={"redis_message_id": uuid.uuid4().hex})
    dead = app.orphan(message, crashes=crashes, **orphan)
    results = app.other("judge").recovery.return_to_broker(dead.me, [(message.message_id, True)])
    assert results == [Returned.RETURNED]
    return message


def head_of(app: App, message: Message[Any]) -> Head | None:
    return app.lab.head(Copy.of(message))


def test_a_deferred_last_chance_survives_a_long_wait(app: App) -> None:
    """A deploy, then a backlog of ten TTLs: whoever sweeps must not take it for consumed."""
    release = threading.Event()
    slow = app.actor(lambda: release.wait(120) and None, actor_name="slow")
    last_chance = app.actor(lambda: app.ran.append("last"), actor_name="last_chance", max_recoveries=1)
    app.actor(lambda: None, actor_name="idle", queue_name="other")
    slow.send()
    message = handed_back(app, last_chance, limit=1)
    app.start(threads=2)
    wait_until(lambda: len(app.records()) == 2, what="the slow one runs")
    app.deliver(message)
    wait_until(lambda: waiting(app) == 1, what="the last chance waits")
    stopping = threading.Thread(target=app.stop)
    stopping.start()
    wait_until(lambda: waiting(app) == 0, what="it is put off")
    release.set()
    stopping.join(120)
    app.client.zadd(f"{app.lab.prefix}waiting", {message.message_id: 1})
    app.worker = dramatiq.Worker(app.broker, queues={"other"}, worker_threads=1, worker_timeout=20)
    app.worker.start()

    def tries() -> int:
        head = head_of(app, message)
        return head.tries if head is not None else 0

    wait_until(lambda: tries() == 1, what="another copy is made")
    app.stop()
    app.start(threads=2)
    app.join()
    assert app.ran == ["last"]
    assert not app.dead_letters()


def test_a_message_given_to_another_at_the_gate_is_not_deferred(app: App) -> None:
    """RedisBroker's maintenance took it, by the clock of another worker: it is done there, and not once more by us."""
    begun, release = threading.Event(), threading.Event()

    def last() -> None:
        begun.set()
        assert release.wait(120)

    last_chance = app.actor(last, actor_name="last", max_recoveries=1)
    actor = app.actor(lambda: app.ran.append(1), actor_name="work", max_recoveries=5)
    app.send_orphan(last_chance, limit=1)
    app.start(threads=3)
    assert begun.wait(120)
    rid = uuid.uuid4().hex
    app.deliver(actor.message().copy(options={"redis_message_id": rid}))
    wait_until(lambda: waiting(app) == 1, what="the other one waits")
    app.client.srem(f"{app.broker.namespace}:__acks__.{app.broker.broker_id}.default", rid)
    stopping = threading.Thread(target=app.stop)
    stopping.start()
    wait_until(lambda: waiting(app) == 0, what="it gives up")
    release.set()
    stopping.join(120)
    assert app.client.hkeys(f"{app.broker.namespace}:default.msgs") == [rid.encode()], "it is the other one's"
    assert app.client.hlen(f"{app.broker.namespace}:default.DQ.msgs") == 0


@pytest.mark.parametrize("kind", ["plain", "untracked", "crashed"])
def test_an_interrupt_at_the_gate_is_no_failure(app: App, kind: str) -> None:
    """A deploy with notify_shutdown: what waits has not begun, and loses neither a retry nor its count."""
    begun, release = threading.Event(), threading.Event()

    def last() -> None:
        begun.set()
        assert release.wait(120)

    def work() -> None:
        app.ran.append(kind)

    last_chance = app.actor(last, actor_name="last", max_recoveries=1)
    actor = app.actor(
        work,
        actor_name="work",
        max_retries=0,
        max_recoveries=5,
        notify_shutdown=True,
        track_inflight=kind != "untracked",
    )
    app.send_orphan(last_chance, limit=1)
    message = actor.message().copy(options={"redis_message_id": uuid.uuid4().hex})
    if kind == "crashed":
        message = handed_back(app, actor, limit=5)
    app.start(threads=3)
    assert begun.wait(120), "it is alone"
    app.deliver(message)
    wait_until(lambda: waiting(app) == 1, what="the other one waits")
    stopping = threading.Thread(target=app.stop)
    stopping.start()
    wait_until(lambda: waiting(app) == 0, what="Interrupting it")
    release.set()
    stopping.join(120)
    assert app.ran == []
    assert not app.dead_letters()
    if kind == "crashed":
        head = head_of(app, message)
        assert head is not None
        assert (head.state, head.crashes) == ("requeued", 1)
    app.start()
    app.join()
    assert app.ran == [kind]
    assert not app.dead_letters()


def test_a_start_whose_answer_is_lost_loses_no_message(
    server_url: str, namespace: str, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis executed it, and the answer was lost: at most once puts it off, and it has not run."""
    app = App(server_url, namespace, lab, heartbeat_interval=0.2, heartbeat_ttl=1.5)
    actor = app.actor(lambda: app.ran.append(1), actor_name="work", on_orphan="dead_letter")
    app.start()
    start = app.store.messages.start
    lost: list[Any] = []

    def losing(*args: Any, **kwargs: Any) -> Any:
        started = start(*args, **kwargs)
        if not lost:
            lost.append(started)
            raise redis.TimeoutError("no answer")
        return started

    monkeypatch.setattr(app.store.messages, "start", losing)
    actor.send()
    wait_until(lambda: app.ran or app.dead_letters(), what="it runs, or is known not to")
    app.join()
    app.close()
    assert app.ran == [1]


def test_no_interrupt_ends_a_put_off(server_url: str, namespace: str, lab: Lab, own_server: RedisServer) -> None:
    """The broker is away for longer than the time limit: the message is kept until it is with the broker again."""
    app = App(own_server.url, namespace, Lab(redis.Redis.from_url(own_server.url), namespace), heartbeat_ttl=2)
    actor = app.actor(
        lambda: app.ran.append(1), actor_name="work", on_orphan="dead_letter", time_limit=1500, max_retries=0
    )
    app.start()
    start = app.store.messages.start
    stalled: list[int] = []

    def stalling(*args: Any, **kwargs: Any) -> Any:
        if not stalled:
            stalled.append(1)
            own_server.kill()
        return start(*args, **kwargs)

    app.store.messages.start = stalling  # type: ignore[method-assign]
    with contextlib.suppress(redis.ConnectionError):  # the server may be gone before it has answered
        actor.send()
    wait_until(lambda: stalled, what="the start fails")
    time.sleep(1.5)  # the time limit would strike
    own_server.start()
    wait_until(lambda: app.ran, what="it runs")
    app.join()
    app.close()
    assert app.ran == [1]


def test_a_wrong_time_limit_leaves_the_message_tracked(app: App) -> None:
    """Its clock cannot be started again after the wait; Dramatiq would swallow the error, and run the actor."""
    heads: list[Head | None] = []

    def work() -> None:
        heads.append(head_of(app, message))

    actor = app.actor(work, actor_name="work", max_recoveries=1)
    message = actor.message_with_options(time_limit="600000").copy(options={"redis_message_id": uuid.uuid4().hex})
    app.orphan(message, limit=1)
    app.deliver(message)
    app.start(threads=2)
    app.join()
    (head,) = heads
    assert head is not None
    assert (head.state, head.run) == ("running", 2)


def test_a_message_that_its_actor_made_unencodable_leaks_nothing(app: App) -> None:
    """It cannot be retried; it is recovered as it came."""

    def work(items: list[Any]) -> None:
        app.ran.append(len(items))
        if len(app.ran) == 1:
            items.append(object())
            raise RuntimeError("as asked for")

    app.actor(work, actor_name="work", min_backoff=10, max_backoff=10).send([])
    app.start(threads=2)
    wait_until(lambda: len(app.ran) == 2, what="it is recovered")
    app.join()
    assert app.ran == [0, 0]
    wait_until(lambda: not app.runtime.gate.inside, what="nobody is inside")


def test_an_ack_that_is_given_up_frees_the_gate(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis refuses it, and Dramatiq emits no further hook: the heartbeat sees to it."""
    monkeypatch.setattr("dramatiq_inflight.message.reconcile.ACK_PATIENCE", 0.3)
    last_chance = app.actor(lambda: app.ran.append("last"), actor_name="last", max_recoveries=1)
    other = app.actor(lambda: app.ran.append("other"), actor_name="other", track_inflight=False)
    app.start(threads=2)
    queues = app.runtime.queues
    assert isinstance(queues, RedisQueues)
    ack_call = queues.ack_call
    refused: list[str] = []

    def refusing(queue: str, copy_id: str) -> Any:
        if app.ran == ["last"] and not refused:
            refused.append(copy_id)
            raise redis.ResponseError("OOM command not allowed")
        return ack_call(queue, copy_id)

    monkeypatch.setattr(queues, "ack_call", refusing)
    app.send_orphan(last_chance, limit=1)
    wait_until(lambda: refused, what="the ack is refused")
    other.send()
    wait_until(lambda: "other" in app.ran, what="the other one gets in")


# on_orphan.


@pytest.mark.parametrize("draining", [False, True])
def test_at_most_once_dead_letters_a_message_that_may_have_run(app: App, draining: bool) -> None:
    """on_orphan="dead_letter": with its reason, in the result and in the dead letter."""
    actor = app.actor(
        lambda: app.ran.append(1), actor_name="pay", on_orphan="dead_letter", store_results=True, max_retries=0
    )
    message = actor.send()
    app.orphan(message, limit="once", draining=draining)
    app.start()
    app.join()
    (letter,) = app.dead_letters()
    reason = letter.options["inflight"]["reason"]
    assert reason.startswith(f"its worker {'was shut down' if draining else 'died'} while running it: once, on dead-")
    assert reason.endswith("on_orphan is 'dead_letter': it may have run, and does not run again")
    with pytest.raises(ResultFailure, match="it may have run, and does not run again"):
        message.get_result(backend=app.backend, block=True)  # stored after the rejection
    assert app.ran == []


def test_at_most_once_waits_while_its_start_cannot_be_recorded(
    server_url: str, namespace: str, lab: Lab, own_server: RedisServer
) -> None:
    """Redis apart from the broker's, and away: other messages go on untracked, this one waits."""
    app = App(server_url, namespace, lab, redis_url=own_server.url, heartbeat_ttl=0.9, heartbeat_interval=0.2)
    pay = app.actor(lambda: app.ran.append("pay"), actor_name="pay", on_orphan="dead_letter")
    other = app.actor(lambda: app.ran.append("other"), actor_name="other")
    app.start()
    own_server.kill()
    pay.send()
    other.send()
    wait_until(lambda: app.ran == ["other"], what="the other one has run")
    wait_until(lambda: app.client.hlen(f"{app.broker.namespace}:default.DQ.msgs") == 1, what="it is put off")
    own_server.start()
    wait_until(lambda: "pay" in app.ran, what="it runs when Redis is back")
    app.join()
    assert app.ran == ["other", "pay"]
    app.close()


# recovery_queue.


def test_a_copy_in_the_recovery_queue_keeps_retries_and_results(app: App) -> None:
    """The sender finds the result where it sent the message to."""
    app.broker.add_middleware(CurrentMessage())

    def big() -> int:
        message = CurrentMessage.get_current_message()
        assert message is not None
        app.ran.append(message.queue_name)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")
        return 42

    first = app.actor(
        big, actor_name="big", recovery_queue="big-memory", store_results=True, max_retries=2, min_backoff=10
    )
    second = app.actor(lambda x: x + 1, actor_name="next_", store_results=True)
    pipe = first.message() | second.message()
    pipe.run()
    message = pipe.messages[0]
    (rid,) = app.client.lrange(f"{app.broker.namespace}:default", 0, -1)
    app.orphan(message.copy(options={"redis_message_id": rid.decode()}), tailored=True)
    app.start()
    assert message.get_result(backend=app.backend, block=True) == 42
    assert pipe.get_result(block=True) == 43
    app.join()
    assert app.ran == ["big-memory", "big-memory"]


def test_a_failure_in_the_recovery_queue_is_found_by_the_sender(app: App) -> None:
    """Stored when it is rejected."""

    def big() -> None:
        raise RuntimeError("too big here, too")

    message = app.actor(big, actor_name="big", recovery_queue="big-memory", store_results=True, max_retries=0).send()
    app.orphan(message, tailored=True)
    app.start()
    with pytest.raises(ResultFailure, match="too big here, too"):
        message.get_result(backend=app.backend, block=True)
    app.join()
    assert [letter.actor_name for letter in app.dead_letters("big-memory")] == ["big"]


def test_poison_in_the_recovery_queue_is_found_by_the_sender(app: App) -> None:
    """The verdict on the copy is the result of the message."""
    message = app.actor(
        lambda: None, actor_name="big", recovery_queue="big-memory", store_results=True, max_recoveries=1
    ).send()
    app.orphan(message, tailored=True)
    app.broker.declare_queue("big-memory")
    recovery = _recovery(app)
    assert recovery.sweep().copied == 1
    (rid,) = app.client.lrange(f"{app.broker.namespace}:big-memory", 0, -1)
    moved = Message.decode(app.client.hget(f"{app.broker.namespace}:big-memory.msgs", rid))
    assert moved.options["inflight"]["home"] == "default"
    dead = app.other("dead-again")
    copy = Copy.of(moved)
    app.lab.start(dead, copy, payload=moved.encode(), limit=1, tailored=True)
    app.lab.kill(dead)
    app.start()
    with pytest.raises(
        ResultFailure,
        match=r"its worker died while running it: 2 times \(heartbeat expired 2 times\), last on dead-again",
    ):
        message.get_result(backend=app.backend, block=True)
    app.join()
    assert len(app.dead_letters("big-memory")) == 1


def test_a_recovery_queue_that_nobody_declares_is_not_used(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """A message may name any; it is not lost in a queue without workers."""
    message = app.actor(lambda: app.ran.append(1), actor_name="work").send_with_options(recovery_queue="unheard-of")
    app.orphan(message, tailored=True)
    app.start()
    app.join()
    assert app.ran == [1]
    assert "is 'unheard-of', but this worker does not declare that queue" in caplog.text


# recovery_delay.


def test_a_recovered_copy_waits_longer_with_every_crash(app: App) -> None:
    """So that a crash loop cannot run hot."""
    message = app.actor(lambda: None, actor_name="work", recovery_delay=1000).send()
    app.orphan(message, crashes=1, limit=5, tailored=True)
    app.start()
    key = f"{app.broker.namespace}:default.DQ.msgs"
    wait_until(lambda: app.client.hlen(key) == 1, what="the copy is delayed")
    (copy,) = [Message.decode(data) for data in app.client.hvals(key)]
    assert 1990 < copy.options["eta"] / 1000 - time.time() <= 2000


# Being told.


def told(app: App) -> tuple[Any, list[Any]]:
    """An actor that is told, and what it was told."""
    heard: list[Any] = []
    handler = app.actor(
        lambda message, incident: heard.append((message, incident)), actor_name="tell", track_inflight=False
    )
    return handler, heard


def test_an_overdue_copy_stays_in_its_recovery_queue(app: App) -> None:
    """Its first copy was lost: the next one is not for the workers that could not bear it."""
    actor = app.actor(lambda: app.ran.append(1), actor_name="work", recovery_queue="big-memory")
    app.broker.declare_queue("big-memory")
    message = actor.message().copy(options={"redis_message_id": uuid.uuid4().hex})
    app.orphan(message, tailored=True)
    recovery = _recovery(app)
    assert recovery.sweep().copied == 1
    app.client.delete(f"{app.broker.namespace}:big-memory", f"{app.broker.namespace}:big-memory.msgs")
    app.client.zadd(f"{app.lab.prefix}waiting", {message.message_id: 1})
    assert recovery.sweep().copied == 1
    (rid,) = app.client.lrange(f"{app.broker.namespace}:big-memory", 0, -1)
    copy = Message.decode(app.client.hget(f"{app.broker.namespace}:big-memory.msgs", rid))
    assert (copy.options["inflight"]["home"], copy.options["inflight"]["tries"]) == ("default", 2)


@pytest.mark.parametrize("poison", [False, True])
def test_the_actor_is_sent_the_message_and_what_happened(app: App, poison: bool) -> None:
    """After the manner of on_retry_exhausted."""
    handler, heard = told(app)
    option = "on_poison" if poison else "on_recovery"
    actor = app.actor(lambda x: app.ran.append(x), actor_name="work", max_recoveries=1, **{option: handler})  # noqa: PLW0108
    message = actor.send(7)
    dead = app.orphan(message, crashes=int(poison), limit=1, tailored=not poison)
    app.start()
    wait_until(lambda: heard, what="it is told")
    app.join()
    ((body, incident),) = heard
    assert (body["actor_name"], body["args"], body["message_id"]) == ("work", [7], message.message_id)
    assert incident["kind"] == ("poison" if poison else "recovered")
    assert incident["message_id"] == message.message_id
    assert (incident["actor_name"], incident["queue_name"]) == ("work", "default")
    assert (incident["crashes"], incident["drains"], incident["max_recoveries"]) == (1 + poison, 0, 1)
    assert (incident["instance"], incident["incarnation"]) == (dead.me, dead.me)
    assert incident["why"] == "its heartbeat has expired"
    assert incident["started"].endswith("+00:00")
    assert incident["dead_since"] == "1970-01-01T00:00:01+00:00"
    assert incident["reason"].startswith("its worker died while running it: ")
    assert app.ran == ([] if poison else [7])


@pytest.mark.parametrize("handler", ["nobody", "broken"])
def test_a_handler_that_is_missing_or_fails_breaks_no_recovery(
    server_url: str, namespace: str, lab: Lab, caplog: pytest.LogCaptureFixture, handler: str
) -> None:
    """It is said in the log; the callback may fail as well."""

    def callback(incident: Incident) -> None:
        raise RuntimeError("as asked for")

    app = App(server_url, namespace, lab, callback=callback)
    broken = app.actor(lambda *args: None, actor_name="broken")
    broken.send = lambda *args: 1 / 0
    message = app.actor(lambda: app.ran.append(1), actor_name="work", on_recovery=handler).send()
    app.orphan(message, tailored=True)
    app.start()
    app.join()
    app.close()
    assert app.ran == [1]
    assert f"Could not call actor {handler!r} (on_recovery of message {message.message_id};" in caplog.text
    assert "The callback of InFlightTracker failed" in caplog.text


def _recovery(app: App) -> Any:
    """A recovery outside of the worker."""
    store = app.other("recoverer")
    store.workers.heartbeat()
    broker = app.broker
    return Recoverer(
        store=store,
        enqueue=broker.enqueue,
        declared=lambda: (broker.get_declared_queues(), broker.get_declared_actors()),
        queues=BrokerQueues(),
        lock_ttl=60,
        policy_of=app.tracker.policies.of,
    )


@pytest.mark.parametrize("way", ["return_to_broker", "copy", "take_over", "set_aside"])
def test_the_callback_hears_of_every_message_whose_worker_died(
    server_url: str, namespace: str, lab: Lab, way: str
) -> None:
    """Whatever way it is recovered; its payload is not shown."""
    incidents: list[Incident] = []
    app = App(server_url, namespace, lab, callback=incidents.append, recovery_interval=0 if way == "take_over" else 0.2)
    message = app.actor(lambda: app.ran.append(1), actor_name="work").send()
    rid = message.options["redis_message_id"]
    if way == "set_aside":
        app.client.hset(f"{app.broker.namespace}:default.msgs", rid, b"not a message")
        dead = app.orphan(message)
        app.client.delete(f"{app.broker.namespace}:default", f"{app.broker.namespace}:default.msgs")
    elif way == "return_to_broker":
        dead = app.orphan(message)
        dead.workers.register({"broker_namespace": app.broker.namespace, "broker_id": "gone", "queues": '["default"]'})
        app.lab.kill(dead)
        app.client.lrem(f"{app.broker.namespace}:default", 0, rid)
        app.client.sadd(f"{app.broker.namespace}:__acks__.gone.default", rid)
    else:
        dead = app.orphan(message)
    if way == "copy":
        app.client.delete(f"{app.broker.namespace}:default", f"{app.broker.namespace}:default.msgs")
    app.start()
    wait_until(lambda: incidents, what="the callback is called")
    app.join()
    app.close()
    (incident,) = incidents
    assert incident.kind is (Kind.SET_ASIDE if way == "set_aside" else Kind.RECOVERED)
    assert (incident.message_id, incident.incarnation) == (message.message_id, dead.me)
    assert (incident.actor_name, incident.crashes, incident.max_recoveries) == ("work", 1, 3)
    assert incident.started is not None
    assert incident.started.tzinfo is UTC
    assert not hasattr(incident, "payload")
    assert app.ran == ([] if way == "set_aside" else [1])


def test_what_is_set_aside_is_counted_and_kept_whole(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """In the log as an error, in Redis as it was."""
    message = app.actor(lambda: app.ran.append(1), actor_name="work").send()
    app.client.hset(f"{app.broker.namespace}:default.msgs", message.options["redis_message_id"], b"\x80pickle")
    app.orphan(message)
    app.client.delete(f"{app.broker.namespace}:default", f"{app.broker.namespace}:default.msgs")
    app.start()
    wait_until(lambda: app.store.messages.count_aside() == 1, what="it is set aside")
    app.join()
    assert f"Cannot decode the payload of message {message.message_id} (actor 'work', " in caplog.text
    assert "1 set aside" in caplog.text
    raw = app.client.hget(app.lab.prefix + "aside", message.message_id)
    assert raw.partition(b"\n")[2] == b"\x80pickle"
    assert "aside" in app.lab.names()


# The actor's view.


def test_the_handle_tells_a_recovered_run_from_a_first_one(app: App) -> None:
    """Crashes and shutdowns, and since when."""
    handles: list[Current | None] = []

    def work() -> None:
        handles.append(dramatiq_inflight.current())

    actor = app.actor(work, actor_name="work")
    first, crashed, drained = actor.send(), actor.send(), actor.send()
    app.orphan(crashed)
    app.orphan(drained, draining=True)
    app.start(threads=1)
    app.join()
    by_id = {handle.message_id: handle for handle in handles if handle is not None}
    assert [by_id[m.message_id].recovered for m in (first, crashed, drained)] == [False, True, True]
    assert [by_id[m.message_id].crashes for m in (first, crashed, drained)] == [0, 1, 0]
    assert [by_id[m.message_id].drains for m in (first, crashed, drained)] == [0, 0, 1]
    handle = by_id[crashed.message_id]
    assert handle.started is not None
    assert handle.first_started is not None
    assert handle.first_started < handle.started
    assert dramatiq_inflight.current() is None
