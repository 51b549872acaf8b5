# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Messages whose effect is done, refused or postponed, with a worker in this process."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import Any

import dramatiq
import pytest

from dramatiq_inflight import AlreadyDone, Busy, current
from dramatiq_inflight.effects import fence, once
from tests.effects.test_effects import add, ledger, rows
from tests.support.databases import Database
from tests.support.inprocess import App
from tests.support.inside import entries_of
from tests.support.servers import wait_until
from tests.support.wire import cut_off


@pytest.fixture
def shelf(postgres: Database) -> Database:
    postgres.write("CREATE TABLE ledger (n int)")
    return postgres


def test_what_is_done_is_a_success_with_its_result(app: App, shelf: Database, caplog: pytest.LogCaptureFixture) -> None:
    """The next stage of its pipeline is enqueued, though it was not by the run that has done it."""
    arrived: list[Any] = []

    def charge(amount: int) -> int:
        app.ran.append(amount)
        with shelf.connected() as connection:
            with once(connection) as effect:
                add(connection, amount)
                effect.set_result(amount + 1)
            if len(app.ran) == 1:
                raise RuntimeError("it was cut off behind the commit")
        return amount + 1

    first = app.actor(charge, store_results=True, min_backoff=1, max_backoff=2)
    second = app.actor(arrived.append, actor_name="second")
    pipe = first.message(7) | second.message()
    message = pipe.messages[0]
    with caplog.at_level(logging.INFO):
        app.start()
        pipe.run()
        app.join()
    assert app.ran == [7, 7]
    assert ledger(shelf) == [7]
    assert arrived == [8]
    assert app.backend.get_result(message) == 8
    assert app.dead_letters() == []
    assert app.unsettled() == set()
    assert "An earlier run of message" in caplog.text
    assert [r for r in caplog.records if r.levelno >= logging.ERROR and "AlreadyDone" in r.getMessage()] == []


def test_what_an_actor_makes_of_it_counts(app: App, shelf: Database) -> None:
    def charge() -> str:
        with shelf.connected() as connection:
            try:
                with once(connection, key="invoice:42"):
                    add(connection, 1)
            except AlreadyDone:
                return "by another"
        return "by me"

    actor = app.actor(charge, store_results=True)
    app.start()
    messages = [actor.send() for _ in range(2)]
    app.join()
    assert sorted(app.backend.get_result(message) for message in messages) == ["by another", "by me"]
    assert ledger(shelf) == [1]


def test_a_message_that_is_not_tracked_succeeds_likewise(app: App, shelf: Database) -> None:
    def charge() -> None:
        app.ran.append(1)
        with shelf.connected() as connection, once(connection, key="invoice:42"):
            add(connection, 1)

    actor = app.actor(charge, track_inflight=False)
    app.start()
    for _ in range(2):
        actor.send()
    app.join()
    assert (app.ran, ledger(shelf), app.dead_letters()) == ([1, 1], [1], [])


