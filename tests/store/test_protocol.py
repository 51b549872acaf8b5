# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The scripts, one transition at a time, on a real server: the start table, the finishers, the claims."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import redis

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.inspection.inspector import Inspector
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.messages import ACK_TTL
from dramatiq_inflight.store.pool import COMMAND_TIMEOUT
from dramatiq_inflight.store.records import Enqueued, Orphan
from dramatiq_inflight.store.replies import Claim, Finished, Reasserted, Requeued, Returned, Start
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from tests.support.lab import Lab, copy_of, payload_of
from tests.support.servers import RedisServer


def requeue_by_copy(lab: Lab, dead: Store, by: Store, copy: Copy) -> Orphan:
    lab.kill(dead)
    orphan = lab.claim(by, copy, dead)
    assert by.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead=dead.me) == [Requeued.REQUEUED]
    return orphan


# Start.


def test_a_first_start_writes_a_record_that_never_expires(lab: Lab, a: Store) -> None:
    """With everything that recovery needs."""
    copy = copy_of()
    started = lab.runs(a, copy, limit=5)
    head = lab.head(copy)
    assert head is not None
    assert (started.run, started.generation, started.crashes, started.known) == (1, 1, 0, True)
    assert (head.state, head.owner, head.run, head.generation) == ("running", "a", 1, 1)
    assert (head.limit, head.queue, head.actor, head.origin) == (5, "default", "work", "o1")
    assert lab.payload(copy) == payload_of(copy)
    assert lab.expiry(copy) == -1
    assert a.messages.running_here() == {copy.message_id}


def test_both_ways_of_a_first_start_write_the_same(lab: Lab, a: Store) -> None:
    """But for the time; whatever the names are, and where the payload comes from."""
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    record = lab.prefix + "record:m"
    strange = Copy("m", 2, "o1", "c1", False, "default", 'ch"ar\n/é' * 300, tries=3)
    for copy in (dataclasses.replace(copy_of("m"), broker_copy_id="c1"), strange):
        lab.client.sadd(keys[0], "c1")
        lab.client.hset(keys[1], "c1", b"\x80the broker's")
        for broker_keys, payload in (((), b"\x00ours"), (keys, b"")):
            written = []
            for renews in (True, False):
                store = lab.incarnation("a")
                heard = [True] if renews else lab.is_busy(store)
                started = lab.start(store, copy, payload=payload, tailored=True, broker_keys=broker_keys)
                assert (started.answer, started.known) == (Start.RUN, True if renews else None)
                assert heard == [True] * renews
                head = lab.head(copy)
                assert head is not None
                assert (started.run, started.generation, started.started_ms) == (1, copy.generation, head.started)
                assert lab.client.zscore(lab.prefix + "running:a", "m") == head.started
                written.append(lab.client.get(record).replace(str(head.started).encode(), b"T"))
                lab.client.delete(record)
            assert written[0] == written[1]


def test_a_short_start_is_later_than_the_run_that_enqueued_it(lab: Lab, a: Store) -> None:
    lab.is_busy(a)
    started = lab.start(a, dataclasses.replace(copy_of(), fence=4_000_000_000_000))
    assert (started.known, started.started_ms) == (None, 4_000_000_000_001)


def test_a_busy_worker_renews_where_it_must(lab: Lab, a: Store, b: Store) -> None:
    """One that is taken for dead, or unknown, starts nothing before it has heard of that."""
    heard = lab.is_busy(a)
    lab.kill(a)
    assert lab.start(a, copy_of("m1")).known is False
    lab.client.zrem(lab.prefix + "heartbeats", "a")
    assert lab.start(a, copy_of("m2")).known is False
    assert heard == [False, False]


def test_a_busy_worker_completes_by_the_short_way(lab: Lab, a: Store) -> None:
    """Unless the message is to be remembered."""
    heard = lab.is_busy(a)
    for remember in (0.0, 9.0):
        run = lab.start(a, copy_of("m")).run
        a.messages.checkpoint("m", run, {"at": "9"})
        del heard[:]
        ended = a.messages.complete(copy_of("m"), run, again=False, contended=False, remember=remember)
        assert (ended, heard) == (Finished.FINISHED, [True] if remember else [])
        assert lab.state(copy_of("m")) == ("completed" if remember else None)
        assert a.messages.kept("m") == {}
        assert a.messages.running_here() == set()


@pytest.mark.parametrize("way", ["short", "long"])
def test_a_completion_fails_whole_where_redis_is_full(own_server: RedisServer, namespace: str, way: str) -> None:
    """As the ack behind it does: else an at-most-once message would run again without its record."""
    client = own_server.client()
    lab = Lab(client, namespace)
    a = lab.incarnation("a")
    if way == "short":
        lab.is_busy(a)
    run = lab.start(a, copy_of("m")).run
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        a.messages.complete(copy_of("m"), run, again=False, contended=False)
    client.config_set("maxmemory", 0)
    assert lab.state(copy_of("m")) == "running"
    assert a.messages.complete(copy_of("m"), run, again=False, contended=False) is Finished.FINISHED


def test_payloads_may_be_any_bytes(lab: Lab, a: Store, b: Store) -> None:
    """Pickles are no text, and may contain newlines."""
    copy, payload = copy_of(), b"\x80\x05\n\xff\x00" * 1000
    lab.start(a, copy, payload=payload)
    lab.kill(a)
    assert lab.claim(b, copy, a).payload == payload


def test_names_may_be_long_and_strange(lab: Lab, a: Store, b: Store) -> None:
    """A head longer than what is read at first, with quotes and newlines in it."""
    copy = dataclasses.replace(copy_of(), actor='ch"ar\nge' * 300)
    lab.start(a, copy, payload=b"payload")
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    assert (orphan.actor, orphan.payload) == (copy.actor, b"payload")


def test_a_copy_older_than_its_record_is_stale(lab: Lab, a: Store, b: Store) -> None:
    """I4: whatever state the record is in."""
    old = copy_of()
    lab.runs(a, old)
    orphan = requeue_by_copy(lab, a, b, old)
    assert lab.start(b, old).answer is Start.STALE  # requeued
    new = lab.recovered(old, orphan)
    lab.runs(b, new)
    assert lab.start(a, old).answer is Start.STALE  # running
    assert b.messages.complete(new, 2, again=False, contended=False) is Finished.FINISHED
    assert lab.start(a, old).answer is Start.STALE  # completed
    assert lab.head(old).generation == 2  # type: ignore[union-attr]


def test_a_recovered_copy_runs_with_the_next_run_number(lab: Lab, a: Store, b: Store) -> None:
    """And knows of its crash and its first start."""
    copy = copy_of()
    first = lab.runs(a, copy)
    orphan = requeue_by_copy(lab, a, b, copy)
    started = lab.runs(b, lab.recovered(copy, orphan))
    assert (started.run, started.generation, started.crashes) == (2, 2, 1)
    assert started.first_ms == first.started_ms
    assert lab.deadline(copy) is None
    assert lab.expiry(copy) == -1


def test_a_duplicate_of_a_running_message_is_put_off_and_noted(lab: Lab, a: Store, b: Store) -> None:
    """Until its owner's heartbeat would have expired; the record learns that there is another copy."""
    copy = copy_of()
    lab.runs(a, copy)
    started = lab.start(b, dataclasses.replace(copy, redelivered=True))
    assert started.answer is Start.DUPLICATE
    assert 50_000 < started.wait_ms <= 60_000
    head = lab.head(copy)
    assert head is not None
    assert (head.owner, head.contended) == ("a", 1)
    assert lab.payload(copy) == payload_of(copy)


def test_a_duplicate_in_the_same_process_is_put_off(lab: Lab, a: Store) -> None:
    """Two threads may get two copies."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.start(a, copy, here="running").answer is Start.DUPLICATE


def test_a_copy_whose_message_has_ended_here_is_skipped(lab: Lab, a: Store) -> None:
    """The outcome is still to be written: nothing else may run it."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.start(a, copy, here="ended").answer is Start.ENDING


def test_a_copy_whose_message_was_handed_back_here_waits(lab: Lab, a: Store) -> None:
    """It may be the one that was enqueued for that, while the record is still to be let go."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.start(a, copy, here="handed_back").answer is Start.WAITING


def test_a_record_that_its_own_process_does_not_know_runs_again(lab: Lab, a: Store) -> None:
    """The answer to its start was lost."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.runs(a, copy).run == 2
    assert lab.head(copy).crashes == 0  # type: ignore[union-attr]


