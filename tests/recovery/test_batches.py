# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Copies that are enqueued in one write: what a batch does to hooks, to refusals, and when its connection breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message, Middleware
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import MiddlewareError
from redis.backoff import NoBackoff
from redis.retry import Retry

from dramatiq_inflight.brokers.redis import batch_of
from dramatiq_inflight.config.policy import Policy
from dramatiq_inflight.delivery import Copy, is_own_enqueue
from dramatiq_inflight.recovery.sweep import Recoverer
from tests.support.fleet import Fleet
from tests.support.lab import Lab, copy_of
from tests.support.network_proxy import NetworkProxy
from tests.support.servers import wait_until


def batches_of(recovery: Recoverer) -> list[int]:
    """Return how many messages each batch has from now on."""
    sizes: list[int] = []
    plain = recovery.enqueue_batch
    assert plain is not None

    def counting(copies: Any) -> Any:
        sizes.append(len(copies))
        return plain(copies)

    recovery.enqueue_batch = counting
    return sizes


class Hooks(Middleware):
    """Notes the hooks around an enqueue; may refuse a message."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self.refused: set[str] = set()

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        assert is_own_enqueue.get()
        assert type(broker) is RedisBroker
        assert broker.middleware == [self]
        if message.message_id in self.refused:
            raise MiddlewareError("not now")
        self.before.append(message.message_id)
        message.options["seen"] = delay

    def after_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        queue = "default" if delay is None else "default.DQ"
        assert broker.client.hexists(f"{broker.namespace}:{queue}.msgs", message.options["redis_message_id"])
        self.after.append(message.message_id)


# One write.


def test_copies_are_enqueued_in_one_write_after_the_first(fleet: Fleet) -> None:
    """The first shows that the broker is there."""
    ids = fleet.dead("dead", 60, apart=True)
    recovery = fleet.recovery("r", apart=True, batches=True)
    sizes = batches_of(recovery)
    swept = recovery.sweep()
    assert (swept.copied, swept.reaped, swept.failed, sizes) == (60, 1, False, [49, 10])
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)
    for message in fleet.enqueued():
        copy = Copy.of(message)
        head = fleet.lab.head(copy_of(message.message_id))
        assert head is not None
        assert (copy.generation, copy.tries) == (2, 1)
        assert (head.state, head.copy) == ("requeued", message.options["redis_message_id"])


def test_a_batch_calls_the_hooks_for_each_message(fleet: Fleet) -> None:
    """With the broker itself; what a hook adds is sent, and the hooks behind the enqueue find it done."""
    hooks = Hooks()
    fleet.broker.middleware.append(hooks)
    ids = fleet.dead("dead", 6, apart=True)
    recovery = fleet.recovery("r", apart=True, batches=True)
    sizes = batches_of(recovery)
    assert recovery.sweep().copied == 6
    assert sizes == [5]
    assert Counter(hooks.before) == Counter(hooks.after) == Counter(ids)
    assert hooks.after[1:] == hooks.before[:0:-1], "the last one first: hooks nest"
    assert [message.options["seen"] for message in fleet.enqueued()] == [None] * 6


def test_a_batch_delays_each_copy_by_its_own_policy(fleet: Fleet) -> None:
    """A delayed copy goes to the delay queue, and has no id by which the broker can be asked about it."""
    ids = fleet.dead("dead", 6, apart=True)
    recovery = fleet.recovery("r", apart=True, batches=True)
    recovery.policy_of = lambda message: Policy(recovery_delay=30.0 if message.message_id in ids[3:] else 0.0)
    sizes = batches_of(recovery)
    assert recovery.sweep().copied == 6
    assert sizes == [5]
    delayed: Any = fleet.broker.client.hvals(f"{fleet.broker.namespace}:default.DQ.msgs")
    assert {Message.decode(data).message_id for data in delayed} == set(ids[3:])
    assert {message.message_id for message in fleet.enqueued()} == set(ids[:3])
    heads = [fleet.lab.head(copy_of(id)) for id in ids]
    assert [bool(head and head.copy) for head in heads] == [True] * 3 + [False] * 3


# One message that is refused.


def of_a_middleware(fleet: Fleet, recovery: Recoverer, id: str, patch: pytest.MonkeyPatch) -> None:
    hooks = Hooks()
    hooks.refused.add(id)
    fleet.broker.middleware.append(hooks)


def of_the_encoder(fleet: Fleet, recovery: Recoverer, id: str, patch: pytest.MonkeyPatch) -> None:
    encode = dramatiq.get_encoder().encode
    patch.setattr(dramatiq.get_encoder(), "encode", lambda data: encode(data) if data["message_id"] != id else None)


def of_the_server(fleet: Fleet, recovery: Recoverer, id: str, patch: pytest.MonkeyPatch) -> None:
    """The queue of one message is no list."""
    fleet.broker.declare_queue("broken")
    fleet.broker.client.set(f"{fleet.broker.namespace}:broken", "no list")
    recovery.policy_of = lambda message: Policy(recovery_queue="broken" if message.message_id == id else None)


@pytest.mark.parametrize("refusal", [of_a_middleware, of_the_encoder, of_the_server])
def test_a_refused_message_fails_no_other_of_its_batch(
    refusal: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits by itself, and goes by itself from then on."""
    ids = fleet.dead("dead", 10, apart=True)
    recovery = fleet.recovery("r", apart=True, batches=True)
    refusal(fleet, recovery, ids[5], monkeypatch)
    sizes = batches_of(recovery)
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.failed, sizes) == (9, 1, False, [9])
    assert {message.message_id for message in fleet.enqueued()} == set(ids) - {ids[5]}
    head = fleet.lab.head(copy_of(ids[5]))
    assert head is not None
    assert (head.state, head.owner, head.tries) == ("recovering", "", 2)
    assert caplog.text.count("Could not enqueue") == 1
    more = fleet.dead("more", 3, apart=True)
    fleet.are_due(ids[5])
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, sizes) == (3, 1, [9, 2])
    assert {message.message_id for message in fleet.enqueued()} >= set(more)


