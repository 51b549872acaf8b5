# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The blame rule in the scripts: who is charged, who is convicted, and what is taken back.

Every rule is tested in the three ways by which an orphan is taken from the dead: handed back, claimed, taken over.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.incident import Incident, Kind
from dramatiq_inflight.inspection.history import EventKind
from dramatiq_inflight.inspection.inspector import Inspector
from dramatiq_inflight.recovery.enqueue import NOBODY
from dramatiq_inflight.store.cause import CONNECTION, LEFT, OUT_OF_MEMORY, PROCESS, Cause, causes_of
from dramatiq_inflight.store.records import DeadIncarnation, Enqueued, Head, Orphan
from dramatiq_inflight.store.replies import Claim, Finished, Reasserted, Requeued, Returned, Start, Started
from dramatiq_inflight.store.store import Store
from tests.support.lab import Lab, copy_of, payload_of

WAYS = ("return_to_broker", "claim", "take_over")


class Court:
    """One message that dies again and again; `die` is one death and its verdict."""

    def __init__(self, lab: Lab, way: str, limit: int | str = 3) -> None:
        self.lab = lab
        self.way = way
        self.limit = limit
        self.copy = copy_of()
        self.judge = lab.incarnation("judge")
        self.deaths = 0

    @property
    def head(self) -> Head:
        head = self.lab.head(self.copy)
        assert head is not None
        return head

    def start(self, *, alone: bool | None) -> Started:
        self.worker = self.lab.incarnation(f"w{self.deaths}")
        return self.lab.start(self.worker, self.copy, limit=self.limit, alone=alone)

    def die(self, *, alone: bool = False, draining: bool = False) -> bool:
        """Run, die, be judged.  Returns whether it was convicted."""
        assert self.start(alone=alone).answer is Start.RUN
        self.deaths += 1
        self.lab.kill(self.worker, draining=draining)
        if self.way == "take_over":
            asked = self.lab.start(self.judge, self.copy, limit=self.limit, alone=False)
            if asked.answer is Start.CONVICTED:
                return True
            # It runs at the judge's now; let go of it, as after a failure, so that the next death is one of its own.
            assert (asked.answer, asked.owner) == (Start.RUN, self.worker.me)
            assert self.judge.messages.release(self.copy.message_id, asked.run, contended=True) is Finished.RELEASED
            self.copy = dataclasses.replace(self.copy, origin=f"retry-{self.deaths}")
            return False
        if self.way == "return_to_broker":
            results = self.judge.recovery.return_to_broker(self.worker.me, [(self.copy.message_id, True)])
            assert results is not None
            (result,) = results
            if result is Returned.RETURNED:
                return False
            assert result is Returned.TO_CLAIM
        orphan = self.lab.claim(self.judge, self.copy, self.worker)
        self.judge.recovery.confirm_copies([Enqueued(orphan, "r", "default", 0)], dead=self.worker.me)
        self.copy = self.lab.recovered(self.copy, orphan)
        return orphan.verdict is Claim.POISONED


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_death_in_company_charges_and_never_convicts(lab: Lab, way: str) -> None:
    """However often: an innocent message may have bad neighbours."""
    court = Court(lab, way, limit=1)
    for crashes in range(1, 9):
        assert not court.die(alone=False)
        assert court.head.crashes == crashes


def test_a_message_beyond_the_limit_is_convicted_if_alone(lab: Lab, way: str) -> None:
    """Neither a death alone within the limit convicts, nor the number by itself."""
    court = Court(lab, way, limit=2)
    assert not court.die(alone=True)
    assert not court.die(alone=True)
    assert not court.die(alone=False)
    assert court.die(alone=True)
    assert lab.start(court.judge, court.copy).answer in (Start.POISONED, Start.STALE)


def test_without_a_limit_nothing_is_convicted(lab: Lab, way: str) -> None:
    """max_recoveries=None."""
    court = Court(lab, way, limit="unlimited")
    assert not any(court.die(alone=True) for _ in range(6))
    assert court.start(alone=None).answer is Start.RUN