def test_a_redelivery_after_a_seen_duplicate_is_skipped(lab: Lab, a: Store, b: Store) -> None:
    """The completion is remembered for the fence's time, without the payload."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.start(b, copy)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FINISHED
    assert lab.state(copy) == "completed"
    assert lab.payload(copy) == b""
    assert 0 < lab.expiry(copy) <= 60
    assert lab.start(b, copy).answer is Start.COMPLETED


def test_nothing_is_remembered_where_no_copy_can_be_under_way(lab: Lab, a: Store) -> None:
    """The ordinary case leaves no key."""
    copy = copy_of()
    lab.runs(a, copy)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FINISHED
    assert lab.names() == {"heartbeats", "incarnation:a"}


def test_a_message_sent_again_under_its_old_id_runs(lab: Lab, a: Store, b: Store) -> None:
    """It is another enqueue: not skipped as a copy of the one that has completed."""
    copy = copy_of()
    lab.runs(a, copy)
    orphan = requeue_by_copy(lab, a, b, copy)
    new = lab.recovered(copy, orphan)
    lab.runs(b, new)
    b.messages.complete(new, 2, again=False, contended=False)
    again = copy_of(copy.message_id, origin="o9")
    started = lab.runs(b, again)
    assert (started.run, started.generation, started.crashes) == (3, 2, 0)


def test_a_message_sent_again_under_its_id_waits_for_its_turn(lab: Lab, a: Store, b: Store) -> None:
    """While the first one runs, or waits to be recovered."""
    copy = copy_of()
    again = copy_of(copy.message_id, origin="o9")
    lab.runs(a, copy)
    assert lab.start(b, again).answer is Start.WAITING
    lab.kill(a)
    assert lab.start(b, again).answer is Start.WAITING
    b.recovery.return_to_broker("a", [(copy.message_id, True)])
    assert lab.start(b, again).answer is Start.WAITING
    assert lab.head(copy).origin == "o1"  # type: ignore[union-attr]


def test_a_take_over_from_a_dead_owner_keeps_the_generation(lab: Lab, a: Store, b: Store) -> None:
    """I5: the broker may still hold that very copy unacknowledged; a bump would make the last copy stale."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    started = lab.start(b, copy)
    assert started.answer is Start.RUN
    assert (started.run, started.generation, started.crashes) == (2, 1, 1)
    head = lab.head(copy)
    assert head is not None
    assert (head.owner, head.contended) == ("b", 1)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FENCED


def test_a_take_over_beyond_the_limit_is_claimed_as_poison(lab: Lab, a: Store, b: Store) -> None:
    """The copy that is dead-lettered must carry the reason, so this one is stale from now on."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    started = lab.start(b, copy, limit=0)
    assert started.answer is Start.CONVICTED
    assert (started.generation, started.crashes) == (2, 1)
    assert lab.payload(copy) == payload_of(copy)
    assert lab.start(b, copy, limit=0).answer is Start.STALE
    assert lab.start(b, dataclasses.replace(copy, generation=2), limit=0).answer is Start.POISONED


def test_an_owner_without_a_heartbeat_gets_one_ttl(lab: Lab, a: Store, b: Store) -> None:
    """Redis has lost it: that is no death."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.zrem(lab.prefix + "heartbeats", "a")
    started = lab.start(b, copy)
    assert started.answer is Start.DUPLICATE
    assert started.wait_ms == 60_000
    assert lab.client.zscore(lab.prefix + "heartbeats", "a") is not None
    assert b.recovery.find_due().dead == []


# The broker's custody, where it is on the same Redis.


def test_a_delivery_that_the_broker_took_back_is_skipped(lab: Lab, a: Store) -> None:
    """We were frozen; the message is in its queue again, or with another worker."""
    copy = copy_of()
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.hset(keys[1], copy.origin, "stored")
    assert lab.start(a, copy, broker_keys=keys).answer is Start.ELSEWHERE
    lab.client.sadd(keys[0], copy.origin)
    assert lab.start(a, copy, broker_keys=keys).answer is Start.RUN


def test_redis_says_whether_it_has_heard_of_who_was_silent(lab: Lab, a: Store) -> None:
    """Taken for dead, and nothing is lost; or nothing is known: only then a copy in memory may be the last one."""
    heard: list[tuple[bool, bool]] = []
    late = Store(
        Scripts(
            *(lab.client, lab.namespace, "late"),
            heartbeat_ttl=60,
            fence_ttl=60,
            contact=Contact(renewed=lambda known, begun, absent: heard.append((known, absent))),
        )
    )
    late.workers.heartbeat()
    late.workers.register({"instance": "late"})
    late.workers.heartbeat()
    lab.kill(late)
    lab.start(late, copy_of())
    assert heard == [(False, True), (False, True), (True, False), (False, False)]


def test_the_payload_stays_with_the_broker_that_has_it(lab: Lab, a: Store, b: Store) -> None:
    """It is read there by who claims the message, whatever its bytes are."""
    copy, data = copy_of(), bytes(range(256)) * 9
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.sadd(keys[0], copy.origin)
    assert lab.start(a, copy, payload=b"", broker_keys=keys).answer is Start.PAYLOAD
    assert lab.head(copy) is None, "nothing is recorded without it"
    lab.client.hset(keys[1], copy.origin, data)
    assert lab.start(a, copy, payload=b"", broker_keys=keys).answer is Start.RUN
    assert lab.payload(copy) == b""
    assert Inspector(lab.client, lab.namespace).payload(copy.message_id) == data
    lab.kill(a)
    (orphan,) = b.recovery.claim([copy.message_id], dead="a", hold=60)
    assert isinstance(orphan, Orphan)
    assert orphan.payload == data == lab.payload(copy)


@pytest.mark.parametrize("how", ["defer", "await_copy", "take", "reassert"])
def test_a_record_that_is_the_only_copy_has_the_payload(lab: Lab, a: Store, b: Store, how: str) -> None:
    copy, data = copy_of(), b"as the broker has it"
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.sadd(keys[0], copy.origin)
    lab.client.hset(keys[1], copy.origin, data)
    run = lab.start(a, copy, payload=b"", broker_keys=keys).run
    if how == "defer":
        b.messages.defer(copy, 1)
    elif how == "await_copy":
        a.messages.await_copy(copy.message_id, run, b"", later=True)
    elif how == "take":
        b.operations.take(copy.message_id, hold=60, condemn=False, force=True)
    else:
        lab.client.delete(*keys)
        kept = a.messages.reassert(*(copy, data), run=run, limit=3, started_ms=1, crashes=0, drains=0, broker_keys=keys)
        assert kept[0] is Reasserted.KEPT
    assert lab.payload(copy) == data


