# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One message decides about no other: refusals, sizes, failing policies, damaged records, lost answers."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from typing import Any
from unittest.mock import Mock

import dramatiq
import pika
import pytest
import redis
from dramatiq import Message
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import SkipMessage

from dramatiq_inflight.config.policy import Policy
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.incident import Incident
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.records import Orphan
from dramatiq_inflight.store.replies import Claim, Returned
from tests.support.fleet import Fleet
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until

#: How a broker, a middleware or an encoder refuses a message, by what it is.
REFUSALS = {
    "full": ConnectionClosed(pika.exceptions.NackError([])),
    "too large": ConnectionClosed(pika.exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED")),
    "by a middleware": SkipMessage("not now"),
    "not encodable": TypeError("no JSON"),
    "by a file": FileNotFoundError("a middleware's"),
    "unknown": RuntimeError("a broker of somebody's"),
}


class Refusing:
    """Enqueues all messages but some."""

    def __init__(self, recovery: Recoverer, ids: list[str], error: Exception) -> None:
        self.ids = set(ids)
        self.calls = 0
        self._enqueue = recovery.enqueue
        self._error = error
        recovery.enqueue = self

    def __call__(self, message: Message[object], *, delay: int | None = None) -> Message[object]:
        self.calls += 1
        if message.message_id in self.ids:
            raise self._error
        return self._enqueue(message, delay=delay)


@pytest.mark.parametrize("how", REFUSALS)
def test_refused_messages_hold_up_no_other_of_their_worker(how: str, fleet: Fleet) -> None:
    """Not in their batch, of the same queue and actor, however many come first."""
    ids = fleet.dead("dead", 15, apart=True)
    recovery = fleet.recovery("r", apart=True)
    Refusing(recovery, ids[:5], REFUSALS[how])
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.failed, swept.reaped) == (10, 5, False, 0)
    assert {message.message_id for message in fleet.enqueued()} == set(ids[5:])
    assert recovery.leftovers == {}
    heads = [fleet.lab.head(copy_of(id)) for id in ids[:5]]
    assert {(head.state, head.owner, head.tries) for head in heads if head} == {("recovering", "", 2)}


@pytest.mark.parametrize("how", REFUSALS)
def test_refused_messages_hold_up_no_other_dead_worker(how: str, fleet: Fleet) -> None:
    """Nor its being forgotten; each of several has one that is refused."""
    refused = [id for n in range(6) for id in fleet.dead(f"bad{n}", 1, apart=True)]
    good = fleet.dead("good", 3, apart=True)
    fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"good": 2000})
    recovery = fleet.recovery("r", apart=True)
    Refusing(recovery, refused, REFUSALS[how])
    recovery.sweep()
    recovery.sweep()
    assert {message.message_id for message in fleet.enqueued()} == set(good)
    assert "incarnation:good" not in fleet.lab.names()


def test_a_refused_message_of_a_redis_broker_holds_up_nothing(fleet: Fleet) -> None:
    """It takes a copy, for it is to be dead-lettered; everything else of its worker is handed back."""
    (poison,) = fleet.dead("dead", 1, limit=0)
    fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"dead": 10**14})
    more = fleet.dead("dead", 2)
    fleet.broker.client.hset(f"{fleet.broker.namespace}:default.msgs", "fetched", b"{}")
    fleet.broker.client.sadd(f"{fleet.broker.namespace}:__acks__.dead.default", "fetched")
    recovery = fleet.recovery("r")
    refusing = Refusing(recovery, [poison], RuntimeError("too large"))
    swept = recovery.sweep()
    assert (swept.handed_back, swept.refused, swept.reaped) == (2, 1, 0)
    queued = fleet.broker.client.lrange(f"{fleet.broker.namespace}:default", 0, -1)
    assert {b"fetched", *(f"r-{id}".encode() for id in more)} <= set(queued)
    refusing.ids.clear()
    fleet.are_due(poison)
    swept = recovery.sweep()
    assert (swept.poisoned, swept.reaped) == (1, 1)