def test_a_shutdown_is_counted_apart_and_convicts_nobody(lab: Lab, way: str) -> None:
    """Deploys over a long message: not even on its last chance."""
    court = Court(lab, way, limit=1)
    assert not court.die(alone=True)
    for drains in range(1, 31):
        assert not court.die(alone=True, draining=True)
        assert (court.head.crashes, court.head.drains) == (1, drains)
    assert court.die(alone=True)


def test_what_must_not_run_again_is_convicted_by_any_death(lab: Lab, way: str) -> None:
    """on_orphan="dead_letter": in company, and by a shutdown."""
    assert Court(lab, way, limit="once").die(alone=False)
    assert Court(lab, way, limit="once").die(alone=False, draining=True)


def test_asking_for_a_last_chance_changes_nothing(lab: Lab, way: str) -> None:
    """A process must know that it has to be alone before the record says that it runs there."""
    court = Court(lab, way, limit=2)
    court.die()
    assert court.start(alone=None).answer is Start.RUN
    court.worker.messages.release(court.copy.message_id, 0, contended=True)
    court.copy = dataclasses.replace(court.copy, origin="a retry")
    court.die()
    before = court.head
    asked = court.start(alone=None)
    assert (asked.answer, asked.crashes) == (Start.LAST_CHANCE, 2)
    assert court.head == before
    assert court.start(alone=False).answer is Start.RUN
    assert court.head.alone == 0


def test_what_never_crashed_need_not_be_alone(lab: Lab, way: str) -> None:
    """max_recoveries=0 must not make every run a solitary one; its second run is."""
    assert Court(lab, way, limit=0).start(alone=None).answer is Start.RUN
    court = Court(lab, way, limit=0)
    assert not court.die(alone=False)
    assert court.start(alone=None).answer is Start.LAST_CHANCE
    assert Court(lab, way, limit=0).die(alone=True)


def test_a_take_over_on_its_last_chance_waits_to_be_alone(lab: Lab, a: Store, b: Store) -> None:
    """The dead owner's death is only charged when the run begins; a sweep may do it meanwhile."""
    copy = copy_of()
    lab.runs(a, copy, limit=1)
    lab.kill(a)
    before = lab.head(copy)
    asked = lab.start(b, copy, limit=1, alone=None)
    assert (asked.answer, asked.crashes) == (Start.LAST_CHANCE, 1)
    assert lab.head(copy) == before
    started = lab.start(b, copy, limit=1, alone=True)
    assert (started.answer, started.crashes, started.owner) == (Start.RUN, 1, "a")


def test_company_is_noted_before_it_comes(lab: Lab, a: Store, b: Store) -> None:
    """From then on a death convicts no more."""
    copy = copy_of()
    run = lab.runs(a, copy, limit=0, alone=True).run
    payload = lab.payload(copy)
    b.messages.clear_alone(copy.message_id, 0)
    a.messages.clear_alone(copy.message_id, run + 1)
    head = lab.head(copy)
    assert head is not None
    assert head.alone == 1  # neither by another worker, nor by another run
    a.messages.clear_alone(copy.message_id, run)
    a.messages.clear_alone("unknown", 1)
    assert lab.head(copy) == dataclasses.replace(head, alone=0)
    assert lab.payload(copy) == payload
    lab.return_to_broker(b, a, copy)