def test_what_its_broker_is_done_with_is_not_recovered(lab: Lab, a: Store, b: Store) -> None:
    """It was acknowledged: whatever follows from it is with the broker."""
    copy, keys = copy_of(), (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.sadd(keys[0], copy.origin)
    lab.client.hset(keys[1], copy.origin, b"as the broker has it")
    lab.start(a, copy, payload=b"", broker_keys=keys)
    lab.client.delete(*keys)
    lab.kill(a)
    assert b.operations.take(copy.message_id, hold=60, condemn=False, force=False) == "settled"
    assert b.recovery.claim([copy.message_id], dead="a", hold=60) == [Claim.GONE]
    assert lab.head(copy) is None
    assert not lab.client.exists(lab.prefix + "running:a")


@pytest.mark.parametrize("size", [10, 600_000])
def test_what_one_claim_reads_of_the_broker_is_bounded(lab: Lab, a: Store, b: Store, size: int) -> None:
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    copies = [dataclasses.replace(copy_of(), broker_copy_id=f"c{number}") for number in range(5)]
    for copy in copies:
        lab.client.sadd(keys[0], copy.broker_copy_id)
        lab.client.hset(keys[1], copy.broker_copy_id, b"x" * size)
        lab.start(a, copy, payload=b"", broker_keys=keys)
    lab.kill(a)
    answers = b.recovery.claim([copy.message_id for copy in copies], dead="a", hold=60)
    claimed = sum(isinstance(answer, Orphan) for answer in answers)
    assert claimed + answers.count(Claim.LATER) == 5
    assert claimed == (5 if size == 10 else 1)


def test_a_payload_that_the_broker_has_lost_is_sent(lab: Lab, a: Store) -> None:
    """Redis has lost its data, and the broker's with them."""
    copy = copy_of()
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.delete(lab.prefix + "heartbeats")
    assert lab.start(a, copy, payload=b"", broker_keys=keys).answer is Start.PAYLOAD
    # The question alone does not make us somebody whom Redis knows: our copy is the last one.
    assert lab.start(a, copy, payload=b"ours", broker_keys=keys).answer is Start.RUN
    assert lab.payload(copy) == b"ours"


def test_a_message_that_cannot_be_encoded_is_handed_over_as_is(lab: Lab, a: Store) -> None:
    copy = copy_of()
    lab.start(a, copy, payload=b"as it came")
    assert a.messages.await_copy(copy.message_id, 1, b"") is Finished.HANDED_OVER
    assert lab.payload(copy) == b"as it came"


def test_a_delivery_that_was_done_elsewhere_is_skipped(lab: Lab, a: Store, b: Store) -> None:
    """It was prefetched, handed back, and has completed: no record, no message, no ack."""
    copy = copy_of()
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    # Dramatiq's maintenance gave it away; Redis has never forgotten us, so it has not lost the message either.
    assert lab.start(a, copy, broker_keys=keys).answer is Start.ELSEWHERE
    lab.kill(a)
    assert b.recovery.return_to_broker("a", []) == []
    assert b.workers.forget("a")
    assert lab.start(a, copy, broker_keys=keys, forgotten=True).answer is Start.ELSEWHERE


def test_a_delivery_dead_lettered_elsewhere_is_no_replay(lab: Lab, a: Store, b: Store) -> None:
    """It waited in our memory; the broker took it back, and another worker has rejected it meanwhile."""
    copy = copy_of()
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.start(b, copy)
    b.messages.release(copy.message_id, 1, contended=True, dead_lettered=True)
    assert lab.state(copy) == "dead_lettered"
    assert lab.start(a, copy, broker_keys=keys).answer is Start.ELSEWHERE
    lab.client.sadd(keys[0], copy.origin)  # somebody has replayed it
    assert lab.start(a, copy, broker_keys=keys).answer is Start.RUN


def test_redis_has_forgotten_only_whom_nobody_has_recovered(lab: Lab, a: Store, b: Store) -> None:
    """Death and recovery leave traces; lost data do not."""
    lab.kill(a)
    assert not a.workers.is_forgotten()
    assert b.recovery.return_to_broker("a", []) == []
    assert b.workers.forget("a")
    assert not a.workers.is_forgotten()
    lab.client.delete(*(lab.prefix + name for name in lab.names()))
    assert a.workers.is_forgotten()


def test_a_delivery_runs_when_redis_has_lost_its_data(lab: Lab, a: Store, b: Store) -> None:
    """The copy in our memory is the last one: whether we know already that Redis has forgotten us, or not."""
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.delete(lab.prefix + "heartbeats")
    assert lab.start(a, copy_of(), broker_keys=keys).answer is Start.RUN
    copy = copy_of()
    assert lab.start(a, copy, broker_keys=keys, forgotten=True).answer is Start.RUN
    lab.kill(a)  # nobody has the message now but its record
    assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.TO_CLAIM]
    assert lab.claim(b, copy, a).payload == payload_of(copy)


def test_a_verdict_stays_until_the_broker_dead_letters_the_copy(lab: Lab, a: Store, b: Store) -> None:
    """I7: its maintenance took the copy back before the nack, which changed nothing: it is delivered again."""
    copy = copy_of()
    lab.start(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    poison = lab.recovered(copy, orphan)
    b.recovery.confirm_copies([Enqueued(orphan, poison.broker_copy_id, "default", 0)], dead="a")
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.hset(keys[1], poison.broker_copy_id, "stored")
    b.messages.close_unstarted(poison, "dead_lettered", keys)
    assert lab.start(b, poison, limit=0).answer is Start.POISONED
    lab.client.delete(keys[1])
    b.messages.close_unstarted(poison, "dead_lettered", keys)
    assert lab.state(copy) == "dead_lettered"


def test_a_completion_of_a_lost_delivery_is_remembered(lab: Lab, a: Store) -> None:
    """Somebody else may have it in memory, and has not asked yet."""
    copy = copy_of()
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.sadd(keys[0], copy.origin)
    lab.client.hset(keys[1], copy.origin, "stored")
    lab.start(a, copy, broker_keys=keys)
    lab.client.delete(keys[0])
    a.messages.complete(copy, 1, again=False, contended=False, broker_keys=keys)
    assert lab.state(copy) == "completed"


# Finishers.


def test_finish_by_a_zombie_changes_nothing_of_what_failed(lab: Lab, a: Store, b: Store) -> None:
    """I3: the zombie fails while the new owner runs, and while the message waits."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    before = lab.head(copy)
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert a.messages.await_copy(copy.message_id, 1, b"") is Finished.FENCED
    assert lab.head(copy) == before
    lab.runs(b, copy)
    before = lab.head(copy)
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert lab.head(copy) == before
    assert b.messages.running_here() == {copy.message_id}


def test_a_late_success_settles_a_message_with_an_unstarted_copy(lab: Lab, a: Store, b: Store) -> None:
    """The copy is skipped then; by both ways of putting back."""
    for way in ("hand back", "copy"):
        copy = copy_of()
        a.workers.register({})
        lab.runs(a, copy)
        if way == "copy":
            orphan = requeue_by_copy(lab, a, b, copy)
            new = lab.recovered(copy, orphan)
        else:
            lab.return_to_broker(b, a, copy)
            new = copy
        assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.LATE
        assert lab.state(copy) == "completed"
        assert lab.deadline(copy) is None
        assert lab.start(b, new).answer is Start.COMPLETED


def test_a_late_success_between_claim_and_enqueue_settles(lab: Lab, a: Store, b: Store) -> None:
    """The recoverer's mark finds nothing to mark, and its copy is skipped."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.LATE
    assert b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a") == [Requeued.FENCED]
    assert lab.start(b, lab.recovered(copy, orphan)).answer is Start.COMPLETED


def test_a_late_success_while_the_copy_runs_changes_nothing(lab: Lab, a: Store, b: Store) -> None:
    """I3: the copy answers for the message, and is recovered should its worker die."""
    c = lab.incarnation("c")
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.runs(b, copy)
    before = lab.head(copy)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FENCED
    assert lab.head(copy) == before
    lab.kill(b)
    assert c.recovery.return_to_broker("b", [(copy.message_id, True)]) == [Returned.RETURNED]
    assert lab.start(c, copy).answer is Start.RUN


def test_a_late_success_that_sent_itself_again_changes_nothing(lab: Lab, a: Store, b: Store) -> None:
    """A poll loop goes on by the copy that it enqueued."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    assert a.messages.complete(copy, 1, again=True, contended=False) is Finished.FENCED
    assert lab.state(copy) == "requeued"


def test_a_late_success_of_another_enqueue_changes_nothing(lab: Lab, a: Store, b: Store) -> None:
    """The record is about a message that was sent again since."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.runs(b, copy)
    b.messages.release(copy.message_id, 2, contended=False)
    lab.runs(b, copy_of(copy.message_id, origin="o9"))
    before = lab.head(copy)
    assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.FENCED
    assert lab.head(copy) == before


def test_an_earlier_run_of_the_same_incarnation_is_fenced_too(lab: Lab, a: Store, b: Store) -> None:
    """I3: by owner and run."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    a.workers.heartbeat()
    lab.runs(a, copy)
    assert a.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    assert lab.state(copy) == "running"
    assert a.messages.running_here() == {copy.message_id}


def test_a_run_that_sends_itself_again_is_released_uncharged(lab: Lab, a: Store, b: Store) -> None:
    """Completed, it would skip its own next round."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.runs(b, copy)
    assert b.messages.complete(copy, 2, again=True, contended=False) is Finished.FINISHED
    head = lab.head(copy)
    assert head is not None
    assert (head.state, head.crashes) == ("released", 0)
    assert lab.start(b, copy).answer is Start.SUPERSEDED
    assert lab.runs(b, copy_of(copy.message_id, origin="o2")).run == 3


def test_a_put_off_duplicate_of_what_has_failed_is_skipped(lab: Lab, a: Store, b: Store) -> None:
    """Its retry is with the broker, runs, or has completed: the duplicate would be one run too many."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.start(b, copy).answer is Start.DUPLICATE
    put_off = dataclasses.replace(copy, broker_copy_id="r7", duplicate=True)
    a.messages.release(copy.message_id, 1, contended=False)
    assert lab.start(b, put_off).answer is Start.SUPERSEDED
    retry = copy_of(copy.message_id, origin="o2")
    lab.runs(a, retry)
    assert lab.start(b, put_off).answer is Start.SUPERSEDED
    a.messages.complete(retry, 2, again=False, contended=False)
    assert lab.start(b, put_off).answer is Start.SUPERSEDED


def test_a_put_off_duplicate_is_all_there_is_when_its_owner_dies(lab: Lab, a: Store, b: Store) -> None:
    """The broker holds the message under that copy alone: it runs."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.start(b, copy)
    lab.kill(a)
    b.recovery.return_to_broker("a", [(copy.message_id, False)])
    assert lab.start(b, dataclasses.replace(copy, broker_copy_id="r7", duplicate=True)).answer is Start.RUN


def test_crashes_survive_an_ordinary_retry(lab: Lab, a: Store, b: Store) -> None:
    """A release keeps the count; the retry is another enqueue of the same message."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.runs(b, copy)
    assert b.messages.release(copy.message_id, 2, contended=False) is Finished.RELEASED
    assert lab.runs(b, copy_of(copy.message_id, origin="o2")).crashes == 1


def test_a_failure_without_a_retry_is_returned_from_its_record(lab: Lab, a: Store, b: Store) -> None:
    """I6: handed over, due at once, with the payload that has the count of retries; not charged as a crash."""
    copy = copy_of()
    lab.runs(a, copy)
    assert a.messages.await_copy(copy.message_id, 1, b"with retries") is Finished.HANDED_OVER
    assert b.recovery.find_due().overdue == [copy.message_id]
    orphan = lab.claim(b, copy, b)
    assert (orphan.payload, orphan.crashes, orphan.generation) == (b"with retries", 0, 2)


def test_a_second_delivery_of_what_was_handed_over_is_stale(lab: Lab, a: Store, b: Store) -> None:
    """It was taken back from the run that has failed, whose ack would end it: RedisBroker knows no deliveries."""
    copy = copy_of()
    lab.runs(a, copy)
    assert a.messages.await_copy(copy.message_id, 1, b"with retries") is Finished.HANDED_OVER
    assert lab.start(b, copy).answer is Start.STALE
    lab.runs(b, lab.recovered(copy, lab.claim(b, copy, b)))


# Recovery.


def test_nothing_is_claimed_from_the_living(lab: Lab, a: Store, b: Store) -> None:
    """Checked in the script, whatever the sweep thought."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) is None
    assert b.workers.forget("a") is False
    assert lab.head(copy).owner == "a"  # type: ignore[union-attr]


def test_an_orphan_is_claimed_once(lab: Lab, a: Store, b: Store) -> None:
    """I8: without any lock."""
    c = lab.incarnation("c")
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.claim(b, copy, a)
    assert lab.claim_answer(c, copy, "a") is Claim.BUSY
    assert c.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.BUSY]


