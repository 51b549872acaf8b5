# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Asked and silent: a duplicate delivery asks the owner, and two questions without an answer are a death."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq import Message

from dramatiq_inflight.bell import Bell
from dramatiq_inflight.challenge import Challenges
from dramatiq_inflight.connection import bounded_client
from dramatiq_inflight.lease import Lease
from dramatiq_inflight.listener import Listener
from dramatiq_inflight.marks import Copy
from dramatiq_inflight.moment import Moment
from dramatiq_inflight.outcomes import Answer, Claim, Finished, Mended, Start
from dramatiq_inflight.records import Enqueued, Orphan
from dramatiq_inflight.registry import Registry
from dramatiq_inflight.table import Entry
from dramatiq_inflight.words import ASKED

from .support.cluster import Cluster
from .support.history import History
from .support.inprocess import App
from .support.lab import Lab, ago, copy_of
from .support.servers import RedisServer, wait_until
from .support.workers import WorkerProcess

PATIENCE = 60_000


class Owner:
    """An incarnation that can be asked, and the time that it is given."""

    def __init__(self, lab: Lab, registry: Registry, patience: int = PATIENCE) -> None:
        self.lab, self.registry = lab, registry
        self.key = f"{lab.prefix}incarnation:{registry.me}"
        registry.register({"instance": "pod", "patience": str(patience)})

    def time_passes(self) -> None:
        """As long as the owner has for an answer, as far as the questions are concerned."""
        for field in ("asked", "asked_again"):
            if self.lab.client.hexists(self.key, field):
                self.lab.client.hincrby(self.key, field, -PATIENCE)

    def is_silent(self, by: Registry) -> None:
        """It is asked twice, and gives no answer."""
        challenged = by.challenge(self.registry.me, "")
        assert challenged.answer is Answer.ASKED
        for answer in (Answer.ASKED, Answer.SILENT):
            self.time_passes()
            challenged = by.challenge(self.registry.me, challenged.token)
            assert challenged.answer is answer

    def loses(self, copy: Copy, by: Registry, *, draining: bool = False) -> Orphan:
        """It runs a message, is silent, and the message is claimed; `draining`: it is shutting down."""
        self.lab.runs(self.registry, copy)
        if draining:
            self.registry.drain()
            self.registry.beat()
        self.is_silent(by)
        return self.lab.claim(by, copy, self.registry)

    @property
    def deadline(self) -> float:
        return float(self.lab.client.zscore(self.lab.prefix + "heartbeats", self.registry.me))


@pytest.fixture
def owner(lab: Lab, a: Registry) -> Owner:
    return Owner(lab, a)


# The question, in Redis.


def test_who_leaves_two_questions_unanswered_has_lost_the_message(
    lab: Lab, a: Registry, b: Registry, owner: Owner
) -> None:
    """The one in question: it is claimed, charged, and put back by a copy."""
    copy = copy_of()
    lab.runs(a, copy)
    started = lab.start(b, copy)
    assert (started.answer, started.owner) == (Start.DUPLICATE, "a")
    owner.is_silent(b)
    orphan = lab.claim(b, copy, a)
    assert (orphan.verdict, orphan.generation, orphan.crashes) == (Claim.CLAIMED, 2, 1)
    assert b.requeued([Enqueued(orphan, "r2", "default", 0)], dead="a")
    assert lab.start(b, lab.recovered(copy, orphan)).answer is Start.RUN
    assert lab.start(b, copy).answer is Start.STALE  # the copy that was put off
    assert b.due().dead == []  # for this message only


@pytest.mark.parametrize("questions", [1, 2])
def test_an_answer_ends_it(lab: Lab, a: Registry, b: Registry, owner: Owner, questions: int) -> None:
    """Whichever question it is an answer to."""
    copy = copy_of()
    lab.runs(a, copy)
    challenged = b.challenge("a", "")
    for _ in range(questions - 1):
        owner.time_passes()
        challenged = b.challenge("a", challenged.token)
    assert challenged.answer is Answer.ASKED
    time.sleep(0.002)  # a heartbeat in the same millisecond would look the same
    a.beat()
    owner.time_passes()
    assert b.challenge("a", challenged.token).answer is Answer.OVER
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    # The next one who asks begins anew.
    again = b.challenge("a", "")
    assert again.answer is Answer.ASKED
    owner.time_passes()
    assert b.challenge("a", again.token).answer is Answer.ASKED
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE


def test_one_question_or_one_whose_time_is_not_up_proves_nothing(
    lab: Lab, a: Registry, b: Registry, owner: Owner
) -> None:
    """A question may be lost, or fall into a moment of starvation."""
    copy = copy_of()
    lab.runs(a, copy)
    challenged = b.challenge("a", "")
    assert 59 < challenged.wait <= 60
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    owner.time_passes()
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    assert b.challenge("a", challenged.token).answer is Answer.ASKED
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE


def test_a_question_that_is_open_is_not_asked_anew(lab: Lab, a: Registry, b: Registry, owner: Owner) -> None:
    """Another asker waits for the same answer: the owner's time does not begin again, and is not halved."""
    c = lab.incarnation("c")
    b.challenge("a", "")
    asked = lab.client.hget(owner.key, "asked")
    time.sleep(0.005)
    assert c.challenge("a", "").wait < 60
    assert lab.client.hget(owner.key, "asked") == asked
    owner.time_passes()
    token = b.challenge("a", "").token
    again = lab.client.hget(owner.key, "asked_again")
    time.sleep(0.005)
    assert c.challenge("a", token).answer is Answer.ASKED
    assert lab.client.hget(owner.key, "asked_again") == again


def test_nobody_is_judged_by_questions_that_an_outage_may_have_swallowed(
    lab: Lab, a: Registry, b: Registry, owner: Owner
) -> None:
    """Neither during the grace, nor after it by a question from before its end."""
    copy = copy_of()
    lab.runs(a, copy)
    owner.is_silent(b)
    now = lab.client.time()[0] * 1000
    lab.client.zadd(lab.prefix + "heartbeats", {"*grace": now + 60_000})
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    challenged = b.challenge("a", "")
    assert (challenged.answer, challenged.wait) == (Answer.ASKED, 1)
    lab.client.zadd(lab.prefix + "heartbeats", {"*grace": now - 1})
    lab.client.hset(
        owner.key, mapping={"asked": now - 60_000, "asked_again": now - 50_000, "asked_at": int(owner.deadline)}
    )
    lab.client.hset(owner.key, "patience", 10)
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    assert b.challenge("a", challenged.token).answer is Answer.ASKED
    assert int(lab.client.hget(owner.key, "asked")) >= now


@pytest.mark.parametrize("limit", [0, 3, "once"])
def test_silence_convicts_nobody(lab: Lab, a: Registry, b: Registry, owner: Owner, limit: int | str) -> None:
    """It may be a false alarm, and a dead letter is for good: there the heartbeat decides."""
    copy = copy_of()
    for i in range(limit if isinstance(limit, int) else 0):
        dead = lab.incarnation(f"dead-{i}")
        assert lab.start(dead, copy, limit=limit, alone=False).answer is Start.RUN
        lab.kill(dead)
    lab.runs(a, copy, limit=limit)
    owner.is_silent(b)
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE
    lab.kill(a)
    assert lab.claim_answer(b, copy, "a") is Claim.POISONED


def test_who_cannot_be_asked_is_not_judged_by_its_silence(lab: Lab, a: Registry, b: Registry) -> None:
    """One that does not listen yet, or is of a version that never does; one that is dead needs no question."""
    assert b.challenge("a", "").answer is Answer.OVER
    assert b.challenge("nobody", "").answer is Answer.OVER
    Owner(lab, a)
    lab.kill(a)
    assert b.challenge("a", "").answer is Answer.OVER


# The owner learns of it.


@pytest.mark.parametrize("draining", [False, True])
def test_the_owner_hears_of_it_with_its_next_beat(
    lab: Lab, a: Registry, b: Registry, owner: Owner, draining: bool
) -> None:
    """Whatever script that is; and once."""
    copy = copy_of()
    orphan = owner.loses(copy, b, draining=draining)
    assert (orphan.crashes, orphan.drains) == ((0, 1) if draining else (1, 0))
    assert b.incarnation("a").draining is draining
    mended = lab.mend(a, copy)
    # The copy has not started: it takes its message back, and the charge.
    assert mended == (Mended.RETAKEN, 2, 2, 0, 0)
    assert a.beat() is True
    assert b.incarnation("a").draining is draining


def test_an_owner_that_is_late_changes_nothing(lab: Lab, a: Registry, b: Registry, owner: Owner) -> None:
    """The copy has started."""
    copy = copy_of()
    orphan = owner.loses(copy, b)
    b.requeued([Enqueued(orphan, "r2", "default", 0)], dead="a")
    lab.start(b, lab.recovered(copy, orphan))
    assert lab.mend(a, copy)[0] is Mended.LOST
    before = lab.head(copy)
    assert before is not None
    assert (before.owner, before.run, before.crashes) == ("b", 2, 0)
    assert a.finish(copy, 1, again=False, contended=False) is Finished.FENCED
    assert lab.head(copy) == before