def test_a_success_clears_the_count(lab: Lab, a: Store, b: Store) -> None:
    """A poll loop that once died is no suspect for ever."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    run = lab.runs(b, copy).run
    b.messages.complete(copy, run, again=True, contended=False)
    head = lab.head(copy)
    assert head is not None
    assert (head.state, head.crashes, head.drains) == ("released", 0, 0)


def test_a_failure_keeps_the_count(lab: Lab, a: Store, b: Store) -> None:
    """The retry of a message on its last chance is on its last chance."""
    copy = copy_of()
    lab.runs(a, copy, limit=1)
    lab.return_to_broker(b, a, copy)
    run = lab.runs(b, copy, limit=1).run
    b.messages.release(copy.message_id, run, contended=False)
    retry = dataclasses.replace(copy, origin="retry", broker_copy_id="retry")
    assert lab.start(a, retry, limit=1, alone=None).answer is Start.LAST_CHANCE


def test_a_verdict_is_not_lost_with_the_recoverer(lab: Lab, a: Store, b: Store) -> None:
    """Claimed and convicted by one that dies; the next one knows, from both ways."""
    for by_hand_back in (True, False):
        copy = copy_of()
        dead, dying = lab.incarnation(f"dead{by_hand_back}"), lab.incarnation(f"dying{by_hand_back}")
        lab.runs(dead, copy, limit=0)
        lab.kill(dead)
        lab.claim(dying, copy, dead)
        assert lab.state(copy) == "recovering, dead_letter"
        assert lab.claim_answer(b, copy, dead.me) is Claim.BUSY
        lab.kill(dying)
        if by_hand_back:
            assert b.recovery.return_to_broker(dead.me, [(copy.message_id, True)]) == [Returned.TO_CLAIM]
        again = lab.claim(b, copy, dead)
        assert (again.verdict, again.crashes, again.generation) == (Claim.POISONED, 1, 2)


def test_an_overdue_dead_letter_is_still_one(lab: Lab, a: Store, b: Store) -> None:
    """Its copy was lost: the next copy is to be dead-lettered, too."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
    lab.overdue(copy)
    (again,) = b.recovery.claim([copy.message_id], dead="", hold=60)
    assert isinstance(again, Orphan)
    assert (again.verdict, again.crashes) == (Claim.POISONED, 1)


# False alarms.


@pytest.mark.parametrize("draining", [False, True])
def test_a_worker_that_comes_back_takes_its_charge_back(lab: Lab, a: Store, b: Store, draining: bool) -> None:
    """And the record counts on no copy: its own was stale, and the other may never have come into being."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a, draining=draining)
    lab.claim(b, copy, a)
    head = lab.head(copy)
    assert head is not None
    assert (head.state, head.dead_letter) == ("recovering", int(not draining))
    assert (head.crashes, head.drains) == ((0, 1) if draining else (1, 0))
    mended = lab.reassert(a, copy, limit=0, alone=True)
    assert mended[0] is Reasserted.RETAKEN
    head = lab.head(copy)
    assert head is not None
    assert (head.crashes, head.drains, head.copy, head.tailored, head.alone) == (0, 0, "", 1, 1)
    lab.kill(a)
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.TO_CLAIM]


def test_what_is_not_known_is_not_taken_back(lab: Lab, a: Store, b: Store) -> None:
    """A start that Redis never saw was charged with nothing: the crashes are another run's."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    mended = lab.reassert(b, copy, run=0)
    assert (mended[0], mended[3]) == (Reasserted.RETAKEN, 1)


def test_a_mend_takes_its_own_charge_back_from_a_successor_once(lab: Lab, a: Store, b: Store) -> None:
    """The copy has started elsewhere: it runs on there, without our death, which was none."""
    copy, c = copy_of(), lab.incarnation("c")
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.runs(b, copy)

    def crashes() -> int:
        head = lab.head(copy)
        assert head is not None
        return head.crashes

    def come_back() -> Reasserted:
        return lab.reassert(a, copy, payload=b"not this one")[0]

    assert crashes() == 1
    assert come_back() is Reasserted.LOST
    assert come_back() is Reasserted.LOST
    assert crashes() == 0
    assert lab.payload(copy) == payload_of(copy)
    # The next death is not ours, and stays charged.
    lab.kill(b)
    assert c.recovery.return_to_broker("b", [(copy.message_id, True)]) == [Returned.RETURNED]
    lab.runs(c, copy)
    assert come_back() is Reasserted.LOST
    assert crashes() == 1