def test_the_payload_stays_until_the_copy_is_marked(lab: Lab, a: Store, b: Store) -> None:
    """I2: at every step, with a deadline, and findable by whoever comes next."""
    c = lab.incarnation("c")
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    first = lab.claim(b, copy, a)
    assert lab.payload(copy) == payload_of(copy)
    assert lab.deadline(copy) is not None
    assert c.messages.running_of("a", 0) == [copy.message_id]
    assert c.workers.forget("a") is False
    lab.kill(b)  # between claim and mark
    second = lab.claim(c, copy, a)
    assert (second.generation, second.crashes, second.tries) == (first.generation, 1, 2)
    assert c.recovery.confirm_copies([Enqueued(second, "r3", "default", 0)], dead="a") == [Requeued.REQUEUED]
    assert lab.payload(copy) == payload_of(copy)
    assert c.messages.running_of("a", 0) == []
    assert c.workers.forget("a") is True


def test_a_recoverer_finishes_its_own_left_overs(lab: Lab, a: Store, b: Store) -> None:
    """Its enqueue has failed: it may claim again what it had claimed."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.claim(b, copy, a)
    assert lab.claim_answer(b, copy, a.me) is Claim.MINE  # another thread of its own may be at it
    again = lab.claim(b, copy, a, leftovers=True)
    assert (again.generation, again.crashes, again.tries) == (2, 1, 2)


def test_a_hung_recoverer_is_overruled_after_its_deadline(lab: Lab, a: Store, b: Store) -> None:
    """It lives, but gets nowhere."""
    c = lab.incarnation("c")
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    slow = lab.claim(b, copy, a)
    lab.overdue(copy)
    orphan = c.recovery.claim([copy.message_id], dead="", hold=60)[0]
    assert isinstance(orphan, Orphan)
    assert (orphan.generation, orphan.tries) == (2, 2)
    assert b.recovery.confirm_copies([Enqueued(slow, "r2", "default", 0)], dead="a") == [Requeued.FENCED]
    assert c.recovery.confirm_copies([Enqueued(orphan, "r3", "default", 0)], dead="") == [Requeued.REQUEUED]


def test_a_copy_that_never_comes_is_claimed_by_growing_deadlines(lab: Lab, a: Store, b: Store) -> None:
    """The publish may have been lost."""
    copy = copy_of()
    lab.runs(a, copy)
    requeue_by_copy(lab, a, b, copy)
    waits = []
    for tries in (2, 3):
        waits.append(lab.deadline(copy) or 0.0)
        assert lab.claim_answer(b, copy, "") is Claim.GONE  # not yet
        lab.overdue(copy)
        orphan = b.recovery.claim([copy.message_id], dead="", hold=60)[0]
        assert isinstance(orphan, Orphan)
        assert (orphan.generation, orphan.crashes, orphan.tries) == (2, 1, tries)
        b.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="")
    waits.append(lab.deadline(copy) or 0.0)
    assert waits[0] < waits[1] < waits[2]


def test_what_waits_expires_after_a_week_at_the_earliest(lab: Lab, a: Store, b: Store) -> None:
    """A namespace that nobody works on any more cleans itself up; no sooner than that."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    assert lab.expiry(copy) > 7 * 24 * 3600


def test_hand_back_charges_keeps_the_generation_and_the_payload(lab: Lab, a: Store, b: Store) -> None:
    """I5: no second copy comes into being."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    head = lab.head(copy)
    assert head is not None
    assert (head.state, head.generation, head.crashes, head.contended, head.copy) == ("requeued", 1, 1, 1, "o1")
    assert lab.payload(copy) == payload_of(copy)
    assert b.workers.forget("a") is True
    assert lab.runs(b, copy).run == 2


def test_what_the_broker_no_longer_holds_is_settled_not_enqueued(lab: Lab, a: Store, b: Store) -> None:
    """It was acknowledged: the record was only late."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.SETTLED]
    assert lab.head(copy) is None
    assert b.workers.forget("a") is True


def test_a_put_off_duplicate_keeps_the_count_of_crashes(lab: Lab, a: Store, b: Store) -> None:
    """The broker holds the message under another copy: let go, and charged."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.start(b, copy)
    lab.kill(a)
    assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.SETTLED]
    assert lab.state(copy) == "let_go"
    assert lab.runs(b, dataclasses.replace(copy, redelivered=True)).crashes == 1


def test_a_verdict_is_recorded_before_any_copy_can_be_fetched(lab: Lab, a: Store, b: Store) -> None:
    """I7: claimed, enqueued, marked, rejected: always known as poison."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.TO_CLAIM]
    orphan = lab.claim(b, copy, a)
    assert (orphan.verdict, orphan.crashes, orphan.generation) == (Claim.POISONED, 1, 2)
    new = lab.recovered(copy, orphan)
    assert lab.start(b, new).answer is Start.POISONED
    assert b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a") == [Requeued.POISONED]
    assert lab.start(b, new).answer is Start.POISONED
    assert lab.start(b, copy).answer is Start.STALE