def test_a_conflict_puts_the_message_off_without_a_retry(
    app: App, shelf: Database, caplog: pytest.LogCaptureFixture
) -> None:
    retries: list[Any] = []

    def charge() -> None:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        retries.append(message.options.get("retries"))
        with shelf.connected() as connection, once(connection):
            add(connection, 1)
            if len(retries) < 3:
                raise Busy("as asked for")

    app.broker.add_middleware(dramatiq.middleware.CurrentMessage())
    actor = app.actor(charge, max_retries=0)
    with caplog.at_level(logging.INFO):
        app.start()
        actor.send()
        app.join()
    assert retries == [None, None, None]
    assert (ledger(shelf), app.dead_letters(), app.unsettled()) == ([1], [], set())
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_a_message_that_is_put_off_is_nobody_elses_failure(
    app: App, shelf: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Listeners to its success or its failure get its last run alone."""
    heard: list[str] = []

    def charge() -> None:
        app.ran.append(1)
        if len(app.ran) < 3:
            raise Busy("as asked for")

    app.actor(lambda *_: heard.append("failed"), actor_name="failed")
    app.actor(lambda *_: heard.append("succeeded"), actor_name="succeeded")
    options = {"on_failure": "failed", "on_retry_exhausted": "failed", "on_success": "succeeded"}
    actor = app.actor(charge, max_retries=0, **options)
    app.start()
    actor.send()
    app.join()
    assert (len(app.ran), heard, app.dead_letters()) == (3, ["succeeded"], [])
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("how", ["wrapped", "grouped"])
def test_an_error_raised_from_a_conflict_waits_like_the_conflict(app: App, shelf: Database, how: str) -> None:
    """Raised from it, or as a group of ``asyncio.TaskGroup``."""

    async def charge() -> None:
        app.ran.append(time.monotonic())
        if len(app.ran) == 3:
            return
        try:
            raise Busy("as asked for")
        except Busy as error:
            if how == "wrapped":
                raise RuntimeError("wrapped") from error
            raise ExceptionGroup("two tasks", [error, Busy("another")]) from None

    actor = app.actor(charge, max_retries=0)
    app.start()
    actor.send()
    app.join()
    assert (len(app.ran), app.dead_letters()) == (3, [])
    assert all(later - earlier >= Busy.pause / 1000 for earlier, later in zip(app.ran, app.ran[1:], strict=False))


def test_a_group_of_errors_that_has_a_failure_is_one(app: App, shelf: Database) -> None:
    def charge() -> None:
        app.ran.append(1)
        raise ExceptionGroup("two tasks", [Busy("as asked for"), ValueError("as asked for")])

    actor = app.actor(charge, max_retries=0)
    app.start()
    actor.send()
    app.join()
    assert (app.ran, len(app.dead_letters())) == ([1], 1)


def test_a_conflict_of_a_message_that_is_not_tracked_is_a_retry(app: App, shelf: Database) -> None:
    """There is nobody to put it off."""

    def charge() -> None:
        app.ran.append(1)
        if len(app.ran) < 3:
            raise Busy("as asked for")

    actor = app.actor(charge, max_retries=2, track_inflight=False)
    app.start()
    actor.send()
    app.join()
    assert (len(app.ran), app.dead_letters()) == (3, [])


def test_two_transactions_that_deadlock_both_commit_in_the_end(app: App, shelf: Database) -> None:
    """By real deadlocks in PostgreSQL: each takes what the other has."""
    shelf.write("INSERT INTO ledger VALUES (1), (2)")
    both = threading.Barrier(2)

    def move(first: int, second: int) -> None:
        app.ran.append(first)
        with shelf.connected() as connection, once(connection):
            connection.execute("UPDATE ledger SET n = n + 10 WHERE mod(n, 10) = %s", (first,))
            if len(app.ran) <= 2:
                both.wait(120)
            connection.execute("UPDATE ledger SET n = n + 10 WHERE mod(n, 10) = %s", (second,))

    actor = app.actor(move, max_retries=0)
    app.start()
    actor.send(1, 2)
    actor.send(2, 1)
    app.join()
    assert len(app.ran) >= 3, "one of them was the victim"
    assert ledger(shelf) == [21, 22]
    assert app.dead_letters() == []


def test_an_overtaken_run_that_is_lost_ends_quietly(
    app: App, shelf: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Another worker has the message, and has written under its fence."""
    begun, go = threading.Event(), threading.Event()

    def step() -> None:
        job = current()
        assert job is not None
        app.ran.append(job.fence)
        with shelf.connected() as connection:
            with fence(connection):
                add(connection, len(app.ran))
            begun.set()
            assert go.wait(120)
            with fence(connection):
                add(connection, 100)

    actor = app.actor(step)
    app.start()
    message = actor.send()
    assert begun.wait(120)
    other = app.other()
    assert other.operations.take(message.message_id, hold=60, condemn=False, force=True)
    shelf.write(f"UPDATE inflight_effects SET fence = {app.ran[0] + 1}")  # as the run of another worker has it
    go.set()
    wait_until(lambda: "MessageLost" in caplog.text, what="it is lost")
    wait_until(lambda: not entries_of(app.tracker), what="it has ended")
    assert 100 not in ledger(shelf)
    assert app.dead_letters() == []


def test_a_run_that_was_overtaken_and_is_not_lost_runs_again(app: App, shelf: Database) -> None:
    """As after a failover to a server whose clock is behind: nothing is written until its time has come."""
    seconds, micro = app.client.time()
    ahead = seconds * 1000 + micro // 1000 + 3000
    message_id = "behind"
    shelf.write(f"INSERT INTO inflight_effects VALUES ('{message_id}', {ahead}, false, NULL, now())")

    def step() -> None:
        job = current()
        assert job is not None
        app.ran.append(job.fence)
        with shelf.connected() as connection, fence(connection):
            add(connection, 1)

    actor = app.actor(step, max_retries=0)
    app.start()
    app.broker.enqueue(dataclasses.replace(actor.message(), message_id=message_id))
    app.join()
    assert len(app.ran) >= 2
    assert [fence >= ahead for fence in app.ran] == [False] * (len(app.ran) - 1) + [True]
    assert ledger(shelf) == [1]
    assert app.dead_letters() == []


def test_what_has_no_fence_waits_for_redis(app: App, shelf: Database) -> None:
    """It is put off without a retry, as often as that takes."""
    fences: list[int] = []

    def step() -> None:
        job = current()
        assert job is not None
        fences.append(job.fence)
        with shelf.connected() as connection, fence(connection):
            add(connection, 1)

    actor = app.actor(step, max_retries=0)
    app.start()
    away = cut_off(app.runtime)
    actor.send()
    wait_until(lambda: fences, what="it runs all the same")
    away.clear()
    app.join()
    assert fences[0] == 0
    assert fences[-1] > 0
    assert ledger(shelf) == [1]
    assert rows(shelf)[0][1:3] == (fences[-1], False)
    assert (app.dead_letters(), app.unsettled()) == ([], set())