# Policies in the record.


def test_a_tailored_recovery_takes_a_copy_in_every_way(lab: Lab, b: Store) -> None:
    """Another queue, a delay, or somebody to be told."""
    for way in WAYS:
        copy, dead = copy_of(), lab.incarnation(f"dead-{way}")
        assert lab.start(dead, copy, tailored=True).answer is Start.RUN
        lab.kill(dead)
        if way == "return_to_broker":
            assert b.recovery.return_to_broker(dead.me, [(copy.message_id, True)]) == [Returned.TO_CLAIM]
        if way == "take_over":
            started = lab.start(b, copy, tailored=True)
            assert (started.answer, started.owner, started.generation) == (Start.CLAIMED, dead.me, 2)
            assert lab.claim_answer(b, copy, dead.me) is Claim.MINE  # the start's own thread does it
        orphan = lab.claim(b, copy, dead, leftovers=way == "take_over")
        assert (orphan.verdict, orphan.crashes) == (Claim.CLAIMED, 1)


def test_no_policy_recovers_an_acknowledged_message(lab: Lab, a: Store, b: Store) -> None:
    """Killed between the ack of a failure and its release: the retry is with the broker."""
    for limit, tailored in ((0, False), ("once", False), (3, True)):
        copy, dead = copy_of(), lab.incarnation(f"dead{limit}")
        lab.start(dead, copy, limit=limit, tailored=tailored)
        lab.kill(dead)
        assert b.recovery.return_to_broker(dead.me, [(copy.message_id, False)]) == [Returned.SETTLED]


def test_what_was_put_off_is_recovered_as_its_policy_says(lab: Lab, a: Store, b: Store) -> None:
    """The broker redelivered it before its owner was judged: it holds the copy that was put off, and not this one."""
    for limit, tailored, verdict in (
        (0, False, Claim.POISONED),
        ("once", False, Claim.POISONED),
        (3, True, Claim.CLAIMED),
    ):
        copy, dead = copy_of(), lab.incarnation(f"dead{limit}")
        lab.start(dead, copy, limit=limit, tailored=tailored)
        assert lab.start(b, copy, limit=limit, tailored=tailored).answer is Start.DUPLICATE
        b.messages.defer(copy, 60)
        put_off = dataclasses.replace(copy, broker_copy_id="put-off", duplicate=True)
        lab.kill(dead)
        assert b.recovery.return_to_broker(dead.me, [(copy.message_id, False)]) == [Returned.TO_CLAIM]
        assert lab.claim(b, copy, dead).verdict is verdict
        assert lab.start(b, put_off, limit=limit).answer is Start.STALE


def test_a_deferred_message_that_needs_no_copy_runs_in_time(lab: Lab, a: Store, b: Store) -> None:
    """It counts as handed back, and its crash is not forgotten."""
    copy = copy_of()
    lab.runs(a, copy, limit=1, alone=False)
    lab.kill(a)
    assert lab.start(b, copy, limit=1, alone=None).answer is Start.LAST_CHANCE
    b.messages.defer(copy, 0)
    assert b.recovery.return_to_broker("a", [(copy.message_id, False)]) == [Returned.RETURNED]
    again = lab.start(b, dataclasses.replace(copy, broker_copy_id="put-off"), limit=1, alone=True)
    assert (again.answer, again.crashes) == (Start.RUN, 1)


def test_a_deferred_copy_of_recovery_does_not_count_as_consumed(lab: Lab, a: Store, b: Store) -> None:
    """The broker would report that it is gone."""
    copy = copy_of()
    lab.runs(a, copy, limit=1)
    lab.return_to_broker(b, a, copy)
    before = lab.deadline(copy)
    assert lab.start(b, copy, limit=1, alone=None).answer is Start.LAST_CHANCE
    b.messages.defer(dataclasses.replace(copy, broker_copy_id="another"), 60)
    assert lab.deadline(copy) == before
    b.messages.defer(copy, 60)
    assert before is not None
    assert (lab.deadline(copy) or 0) >= before + 60_000
    assert b.recovery.extend_deadlines([(copy.message_id, "o1", "consumed")]) == ["gone"]
    put_off = dataclasses.replace(copy, broker_copy_id="put-off")
    assert lab.start(b, put_off, limit=1, alone=True).answer is Start.RUN