# A connection that breaks.


@pytest.fixture
def proxy(server_url: str) -> Iterator[NetworkProxy]:
    """The way to the broker."""
    proxy = NetworkProxy(redis.Redis.from_url(server_url).get_connection_kwargs()["port"])
    yield proxy
    proxy.close()


def test_a_batch_whose_connection_breaks_counts_as_tried(lab: Lab, broker: RedisBroker, proxy: NetworkProxy) -> None:
    """Some of it has arrived.  Each message goes by itself the next time, and no two copies have the same number."""
    kwargs = broker.client.get_connection_kwargs()
    client = redis.Redis(port=proxy.port, db=kwargs["db"], retry=Retry(NoBackoff(), 0))
    breaking = RedisBroker(client=client, namespace=broker.namespace, middleware=[], maintenance_chance=0)
    dramatiq.actor(broker=breaking, actor_name="work")(lambda: None)
    fleet = Fleet(lab, breaking)
    ids = fleet.dead("dead", 15, apart=True)
    recovery = fleet.recovery("r", apart=True, batches=True)
    sizes = batches_of(recovery)
    batch = recovery.enqueue_batch
    assert batch is not None

    def half(copies: Any) -> Any:
        proxy.ends_after = 5_000
        try:
            return batch(copies)
        finally:
            proxy.ends_after = None

    recovery.enqueue_batch = half
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.failed, sizes) == (1, 0, True, [14])
    heads = [fleet.lab.head(copy_of(id)) for id in ids]
    assert Counter((head.state, head.owner, head.tries) for head in heads if head) == {
        ("requeued", "", 1): 1,
        ("recovering", "", 2): 14,
    }
    wait_until(lambda: len(fleet.enqueued()) > 1, what="a part of it arrives")
    assert len(fleet.enqueued()) < 15
    fleet.are_due(*ids)
    swept = recovery.sweep()
    assert (swept.copied, swept.reaped, sizes) == (14, 1, [14])
    copies = Counter((message.message_id, Copy.of(message).tries) for message in fleet.enqueued())
    assert {id for id, _ in copies} == set(ids)
    assert max(copies.values()) == 1
    client.close()


