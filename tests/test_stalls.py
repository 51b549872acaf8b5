# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Messages that run and do not move, that are to stop, or that are to be remembered."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest

from dramatiq_inflight import EventKind, HandBack, Inspector, MessageLost, current
from dramatiq_inflight.records import Finished, Stalled, Start
from dramatiq_inflight.registry import ACK_TTL, Registry
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until


def stalls(app: App) -> list[str]:
    return [event.how for event in Inspector(app.client, app.namespace).history(kinds=[EventKind.STALLED])]


def busy(until: threading.Event) -> None:
    while not until.is_set():
        time.sleep(0.005)


# Stuck, not dead.


def test_a_message_that_does_not_move_is_reported_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()
    actor = app.actor(lambda: busy(go), stall_timeout=0.1)
    app.start()
    with caplog.at_level(logging.WARNING):
        actor.send()
        wait_until(lambda: stalls(app), what="it is noted")
    assert stalls(app) == ["noted"]
    assert "without a checkpoint or an end" in caplog.text
    go.set()
    app.join()
    assert stalls(app) == ["noted"]


def test_a_checkpoint_is_a_move(app: App) -> None:
    """One that keeps moving is never reported, and one that stops moving is, again."""
    go, moves = threading.Event(), 0

    def work() -> None:
        nonlocal moves
        handle = current()
        assert handle is not None
        entry = handle._entry
        while moves < 40:
            before = entry.moved_at
            handle.checkpoint(moves)
            assert entry.moved_at > before
            moves += 1
            time.sleep(0.01)
        assert stalls(app) == []
        busy(go)

    actor = app.actor(work, stall_timeout=2.0)
    app.start()
    actor.send()
    wait_until(lambda: stalls(app) == ["noted"], what="it has stopped moving")
    go.set()
    app.join()
    assert moves == 40


def test_a_stalled_message_is_interrupted_and_runs_again(app: App) -> None:
    """Its run is lost, counts as a crash, and the next one goes on from the checkpoint."""
    go = threading.Event()
    seen: list[Any] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        seen.append((handle.crashes, handle.last_checkpoint))
        if len(seen) == 1:
            handle.checkpoint("here")
            try:
                busy(go)
            except MessageLost:
                seen.append("interrupted")
                raise

    actor = app.actor(work, stall_timeout=0.1, on_stall="recover", max_retries=0)
    app.start()
    actor.send()
    wait_until(lambda: len(seen) == 3, what="it runs again")
    app.join()
    assert seen == [(0, None), "interrupted", (1, "here")]
    assert app.dead_letters() == []
    assert app.unsettled() == set()


def test_one_that_always_stalls_is_poison(app: App) -> None:
    go, runs = threading.Event(), []

    def work() -> None:
        runs.append(1)
        busy(go)

    actor = app.actor(work, stall_timeout=0.1, on_stall="recover", max_recoveries=1)
    app.start()
    actor.send()
    wait_until(lambda: len(app.dead_letters()) == 1, what="it is given up")
    go.set()
    app.join()
    assert len(runs) == 2
    (letter,) = app.dead_letters()
    assert "stalled too often" in letter.options["inflight"]["reason"]
    assert stalls(app) == ["condemned", "recovering"]


def test_a_run_that_is_over_does_not_stall(lab: Lab, a: Registry, b: Registry) -> None:
    copy = copy_of()
    first = lab.runs(a, copy)
    lab.kill(a)
    second = lab.runs(b, copy)
    assert a.stall(copy.message_id, first.run, recover=True, still=1, hold=60) is Stalled.FENCED
    assert b.stall(copy.message_id, second.run, recover=False, still=1, hold=60) is Stalled.NOTED
    assert lab.state(copy) == "running"


# Handed back at a shutdown.


