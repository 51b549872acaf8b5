# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The actions of an operator, and their limits."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from dramatiq_inflight import ConfigurationError, Done, InFlightTracker, Operations
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store import operations as store_operations
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.replies import Finished, Reasserted, Start
from dramatiq_inflight.store.store import Store
from tests.support.lab import Lab, copy_of
from tests.support.letters import bury
from tests.support.servers import RedisServer


class Shop:
    """An application whose workers are driven by hand."""

    def __init__(self, url: str, namespace: str, lab: Lab) -> None:
        self.lab = lab
        self.broker = RedisBroker(client=redis.Redis.from_url(url), namespace=namespace + "-broker")
        self.broker.add_middleware(InFlightTracker(namespace=namespace, heartbeat_interval=10, heartbeat_ttl=60))
        self.work = dramatiq.actor(broker=self.broker, track_inflight=True, actor_name="work")(lambda: None)
        self.operations = Operations(self.broker)

    def fetch(self) -> Copy | None:
        """The next message of the queue, as a worker gets it; it stays in the broker's hands."""
        consumer = self.broker.consume("default", timeout=50)
        message: Any = next(consumer)
        return None if message is None else Copy.of(message)

    def runs(self, by: Store) -> Copy:
        """A message is sent, fetched, and runs."""
        self.work.send()
        copy = self.fetch()
        assert copy is not None
        assert self.start(by, copy) is Start.RUN
        return copy

    def retry(self, copy: Copy) -> None:
        """Enqueue the retry of a failure, before its message is acknowledged."""
        self.broker.enqueue(dramatiq.Message(copy.queue, copy.actor, (), {}, {"retries": 1}, copy.message_id))

    def start(self, by: Store, copy: Copy) -> Start:
        return by.messages.start(copy, b"", limit=3, here="no", alone=True, broker_keys=self._keys()).answer

    def _keys(self) -> tuple[str, str]:
        namespace = self.broker.namespace
        return f"{namespace}:__acks__.{self.broker.broker_id}.default", f"{namespace}:default.msgs"

    def dead_letters(self) -> list[dramatiq.Message[Any]]:
        raw: Any = self.broker.client.hvals(f"{self.broker.namespace}:default.XQ.msgs")
        return [dramatiq.Message.decode(data) for data in raw]


@pytest.fixture
def shop(server_url: str, namespace: str, lab: Lab) -> Iterator[Shop]:
    made = Shop(server_url, namespace, lab)
    yield made
    made.broker.client.delete(*(made.broker.client.keys(f"{made.broker.namespace}:*") or ["-"]))


def test_the_user_of_the_documentation_may_do_all_that(server_binary: str, tmp_path: Path, namespace: str) -> None:
    """The permissions in docs/brokers.rst are enough for an operator, too."""
    text = (Path(__file__).parents[2] / "docs" / "brokers.rst").read_text()
    rules = re.search(r"ACL SETUSER app on >password\s+(.*?)\n\n", text, re.DOTALL)
    assert rules is not None
    allowed = rules[1].replace("dramatiq_processing", namespace).replace("~dramatiq", f"~{namespace}-broker")
    server = RedisServer(server_binary, tmp_path).start()
    try:
        admin: Any = server.client()
        admin.execute_command("ACL", "SETUSER", "app", "on", ">password", *allowed.split())
        shop = Shop(f"redis://app:password@127.0.0.1:{server.port}/0", namespace, Lab(admin, namespace))
        a, b = shop.lab.incarnation("a"), shop.lab.incarnation("b")
        taken, condemned, discarded = shop.runs(a), shop.runs(a), shop.runs(a)
        assert shop.operations.requeue(taken.message_id, force=True) is Done.DONE
        shop.lab.kill(a)
        assert shop.operations.dead_letter(condemned.message_id) is Done.DONE
        assert shop.operations.discard(discarded.message_id) is Done.DONE
        b.workers.heartbeat()
        shop.operations.left_to_recover()
        shop.operations.recover()
        assert {"requeued", "condemned", "discarded"} <= set(events(shop))
        assert admin.execute_command("ACL", "LOG") == []
    finally:
        server.kill()