def test_a_refused_message_waits_longer_with_every_try(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Any worker tries it again; the log names it once for each cause, and everybody hears of its recovery."""
    (id,) = fleet.dead("dead", 1, apart=True)
    first, second = fleet.recovery("r", apart=True), fleet.recovery("s", apart=True)
    told: list[Incident] = []
    second.tell = lambda incident, message: told.append(incident)
    Refusing(first, [id], RuntimeError("full"))
    waits = []
    for _ in range(8):
        fleet.are_due(id)
        assert first.sweep().refused == 1
        assert not first.sweep().refused, "not before its time"
        waits.append((fleet.lab.deadline(copy_of(id)) or 0) - 1000 * float(fleet.lab.client.time()[0]))
    assert all(a < b for a, b in itertools.pairwise(waits[:7]))
    assert 8_000 < waits[0] < 11_000
    assert 890_000 < waits[-1] < 901_000
    assert caplog.text.count(f"Could not enqueue a copy of message {id} (queue 'default', actor 'work'; ") == 1
    Refusing(first, [id], TypeError("no JSON"))
    fleet.are_due(id)
    first.sweep()
    assert caplog.text.count("actor 'work'; TypeError: no JSON)") == 1
    fleet.are_due(id)
    swept = second.sweep()
    assert (swept.copied, swept.reaped) == (1, 1)
    assert [incident.instance for incident in told] == ["pod-dead"]


@pytest.mark.parametrize("error", [ConnectionError("refused"), ConnectionClosed(OSError("refused"))])
def test_a_broker_that_is_away_is_not_tried_for_each_message(error: Exception, fleet: Fleet) -> None:
    """A few times in a sweep; whoever reaches it puts back what was not tried at once."""
    ids = [id for n in range(3) for id in fleet.dead(f"dead{n}", 40, apart=True)]
    recovery, other = fleet.recovery("r", apart=True), fleet.recovery("s", apart=True)
    refusing = Refusing(recovery, ids, error)
    swept = recovery.sweep()
    assert (swept.failed, swept.refused) == (True, 0)
    assert refusing.calls <= 8
    assert other.sweep().copied >= len(ids) - 8
    fleet.are_due(*ids)
    other.sweep()
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)


def test_a_policy_that_fails_stops_no_recovery(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """The message goes to its own queue, at once."""
    ids = fleet.dead("dead", 3, apart=True)
    recovery = fleet.recovery("r", apart=True)

    def policy_of(message: Message[object]) -> Policy:
        raise ZeroDivisionError(message.message_id)

    recovery.policy_of = policy_of
    swept = recovery.sweep()
    assert (swept.copied, swept.reaped) == (3, 1)
    assert caplog.text.count("Recovering it to its own queue without delay") == len(ids)


def test_those_who_are_told_stop_no_recovery(fleet: Fleet) -> None:
    """Whatever they raise."""
    fleet.dead("dead", 3, apart=True)
    fleet.dead("shared", 3)
    recovery = fleet.recovery("r", apart=True)

    def tell(incident: Incident, message: Message[object] | None) -> None:
        raise ZeroDivisionError(incident.message_id)

    recovery.tell = tell
    assert recovery.sweep().copied == 3
    recovery = fleet.recovery("s")
    recovery.tell = tell
    assert recovery.sweep().handed_back == 3


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("field", "value"), [(0, "unknown"), (3, None), (8, {}), (10, None), (17, "many")])
def test_a_record_with_a_damaged_field_is_set_aside(field: int, value: Any, apart: bool, fleet: Fleet) -> None:
    """It is JSON, and no record; the others of its worker are recovered."""
    ids = fleet.dead("dead", 3, apart=apart)
    key = f"{fleet.lab.prefix}record:{ids[1]}"
    head, _, payload = fleet.lab.client.get(key).partition(b"\n")
    fields = json.loads(head)
    fields[field] = value
    fleet.lab.client.set(key, json.dumps(fields).encode() + b"\n" + payload)
    swept = fleet.recovery("r", apart=apart).sweep()
    assert (swept.copied + swept.handed_back, swept.set_aside, swept.reaped) == (2, 1, 1)
    assert fleet.lab.client.hkeys(fleet.lab.prefix + "aside") == [ids[1].encode()]


def test_a_time_that_is_none_stops_no_recovery(fleet: Fleet) -> None:
    """A clock that was set to the end of time."""
    (id,) = fleet.dead("dead", 1, apart=True)
    key = f"{fleet.lab.prefix}record:{id}"
    head, _, payload = fleet.lab.client.get(key).partition(b"\n")
    fields = json.loads(head)
    fields[8] = 10**18
    fleet.lab.client.set(key, json.dumps(fields).encode() + b"\n" + payload)
    assert fleet.recovery("r", apart=True).sweep().copied == 1


def test_what_one_dead_worker_says_of_itself_stops_no_other(fleet: Fleet) -> None:
    """Its queues are no list."""
    fleet.dead("bad", 1)
    fleet.lab.client.hset(fleet.lab.prefix + "incarnation:bad", "queues", "what?")
    fleet.dead("good", 2)
    swept = fleet.recovery("r").sweep()
    assert (swept.handed_back, swept.reaped, swept.failed) == (2, 1, True)


# Sizes.


def test_a_claim_copies_a_megabyte_and_one_message_at_least(fleet: Fleet) -> None:
    """A message that a claim leaves for later stays as it is."""
    ids = fleet.dead("dead", 5, apart=True, size=400_000)
    ids += fleet.dead("dead", 1, apart=True, size=3_000_000)
    fleet.lab.client.zadd(fleet.lab.prefix + "heartbeats", {"dead": 1000})
    store = fleet.recovery("r", apart=True).store
    taken = []
    while ids:
        answers = store.recovery.claim(ids, dead="dead", hold=60)
        later = [id for id, answer in zip(ids, answers, strict=True) if answer is Claim.LATER]
        taken.append(len(ids) - len(later))
        assert {fleet.lab.state(copy_of(id)) for id in later} <= {"running"}
        ids = later
    assert taken == [2, 2, 1, 1]


def test_a_hand_back_copies_a_megabyte_and_one_message_at_least(fleet: Fleet) -> None:
    """The copies are the records' own; the broker moves ids alone."""
    ids = fleet.dead("dead", 3, size=700_000)
    store = fleet.recovery("r").store
    answers = store.recovery.return_to_broker("dead", [(id, True) for id in ids])
    assert answers == [Returned.RETURNED, Returned.LATER, Returned.LATER]
    assert [fleet.lab.state(copy_of(id)) for id in ids] == ["requeued", "running", "running"]


@pytest.mark.parametrize("apart", [False, True])
def test_large_messages_are_all_recovered_in_one_sweep(apart: bool, fleet: Fleet) -> None:
    """In as many scripts as it takes."""
    ids = fleet.dead("dead", 12, apart=apart, size=600_000)
    swept = fleet.recovery("r", apart=apart).sweep()
    assert (swept.copied if apart else swept.handed_back, swept.reaped) == (12, 1)
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)