def test_a_broker_that_goes_away_in_a_sweep_is_tried_a_few_times(
    lab: Lab, broker: RedisBroker, proxy: NetworkProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """One batch fails, then some messages; the rest is due at once for a worker that reaches the broker."""
    client = redis.Redis(port=proxy.port, db=broker.client.get_connection_kwargs()["db"], retry=Retry(NoBackoff(), 0))
    leaving = RedisBroker(client=client, namespace=broker.namespace, middleware=[], maintenance_chance=0)
    dramatiq.actor(broker=leaving, actor_name="work")(lambda: None)
    ids = Fleet(lab, broker).dead("dead", 200, apart=True)
    recovery = Fleet(lab, leaving).recovery("r", apart=True, batches=True)
    sizes = batches_of(recovery)
    tried: list[str] = []
    enqueue = recovery.enqueue

    def away(message: Message[object], *, delay: int | None = None) -> Message[object]:
        tried.append(message.message_id)
        enqueued = enqueue(message, delay=delay)
        proxy.switch(1)  # where nobody listens
        proxy.reset()
        return enqueued

    recovery.enqueue = away
    swept = recovery.sweep()
    assert (swept.copied, swept.failed, sizes) == (1, True, [49])
    assert len(tried) <= 8
    assert caplog.text.count("Cannot reach the broker to enqueue copies") == 1
    fleet = Fleet(lab, broker)
    other = fleet.recovery("s", apart=True, batches=True)
    assert other.sweep().copied >= 200 - 50 - len(tried)
    fleet.are_due(*ids)
    other.sweep()
    assert Counter(message.message_id for message in fleet.enqueued()) == Counter(ids)


# Brokers of other kinds.


class Own(RedisBroker):
    """A broker with an enqueue of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        self.calls.append(message.message_id)
        return super().enqueue(message, delay=delay)


class Dispatching(RedisBroker):
    """A broker that sends its commands its own way."""

    def _dispatch(self, command: str) -> Any:
        return super()._dispatch(command)  # type: ignore[no-untyped-call]


def test_a_broker_that_overrides_enqueue_has_it_called(lab: Lab, server_url: str, namespace: str) -> None:
    """For each message."""
    broker = Own(url=server_url, namespace=f"{namespace}-broker", middleware=[], maintenance_chance=0)
    dramatiq.actor(broker=broker, actor_name="work")(lambda: None)
    fleet = Fleet(lab, broker)
    ids = fleet.dead("dead", 10, apart=True)
    assert fleet.recovery("r", apart=True, batches=True).sweep().copied == 10
    assert Counter(broker.calls) == Counter(ids)
    broker.client.close()


def test_only_a_broker_with_dramatiq_s_own_enqueue_takes_batches(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that is wrapped, in whatever way, or of another kind."""
    assert batch_of(broker) is not None
    assert batch_of(type("Sub", (RedisBroker,), {})(client=broker.client)) is not None
    assert batch_of(Own(client=broker.client)) is None
    assert batch_of(Dispatching(client=broker.client)) is None  # type: ignore[no-untyped-call]
    assert batch_of(StubBroker()) is None
    for name in ("enqueue", "do_enqueue"):
        with monkeypatch.context() as patch:
            patch.setattr(broker, name, lambda *args, **options: None)
            assert batch_of(broker) is None
        with monkeypatch.context() as patch:
            patch.setattr(RedisBroker, name, lambda *args, **options: None, raising=False)
            assert batch_of(broker) is None
    assert batch_of(broker) is not None