@pytest.mark.parametrize("draining", [False, True])
def test_a_beat_on_its_behalf_does_not_hide_it(
    lab: Lab, a: Registry, b: Registry, owner: Owner, draining: bool
) -> None:
    """What the heartbeat's process says is no word of the worker's own."""
    copy = copy_of()
    owner.loses(copy, b, draining=draining)
    witness = Registry(lab.client, lab.namespace, "a", heartbeat_ttl=60, fence_ttl=60)
    for _ in range(2):
        before = owner.deadline
        time.sleep(0.002)
        assert witness.attest() is True
        assert owner.deadline > before
    assert b.incarnation("a").draining is draining
    assert a.beat() is False
    assert a.beat() is True
    assert witness.attest() is True
    assert a.beat() is True


def test_a_beat_on_its_behalf_revives_the_late_and_not_the_forgotten(lab: Lab, a: Registry, b: Registry) -> None:
    """It lives; that it had been taken for dead it hears with its own next beat. A stranger has to say who it is."""
    witness = Registry(lab.client, lab.namespace, "a", heartbeat_ttl=60, fence_ttl=60)
    lab.kill(a)
    assert witness.attest() is True
    assert b.due().dead == []
    assert a.beat() is False
    a.leave()
    assert witness.attest() is False
    assert "a" not in b.deadlines()


