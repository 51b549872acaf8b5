# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The views of an inspector: the workers, the messages in flight, and the history that the scripts write."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import ConfigurationError, Event, EventKind, InFlightTracker, Inspector
from dramatiq_inflight.store.records import Enqueued, Orphan
from dramatiq_inflight.store.replies import Claim, Finished
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.store.workers import Ended
from tests.support.lab import JOURNAL, Lab, copy_of


@pytest.fixture
def inspector(lab: Lab) -> Inspector:
    return Inspector(lab.client, lab.namespace)


def kinds(inspector: Inspector) -> list[str]:
    """Return the kinds of events without the joins, oldest first."""
    return [event.name for event in reversed(inspector.history()) if event.kind is not EventKind.JOINED]


def last(inspector: Inspector) -> Event:
    return inspector.history(limit=1)[0]


def test_a_message_that_starts_and_completes_leaves_nothing(lab: Lab, a: Store, inspector: Inspector) -> None:
    """The history costs nothing per ordinary message, failures included."""
    before = lab.client.xlen(lab.prefix + "history")
    for ends in (True, False):
        copy = copy_of()
        started = lab.runs(a, copy)
        if ends:
            assert a.messages.complete(copy, started.run, again=False, contended=False) is Finished.FINISHED
        else:
            assert a.messages.release(copy.message_id, started.run, contended=False) is Finished.RELEASED
    assert lab.client.xlen(lab.prefix + "history") == before
    assert kinds(inspector) == []