def test_a_dead_letter_that_is_replayed_runs_with_a_clean_count(lab: Lab, a: Store, b: Store) -> None:
    """I7: after the nack."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    new = lab.recovered(copy, orphan)
    b.messages.close_unstarted(new, "dead_lettered")
    assert lab.state(copy) == "dead_lettered"
    assert lab.deadline(copy) is None
    replay = dataclasses.replace(new, origin="o5")
    started = lab.runs(b, replay)
    assert (started.crashes, started.generation) == (0, 2)


def test_a_copy_that_is_rejected_unseen_settles_its_record(lab: Lab, a: Store, b: Store) -> None:
    """Too old, or without an actor; but a stale copy, or that of another enqueue, settles nothing."""
    copy = copy_of()
    lab.runs(a, copy)
    orphan = requeue_by_copy(lab, a, b, copy)
    b.messages.close_unstarted(copy, "dead_lettered")
    b.messages.close_unstarted(copy_of(copy.message_id, generation=2, origin="o9"), "dead_lettered")
    assert lab.state(copy) == "requeued"
    b.messages.close_unstarted(lab.recovered(copy, orphan), "dead_lettered")
    assert lab.state(copy) == "dead_lettered"


def test_a_copy_rejected_unseen_settles_a_dead_owners_record(lab: Lab, a: Store, b: Store) -> None:
    """The broker delivered it again before recovery came, and somebody decided what becomes of it: nothing more."""
    copy = copy_of()
    lab.runs(a, copy)
    b.messages.close_unstarted(copy, "completed")
    assert lab.state(copy) == "running"  # its owner is alive: this was a duplicate
    lab.kill(a)
    b.messages.close_unstarted(copy_of(copy.message_id, origin="o9"), "completed")
    assert lab.state(copy) == "running"
    b.messages.close_unstarted(copy, "completed")
    assert lab.state(copy) == "completed"
    assert lab.expiry(copy) > 0
    b.recovery.return_to_broker(a.me, [(copy.message_id, True)])
    assert lab.names() >= {f"record:{copy.message_id}"}
    assert lab.client.zcard(f"{lab.prefix}running:{a.me}") == 0


def test_a_payload_that_cannot_be_decoded_is_kept_whole(lab: Lab, a: Store, b: Store) -> None:
    """Set aside, with its head, where people look for it."""
    copy = copy_of()
    lab.start(a, copy, payload=b"\xff\xfegarbage")
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    assert b.recovery.set_aside(orphan, dead="a")
    kept = lab.client.hget(lab.prefix + "aside", copy.message_id)
    assert kept is not None
    assert kept.endswith(b"\n\xff\xfegarbage")
    assert lab.head(copy) is None
    assert b.workers.forget("a")
    assert not b.recovery.set_aside(orphan, dead="a")


# Damage.


@pytest.mark.parametrize("damage", [b"no head", b"[1,2\npayload", b"[1,2]\npayload", b"7\npayload", b"\n", b"null\n"])
def test_a_record_that_cannot_be_read_is_set_aside_whole(lab: Lab, a: Store, b: Store, damage: bytes) -> None:
    """It holds nothing else up, and is not dropped."""
    copy, other = copy_of(), copy_of()
    lab.runs(a, copy)
    lab.runs(a, other)
    key = f"{lab.prefix}record:{copy.message_id}"
    lab.client.set(key, damage)
    lab.kill(a)
    ids = [copy.message_id, other.message_id]
    assert b.messages.peek(ids)[0] is None
    results = b.recovery.return_to_broker("a", [(id, True) for id in ids])
    assert results == [Returned.TO_CLAIM, Returned.RETURNED]
    assert b.recovery.claim(ids[:1], dead="a", hold=60) == [Claim.ASIDE]
    assert lab.client.hget(lab.prefix + "aside", copy.message_id) == damage
    assert (lab.client.exists(key), b.messages.running_of("a", 0), b.messages.count_aside()) == (0, [], 1)
    assert b.recovery.claim(ids[:1], dead="a", hold=60) == [Claim.GONE]


def test_whoever_has_the_message_writes_a_damaged_record_anew(lab: Lab, a: Store, b: Store) -> None:
    """A start, and a mend."""
    copy = copy_of()
    key = f"{lab.prefix}record:{copy.message_id}"
    lab.client.set(key, b"[broken\n")
    lab.runs(a, copy)
    assert lab.payload(copy) == payload_of(copy)
    lab.client.set(key, b"[broken\n")
    assert b.messages.complete(copy, 1, again=False, contended=False) is Finished.FENCED
    assert b.messages.release(copy.message_id, 1, contended=False) is Finished.FENCED
    b.messages.close_unstarted(copy, "completed")
    b.messages.clear_alone(copy.message_id, 1)
    mended = lab.reassert(a, copy)
    assert mended[0] is Reasserted.WRITTEN
    assert lab.state(copy) == "running"


# Mending.


def test_a_lost_record_is_written_again(lab: Lab, a: Store) -> None:
    """I11: by the process that runs the message."""
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.client.delete(*(lab.prefix + key for key in lab.names()))
    mended = lab.reassert(a, copy, started_ms=started.started_ms, crashes=2)
    assert mended == (Reasserted.WRITTEN, 1, 1, 2, 0)
    head = lab.head(copy)
    assert head is not None
    assert (head.owner, head.run, head.started, head.crashes) == ("a", 1, started.started_ms, 2)
    assert lab.payload(copy) == payload_of(copy)
    assert a.messages.running_here() == {copy.message_id}


def test_a_lost_index_entry_is_written_again(lab: Lab, a: Store) -> None:
    """The record is there; recovery would not find it."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.delete(lab.prefix + "running:a")
    assert lab.reassert(a, copy, payload=b"", started_ms=0)[0] is Reasserted.KEPT
    assert a.messages.running_here() == {copy.message_id}
    assert lab.payload(copy) == payload_of(copy)


def test_mending_takes_back_what_nobody_has_started(lab: Lab, a: Store, b: Store) -> None:
    """A false alarm: the message goes on here, its charge is taken back, and the copy finds it running."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    mended, run, _, crashes, _ = lab.reassert(a, copy)
    assert (mended, run, crashes) == (Reasserted.RETAKEN, 2, 0)
    assert lab.start(b, copy).answer is Start.DUPLICATE
    assert a.messages.complete(copy, 2, again=False, contended=False) is Finished.FINISHED
    assert lab.start(b, copy).answer is Start.COMPLETED


def test_a_message_claimed_and_retaken_is_copied_after_a_death(lab: Lab, a: Store, b: Store) -> None:
    """The claim made its copy stale, so that the broker may be rid of it: that it has none says nothing then."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.claim(b, copy, a)
    assert lab.start(b, copy, here="no").answer is Start.STALE, "and is acknowledged"
    assert lab.reassert(a, copy)[0] is Reasserted.RETAKEN
    lab.kill(a)
    assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.TO_CLAIM]
    assert lab.claim(b, copy, a).payload == payload_of(copy)


def test_a_recoverer_that_confirms_too_late_hides_no_message(lab: Lab, a: Store, b: Store) -> None:
    """Its owner is alive, and may die another time: then recovery has to find the message."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    assert lab.reassert(a, copy)[0] is Reasserted.RETAKEN
    assert b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a") == [Requeued.FENCED]
    assert a.messages.running_here() == {copy.message_id}
    lab.kill(a)
    assert not b.workers.forget("a")


def test_a_late_owner_whose_copy_was_put_off_before_has_it_still(lab: Lab, a: Store, b: Store) -> None:
    """The broker holds the copy under an id that nobody knows: the record is let go, and the copy has not started."""
    for mends in (True, False):
        copy = copy_of()
        lab.runs(a, copy)
        assert lab.start(b, copy).answer is Start.DUPLICATE
        b.messages.defer(copy, 1)
        lab.kill(a)
        assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.RETURNED]
        assert lab.state(copy) == "let_go"
        if mends:
            mended, run, *_ = lab.reassert(a, copy)
            assert (mended, run) == (Reasserted.RETAKEN, 2)
            assert lab.payload(copy) == payload_of(copy)
            assert a.messages.complete(copy, 2, again=False, contended=False) is Finished.FINISHED
        else:
            assert a.messages.complete(copy, 1, again=False, contended=False) is Finished.LATE
        later = dataclasses.replace(copy, broker_copy_id="put off", duplicate=True)
        assert lab.start(b, later).answer is Start.COMPLETED
        a.workers.heartbeat()


def test_a_success_after_a_mend_whose_answer_was_lost_is_its_own(lab: Lab, a: Store, b: Store) -> None:
    """The process does not know that it has taken the message back, and ends it by its old run."""
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    when = started.started_ms
    mended = lab.reassert(a, copy, started_ms=when)
    assert mended[0] is Reasserted.RETAKEN
    assert a.messages.complete(copy, 1, started_ms=when + 1, again=False, contended=False) is Finished.FENCED
    assert a.messages.running_here() == {copy.message_id}
    assert a.messages.complete(copy, 1, started_ms=when, again=False, contended=False) is Finished.FINISHED
    assert a.messages.running_here() == set()
    assert lab.start(b, copy).answer is Start.COMPLETED


def test_mending_takes_nothing_from_a_new_owner(lab: Lab, a: Store, b: Store) -> None:
    """Promise 5."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.runs(b, copy)
    before = lab.head(copy)
    assert before is not None
    assert before.crashes == 1
    assert lab.reassert(a, copy)[0] is Reasserted.LOST
    # But the charge for a death that was none is taken back, once.
    assert lab.head(copy) == dataclasses.replace(before, crashes=0, causes="")
    assert lab.reassert(a, copy)[0] is Reasserted.LOST
    assert lab.head(copy) == dataclasses.replace(before, crashes=0, causes="")
    assert a.messages.running_here() == set()
    b.messages.complete(copy, 2, again=False, contended=False)
    assert lab.reassert(a, copy)[0] is Reasserted.LOST
    assert lab.state(copy) == "completed"


