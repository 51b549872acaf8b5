# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker's doubts about itself, and its look-ups before a message has a consequence."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from dramatiq_inflight.liveness.lease import KnownBy, Lease
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.bell import Bell
from dramatiq_inflight.threads.moment import Moment
from tests.support.inprocess import App
from tests.support.lab import Lab, ago
from tests.support.servers import wait_until


class Clock:
    """Both clocks of a moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 100.0
        monkeypatch.setattr(Moment, "now", lambda: self.now)

    @property
    def now(self) -> Moment:
        return Moment(self.at, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_worker_looks_first_if_nothing_shows_its_connection(clock: Clock) -> None:
    """Neither a look that counted it nor a heartbeat: it may be declared dead by its connections."""
    lease = Lease(90, 2, Bell())
    lease.registered(lease.version)
    lease.entered(clock.now)
    epoch = lease.epoch
    clock.at += 1.9
    assert not lease.in_doubt(epoch)
    clock.at += 0.2
    assert lease.in_doubt(epoch)
    assert not lease.silent
    lease.seen(Moment(101, 0))  # its look took a second to come back: it is as old as when it was sent
    assert not lease.in_doubt(epoch)
    clock.at += 1
    assert lease.in_doubt(epoch)
    lease.contact(True, begun=clock.now)
    assert not lease.in_doubt(epoch)
    assert (lease.epoch, lease.revived) == (1, False)


@pytest.mark.parametrize(("ttl", "timeout", "after"), [(90, 2, 0.25), (90, 0, 0.25), (90, 0.4, 0.2), (0.8, 2, 0.2)])
def test_a_heartbeat_is_due_well_before_anybody_minds(clock: Clock, ttl: float, timeout: float, after: float) -> None:
    """Also when an answer was lost: the next one begins a new epoch."""
    lease = Lease(ttl, timeout, Bell())
    lease.contact(True, begun=clock.now)
    clock.at += after - 0.01
    assert not lease.is_due(clock.now)
    lease.answer_lost()
    assert lease.is_due(clock.now)
    lease.contact(True, begun=clock.now)
    assert not lease.is_due(clock.now)
    clock.at += after + 0.01
    assert lease.is_due(clock.now)


def test_a_look_is_no_heartbeat(clock: Clock) -> None:
    """It says nothing of whether the heartbeat had expired before it."""
    lease = Lease(90, 2, Bell())
    lease.entered(clock.now)
    epoch = lease.epoch
    clock.at += 46
    lease.seen(clock.now)
    assert lease.in_doubt(epoch)
    lease.contact(True, begun=clock.now)
    epoch = lease.epoch
    clock.at += 0.6
    lease.seen(clock.now)
    assert not lease.in_doubt(epoch)
    assert lease.in_doubt(epoch, something_follows=True)


def test_a_lost_subscription_begins_another_epoch_and_beats() -> None:
    """Whatever started before may be another's."""
    bell = Bell()
    lease = Lease(90, 2, bell)
    lease.entered(Moment.now())
    epoch = lease.epoch
    lease.lost()
    lease.lost()
    assert (lease.known_by, lease.epoch, bell.wait(0)) == (KnownBy.LOST, 1, True)
    assert lease.in_doubt(epoch)
    assert not lease.in_doubt(lease.epoch)


@pytest.mark.parametrize("timeout", [0, 2])
def test_a_worker_without_presence_doubts_by_its_heartbeat_alone(clock: Clock, timeout: float) -> None:
    """It is not judged by its connections."""
    lease = Lease(90, timeout, Bell())
    assert lease.known_by is (KnownBy.LOST if timeout else KnownBy.WITHOUT)
    lease.without()
    lease.lost()
    assert lease.known_by is KnownBy.WITHOUT
    epoch = lease.epoch
    clock.at += 44
    assert not lease.in_doubt(epoch)
    clock.at += 2
    assert lease.in_doubt(epoch)


def test_a_worker_declared_dead_knows_if_redis_lost_its_data() -> None:
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


def test_a_worker_unknown_to_redis_is_woken_once_to_register() -> None:
    """It may not be able to: a namespace that it cannot share any more answers each of its beats so."""
    bell = Bell()
    lease = Lease(90, 2, bell)
    lease.registered(lease.version)
    for rings in (True, False):
        bell.clear()
        lease.contact(False, begun=Moment.now(), absent=True)
        assert bell.wait(0) is rings
    lease.registered(lease.version)
    lease.contact(False, begun=Moment.now(), absent=True)
    assert bell.wait(0)


def test_what_changes_while_it_is_being_said_is_said_again(app: App) -> None:
    """A queue that is declared just then: recovery would not know where to look for what was fetched from it."""
    app.start()
    runtime = app.runtime
    register, declared = runtime.store.workers.register, list[str]()

    def slow(fields: dict[str, str]) -> Any:
        refusal = register(fields)
        if not declared:
            declared.append("another")
            app.broker.declare_queue("another")
        return refusal

    runtime.store.workers.register = slow  # type: ignore[method-assign]
    runtime.lease.register_again()
    key = f"{app.lab.prefix}incarnation:{runtime.incarnation.id}"
    wait_until(lambda: declared and b"another" in app.lab.client.hget(key, "queues"), what="it is said again")
    wait_until(lambda: not runtime.lease.unregistered, what="and that is all")


def test_an_answer_that_was_lost_may_have_said_so() -> None:
    """The script that told us may have run, and the connection broken."""
    lease = Lease(90, 2, Bell())
    lease.registered(lease.version)
    epoch = lease.epoch
    lease.answer_lost()
    lease.contact(True, Moment.now())
    assert lease.in_doubt(epoch)
    epoch = lease.epoch
    lease.contact(True, Moment.now())
    assert not lease.in_doubt(epoch)


def test_a_script_that_may_have_run_twice_counts_as_unanswered(lab: Lab) -> None:
    """The first time it said so, perhaps, and the connection broke."""
    lost: list[str] = []
    a = Store(
        Scripts(
            *(lab.client, lab.namespace, "a"),
            heartbeat_ttl=60,
            fence_ttl=60,
            contact=Contact(answer_lost=lambda: lost.append("x")),
        )
    )
    a.workers.register({})
    a.workers.heartbeat()
    assert lost == []
    connection: Any = lab.client.connection_pool.get_connection()
    lab.client.connection_pool.release(connection)  # and it is the next one again
    read = connection.read_response

    def breaks() -> None:
        connection.read_response = read
        read()
        raise redis.ConnectionError("broken")

    connection.read_response = breaks
    a.workers.heartbeat()
    assert lost == ["x"]