def test_a_copy_that_waits_at_the_gate_keeps_its_owner(lab: Lab, a: Store, b: Store) -> None:
    """Its deadline comes later by as long as it may wait."""
    copy = copy_of()
    lab.runs(a, copy, limit=1)
    b.messages.extend_deadline(copy, 3600)  # nothing waits yet
    assert lab.deadline(copy) is None
    lab.return_to_broker(b, a, copy)
    before = lab.deadline(copy)
    assert before is not None
    b.messages.extend_deadline(dataclasses.replace(copy, generation=7), 3600)
    assert lab.deadline(copy) == before
    b.messages.extend_deadline(copy, 3600)
    assert (lab.deadline(copy) or 0) >= before + 3_600_000
    assert lab.expiry(copy) > 7 * 24 * 3600 + 3600


@pytest.mark.parametrize("limit", [3, "once"])
def test_a_message_that_never_ran_is_released_for_any_copy(lab: Lab, a: Store, limit: int | str) -> None:
    """Its start was executed, the answer lost, and the copy put off: it has not run."""
    copy = copy_of()
    run = lab.start(a, copy, limit=limit).run
    a.messages.defer(copy, 60)
    a.messages.release(copy.message_id, run, contended=True, consumed=False)
    put_off = dataclasses.replace(copy, broker_copy_id="put-off")
    assert lab.start(a, put_off, limit=limit).answer is Start.RUN


def test_a_mend_bears_being_sent_twice(lab: Lab, a: Store, b: Store) -> None:
    """A connection breaks after Redis has executed it: the message is still ours."""
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    a.workers.heartbeat()

    def mend() -> tuple[Reasserted, int, int, int, int]:
        return lab.reassert(a, copy, started_ms=started.started_ms, alone=False)

    assert mend()[:2] == (Reasserted.RETAKEN, 2)
    assert mend()[:2] == (Reasserted.KEPT, 2)


def test_a_mend_says_whether_it_is_alone(lab: Lab, a: Store) -> None:
    """A start that arrived late must not make it a hermit again."""
    copy = copy_of()
    run = lab.runs(a, copy, alone=True).run
    lab.reassert(a, copy, payload=b"", run=run, alone=False)
    head = lab.head(copy)
    assert head is not None
    assert head.alone == 0
    assert lab.payload(copy) == payload_of(copy)


def test_a_delayed_copy_has_its_delay_and_then_its_deadline(lab: Lab, a: Store, b: Store) -> None:
    """And is not asked about by an id that it will not keep; its queue is the one it was sent to."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    orphan = lab.claim(b, copy, a)
    before = lab.client.time()[0] * 1000
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "big-memory", 3600)], dead="a")
    head, deadline = lab.head(copy), lab.deadline(copy)
    assert head is not None
    assert deadline is not None
    assert (head.copy, head.queue) == ("", "big-memory")
    assert deadline >= before + 3_600_000 + b.scripts.deadline_ms


# Identity of a shutdown.


def test_only_the_heartbeats_of_a_shutdown_say_that_it_is_one(lab: Lab, a: Store, b: Store) -> None:
    """From the first to the last: a beat, a start, a finish."""
    assert not b.workers.incarnation("a").draining
    a.workers.heartbeat()
    assert not b.workers.incarnation("a").draining
    a.workers.drain()
    assert not b.workers.incarnation("a").draining
    a.workers.heartbeat()
    assert b.workers.incarnation("a").draining
    lab.runs(a, copy_of())
    assert b.workers.incarnation("a").draining
    assert b.workers.incarnation("a").why == "its heartbeat has expired while it was shutting down"
    b.workers.heartbeat()
    assert not b.workers.incarnation("b").draining


def test_what_is_left_by_one_that_left_is_charged_to_nobody(lab: Lab, a: Store, b: Store) -> None:
    """A shutdown that timed out."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    assert a.workers.deregister() == 1
    assert b.workers.incarnation("a").cause == LEFT
    lab.kill(a, draining=b.workers.incarnation("a").draining)
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.RETURNED]
    head = lab.head(copy)
    assert head is not None
    assert (head.crashes, head.drains) == (0, 1)