def test_an_unrecorded_retry_survives_its_originals_record(lab: Lab, a: Store, b: Store) -> None:
    """Redis was away when it started; the record is about the enqueue that failed, and has not heard of that yet."""
    original = copy_of()
    retry = dataclasses.replace(original, origin="o2", broker_copy_id="o2")

    def mend() -> tuple[Reasserted, int, int, int, int]:
        return lab.reassert(b, retry, run=0, started_ms=0)

    lab.runs(a, original)
    before = lab.head(original)
    assert mend()[0] is Reasserted.LATER
    assert lab.head(original) == before
    assert a.messages.release(original.message_id, 1, contended=True) is Finished.RELEASED
    assert lab.state(original) == "released"
    assert mend()[:2] == (Reasserted.WRITTEN, 2)
    head = lab.head(retry)
    assert head is not None
    assert (head.state, head.owner, head.origin, head.contended) == ("running", "b", "o2", 1)
    assert b.messages.running_here() == {retry.message_id}


@pytest.mark.parametrize("generation", [2, 1], ids=["awaited", "older"])
def test_nobody_waits_for_a_copy_that_failed_unrecorded(lab: Lab, a: Store, b: Store, generation: int) -> None:
    """Its retry would wait for its turn until the deadline, and the message would be recovered once more."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    ran = dataclasses.replace(copy, generation=generation, broker_copy_id="r2")
    assert b.messages.release(copy.message_id, 0, contended=False, copy=ran) is Finished.FENCED
    mended, run, *_ = lab.reassert(b, ran, run=0, started_ms=0)
    assert mended is Reasserted.RETAKEN
    assert b.messages.release(copy.message_id, run, contended=False, copy=ran) is Finished.RELEASED
    assert lab.state(copy) == "released"
    assert lab.deadline(copy) is None
    assert lab.start(b, lab.recovered(copy, orphan)).answer is Start.SUPERSEDED
    retry = dataclasses.replace(copy, generation=2, origin="o2", broker_copy_id="o2")
    assert lab.start(b, retry).answer is Start.RUN


def test_mending_does_not_lift_a_verdict(lab: Lab, a: Store, b: Store) -> None:
    """Once its dead letter is with the broker."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    assert lab.reassert(a, copy, limit=0)[0] is Reasserted.LOST
    assert lab.state(copy) == "requeued, dead_letter"


# Life and death.


def test_every_script_of_ones_own_renews_the_heartbeat(lab: Lab, a: Store) -> None:
    """The search showed that copies pile up without bound around a worker that works on without a heartbeat."""
    c, contacts = lab.noting("c")
    copy = copy_of()

    def revived() -> bool:
        alive = float(lab.client.zscore(lab.prefix + "heartbeats", "c") or 0) > 10
        lab.kill(c)
        return alive

    c.workers.register({})
    lab.kill(c)
    lab.runs(c, copy)
    assert revived()
    lab.reassert(c, copy, payload=b"")
    assert revived()
    c.messages.release(copy.message_id, 1, contended=False)
    assert revived()
    lab.runs(c, copy)
    lab.kill(c)
    c.messages.await_copy(copy.message_id, 1, b"")
    assert revived()
    c.messages.complete(copy, 1, again=False, contended=False)
    assert revived()
    c.workers.heartbeat()
    assert revived()
    assert contacts == [False] * 8  # each found that it was new, or had been taken for dead
    assert c.workers.heartbeat() is False
    assert c.workers.heartbeat() is True


def test_a_new_incarnation_does_not_revive_the_old_one(lab: Lab, a: Store) -> None:
    """I12: the same instance id, another incarnation."""
    again = Store(Scripts(lab.client, lab.namespace, "a2", heartbeat_ttl=60, fence_ttl=60))
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    again.workers.register({"instance": "pod-a"})
    assert again.recovery.find_due().dead == ["a"]


def test_who_leaves_in_order_leaves_nothing(lab: Lab, a: Store, b: Store) -> None:
    """The last one removes the heartbeat set too."""
    assert a.workers.deregister() == 0
    assert lab.names() == {"heartbeats", "incarnation:b"}
    assert b.workers.deregister() == 0
    assert lab.names() == set()


def test_a_worker_that_leaves_messages_running_is_dead_soon(lab: Lab, a: Store, b: Store) -> None:
    """Not at once: its threads may work until the process is gone. Nor does their work keep it alive for long."""
    copy, other = copy_of(), copy_of()
    lab.runs(a, copy)
    lab.runs(a, other)
    assert a.workers.deregister() == 2
    assert b.recovery.find_due().dead == []
    next_in = b.recovery.find_due().next_in
    assert next_in is not None
    assert 3 < next_in <= 5
    assert a.messages.complete(other, 1, again=False, contended=False) is Finished.FINISHED
    next_in = b.recovery.find_due().next_in
    assert next_in is not None
    assert next_in <= 5


def test_due_says_when_there_will_be_something_next(lab: Lab, a: Store, b: Store) -> None:
    """Sweeps follow the deadlines instead of polling."""
    now_ms = 1000 * lab.client.time()[0]
    lab.client.zadd(lab.prefix + "heartbeats", {"a": now_ms + 7_500})
    due = b.recovery.find_due()
    assert (due.dead, due.overdue) == ([], [])
    assert due.next_in is not None
    assert 5 < due.next_in <= 7.5
    lab.client.zadd(lab.prefix + "waiting", {"m": now_ms + 3_500})
    next_in = b.recovery.find_due().next_in
    assert next_in is not None
    assert next_in <= 3.5


def test_nobody_is_judged_when_all_were_silent(lab: Lab, a: Store, b: Store) -> None:
    """An outage: not while it lasts, and not before the living had the time to report back."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    now_ms = 1000 * lab.client.time()[0]
    lab.client.zadd(lab.prefix + "heartbeats", {"*last": now_ms - 31_000})
    assert b.recovery.find_due().dead == []
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) is None
    b.workers.heartbeat()  # closes the gap, and sets the grace's end
    due = b.recovery.find_due()
    assert due.dead == []
    assert due.next_in is not None
    assert due.next_in <= 20  # a third of a TTL: or nobody would use Redis meanwhile
    assert lab.client.zscore(lab.prefix + "heartbeats", "*grace") > now_ms + 28_000  # half a TTL
    assert lab.start(b, copy).answer is Start.DUPLICATE
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    lab.client.zadd(lab.prefix + "heartbeats", {"*grace": now_ms - 1000})
    assert b.recovery.find_due().dead == ["a"]
    assert lab.claim_answer(b, copy, "a") is Claim.CLAIMED


def test_a_grace_longer_than_the_ttl_is_not_cut(lab: Lab) -> None:
    """A heartbeat in the future is cut; the end of a grace is no such thing."""
    c = Store(Scripts(lab.client, lab.namespace, "c", heartbeat_ttl=1, fence_ttl=60))
    c.workers.heartbeat()
    now_ms = 1000 * lab.client.time()[0]
    lab.client.zadd(lab.prefix + "heartbeats", {"*last": now_ms - 5_000, "dead": 1000})
    c.workers.heartbeat()
    for _ in range(3):
        assert c.recovery.find_due().dead == []


def test_a_clock_that_jumps_ahead_kills_nobody(lab: Lab, a: Store, b: Store) -> None:
    """A failover to a server whose clock is ahead: the living beat within a third of the TTL; the grace is longer."""
    key = lab.prefix + "heartbeats"
    for member, score in lab.client.zrange(key, 0, -1, withscores=True):
        lab.client.zadd(key, {member: score - 120_000})  # the others' times, as the new server sees them
    b.workers.heartbeat()
    assert b.recovery.find_due().dead == []
    now_ms = 1000 * lab.client.time()[0]
    assert lab.client.zscore(key, "*grace") > now_ms + 60_000 / 3


def test_workers_with_other_settings_are_believed_as_they_said(lab: Lab, a: Store) -> None:
    """A deployment lowers the TTL: the new workers' sweeps do not shorten the old ones' heartbeats."""
    new = Store(Scripts(lab.client, lab.namespace, "new", heartbeat_ttl=1, fence_ttl=60))
    new.workers.heartbeat()
    before = lab.client.zscore(lab.prefix + "heartbeats", "a")
    new.recovery.find_due()
    assert lab.client.zscore(lab.prefix + "heartbeats", "a") == before


def test_a_dead_letter_sent_again_survives_its_worker(lab: Lab, a: Store, b: Store) -> None:
    """The old message object knows nothing of generations; when it is handed back, it is not stale."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    b.messages.close_unstarted(lab.recovered(copy, orphan), "dead_lettered")
    a.workers.heartbeat()
    again = copy_of(copy.message_id, origin="o9")
    assert lab.runs(a, again).generation == 2
    lab.return_to_broker(b, a, copy)
    assert lab.runs(b, again).crashes == 1
    lab.kill(b)
    a.workers.heartbeat()
    orphan = lab.claim(a, again, b)  # now by copy: from here on it is stale
    assert orphan.generation == 3
    assert lab.start(a, again).answer is Start.STALE