def test_a_claim_whose_answer_was_lost_is_found_at_once(fleet: Fleet) -> None:
    """By its own recoverer, in its next sweep; it holds for minutes for anybody else."""
    ids = fleet.dead("dead", 3, apart=True)
    recovery = fleet.recovery("r", apart=True)
    call = recovery.store.scripts.wire.call
    lost: list[Any] = []

    def losing(script: Any, keys: Any, args: Any) -> Any:
        reply = call(script, keys, args)
        if script is recovery.store.scripts.loaded["claim"] and not lost:
            lost.append(reply)
            raise redis.TimeoutError("the answer takes too long")
        return reply

    recovery.store.scripts.wire.call = losing  # type: ignore[method-assign]
    with pytest.raises(redis.TimeoutError):
        recovery.sweep()
    assert {fleet.lab.state(copy_of(id)) for id in ids} == {"recovering"}
    swept = recovery.sweep()
    assert (swept.copied, swept.reaped) == (3, 1)


def test_a_claim_that_was_sent_twice_is_found_at_once(fleet: Fleet) -> None:
    """The connection broke behind the first, whose answer was lost: the second finds that it is ours."""
    ids = fleet.dead("dead", 3, apart=True)
    recovery = fleet.recovery("r", apart=True)
    recovery.store.recovery.claim(ids, dead="dead", hold=60)
    assert recovery.sweep().copied == 3


def test_a_message_that_takes_too_long_holds_up_no_other(fleet: Fleet) -> None:
    """Each claim of it times out: it comes first in every sweep, and the others are recovered all the same."""
    (large,) = fleet.dead("dead", 1, apart=True)
    recovery = fleet.recovery("r", apart=True)
    claim = recovery.store.recovery.claim

    def too_slow(ids: list[str], **more: Any) -> Any:
        answers = claim(ids, **more)
        if any(isinstance(answer, Orphan) and answer.message_id == large for answer in answers):
            raise redis.TimeoutError("it takes too long")
        return answers

    recovery.store.recovery.claim = too_slow  # type: ignore[method-assign,assignment]
    with pytest.raises(redis.TimeoutError):
        recovery.sweep()
    others = fleet.dead("other", 3, apart=True)
    with pytest.raises(redis.TimeoutError):
        recovery.sweep()
    assert {message.message_id for message in fleet.enqueued()} == set(others)


def test_a_worker_that_leaves_lets_go_of_what_it_has_claimed(fleet: Fleet) -> None:
    """Others need not wait until its claim has run out; nor does it count as a recoverer's death."""
    (id,) = fleet.dead("dead", 1, apart=True)
    leaving = fleet.recovery("leaving", apart=True)
    assert isinstance(leaving.store.recovery.claim([id], dead="dead", hold=60)[0], Orphan)
    leaving.leave_over(id, "dead")
    leaving.let_go()
    leaving.store.workers.deregister()
    assert fleet.recovery("r", apart=True).sweep().copied == 1
    assert [message.message_id for message in fleet.enqueued()] == [id]