def events(shop: Shop) -> list[str]:
    return [event.name for event in reversed(shop.operations.inspector.history()) if event.message_id]


def test_what_runs_on_a_living_worker_is_left_alone(shop: Shop, a: Store) -> None:
    copy = shop.runs(a)
    for act in (shop.operations.requeue, shop.operations.dead_letter, shop.operations.discard):
        assert act(copy.message_id) is Done.ALIVE
    assert shop.lab.state(copy) == "running"
    assert a.workers.heartbeat(), "nobody has taken it for dead"
    assert shop.fetch() is None
    assert events(shop) == []


def test_a_message_taken_by_force_runs_and_fences_the_first(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    assert shop.operations.requeue(copy.message_id, force=True) is Done.DONE
    assert not a.workers.heartbeat(), "it hears of it with its next beat"
    mended = shop.lab.reassert(a, copy)[0]
    assert mended is Reasserted.LOST, "and does not have it back"
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FENCED
    again = shop.fetch()
    assert again is not None
    assert (again.message_id, again.generation) == (copy.message_id, 2)
    assert shop.start(b, again) is Start.RUN
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert shop.lab.state(copy) == "running"
    assert events(shop) == ["requeued", "fenced"], "of the failure; of a success before the copy started nobody hears"


def test_a_worker_robbed_by_force_gets_nothing_by_a_second_take(shop: Shop, a: Store) -> None:
    copy = shop.runs(a)
    assert shop.operations.requeue(copy.message_id, force=True) is Done.DONE
    assert shop.operations.requeue(copy.message_id) is Done.DONE, "its copy waits: that takes no force"
    mended = shop.lab.reassert(a, copy)[0]
    assert mended is Reasserted.LOST
    assert shop.operations.dead_letter(copy.message_id) is Done.DONE
    assert shop.lab.reassert(a, copy)[0] is Reasserted.LOST


def test_a_set_aside_message_that_runs_at_once_is_not_kept(
    shop: Shop, a: Store, b: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may have it before the operator's next step."""
    copy = shop.runs(a)
    shop.lab.kill(a)
    assert b.recovery.set_aside(shop.lab.claim(b, copy, a), dead=a.me)
    enqueue = shop.broker.enqueue

    def and_runs(message: Any, **options: Any) -> Any:
        enqueued = enqueue(message, **options)
        again = shop.fetch()
        assert again is not None
        assert shop.start(b, again) is Start.RUN
        return enqueued

    monkeypatch.setattr(shop.broker, "enqueue", and_runs)
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.operations.inspector.aside() == [], "or it would be put back once more"
    assert shop.lab.state(copy) == "running"


def test_what_a_dead_worker_ran_is_put_back_with_a_clean_count(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    head = shop.lab.head(copy)
    assert head is not None
    assert (head.state, head.generation, head.crashes) == ("requeued", 2, 0)
    again = shop.fetch()
    assert again is not None
    assert shop.start(b, again) is Start.RUN
    assert shop.start(b, copy) is not Start.RUN, "the broker still has the first copy, which is void"


def test_a_message_that_waits_is_dead_lettered_and_replayed(shop: Shop, a: Store, b: Store) -> None:
    """To the dead-letter queue by a worker, with the reason; and back from there."""
    copy = shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    assert shop.operations.dead_letter(copy.message_id) is Done.DONE
    assert shop.lab.state(copy) == "requeued, dead_letter"
    consumer = shop.broker.consume("default", timeout=50)
    message: Any = next(consumer)
    assert message.options["inflight"]["reason"] == "an operator has sent it to the dead-letter queue"
    condemned = Copy.of(message)
    assert shop.start(b, condemned) is Start.POISONED
    consumer.nack(message)
    b.messages.close_unstarted(condemned, "dead_lettered")
    assert shop.lab.state(copy) == "dead_lettered"
    assert len(shop.dead_letters()) == 1
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.dead_letters() == []
    again = shop.fetch()
    assert again is not None
    assert (again.message_id, again.generation) == (copy.message_id, 1)
    assert shop.start(b, again) is Start.RUN
    assert events(shop) == ["recovered", "condemned", "dead_lettered", "requeued"]


def dead_lettered(shop: Shop, a: Store, b: Store) -> Copy:
    """A poison message in the dead-letter queue."""
    copy = shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    condemn(shop, b, copy)
    return copy


def condemn(shop: Shop, b: Store, copy: Copy) -> None:
    """An operator sends a message to the dead-letter queue, by way of `b`."""
    assert shop.operations.dead_letter(copy.message_id) is Done.DONE
    consumer = shop.broker.consume("default", timeout=50)
    message: Any = next(consumer)
    assert shop.start(b, Copy.of(message)) is Start.POISONED
    consumer.nack(message)
    b.messages.close_unstarted(Copy.of(message), "dead_lettered")


def test_a_requeued_dead_letter_is_recorded_and_shown_at_once(shop: Shop, a: Store, b: Store) -> None:
    copy = dead_lettered(shop, a, b)
    inspector = shop.operations.inspector
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    seen, last = inspector.message(copy.message_id), inspector.last_event(copy.message_id)
    assert seen is not None
    assert seen.state == "requeued"
    assert last is not None
    assert (last.name, last.queue, last.actor) == ("requeued", "default", "work")
    counts = {(count.kind, count.queue, count.actor): count.number for count in inspector.counts()}
    assert counts["requeued", "default", "work"] == 1


def test_a_second_requeue_says_what_happened_to_the_first(shop: Shop, a: Store, b: Store) -> None:
    copy = dead_lettered(shop, a, b)
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.operations.requeue(copy.message_id) is Done.QUEUED
    consumer = shop.broker.consume("default", timeout=50)
    message: Any = next(consumer)
    again = Copy.of(message)
    assert shop.operations.requeue(copy.message_id) is Done.QUEUED, "fetched, and not started"
    assert shop.start(b, again) is Start.RUN
    assert shop.operations.requeue(copy.message_id) is Done.ALIVE
    assert b.messages.complete(again, 2, again=False, contended=False) is Finished.FINISHED
    consumer.ack(message)
    assert shop.operations.requeue(copy.message_id) is Done.REQUEUED
    assert shop.fetch() is None, "nothing was enqueued a second time"


def test_a_poison_verdict_can_be_taken_back(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)
    assert shop.operations.dead_letter(copy.message_id) is Done.DONE
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    condemned, again = shop.fetch(), shop.fetch()
    assert condemned is not None
    assert again is not None
    assert shop.start(b, condemned) is Start.STALE
    assert shop.start(b, again) is Start.RUN


def test_a_discarded_message_does_not_run(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    assert shop.operations.discard(copy.message_id) is Done.DONE
    assert shop.start(b, copy) is Start.COMPLETED
    assert shop.operations.discard(copy.message_id) is Done.SETTLED
    assert shop.operations.requeue(copy.message_id) is Done.SETTLED
    assert shop.lab.deadline(copy) is None
    assert events(shop) == ["recovered", "discarded"]


def test_a_run_discarded_by_force_changes_nothing_at_its_end(shop: Shop, a: Store) -> None:
    copy = shop.runs(a)
    assert shop.operations.discard(copy.message_id, force=True) is Done.DONE
    assert not a.workers.heartbeat()
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert shop.lab.state(copy) == "completed"
    assert a.messages.count_running() == 0


def test_a_retry_runs_though_its_failed_message_is_dead_lettered(shop: Shop, a: Store, b: Store) -> None:
    """It was with the broker before the operator came: it is an enqueue of its own, and no copy of the failed one."""
    copy = shop.runs(a)
    shop.retry(copy)
    assert shop.operations.dead_letter(copy.message_id, force=True) is Done.DONE
    retry, condemned = shop.fetch(), shop.fetch()
    assert retry is not None
    assert condemned is not None
    assert shop.start(b, retry) is Start.WAITING, "until the verdict is done"
    assert shop.start(b, condemned) is Start.POISONED
    shop.broker.client.hdel(f"{shop.broker.namespace}:default.msgs", condemned.broker_copy_id)  # as a nack does
    b.messages.close_unstarted(condemned, "dead_lettered")
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert shop.start(b, condemned) is not Start.RUN
    assert shop.start(b, retry) is Start.RUN


def test_a_retry_runs_though_its_failed_message_is_discarded(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.retry(copy)
    assert shop.operations.discard(copy.message_id, force=True) is Done.DONE
    retry = shop.fetch()
    assert retry is not None
    assert shop.start(b, copy) is not Start.RUN
    assert shop.start(b, retry) is Start.RUN


def test_what_was_set_aside_is_put_back_once_it_can_be_decoded(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)
    orphan = shop.lab.claim(b, copy, a)
    assert b.recovery.set_aside(orphan, dead=a.me)
    assert shop.operations.dead_letter(copy.message_id) is Done.UNREADABLE
    key = shop.lab.prefix + "aside"
    whole = shop.lab.client.hget(key, copy.message_id)
    shop.lab.client.hset(key, copy.message_id, whole.partition(b"\n")[0] + b"\nnonsense")
    assert shop.operations.requeue(copy.message_id) is Done.UNREADABLE
    shop.lab.client.hset(key, copy.message_id, whole)
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.operations.inspector.aside() == []
    again = shop.fetch()
    assert again is not None
    assert again.message_id == copy.message_id
    assert shop.start(b, again) is Start.RUN


@pytest.mark.parametrize("where", ["dead-letter queue", "aside"])
def test_two_operators_who_replay_one_message_do_not_double_it(
    shop: Shop, a: Store, b: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The second comes while the first has enqueued it, and has not dropped what it was enqueued from."""
    copy = shop.runs(a)
    shop.lab.kill(a)
    if where == "aside":
        assert b.recovery.set_aside(shop.lab.claim(b, copy, a), dead=a.me)
    else:
        condemn(shop, b, copy)
    enqueue, second, done = shop.broker.enqueue, Operations(shop.broker), list[Done]()
    other = threading.Thread(target=lambda: done.append(second.requeue(copy.message_id)))
    one_at_a_time, came = store_operations.Operations.one_at_a_time, threading.Event()

    def comes(store: store_operations.Operations, replay: Any, ttl: float) -> Any:
        if threading.current_thread() is other:
            came.set()
        return one_at_a_time(store, replay, ttl)

    monkeypatch.setattr(store_operations.Operations, "one_at_a_time", comes)

    def slow(message: Any, *, delay: Any = None) -> Any:
        sent = enqueue(message, delay=delay)
        if threading.current_thread() is other:
            came.set()  # it should not
        else:
            other.start()
            assert came.wait(120)
        return sent

    shop.broker.enqueue = slow  # type: ignore[method-assign]
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    other.join()
    assert done == [Done.QUEUED]
    assert shop.broker.client.llen(f"{shop.broker.namespace}:default") == 1
    assert not shop.lab.client.exists(shop.lab.prefix + "replay")


def test_what_was_set_aside_is_deleted_when_it_is_discarded(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.client.set(f"{shop.lab.prefix}record:{copy.message_id}", b"what is this?")
    shop.lab.kill(a)
    b.recovery.claim([copy.message_id], dead=a.me, hold=60)
    assert [aside.id for aside in shop.operations.inspector.aside()] == [copy.message_id]
    assert shop.operations.discard(copy.message_id) is Done.DONE
    assert shop.operations.inspector.aside() == []
    assert shop.operations.discard(copy.message_id) is Done.UNKNOWN


def test_another_applications_message_is_left_alone(shop: Shop, a: Store) -> None:
    copy = shop.runs(a)
    copy.actor, copy.message_id = "stranger", "m"
    shop.lab.runs(a, copy)
    shop.lab.kill(a)
    assert shop.operations.requeue("m") is Done.STRANGE
    assert shop.lab.state(copy) == "running"
    assert shop.operations.requeue("unheard of") is Done.UNKNOWN


def test_an_operator_who_is_killed_in_the_middle_loses_nothing(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)
    operator = shop.lab.incarnation("operator")
    taken = operator.operations.take(copy.message_id, hold=60, condemn=False, force=False)
    assert not isinstance(taken, str)
    assert shop.operations.requeue(copy.message_id) is Done.BUSY
    shop.lab.kill(operator)
    orphan = shop.lab.claim(b, copy, operator)
    b.recovery.confirm_copies([Enqueued(orphan, "r3", "default", 0)], dead="operator")
    assert shop.lab.state(copy) == "requeued"


def test_a_broker_that_is_away_is_said_and_recovery_ends_it(
    shop: Shop, a: Store, b: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)

    def away(*args: Any, **options: Any) -> None:
        raise RuntimeError("as asked for")

    monkeypatch.setattr(shop.broker, "do_enqueue", away, raising=False)
    assert shop.operations.requeue(copy.message_id) is Done.BEGUN
    assert shop.lab.state(copy) == "recovering"
    monkeypatch.undo()
    shop.lab.overdue(copy)
    assert shop.operations.recover().copied == 1
    again = shop.fetch()
    assert again is not None
    assert shop.start(b, again) is Start.RUN


def test_recover_does_what_a_worker_would(shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.kill(a)
    dead, number = shop.operations.left_to_recover()
    assert [one.id for one in dead] == ["a"]
    assert number == 1
    swept = shop.operations.recover()
    assert swept.copied == 1
    assert swept.reaped == 1
    assert shop.operations.left_to_recover() == ([], 0)
    again = shop.fetch()
    assert again is not None
    assert again.message_id == copy.message_id


def test_all_that_is_left_to_recover_is_counted(shop: Shop, a: Store, b: Store) -> None:
    """More dead workers than are recovered at a time, and what waits for its copy."""
    copy = shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    shop.lab.overdue(copy)
    for i in range(60):
        dead = shop.lab.incarnation(f"dead-{i}")
        shop.lab.runs(dead, copy_of())
        shop.lab.kill(dead)
    dead_ones, number = shop.operations.left_to_recover()
    assert len(dead_ones) == 61
    assert number == 61


def test_operations_need_a_tracker() -> None:
    with pytest.raises(ConfigurationError, match="no InFlightTracker"):
        Operations(StubBroker(middleware=[]))


def test_the_dead_letter_of_an_ordinary_failure_is_replayed_too(shop: Shop, a: Store, b: Store) -> None:
    """Its record is kept where another copy was met, or its worker had died before; and its copy is the first one."""
    shop.work.send()
    consumer = shop.broker.consume("default", timeout=50)
    message: Any = next(consumer)
    copy = Copy.of(message)
    assert shop.start(a, copy) is Start.RUN
    consumer.nack(message)
    a.messages.release(copy.message_id, 1, contended=True, dead_lettered=True, copy=copy)
    assert shop.lab.state(copy) == "dead_lettered"
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.dead_letters() == []
    again = shop.fetch()
    assert again is not None
    assert shop.start(b, again) is Start.RUN


def test_an_operator_replays_a_verdict_that_redis_never_heard_of(shop: Shop, a: Store, b: Store) -> None:
    """The copy is in the dead-letter queue, and the record says so once recovery has asked the broker for it."""
    copy = shop.runs(a)
    shop.lab.kill(a)
    assert shop.operations.dead_letter(copy.message_id) is Done.DONE
    consumer = shop.broker.consume("default", timeout=50)
    message: Any = next(consumer)
    condemned = Copy.of(message)
    assert shop.start(b, condemned) is Start.POISONED
    consumer.nack(message)  # and Redis cannot be told
    shop.lab.overdue(copy)
    shop.operations.recover()
    assert shop.lab.deadline(copy) is None
    assert shop.lab.state(copy) == "dead_lettered"
    assert shop.operations.requeue(copy.message_id) is Done.DONE
    assert shop.dead_letters() == []
    again = shop.fetch()
    assert again is not None
    assert shop.start(b, again) is Start.RUN


def test_a_dead_letter_that_was_never_tracked_is_not_unknown(shop: Shop) -> None:
    (id,) = bury(shop.broker, shop.work, ["ValueError: no such card"])
    assert shop.operations.dead_letter(id) is Done.SETTLED