def test_a_copy_of_what_runs_here_unknown_to_redis_waits(lab: Lab, a: Store) -> None:
    """Redis was away when it started, or has lost its record: it does not run twice in one process."""
    for here in ("running", "ended"):
        assert lab.start(a, copy_of(), here=here).answer is Start.WAITING


def test_a_completion_without_a_record_is_kept_if_contended(lab: Lab, a: Store) -> None:
    """Redis has lost the record, and another copy was met."""
    copy = copy_of()
    assert a.messages.complete(copy, 1, again=False, contended=True) is Finished.GONE
    assert lab.start(a, copy).answer is Start.COMPLETED
    assert 0 < lab.expiry(copy) <= 60


def test_a_heartbeat_that_lies_in_the_future_is_cut(lab: Lab, a: Store, b: Store) -> None:
    """After a failover to a server whose clock is behind, the dead must not live for hours; nor a grace."""
    hour = 3_600_000
    now_ms = 1000 * lab.client.time()[0]
    key = lab.prefix + "heartbeats"
    lab.client.zadd(key, {"a": now_ms + hour, "*last": now_ms + hour, "*grace": now_ms + hour})
    b.recovery.find_due()
    after_ms = 1000 * (lab.client.time()[0] + 1)
    for member, most in (("a", 60_000), ("*last", 0), ("*grace", 30_000)):
        assert float(lab.client.zscore(key, member)) <= after_ms + most


def test_the_lock_of_a_dead_recoverer_is_broken(lab: Lab, a: Store, b: Store) -> None:
    """I8: it protects nothing, and would hold up recovery for minutes; nor that of one who has left."""
    c = lab.incarnation("c")
    assert c.recovery.lock(300).acquire(blocking=False, token="c")
    c.workers.deregister()
    b.recovery.find_due()
    assert lab.client.get(lab.prefix + "lock") is None
    assert a.recovery.lock(300).acquire(blocking=False, token="a")
    b.recovery.find_due()
    assert lab.client.get(lab.prefix + "lock") == b"a"
    lab.kill(a)
    b.recovery.find_due()
    assert lab.client.get(lab.prefix + "lock") is None


def test_scripts_survive_a_server_that_forgot_them(lab: Lab, a: Store) -> None:
    """A restart empties the script cache."""
    lab.client.script_flush()
    copy = copy_of()
    lab.runs(a, copy)


def test_replies_to_a_client_that_decodes_are_asked_for_as_bytes(server_url: str, namespace: str) -> None:
    """A broker's client with decode_responses: the tracker makes a client of its own from it."""
    decoding = redis.Redis.from_url(server_url, decode_responses=True)
    bounded = bounded_client(decoding)
    assert bounded.ping()
    bounded.set(f"{namespace}-x", b"\xff")
    assert bounded.get(f"{namespace}-x") == b"\xff"
    bounded.delete(f"{namespace}-x")
    connection: Any = bounded.connection_pool.make_connection()
    assert connection.socket_timeout == COMMAND_TIMEOUT
    assert connection.socket_connect_timeout == COMMAND_TIMEOUT


# Brokers whose acknowledgement comes later.


@pytest.mark.parametrize("again", [False, True])
def test_a_message_is_remembered_until_it_is_acknowledged(lab: Lab, b: Store, again: bool) -> None:
    """A kill between the two leaves a copy with the broker, and that one is skipped; so is one whose ack got lost."""
    a, copy = lab.incarnation("a", fence_ttl=10 * ACK_TTL), copy_of()
    started = lab.runs(a, copy)
    assert a.messages.complete(copy, started.run, again=again, contended=False, unacked=True) is Finished.FINISHED
    assert lab.state(copy) == ("released" if again else "completed")
    assert lab.payload(copy) == b""
    assert lab.expiry(copy) > 9 * ACK_TTL
    assert lab.start(b, copy).answer is (Start.SUPERSEDED if again else Start.COMPLETED)
    assert a.messages.shorten_retention([(copy.message_id, started.run, 0)]) == 1
    assert 0 < lab.expiry(copy) <= ACK_TTL
    assert lab.start(b, copy).answer is (Start.SUPERSEDED if again else Start.COMPLETED)


@pytest.mark.parametrize("why", ["another run", "contended", "generation"])
def test_what_is_to_be_remembered_for_another_reason_stays(lab: Lab, a: Store, b: Store, why: str) -> None:
    """Another copy may be under way, or the record is about another enqueue by now."""
    copy = copy_of(generation=2 if why == "generation" else 1)
    started = lab.runs(a, copy)
    a.messages.complete(copy, started.run, again=False, contended=why == "contended", unacked=True)
    if why == "another run":
        lab.runs(b, copy_of(copy.message_id, origin="o2"))
    assert a.messages.shorten_retention([(copy.message_id, started.run, 0), ("unknown", 1, 0)]) == 0
    assert lab.state(copy) == ("running" if why == "another run" else "completed")


@pytest.mark.parametrize("acked", [False, True])
def test_what_the_broker_says_is_acknowledged_is_not_remembered(lab: Lab, a: Store, acked: bool) -> None:
    """A consumer of a RedisBroker may acknowledge by itself, and may do so later."""
    copy, keys = copy_of(), (lab.prefix + "acks", lab.prefix + "msgs")
    lab.client.sadd(keys[0], copy.origin)
    lab.client.hset(keys[1], copy.origin, "stored")
    started = lab.start(a, copy, broker_keys=keys)
    if acked:
        lab.client.delete(*keys)
    a.messages.complete(copy, started.run, again=False, contended=False, unacked=True, broker_keys=keys)
    assert lab.state(copy) == (None if acked else "completed")


# Copies of one message that wait beside each other.


def copy_again(lab: Lab, by: Store, copy: Copy) -> Copy:
    """Its deadline passes, and another copy is enqueued; as a broker without ids delivers it."""
    lab.overdue(copy)
    (orphan,) = by.recovery.claim([copy.message_id], dead="", hold=60)
    assert isinstance(orphan, Orphan), orphan
    by.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="")
    return without_id(copy, orphan)


def without_id(copy: Copy, orphan: Orphan) -> Copy:
    return dataclasses.replace(copy, generation=orphan.generation, broker_copy_id="", tries=orphan.tries)