def test_an_owner_that_may_not_have_answered_looks_before_anything_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as two questions take to be left unanswered, less the way there and back."""
    clock = [100.0]
    monkeypatch.setattr(Moment, "now", lambda: Moment(clock[0], 0))
    lease = Lease(90, 2, Bell())
    lease.registered(lease.version)
    entry = Entry(copy_of(), epoch=lease.epoch)
    clock[0] += 1.9
    assert not lease.in_doubt(entry)
    clock[0] += 0.2
    assert lease.in_doubt(entry)
    assert not lease.silent
    lease.contact(True, begun=Moment(101, 0))  # it took a second to come back: it is as old as when it was sent
    assert not lease.in_doubt(entry)
    clock[0] += 1
    assert lease.in_doubt(entry)
    lease.contact(True, begun=Moment(clock[0], 0))
    assert not lease.in_doubt(entry)
    assert (lease.epoch, lease.revived) == (1, False)


def test_who_was_taken_for_dead_knows_whether_redis_has_lost_its_data() -> None:
    """If not, a copy in memory that the broker does not have was done by others; if so, it may be the last one."""
    lease = Lease(90, 2, Bell())
    lease.registered(lease.version)
    lease.contact(False, Moment.now(), False)
    assert (lease.revived, lease.forgotten) == (True, False)  # Redis has heard of it: it was silent, nothing is lost
    lease.contact(False, Moment.now(), True)
    assert lease.forgotten  # or recovered: nobody has asked yet
    assert lease.was_lost()
    lease.registered(lease.version, forgotten=False)
    assert (lease.revived, lease.forgotten) == (True, False)
    lease.contact(False, Moment.now(), True)
    lease.registered(lease.version, forgotten=False)
    assert lease.forgotten  # it was taken for dead once more in between
    assert lease.was_lost()
    lease.registered(lease.version, forgotten=True)
    lease.registered(lease.version, forgotten=False)
    assert lease.forgotten  # for good


def test_who_was_never_registered_cannot_be_forgotten() -> None:
    """Redis was away at boot: what it does not know it has not lost, however long the silence was."""
    lease = Lease(90, 2, Bell())
    lease.answer_lost()
    lease.contact(False, Moment.now(), True)
    lease.contact(False, ago(-60), True)
    assert not lease.was_lost()
    lease.registered(lease.version)
    assert not lease.forgotten
    lease.contact(False, ago(-60), True)
    assert lease.was_lost()


def test_what_changes_while_it_is_being_said_is_said_again(app: App) -> None:
    """A queue that is declared just then: recovery would not know where to look for what was fetched from it."""
    app.start()
    runtime = app.tracker._runtime
    assert runtime is not None
    register, declared = runtime.registry.register, list[str]()

    def slow(fields: dict[str, str]) -> Any:
        refusal = register(fields)
        if not declared:
            declared.append("another")
            app.broker.declare_queue("another")
        return refusal

    runtime.registry.register = slow  # type: ignore[method-assign]
    runtime.lease.register_again()
    key = f"{app.lab.prefix}incarnation:{runtime.incarnation.id}"
    wait_until(lambda: declared and b"another" in app.lab.client.hget(key, "queues"), what="it is said again")
    wait_until(lambda: not runtime.lease.unregistered, what="and that is all")


def test_an_answer_that_was_lost_may_have_said_so() -> None:
    """The script that told us may have run, and the connection broken."""
    lease = Lease(90, 2, Bell())
    lease.registered(lease.version)
    entry = Entry(copy_of(), epoch=lease.epoch)
    lease.answer_lost()
    lease.contact(True, Moment.now())
    assert lease.in_doubt(entry)
    entry.epoch = lease.epoch
    lease.contact(True, Moment.now())
    assert not lease.in_doubt(entry)


def test_the_owner_hears_of_it_when_it_says_again_who_it_is(lab: Lab, b: Registry) -> None:
    """That is a heartbeat, too, and would hide it from the next."""
    a, heard = lab.noting("a")
    owner, copy = Owner(lab, a), copy_of()
    owner.loses(copy, b)
    heard.clear()
    a.register({"instance": "pod", "patience": str(PATIENCE)})
    a.beat()
    assert heard == [False, True]


def test_a_script_that_may_have_run_twice_is_an_answer_that_was_lost(lab: Lab) -> None:
    """The first time it said so, perhaps, and the connection broke."""
    lost: list[str] = []
    a = Registry(
        lab.client, lab.namespace, "a", heartbeat_ttl=60, fence_ttl=60, on_answer_lost=lambda: lost.append("x")
    )
    a.register({})
    a.beat()
    assert lost == []
    connection = lab.client.connection_pool._idle[-1]
    read = connection.read_response

    def breaks() -> None:
        connection.read_response = read
        read()
        raise redis.ConnectionError("broken")

    connection.read_response = breaks
    a.beat()
    assert lost == ["x"]


# Who asks.


def test_one_owner_is_asked_once_for_many_messages(lab: Lab, a: Registry, b: Registry) -> None:
    """And the verdict is on all of them."""
    Owner(lab, a, patience=50)
    challenges = Challenges(b)
    assert challenges.next_in is None
    for message_id in ("1", "2", "1"):
        challenges.open("a", message_id)
    assert challenges.next_in == 0
    assert challenges.ask() == {}
    assert 0 < (challenges.next_in or 0) <= 0.05
    silent: dict[str, list[str]] = {}

    def asked() -> bool:
        silent.update(challenges.ask())
        return bool(silent)

    wait_until(asked, what="it is silent to the end")
    assert silent == {"a": ["1", "2"]}
    assert challenges.next_in is None
    for who in ("wake", "asked"):  # the worker, and its heartbeat's process
        assert lab.client.lrange(f"{lab.prefix}{who}:a", 0, -1) == [ASKED.encode()] * 3
        assert 0 < lab.client.pttl(f"{lab.prefix}{who}:a") <= 60_000


def answer(registry: Registry, word: str) -> None:
    if word == ASKED:
        registry.beat()


@pytest.fixture
def listening(lab: Lab) -> Iterator[Callable[[Registry], Listener]]:
    made: list[Listener] = []

    def make(registry: Registry) -> Listener:
        made.append(
            Listener(registry, lambda bound: bounded_client(lab.client, bound), 10, lambda word: answer(registry, word))
        )
        made[-1].start()
        return made[-1]

    yield make
    for listener in made:
        listener.stop()


def test_a_living_owner_answers(
    lab: Lab, a: Registry, b: Registry, owner: Owner, listening: Callable[[Registry], Listener]
) -> None:
    """By a heartbeat, within milliseconds."""
    listening(a)
    challenges = Challenges(b)
    before = owner.deadline
    challenges.open("a", "m")
    assert challenges.ask() == {}
    wait_until(lambda: owner.deadline > before, timeout=5, what="it beats")


def test_an_answer_may_be_there_before_the_question_is_noted(
    lab: Lab, a: Registry, b: Registry, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts, to the first question and to the second."""
    ask = b.ask

    def answered(ids: list[str]) -> None:
        ask(ids)
        time.sleep(0.002)
        a.beat()

    monkeypatch.setattr(b, "ask", answered)
    assert b.challenge("a", "").answer is Answer.OVER
    monkeypatch.setattr(b, "ask", ask)
    token = b.challenge("a", "").token
    owner.time_passes()
    monkeypatch.setattr(b, "ask", answered)
    assert b.challenge("a", token).answer is Answer.OVER