def test_workers_are_shown_with_what_they_run(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    lab.runs(a, copy_of())
    lab.runs(a, copy_of())
    views = {view.id: view for view in inspector.workers()}
    assert set(views) == {"a", "b"}
    view = views["a"]
    assert (view.instance, view.host, view.pid, view.state, view.running) == ("pod-a", "h", "1", "alive", 2)
    assert view.is_alive
    assert 0 < view.expires_in_ms <= 60_000
    assert view.booted is not None
    b.workers.drain()
    b.workers.heartbeat()
    lab.kill(a)
    assert {view.id: view.state for view in inspector.workers()} == {"a": "silent", "b": "draining"}
    assert b.workers.record_death(b.workers.incarnation("a"))
    assert {view.id: view.state for view in inspector.workers()} == {"a": "dead", "b": "draining"}


def test_a_life_in_order_is_told(lab: Lab, a: Store, inspector: Inspector) -> None:
    joined = last(inspector)
    assert (joined.kind, joined.worker, joined.instance, joined.host, joined.pid) == (
        *(EventKind.JOINED, "a", "pod-a", "h", "1"),
    )
    a.workers.register({"instance": "pod-a", "host": "h", "pid": "1"})
    assert len(inspector.history()) == 1, "it says who it is again, and has not joined again"
    a.workers.deregister()
    a.workers.deregister()  # its answer was lost
    assert [event.name for event in inspector.history()] == ["left", "joined"]
    assert last(inspector).instance == "pod-a"
    assert last(inspector).running == 0
    assert lab.names() == set()
    assert a.workers.count({"default": Ended(1)}, {})
    for key in JOURNAL:
        assert 0 < lab.client.ttl(lab.prefix + key) <= 30 * 24 * 3600, "an abandoned namespace cleans itself up"


def test_a_death_and_a_recovery_by_copy_are_told(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    dead = b.workers.incarnation("a")
    assert b.workers.record_death(dead)
    assert not b.workers.record_death(dead)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    assert b.workers.forget("a")
    died, recovered, cleared = list(reversed(inspector.history()))[-3:]
    assert (died.kind, died.instance, died.why) == (EventKind.DIED, "pod-a", "its heartbeat has expired")
    assert (recovered.kind, recovered.message_id, recovered.queue, recovered.actor) == (
        *(EventKind.RECOVERED, copy.message_id, "default", "work"),
    )
    assert (recovered.worker, recovered.by, recovered.how, recovered.crashes) == ("a", "b", "copied", 1)
    assert cleared.kind is EventKind.CLEARED
    assert cleared.after_ms is not None
    assert cleared.after_ms >= 0
    counts = {(count.kind, count.queue, count.actor): count.number for count in inspector.counts()}
    assert counts["joined", "", ""] == 2
    assert counts["died", "", ""] == 1
    assert counts["recovered", "default", "work"] == 1
    assert counts["cleared_ms", "", ""] == cleared.after_ms


def test_a_hand_back_a_poison_and_a_dead_letter_are_told(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    back, poison = copy_of(), copy_of()
    lab.runs(a, back)
    lab.runs(a, poison, limit=0)
    lab.return_to_broker(b, a, back)
    assert (last(inspector).name, last(inspector).how, last(inspector).by) == ("recovered", "handed back", "b")
    orphan = lab.claim(b, poison, a)
    assert orphan.verdict is Claim.POISONED
    assert (last(inspector).name, last(inspector).message_id) == ("poison", poison.message_id)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    b.messages.close_unstarted(lab.recovered(poison, orphan), "dead_lettered")
    assert (last(inspector).name, last(inspector).crashes) == ("dead_lettered", 1)


def test_a_take_over_and_its_late_loser_are_told(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    copy = copy_of()
    first = lab.runs(a, copy)
    lab.kill(a)
    second = lab.runs(b, copy)
    assert (last(inspector).name, last(inspector).how, last(inspector).worker) == ("recovered", "taken over", "a")
    assert a.messages.complete(copy, first.run, again=False, contended=False) is Finished.FENCED
    assert (last(inspector).name, last(inspector).worker, last(inspector).instance) == ("fenced", "a", "pod-a")
    assert last(inspector).outcome == "completed"
    assert b.messages.complete(copy, second.run, again=False, contended=False) is Finished.FINISHED
    assert a.messages.release(copy.message_id, first.run, contended=False) is Finished.FENCED
    assert (last(inspector).name, last(inspector).outcome) == ("fenced", "failed")
    before = len(inspector.history())
    assert b.messages.complete(copy, second.run, again=False, contended=False) is Finished.FENCED
    assert len(inspector.history()) == before, "a finish that is sent again is not fenced by anybody"


def test_history_tells_of_deferred_set_aside_and_handed_over(
    lab: Lab, a: Store, b: Store, inspector: Inspector
) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    b.messages.defer(copy, 1)
    assert (last(inspector).name, last(inspector).worker) == ("deferred", "b")
    a.messages.await_copy(copy.message_id, started.run, b"")
    assert last(inspector).name == "handed_over"
    lab.overdue(copy)
    (orphan,) = b.recovery.claim([copy.message_id], dead="", hold=60)
    assert isinstance(orphan, Orphan)
    assert last(inspector).name == "copied_again"
    assert b.recovery.set_aside(orphan, dead="")
    assert (last(inspector).name, last(inspector).message_id) == ("set_aside", copy.message_id)
    (aside,) = inspector.aside()
    assert (aside.id, aside.queue, aside.actor) == (copy.message_id, "default", "work")
    view = inspector.message(copy.message_id)
    assert view is not None
    assert (view.state, view.actor) == ("aside", "work")
    assert inspector.payload(copy.message_id) is not None


def test_a_hand_back_is_told(lab: Lab, a: Store, inspector: Inspector) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    a.messages.await_copy(copy.message_id, started.run, b"", later=True)
    assert (last(inspector).name, last(inspector).worker, last(inspector).run) == ("handed_back", "a", started.run)


def test_one_that_lives_after_all_is_told(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    b.workers.record_death(b.workers.incarnation("a"))
    a.workers.register({"instance": "pod-a", "host": "h", "pid": "1"})
    assert last(inspector).name == "revived"
    lab.reassert(a, copy, payload=b"x", run=started.run, started_ms=started.started_ms)
    assert last(inspector).name == "retaken"
    assert {view.id: view.state for view in inspector.workers()}["a"] == "alive"


def test_messages_are_shown_and_chosen(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    one, two, gone = copy_of(), copy_of(), copy_of()
    two.queue, two.actor = "slow", "charge"
    lab.runs(a, one)
    time.sleep(0.01)  # it is older
    lab.runs(b, two, limit="unlimited")
    lab.runs(b, gone)
    lab.return_to_broker(a, b, gone)
    lab.incarnation("b")
    views = {view.id: view for view in inspector.messages()}
    assert set(views) == {one.message_id, two.message_id, gone.message_id}
    view = views[one.message_id]
    assert (view.state, view.instance, view.worker, view.worker_alive) == ("running", "pod-a", "a", True)
    assert (view.run, view.generation, view.crashes, view.max_recoveries, view.alone) == (1, 1, 0, 3, True)
    assert view.started is not None
    assert 0 <= view.age < 60
    assert views[two.message_id].max_recoveries is None
    waiting = views[gone.message_id]
    assert (waiting.state, waiting.worker, waiting.crashes) == ("requeued", "", 1)
    assert waiting.due is not None

    def chosen(**filters: Any) -> set[str]:
        return {view.id for view in inspector.messages(**filters)}

    assert chosen(instance="pod-a") == {one.message_id}
    assert chosen(worker="b") == {two.message_id}
    assert chosen(queue="slow") == {two.message_id} == chosen(actor="charge")
    assert chosen(state="requeued") == {gone.message_id}
    assert chosen(older_than=3600) == set()
    assert len(inspector.messages(limit=2)) == 2
    assert [view.id for view in inspector.messages(state="running", limit=1)] == [one.message_id]
    assert [view.id for view in inspector.messages(state="running", limit=1, actor="charge")] == [two.message_id]
    assert inspector.messages(limit=0) == []
    assert inspector.overdue() == 0
    lab.overdue(gone)
    assert inspector.overdue() == 1
    assert inspector.message("no such message") is None
    assert inspector.payload("no such message") is None


def test_the_overview_counts(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    for _ in range(3):
        lab.runs(a, copy_of())
    gone = copy_of()
    lab.runs(b, gone)
    lab.return_to_broker(a, b, gone)
    seen = inspector.overview()
    assert (seen.running, seen.waiting, seen.aside, seen.alive) == (3, 1, 0, 1)
    (tally,) = seen.tallies
    assert (tally.queue, tally.actor, tally.running, tally.waiting) == ("default", "work", 3, 1)
    assert 0 <= seen.oldest < 60


def test_a_head_that_is_long_is_read_whole(lab: Lab, a: Store, inspector: Inspector) -> None:
    copy = copy_of("i" * 200)
    copy.actor, copy.queue = "a" * 900, "q" * 900
    lab.runs(a, copy)
    (view,) = inspector.messages()
    assert (view.actor, view.queue) == (copy.actor, copy.queue)


def test_damaged_records_are_not_shown_and_break_nothing(lab: Lab, a: Store, inspector: Inspector) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.set(f"{lab.prefix}record:{copy.message_id}", b"what is this?")
    assert inspector.messages() == []
    assert inspector.message(copy.message_id) is None
    assert inspector.overview().running == 1
    assert inspector.payload(copy.message_id) == b"what is this?"


def test_a_damaged_worker_is_shown_and_breaks_nothing(lab: Lab, a: Store, inspector: Inspector) -> None:
    lab.client.hset(lab.prefix + "incarnation:a", mapping={"booted": "?", "queues": "{", "host": b"\xff"})
    lab.client.zadd(lab.prefix + "heartbeats", {b"\xff": 1})
    assert {(view.id, view.host, view.booted, view.queues) for view in inspector.workers()} == {
        ("a", "\ufffd", None, ()),
        ("\ufffd", "", None, ()),
    }


def test_very_many_that_wait_are_listed_whole(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.client.zadd(lab.prefix + "waiting", {f"m{i}": i for i in range(2500)})
    assert [view.id for view in inspector.messages()] == [copy.message_id]
    assert inspector.overview().waiting == 2501


def test_the_history_is_chosen_and_goes_on(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    newest = last(inspector)
    assert inspector.history(after=newest.id) == []
    assert [e.name for e in inspector.history(message_id=copy.message_id)] == ["recovered"]
    assert {e.name for e in inspector.history(kinds=[EventKind.JOINED])} == {"joined"}
    assert [e.name for e in inspector.history(instance="pod-a")] == ["recovered", "joined"]
    assert len(inspector.history(since=timedelta(hours=1))) == 3
    assert len(inspector.history(limit=2)) == 2
    lab.client.xadd(lab.prefix + "history", {"event": "of the future", "what": "?"})
    assert (last(inspector).kind, last(inspector).name) == (None, "of the future")
    assert last(inspector).text == "of the future"


def test_the_history_is_capped(lab: Lab, a: Store, inspector: Inspector) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    pipeline = lab.client.pipeline(transaction=False)
    for _ in range(10_500):
        pipeline.xadd(lab.prefix + "history", {"event": "x"})
    pipeline.execute()
    a.messages.defer(copy, 1)
    assert 10_000 <= lab.client.xlen(lab.prefix + "history") < 10_200
    assert len(inspector.history(limit=20_000, kinds=[EventKind.DEFERRED])) == 1
    assert len(inspector.history(limit=20_000)) == lab.client.xlen(lab.prefix + "history")
    assert len(inspector.history(limit=1500)) == 1500


def test_a_user_who_may_not_write_the_history_loses_no_message(lab: Lab, a: Store, b: Store) -> None:
    """The history is for people, and must not stop messages."""
    lab.client.delete(lab.prefix + "history", lab.prefix + "counts")
    lab.client.set(lab.prefix + "history", "not a stream")
    lab.client.set(lab.prefix + "counts", "not a hash")
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    assert lab.state(copy) == "requeued"
    lab.runs(b, copy)


def test_an_inspector_of_a_broker_finds_its_tracker(server_url: str, namespace: str) -> None:
    broker = RedisBroker(client=redis.Redis.from_url(server_url), namespace=namespace)
    with pytest.raises(ConfigurationError, match="no InFlightTracker"):
        Inspector.of(broker)
    broker.add_middleware(InFlightTracker(namespace="other"))
    assert Inspector.of(broker).namespace == "other"
    assert Inspector.of(broker).overview().workers == []
    assert isinstance(broker, dramatiq.Broker)


def test_a_wrong_url_is_named_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Inspector.from_url("http://:secret@host")
    assert "redis://" in str(caught.value)
    assert "secret" not in str(caught.value)