def test_one_that_drains_marks_nobody_else(lab: Lab, a: Store, b: Store) -> None:
    """It meets a record whose owner Redis has lost, and gives that one its time: as a living worker, not a draining."""
    copy: Copy = copy_of()
    lab.runs(a, copy)
    lab.client.zrem(lab.prefix + "heartbeats", "a")
    b.workers.drain()
    assert lab.start(b, copy).answer is Start.DUPLICATE
    assert not b.workers.incarnation("a").draining


# Why they died.


def reason_of(orphan: Orphan, dead: DeadIncarnation) -> str:
    return Incident.of(Kind.POISON, orphan, dead).reason


def crash(lab: Lab, dead: Store, other: Store, copy: Copy, cause: Cause | None) -> Orphan:
    """Let `dead` run it and die; None: its heartbeat expires.  Recovery takes it."""
    if cause is None:
        lab.kill(dead)
    else:
        assert other.workers.mark_dead(other.workers.incarnation(dead.me), cause)
    (claimed,) = other.recovery.claim([copy.message_id], dead=dead.me, hold=60)
    assert isinstance(claimed, Orphan)
    return claimed


def test_a_record_keeps_why_its_workers_died(lab: Lab, b: Store) -> None:
    """Through copies and takeovers; the reason says how often each was the cause."""
    copy, killed = copy_of(), Cause.of_status(9)
    lab.runs(lab.incarnation("w0"), copy, limit=9)
    copies = [OUT_OF_MEMORY, None, OUT_OF_MEMORY, PROCESS, killed]
    for number, cause in enumerate(copies, 1):
        orphan = crash(lab, lab.incarnation(f"w{number - 1}"), b, copy, cause)
        assert len(orphan.causes) == orphan.crashes == number
        copy = dataclasses.replace(copy, generation=orphan.generation)
        assert b.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="w0") == [Requeued.REQUEUED]
        lab.runs(lab.incarnation(f"w{number}"), copy, limit=9)
    assert b.workers.mark_dead(b.workers.incarnation("w5"), OUT_OF_MEMORY)
    assert lab.start(b, copy, limit=9).answer is Start.RUN, "taken over"
    orphan = crash(lab, b, lab.incarnation("c"), copy, CONNECTION)
    assert reason_of(orphan, NOBODY).startswith(
        "its worker died while running it: 7 times (out of memory 3 times, heartbeat expired once, unknown once, "
        "killed by signal 9 (SIGKILL) once, connections closed once);"
    )


def test_the_list_of_causes_is_bounded(lab: Lab, a: Store, b: Store) -> None:
    """The last ones are kept; of the others the cause is not known any more."""
    copy = copy_of()
    lab.runs(a, copy, limit="unlimited")
    key = f"{lab.prefix}record:{copy.message_id}"
    fields = json.loads(lab.client.get(key).partition(b"\n")[0])
    fields[4], causes = 1000, "555 " * 30
    lab.client.set(key, json.dumps([*fields, causes]).encode() + b"\n" + payload_of(copy))
    orphan = crash(lab, a, b, copy, OUT_OF_MEMORY)
    assert (orphan.crashes, len(orphan.causes), orphan.causes[-1]) == (1001, 30, OUT_OF_MEMORY)
    assert "1001 times (unknown 971 times, exit code 255 29 times, out of memory once)" in reason_of(orphan, NOBODY)