def test_who_cannot_wait_for_a_word_does_not_promise_an_answer(
    own_server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that is not allowed, or that a proxy does not know; it says so, and once."""
    admin = own_server.client()
    admin.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-blpop")
    app = App(f"redis://app:pw@127.0.0.1:{own_server.port}/0", namespace, Lab(admin, namespace))
    app.start()
    runtime = app.tracker._runtime
    assert runtime is not None
    key = f"{app.lab.prefix}incarnation:{runtime.incarnation.id}"
    assert app.lab.client.hget(key, "patience") == b"0"
    assert app.other("b").challenge(runtime.incarnation.id, "").answer is Answer.OVER
    admin.execute_command("ACL", "SETUSER", "app", "+blpop")
    wait_until(lambda: app.lab.client.hget(key, "patience") == b"10000", what="it hears, and says so")
    admin.execute_command("ACL", "SETUSER", "app", "-blpop")
    wait_until(lambda: app.lab.client.hget(key, "patience") == b"0", what="it hears no more, and says so")
    app.close()
    assert caplog.text.count("deaths are known later") == 1


def test_who_has_left_answers_no_more_and_is_not_judged_by_that(
    lab: Lab, a: Registry, b: Registry, owner: Owner
) -> None:
    """What it still runs has a few seconds to end."""
    copy = copy_of()
    lab.runs(a, copy)
    a.drain()
    assert a.leave() == 1
    assert b.challenge("a", "").answer is Answer.OVER
    assert lab.claim_answer(b, copy, "a") is Claim.ALIVE


def test_questions_leave_no_key(lab: Lab, a: Registry, b: Registry, owner: Owner) -> None:
    """Neither of who leaves nor of who is reaped."""
    b.challenge("a", "")
    a.challenge("b", "")
    assert {"asked:a", "asked:b", "wake:a", "wake:b"} <= lab.names()
    lab.kill(a)
    assert b.reap("a")
    assert b.leave() == 0
    assert lab.names() == set()


@pytest.mark.parametrize("here", ["running", "ended"])
def test_a_copy_does_not_run_beside_the_run_that_it_replaces(
    lab: Lab, a: Registry, b: Registry, owner: Owner, here: str
) -> None:
    """Its former owner is back, and has fetched it before it knows of its loss. The next beat takes it back."""
    copy = copy_of()
    orphan = owner.loses(copy, b)
    b.requeued([Enqueued(orphan, "r2", "default", 0)], dead="a")
    recovered = lab.recovered(copy, orphan)
    assert lab.start(a, recovered, here=here).answer is Start.WAITING
    assert lab.state(copy) == "requeued"
    assert lab.start(a, recovered).answer is Start.RUN


# A worker that meets a duplicate.


@pytest.fixture
def asking(server_url: str, namespace: str, lab: Lab) -> Iterator[App]:
    """A worker that takes no time over a copy that is put off."""
    app = App(server_url, namespace, lab, challenge_timeout=0.1)
    yield app
    app.close()


def test_a_message_of_a_silent_owner_runs_again_and_its_copy_does_not(asking: App) -> None:
    """At the end of the second question, long before the heartbeat expires."""
    app = asking
    ran: list[str] = []
    actor = app.actor(lambda: ran.append("x"), actor_name="work")
    _, other = _running_elsewhere(app, actor, patience=100)
    app.start()
    wait_until(lambda: ran == ["x"], timeout=10, what="it runs again")
    app.join()
    assert ran == ["x"]
    assert app.registry.incarnation("other").dead_since_ms > time.time() * 1000  # still believed to live
    assert other.beat() is False


def test_a_message_of_a_living_owner_does_not_run(
    app: App, lab: Lab, listening: Callable[[Registry], Listener], caplog: pytest.LogCaptureFixture
) -> None:
    """It answers."""
    caplog.set_level(logging.INFO)
    ran: list[str] = []
    actor = app.actor(lambda: ran.append("x"), actor_name="work")
    message, other = _running_elsewhere(app, actor, patience=100)
    listening(other)
    app.start()
    runtime = app.tracker._runtime
    assert runtime is not None
    before = other.deadlines()["other"]
    wait_until(lambda: "it is running already" in caplog.text, what="it is put off")
    wait_until(lambda: runtime.recovery.challenges.next_in is None, what="that is settled")
    assert other.deadlines()["other"] >= before
    assert lab.claim_answer(app.registry, Copy.of(message), "other") is Claim.ALIVE
    copy = Copy.of(message)
    other.finish(copy, 1, again=False, contended=False)
    assert ran == []


def _running_elsewhere(app: App, actor: object, *, patience: int) -> tuple[Message[object], Registry]:
    other = app.other()
    other.register({"instance": "other", "patience": str(patience)})
    message: Message[object] = actor.message().copy(options={"redis_message_id": "r1"})  # type: ignore[attr-defined]
    started = app.lab.start(other, Copy.of(message), payload=message.encode())
    assert started.answer is Start.RUN
    app.deliver(message)
    return message, other


# Real workers, and Dramatiq's own maintenance, which takes a starved worker for dead: then it delivers again.

IMPATIENT = {
    "HEARTBEAT_INTERVAL": "30",
    "HEARTBEAT_TTL": "90",
    "TEST_HEARTBEAT_TIMEOUT": "1000",
    "TEST_MAINTENANCE_CHANCE": "1000000",
}


@pytest.mark.parametrize("heartbeat", ["thread", "process"])
def test_what_a_starved_worker_runs_is_delivered_again_and_does_not_run_twice(
    cluster: Callable[..., Cluster], history: History, tmp_path: Path, heartbeat: str
) -> None:
    """Its process answers for it; its thread is given its time."""
    made = cluster(PROCESSING_HEARTBEAT=heartbeat, **IMPATIENT)
    owner, other = _one_runs_and_another_is_there(made, history, tmp_path, seconds=60)
    made.wait(lambda: "it is running already; this copy is put off" in other.output(), what="it is delivered again")
    (tmp_path / "gate.fed").touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    assert history.count("start") == 1
    assert "taken for dead" not in owner.output() + other.output()


def test_a_thread_that_is_starved_beyond_its_allowance_is_fenced(
    cluster: Callable[..., Cluster], history: History, tmp_path: Path
) -> None:
    """The message runs again; the late one changes nothing."""
    made = cluster(PROCESSING_CHALLENGE_TIMEOUT="0.5", **IMPATIENT)
    owner, other = _one_runs_and_another_is_there(made, history, tmp_path, seconds=60)
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    (tmp_path / "gate.fed").touch()
    made.wait(lambda: "was completed here, but another worker owns it" in owner.output(), what="it is fenced")
    wait_until(lambda: "it was asked twice whether it lives, and has not answered" in other.output(), what="said")
    made.wait(lambda: "PROCESSING_HEARTBEAT=process" in owner.output(), what="it is said why, and what to set")
    (tmp_path / "gate").touch()
    made.wait(lambda: history.count("end") == 2, what="both have ended")
    made.wait(lambda: made.results().get_result(_sent(made), block=True) == "of run 2", what="the result is there")


def test_what_a_killed_worker_ran_and_is_delivered_again_runs_after_two_questions(
    cluster: Callable[..., Cluster], history: History, tmp_path: Path
) -> None:
    """Nobody has seen the death, and the heartbeat is fresh."""
    made = cluster(PROCESSING_CHALLENGE_TIMEOUT="0.5", **IMPATIENT)
    owner, other = _one_runs_and_another_is_there(made, history, tmp_path, seconds=60)
    owner.kill()
    made.wait(lambda: history.count("start") == 2, timeout=15, what="it runs again")
    (tmp_path / "gate").touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    wait_until(lambda: "it was asked twice whether it lives, and has not answered" in other.output(), what="said")


def _one_runs_and_another_is_there(
    made: Cluster, history: History, folder: Path, *, seconds: float
) -> tuple[WorkerProcess, WorkerProcess]:
    owner = made.worker(threads=1)
    if made.env.get("PROCESSING_HEARTBEAT") == "process":
        made.wait(lambda: "patience" in _said(made) and _said(made)["patience"] == "2000", what="its process answers")
    made.app.starving.send("m", seconds, str(folder / "gate"))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    return owner, made.worker(threads=1)


def _said(made: Cluster) -> dict[str, str]:
    keys = made.client.keys(made.prefix + "incarnation:*")
    return {name.decode(): value.decode() for key in keys for name, value in made.client.hgetall(key).items()}


def _sent(made: Cluster) -> Message[str]:
    event = made.history.events("start")[0]
    return made.app.starving.message().copy(message_id=event.message_id)  # type: ignore[no-any-return]