def test_a_copy_that_is_queued_for_long_runs_when_it_comes(lab: Lab, a: Store, b: Store) -> None:
    """Others were made meanwhile: it runs, and they are duplicates of it."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="a")
    copies = [without_id(copy, orphan), *(copy_again(lab, b, copy) for _ in range(3))]
    c = lab.incarnation("c")
    started = lab.runs(b, copies[0])
    assert [lab.start(c, other).answer for other in copies[1:]] == [Start.DUPLICATE] * 3
    assert b.messages.complete(copies[0], started.run, again=False, contended=False) is Finished.FINISHED
    assert [lab.start(c, other).answer for other in copies] == [Start.COMPLETED] * 4


def test_what_is_handed_back_runs_though_it_was_copied(lab: Lab, a: Store, b: Store) -> None:
    """Its worker has enqueued it again, and the queue is longer than the deadline."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy)
    a.messages.await_copy(copy.message_id, 1, b"", later=True)
    later = copy_again(lab, b, copy)
    assert lab.runs(b, copy).run == 2
    assert lab.start(lab.incarnation("c"), later).answer is Start.DUPLICATE


def test_a_copy_whose_message_has_failed_does_not_run(lab: Lab, a: Store, b: Store) -> None:
    """The first copy has failed, and its retry is with the broker; or it was dead-lettered, and this is no replay."""
    for dead_lettered in (False, True):
        copy = dataclasses.replace(copy_of(), broker_copy_id="")
        lab.runs(a, copy)
        a.messages.await_copy(copy.message_id, 1, b"", later=True)
        later = copy_again(lab, b, copy)
        assert lab.runs(b, copy).run == 2
        b.messages.release(copy.message_id, 2, contended=False, dead_lettered=dead_lettered, copy=copy)
        assert lab.start(a, later).answer is Start.SUPERSEDED
        assert lab.start(a, copy).answer is (Start.RUN if dead_lettered else Start.SUPERSEDED)


def test_the_second_of_two_verdicts_is_no_replay(lab: Lab, a: Store, b: Store) -> None:
    """The first one was dead-lettered: moved back from there it runs, with a clean count."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    assert b.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="a") == [Requeued.POISONED]
    first, second = without_id(copy, orphan), copy_again(lab, b, copy)
    assert lab.start(b, first, limit=0).answer is Start.POISONED
    b.messages.close_unstarted(first, "dead_lettered")
    assert lab.start(b, second, limit=0).answer is Start.SUPERSEDED
    assert lab.start(b, dataclasses.replace(second, condemned=True), limit=0).answer is Start.SUPERSEDED
    assert lab.start(b, dataclasses.replace(first, condemned=True), limit=0).answer is Start.POISONED
    replayed = lab.start(b, first, limit=0)
    assert (replayed.answer, replayed.crashes) == (Start.RUN, 0)


@pytest.mark.parametrize("why", ["refused", "away", "left_over"])
def test_a_copy_that_arrived_unheard_is_told_from_the_next(why: str, lab: Lab, a: Store, b: Store) -> None:
    """Its recoverer saw the enqueue fail, and makes another copy. One is dead-lettered; the other is no replay."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.return_claims([(copy.message_id, orphan.generation, why)])
    first, second = without_id(copy, orphan), copy_again(lab, b, copy)
    assert lab.start(b, first, limit=0).answer is Start.POISONED
    b.messages.close_unstarted(first, "dead_lettered")
    assert lab.start(b, second, limit=0).answer is Start.SUPERSEDED


def test_a_message_that_was_passed_over_counts_no_try(lab: Lab, a: Store, b: Store) -> None:
    """No copy of it was made, so its deadline does not double."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.return_claims([(copy.message_id, orphan.generation, "untried")])
    assert copy_again(lab, b, copy).tries == orphan.tries == 1


def test_deadlines_double_up_to_a_day(lab: Lab, a: Store, b: Store) -> None:
    """So few copies are made, however long the queue is."""
    copy = copy_of()
    lab.runs(a, copy)
    requeue_by_copy(lab, a, b, copy)
    waits = []
    for _ in range(12):
        waits.append((lab.deadline(copy) or 0) / 1000 - float(lab.client.time()[0]))
        copy_again(lab, b, copy)
    assert all(1.8 < later / earlier < 2.2 for earlier, later in itertools.pairwise(waits[:8]))
    assert 24 * 3600 - 60 < waits[-1] <= 24 * 3600 + 1


def test_a_copy_that_may_still_be_queued_is_waited_for_a_day(lab: Lab, a: Store, b: Store) -> None:
    """The broker has messages in its queue, and does not tell which: another copy is made after a day at the latest."""
    copy = dataclasses.replace(copy_of(), broker_copy_id="")
    lab.runs(a, copy)
    lab.kill(a)
    b.recovery.confirm_copies([Enqueued(lab.claim(b, copy, a), "", "default", 0)], dead="a")
    answers: list[str] = []
    while answers[-1:] != ["due"]:
        lab.overdue(copy)
        answers += b.recovery.extend_deadlines([(copy.message_id, "", "maybe")])
    assert answers == ["postponed"] * 8 + ["due"]
    assert lab.payload(copy) == payload_of(copy)


# Recoverers that die.


def claimed_by(lab: Lab, name: str, ids: list[str], *, draining: bool = False) -> tuple[list[str], list[Claim]]:
    """Claim the messages of a dead worker or recoverer, and die; return the claims and the rest of the answer."""
    store = lab.incarnation(name)
    answers = store.recovery.claim(ids, dead="a", hold=60)
    lab.kill(store, draining=draining)
    return (
        [answer.message_id for answer in answers if isinstance(answer, Orphan)],
        [answer for answer in answers if isinstance(answer, Claim)],
    )


def test_a_message_that_kills_three_recoverers_is_set_aside(lab: Lab, a: Store, b: Store) -> None:
    """Whole; what was claimed with it is taken one at a time, and is put back by the next one that lives."""
    copies = [copy_of(f"m{n}") for n in range(3)]
    for copy in copies:
        lab.runs(a, copy)
    lab.kill(a)
    ids = [copy.message_id for copy in copies]
    assert claimed_by(lab, "r1", ids) == (ids, [])
    assert claimed_by(lab, "r2", ids) == (ids[:1], [Claim.LATER] * 2)
    # Messages that it has not named go first: the message that kills comes last.
    for name, id in (("r3", "m1"), ("r4", "m2")):
        store = lab.incarnation(name)
        (orphan,) = [answer for answer in store.recovery.claim(ids, dead="a", hold=60) if isinstance(answer, Orphan)]
        assert orphan.message_id == id
        store.recovery.confirm_copies([Enqueued(orphan, "r", "default", 0)], dead="a")
    assert claimed_by(lab, "r5", ids[:1]) == (ids[:1], []), "the second death alone with it"
    assert b.recovery.claim(ids[:1], dead="a", hold=60) == [Claim.DEADLY]
    assert lab.client.hget(lab.prefix + "aside", "m0").endswith(payload_of(copies[0]))
    assert lab.state(copies[0]) is None
    assert b.messages.running_of("a", 0) == []
    assert [lab.head(copy).deaths for copy in copies[1:]] == [0, 0]  # type: ignore[union-attr]


def test_a_recoverer_that_shuts_down_is_no_death(lab: Lab, a: Store, b: Store) -> None:
    """Nor is one that is only slow, nor a claim that ended in order: none of them was killed by the message."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    for n in range(4):
        assert claimed_by(lab, f"r{n}", [copy.message_id], draining=True)[0]
    assert lab.head(copy).deaths == 0  # type: ignore[union-attr]
    claimed_by(lab, "killed", [copy.message_id])
    orphan = lab.claim(b, copy, a)
    assert lab.head(copy).deaths == 1  # type: ignore[union-attr]
    lab.overdue(copy)
    slow = lab.claim(lab.incarnation("c"), copy, a)
    assert (slow.generation, lab.head(copy).deaths) == (orphan.generation, 1)  # type: ignore[union-attr]
    lab.incarnation("c").recovery.return_claims([(copy.message_id, slow.generation, "refused")])
    assert lab.head(copy).deaths == 0  # type: ignore[union-attr]


def test_a_recoverer_that_was_forgotten_is_a_death(lab: Lab, a: Store, b: Store) -> None:
    """A message that waited for its copy is on no list of its recoverer, which is reaped before the claim runs out."""
    copy = copy_of()
    lab.runs(a, copy)
    a.messages.await_copy(copy.message_id, 1, b"payload")
    for n in range(3):
        dying = lab.incarnation(f"r{n}")
        assert isinstance(dying.recovery.claim([copy.message_id], dead="", hold=60)[0], Orphan)
        lab.kill(dying)
        assert b.workers.forget(dying.me)
        lab.overdue(copy)
    assert b.recovery.claim([copy.message_id], dead="", hold=60) == [Claim.DEADLY]