def test_a_death_that_was_none_leaves_no_cause(lab: Lab, a: Store, b: Store) -> None:
    """The worker lives, and takes its message back: no dead letter says that its connections were closed."""
    copy = copy_of()
    lab.runs(b, copy, limit=9)
    orphan = crash(lab, b, a, copy, OUT_OF_MEMORY)
    copy = dataclasses.replace(copy, generation=orphan.generation)
    a.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead="b")
    lab.runs(a, copy, limit=9)
    b.workers.register({"instance": "pod-b"})
    crash(lab, a, b, copy, CONNECTION)
    assert lab.reassert(a, copy, run=2, crashes=1, limit=9)[0] is Reasserted.RETAKEN
    head = lab.head(copy)
    assert head is not None
    assert (head.crashes, head.causes.split()) == (1, [str(OUT_OF_MEMORY.number)])


def test_of_two_deaths_the_one_that_was_none_is_taken_back(lab: Lab, a: Store, b: Store) -> None:
    """Another worker has run the message since, and was killed."""
    copy = copy_of()
    lab.runs(a, copy, limit=9)
    for store, other, cause in ((a, b, CONNECTION), (b, a, OUT_OF_MEMORY)):
        orphan = crash(lab, store, other, copy, cause)
        copy = dataclasses.replace(copy, generation=orphan.generation)
        other.recovery.confirm_copies([Enqueued(orphan, "", "default", 0)], dead=store.me)
        if store is a:
            lab.runs(b, copy, limit=9)
            a.workers.register({"instance": "pod-a"})
    assert lab.reassert(a, copy, run=1, limit=9)[0] is Reasserted.RETAKEN
    head = lab.head(copy)
    assert head is not None
    assert (head.crashes, causes_of(head.causes)) == (1, (OUT_OF_MEMORY,))


def test_a_proof_says_more_than_closed_connections(lab: Lab, a: Store, b: Store) -> None:
    """What is known last is charged; it is no second death in the history."""
    copy = copy_of()
    lab.runs(a, copy, limit=9)
    assert b.workers.mark_dead(b.workers.incarnation("a"), CONNECTION)
    lab.client.zadd(lab.prefix + "heartbeats", {"*until:a": -(10**14)})  # it may be back
    assert b.workers.mark_dead(b.workers.incarnation("a"), OUT_OF_MEMORY)
    assert b.workers.incarnation("a").cause == OUT_OF_MEMORY
    assert not b.workers.mark_dead(b.workers.incarnation("a"), PROCESS), "less is known by that"
    (orphan,) = b.recovery.claim([copy.message_id], dead="a", hold=60)
    assert isinstance(orphan, Orphan)
    assert orphan.causes == (OUT_OF_MEMORY,)
    assert [event.cause for event in Inspector(lab.client, lab.namespace).history(kinds=[EventKind.DIED])] == [
        "connection"
    ]


@pytest.mark.parametrize(("text", "causes"), [("5 x -1 109 9999999999 ", (5, 109)), ("<b>", ()), ("\x1b[2J", ())])
def test_what_is_no_cause_in_a_record_is_passed_over(text: str, causes: tuple[int, ...]) -> None:
    assert causes_of(text) == tuple(map(Cause, causes))


@pytest.mark.parametrize(
    ("number", "name", "short"),
    [
        *((5, "out_of_memory", "out of memory"), (109, "signal 9", "killed by signal 9 (SIGKILL)")),
        *(
            (140, "signal 40", "killed by signal 40"),
            (300, "exit 0", "exit code 0"),
            (555, "exit 255", "exit code 255"),
        ),
        *((556, "other", "unknown"), (77, "other", "unknown"), (-3, "other", "unknown"), (10**17, "other", "unknown")),
    ],
)
def test_each_number_is_a_cause(number: int, name: str, short: str) -> None:
    """Also one of a later version."""
    cause = Cause(number)
    assert (cause.name, str(cause), cause.kind.value) == (name, short, name.split(maxsplit=1)[0])
    assert cause.why()