def test_a_worker_that_leaves_after_an_enqueue_counts_the_try(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is away when the copy is to be marked, and the worker shuts down: the next copy has another number."""
    (id,) = fleet.dead("dead", 1, apart=True, limit=0)
    leaving = fleet.recovery("leaving", apart=True)
    with monkeypatch.context() as patched:
        patched.setattr(leaving.store.recovery, "confirm_copies", Mock(side_effect=redis.ConnectionError("away")))
        with pytest.raises(redis.ConnectionError):
            leaving.sweep()
    leaving.let_go()
    leaving.store.workers.deregister()
    assert fleet.recovery("r", apart=True).sweep().poisoned == 1
    copies = [Copy.of(message) for message in fleet.enqueued()]
    assert [(copy.message_id, copy.generation, copy.tries) for copy in copies] == [(id, 2, 1), (id, 2, 2)]


def test_an_enqueue_that_arrives_though_it_failed_is_a_try(fleet: Fleet) -> None:
    """The connection breaks before the broker's answer: the next copy has another number."""
    (id,) = fleet.dead("dead", 1, apart=True, limit=0)
    recovery = fleet.recovery("r", apart=True)
    enqueue = recovery.enqueue

    def without_an_answer(message: Message[object], *, delay: int | None = None) -> Message[object]:
        enqueue(message, delay=delay)
        raise ConnectionError("reset by peer")

    recovery.enqueue = without_an_answer
    assert recovery.sweep().failed
    recovery.enqueue = enqueue
    fleet.are_due(id)
    assert recovery.sweep().poisoned == 1
    copies = [Copy.of(message) for message in fleet.enqueued()]
    assert [(copy.message_id, copy.generation, copy.tries) for copy in copies] == [(id, 2, 1), (id, 2, 2)]


def test_an_encoder_that_fails_for_a_moment_sets_nothing_aside(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys, or its blobs, may be with a service that is away: the messages wait."""
    ids = fleet.dead("dead", 3, apart=True)
    recovery = fleet.recovery("r", apart=True)

    def away(data: bytes) -> Any:
        raise ConnectionError("the keys are away")

    with monkeypatch.context() as patch:
        patch.setattr(dramatiq.get_encoder(), "decode", away)
        swept = recovery.sweep()
    assert (swept.refused, swept.set_aside, fleet.lab.names() & {"aside"}) == (3, 0, set())
    fleet.are_due(*ids)
    assert recovery.sweep().copied == 3


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the recoverer goes on."""


def kill(*args: Any, **options: Any) -> Any:
    raise Killed


@pytest.mark.parametrize("step", ["decode", "encode", "enqueue"])
def test_a_message_that_kills_whoever_copies_it_is_set_aside(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each step may take more memory than there is."""
    fleet.dead("dead", 1, apart=True)
    with monkeypatch.context() as patch:
        patch.setattr(fleet.broker if step == "enqueue" else dramatiq.get_encoder(), step, kill)
        for n in range(3):
            recovery = fleet.recovery(f"r{n}", apart=True)
            with pytest.raises(Killed):
                recovery.sweep()
            fleet.lab.kill(recovery.store)
    assert fleet.recovery("last", apart=True).sweep().set_aside == 1


# In company.


def test_recovery_decodes_nothing_beside_a_last_chance(app: App, lab: Lab) -> None:
    """A payload that kills the process would convict it."""
    app.actor(lambda: None, actor_name="work")
    app.start(threads=2)
    runtime = app.runtime
    runtime.recovery_thread.stop()
    assert runtime.gate.enter()
    assert runtime.gate.enter_alone(600, lambda: True)
    dead = app.other("dead")
    copy = Copy("m", 1, "o", "o", False, "default", "work")
    lab.start(dead, copy, payload=Message("default", "work", (), {}, {}).encode(), tailored=True)
    lab.kill(dead)
    with runtime.recovery.in_company() as in_company:
        assert not in_company
    runtime.gate.leave()
    with runtime.recovery.in_company() as in_company:
        assert in_company
        assert runtime.gate.has_visitor is False, "there is nobody else"


def test_a_message_is_not_alone_beside_recovery_in_one_thread(app: App, lab: Lab) -> None:
    """Its record says so before anything is decoded, and again of the next one when recovery has left."""
    heads: list[int] = []

    def work() -> None:
        (name,) = app.records()
        heads.append(json.loads(app.client.get(lab.prefix + name).partition(b"\n")[0])[15])
        runtime = app.runtime

        def visit() -> None:
            with runtime.recovery.in_company() as in_company:
                assert in_company
                heads.append(json.loads(app.client.get(lab.prefix + name).partition(b"\n")[0])[15])

        recovery = threading.Thread(target=visit)
        recovery.start()
        recovery.join()

    actor = app.actor(work, actor_name="work")
    app.start(threads=1)
    actor.send()
    wait_until(lambda: len(heads) == 2, what="it runs")
    app.join()
    assert heads == [1, 0]