def test_an_iteration_stops_at_a_shutdown_and_its_message_is_enqueued_again(app: App) -> None:
    """Not as a failure, not as a retry, not as a crash; and the next worker goes on."""
    done: list[int] = []
    half = threading.Event()

    def work() -> None:
        handle = current()
        assert handle is not None
        assert (handle.crashes, handle.drains) == (0, 0)
        for item in handle.iterate(range(100), every=1000):
            done.append(item)
            if item == 20:
                half.set()
            if item >= 20 and not handle.stopping and len(done) <= 100 and app.worker is not None:
                time.sleep(0.01)

    actor = app.actor(work, hand_back=60, max_retries=0)
    app.start()
    message = actor.send()
    assert half.wait(20)
    app.stop()
    assert 20 < len(done) < 100
    assert app.dead_letters() == []
    assert app.unsettled() == set()
    fields = app.client.hgetall(f"{app.lab.prefix}checkpoint:{message.message_id}")
    assert b"iterations" in fields
    app.start()
    app.join()
    assert done == list(range(100)), "each item once"


def test_one_that_does_not_stop_is_interrupted(app: App) -> None:
    runs: list[str] = []
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        runs.append("run")
        began.set()
        try:
            busy(go)
        except HandBack:
            runs.append("interrupted")
            raise

    actor = app.actor(work, hand_back=0.1)
    app.start()
    actor.send()
    assert began.wait(20)
    app.stop()
    assert runs == ["run", "interrupted"]
    go.set()
    app.start()
    app.join()
    assert runs == ["run", "interrupted", "run"]
    assert app.dead_letters() == []


def test_an_actor_may_stop_by_itself_and_nothing_follows_yet(app: App) -> None:
    """No callback, no pipeline's next stage, no result, until it is complete."""
    began, go = threading.Event(), threading.Event()
    told: list[str] = []

    def work() -> str:
        handle = current()
        assert handle is not None
        began.set()
        while not go.is_set():
            if handle.stopping:
                handle.hand_back()
            time.sleep(0.005)
        return "result"

    actor = app.actor(work, hand_back=60, store_results=True, actor_name="work")
    after = app.actor(told.append, actor_name="after", store_results=False)
    app.start()
    message = (actor.message() | after.message()).run().messages[0]
    assert began.wait(20)
    app.stop()
    assert told == []
    go.set()
    app.start()
    app.join()
    assert told == ["result"]
    assert message.get_result(backend=app.backend) == "result"


def test_a_message_without_hand_back_goes_on_to_its_end(app: App) -> None:
    began, seen = threading.Event(), []

    def work() -> None:
        handle = current()
        assert handle is not None
        began.set()
        time.sleep(0.2)
        seen.append(handle.stopping)

    actor = app.actor(work)
    app.start()
    actor.send()
    assert began.wait(20)
    app.stop()
    assert seen == [False]


# Remembered.


def test_a_completion_is_remembered_for_as_long_as_it_is_asked_for(lab: Lab, a: Registry, b: Registry) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    assert a.finish(copy, started.run, again=False, contended=False, remember=1000) is Finished.FINISHED
    assert 990 < lab.expiry(copy) <= 1000
    assert lab.payload(copy) == b""
    assert lab.start(b, copy).answer is Start.COMPLETED
    other = copy_of(copy.message_id, origin="o2")
    assert lab.start(b, other).answer is Start.RUN, "another enqueue is another job"


def test_it_is_remembered_until_both_the_ack_was_sent_and_its_time_is_over(lab: Lab) -> None:
    a, copy = lab.incarnation("a", fence_ttl=10 * ACK_TTL), copy_of()
    started = lab.runs(a, copy)
    a.finish(copy, started.run, again=False, contended=False, unacked=True, remember=2 * ACK_TTL)
    assert lab.expiry(copy) > 9 * ACK_TTL
    a.acked([(copy.message_id, started.run, 2 * ACK_TTL)])
    assert 1.9 * ACK_TTL < lab.expiry(copy) <= 2 * ACK_TTL


def test_a_longer_fence_is_not_cut_short(lab: Lab, a: Registry) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    a.finish(copy, started.run, again=False, contended=True, remember=1)
    assert lab.expiry(copy) > 50


def test_a_completion_that_is_delivered_again_is_skipped(app: App) -> None:
    runs: list[Any] = []
    actor = app.actor(lambda: runs.append(1), remember_completed=60)
    app.start()
    message = actor.send()
    app.join()
    app.deliver(message)
    app.join()
    assert runs == [1]
    (record,) = app.records()
    assert 0 < app.client.ttl(app.lab.prefix + record) <= 60
