# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A long job resumes where it was: short versions of ``python -m tests.support.resumes``."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq import Middleware
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import HandBack, current
from dramatiq_inflight.store.replies import Finished, Reasserted, Start
from dramatiq_inflight.store.store import Store
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.hooked import beside
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of, payload_of
from tests.support.resumes import (
    BOTH,
    NOTED,
    SETTINGS,
    SIGKILL,
    SIGSTOP,
    SIGTERM,
    kill_between_completion_and_ack,
    kill_the_job,
    roll_over_the_job,
)
from tests.support.servers import another_database, wait_until

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]


def test_a_job_that_is_killed_goes_on_from_its_last_save(cluster: MakeCluster) -> None:
    report = kill_the_job(cluster(**NOTED), 3, 1, steps=40, workers=2, kinds=(SIGKILL, BOTH, SIGSTOP))
    assert not report.wrong, str(report)
    assert report.done == 40


def test_a_killed_job_resumes_from_its_last_save_on_rabbitmq(cluster: MakeCluster, rabbitmq_url: str) -> None:
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url, **NOTED)
    report = kill_the_job(made, 2, 2, steps=40, workers=2, kinds=(SIGKILL, SIGTERM))
    assert not report.wrong, str(report)
    assert report.done == 40


def test_a_deploy_costs_a_job_no_step(cluster: MakeCluster) -> None:
    report = roll_over_the_job(cluster(**NOTED), 2, 1, steps=40)
    assert not report.wrong, str(report)
    assert report.done == 40


def test_a_message_killed_between_completion_and_ack_runs_once(cluster: MakeCluster, server_url: str) -> None:
    """Two processes with four messages each; the tracker's Redis is not the broker's."""
    made = cluster(PROCESSING_REDIS_URL=another_database(server_url), **SETTINGS["completions"])
    report = kill_between_completion_and_ack(made, 8, workers=1)
    assert (report.messages, report.delivered_again) == (8, 8), str(report)
    assert report.again == report.untold == report.lost == [], str(report)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_handed_back_message_does_not_wait_for_its_old_worker(
    cluster: MakeCluster, history: History, request: pytest.FixtureRequest, tmp_path: Path, broker: str
) -> None:
    """That one's consumer fetches on while another message goes on there, and nobody runs what it fetches."""
    rabbitmq = {"TEST_RABBITMQ_URL": request.getfixturevalue("rabbitmq_url")} if broker == "rabbitmq" else {}
    made = cluster(**NOTED, **rabbitmq)
    old = made.worker()
    made.app.gated.send("stays", str(tmp_path / "stays"))
    made.app.stepwise.send_with_options(args=("goes", 10, 0.01, 5.0, str(tmp_path / "goes")), hand_back=10)
    made.wait(lambda: history.keys("start") == {"stays", "goes"}, what="both run")
    old.process.terminate()
    made.wait(lambda: history.count("enqueued"), what="it is handed back")
    made.worker()
    made.wait(lambda: history.count("start") == 3, what="it runs again")
    (tmp_path / "goes").touch()
    made.wait(lambda: history.keys("end") == {"goes"}, what="it ends")
    (tmp_path / "stays").touch()
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.count("start") == 3


def test_a_hand_back_whose_answer_is_lost_loses_no_message(app: App) -> None:
    """Redis has let go of the record, the connection breaks, and the script is sent again: it finds that done."""

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            raise HandBack("as asked for")

    actor = app.actor(work)
    app.start()
    runtime = app.runtime
    wire, script = app.store.scripts.wire, app.store.scripts.loaded["await_copy"]
    exchange, lost = wire.exchange, list[Any]()

    def breaks(calls: Any) -> Any:
        if calls[0].script is script and not lost:
            lost.append(exchange(calls))
            runtime.lease.answer_lost()  # as the wire says when it sends something again
        return exchange(calls)

    wire.exchange = breaks  # type: ignore[method-assign]
    actor.send()
    wait_until(lambda: len(app.ran) == 2, what="it runs again")
    app.join()
    assert len(lost) == 1
    assert app.ran == ["run", "run"]
    wait_until(lambda: not app.unsettled(), what="its record is settled")


@pytest.mark.parametrize("why", ["its answer is lost", "Redis is away"])
def test_a_handed_back_copy_waits_here_until_its_record_is_free(app: App, why: str) -> None:
    """Another thread of the same worker fetches it before the run that it comes from is acknowledged."""
    refused = threading.Event()

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            raise HandBack("as asked for")

    class Slow(Middleware):
        def before_ack(self, broker: Any, message: Any) -> None:
            assert refused.wait(120)

    beside(app.tracker, "after_skip_message", lambda broker, message: refused.set())
    actor = app.actor(work)
    app.broker.add_middleware(Slow())  # after the tracker, which has enqueued it again by then
    app.start()
    hand_over, tried = app.store.messages.await_copy, list[Any]()

    def fails(*args: Any, **kwargs: Any) -> Finished:
        if tried:
            return hand_over(*args, **kwargs)
        tried.append(args)
        if why == "Redis is away":
            raise redis.ConnectionError("as asked for")
        hand_over(*args, **kwargs)  # sent again by the wire, whose answer this is
        return hand_over(*args, **kwargs)

    app.store.messages.await_copy = fails  # type: ignore[method-assign]
    actor.send()
    wait_until(lambda: len(app.ran) == 2, what="it runs again")
    app.join()
    assert refused.is_set()
    assert app.ran == ["run", "run"]
    wait_until(lambda: not app.unsettled(), what="its record is settled")


def test_a_handed_back_copy_is_newer_than_a_claim_that_failed(app: App) -> None:
    """It was taken for dead while it stopped, and whoever claimed its message for that has died of it."""
    other, claimed, told = app.other(), list[Any](), list[Finished]()

    def work() -> None:
        app.ran.append("run")
        if len(app.ran) == 1:
            raise HandBack("as asked for")

    actor = app.actor(work)
    app.start()
    runtime = app.runtime
    runtime.heartbeat.stop()  # it would say that it lives
    runtime.recovery_thread.stop()
    hand_over = app.store.messages.await_copy

    def claim_first(message_id: str, *args: Any, **kwargs: Any) -> Finished:
        if not claimed:
            app.lab.kill(app.store)
            claimed.extend(other.recovery.claim([message_id], dead=app.store.me, hold=60))
            app.lab.kill(other)
        told.append(hand_over(message_id, *args, **kwargs))
        return told[-1]

    app.store.messages.await_copy = claim_first  # type: ignore[method-assign]
    actor.send()
    wait_until(lambda: told, what="it is handed back")
    runtime.heartbeat.run_once()  # it fetches nothing before it is registered
    wait_until(lambda: len(app.ran) == 2, what="it runs again")
    app.join()
    assert [orphan.generation for orphan in claimed] == [2]
    assert app.ran == ["run", "run"]


def test_a_worker_that_shuts_down_does_not_turn_its_queue_over(app: App) -> None:
    """RedisBroker puts what is given back at the end: fetching on, it would give back whatever is there."""
    gate, begun = threading.Event(), threading.Event()

    def stays() -> None:
        begun.set()
        gate.wait(120)

    stay = app.actor(stays)
    goes = app.actor(app.ran.append, actor_name="goes", hand_back=5)
    broker: Any = app.broker
    fetch, fetched, looks = broker.do_fetch, list[Any](), list[Any]()

    def noting(queue: str, *args: Any) -> Any:
        messages = fetch(queue, *args)
        (fetched.extend if queue == "default" else looks.append)(messages)
        return messages

    broker.do_fetch = noting
    app.start(threads=1)
    runtime = app.runtime
    assert app.worker is not None
    stay.send()
    assert begun.wait(120)
    stopping = threading.Thread(target=app.worker.stop)
    stopping.start()
    wait_until(lambda: runtime.handing_back.begun, what="it shuts down")
    for n in range(50):
        goes.send(n)
    wait_until(lambda: len(fetched) > 1, what="one of them is fetched")
    looked = len(looks)
    wait_until(lambda: len(looks) > looked + 20, what="it looks for delayed ones a while longer")
    assert len(fetched) - 1 <= app.worker.queue_prefetch
    assert app.client.llen(f"{app.broker.namespace}:default") == 50
    gate.set()
    stopping.join()
    app.worker = None
    assert app.ran == []


# The fence of a run.


@pytest.mark.parametrize("how", ["fails", "is handed back"])
def test_fences_grow_through_retries(app: App, how: str) -> None:
    """Though the record of a run that has failed is gone when its retry starts."""
    runs: list[int] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append(handle.fence)
        if len(runs) < 4:
            raise RuntimeError("as asked for") if how == "fails" else HandBack("as asked for")

    actor = app.actor(work, max_retries=5, min_backoff=1, max_backoff=2)
    app.start()
    actor.send()
    app.join()
    assert len(runs) == 4
    assert runs == sorted(set(runs))


def test_a_message_that_its_run_sends_again_has_a_higher_fence(app: App) -> None:
    runs: list[int] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append(handle.fence)
        if len(runs) < 3:
            app.broker.enqueue(sent[0].copy(options={"redis_message_id": None}))

    actor = app.actor(work)
    sent: list[Any] = [actor.message()]
    app.start()
    app.broker.enqueue(sent[0])
    app.join()
    assert len(runs) == 3
    assert runs == sorted(set(runs))
    assert isinstance(app.broker, RedisBroker)


def test_a_fence_is_the_time_of_the_start(lab: Lab, a: Store) -> None:
    started = lab.runs(a, copy_of()).started_ms
    seconds, micro = lab.client.time()
    assert 0 <= seconds * 1000 + micro // 1000 - started < 20_000


def test_a_fence_grows_though_the_clock_goes_back(lab: Lab, a: Store, b: Store) -> None:
    """By the fence of the run that has enqueued it, where the record is gone, and by the record."""
    copy = copy_of()
    ahead = lab.runs(a, copy_of("other")).started_ms + 3_600_000
    copy.fence = ahead
    assert lab.runs(a, copy).started_ms == ahead + 1
    lab.kill(a)
    again = lab.runs(b, copy)
    assert (again.answer, again.run, again.started_ms) == (Start.RUN, 2, ahead + 2)
    assert b.messages.complete(copy, 2, again=False, contended=False) is Finished.FINISHED


def test_a_mend_keeps_the_fence(lab: Lab, a: Store, b: Store) -> None:
    """Also where it takes the message back from recovery; the next run has a higher one."""
    copy = copy_of()
    fence = lab.runs(a, copy).started_ms + 3_600_000  # of a server whose clock was ahead

    def mend() -> Reasserted:
        return a.messages.reassert(
            copy, lambda: payload_of(copy), run=1, limit=3, started_ms=fence, crashes=0, drains=0
        )[0]

    def kept() -> int:
        head = lab.head(copy)
        return head.started if head is not None else 0

    lab.client.delete(f"{lab.prefix}record:{copy.message_id}")
    assert mend() is Reasserted.WRITTEN
    assert kept() == fence
    lab.kill(a)
    lab.claim(b, copy, a)
    assert mend() is Reasserted.RETAKEN
    assert kept() == fence
    lab.kill(a)
    assert lab.runs(b, lab.recovered(copy, lab.claim(b, copy, a))).started_ms == fence + 1


@pytest.mark.parametrize("way", ["interrupted", "asked", "iterates", "asynchronous", "notified", "fails"])
def test_a_clean_hand_back_logs_nothing_frightening(app: App, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """A line of ours explains Dramatiq's line."""
    began = threading.Event()

    def interrupted() -> None:
        began.set()
        while True:
            time.sleep(0.01)

    def asked() -> None:
        began.set()
        job = current()
        assert job is not None
        while not job.stopping:
            time.sleep(0.01)
        job.hand_back()

    def iterates() -> None:
        job = current()
        assert job is not None
        for _ in job.iterate(range(100_000)):
            began.set()
            time.sleep(0.01)

    async def asynchronous() -> None:
        began.set()
        while True:
            await asyncio.sleep(0.01)

    ways = {"asked": asked, "iterates": iterates, "asynchronous": asynchronous}
    options: dict[str, Any] = {"hand_back": 20 if way in ("asked", "iterates") else 0.3}
    if way == "notified":
        options["notify_shutdown"] = True
    elif way == "fails":
        app.actor(lambda *_: app.ran.append("failed"), actor_name="hears")
        options["on_failure"] = "hears"
    work = app.actor(ways.get(way, interrupted), **options)
    message = work.send()
    app.start()
    assert began.wait(120)
    caplog.clear()
    caplog.set_level(logging.INFO)
    app.stop()
    lines = [record for record in caplog.records if message.message_id in record.getMessage() or record.exc_info]
    ours = [record for record in lines if "and enqueued it again" in record.getMessage()]
    assert len(ours) == 1, [record.getMessage() for record in lines]
    frightening = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if way == "notified":  # Shutdown is raised by Dramatiq, which logs its own interrupt as a failure
        (line,) = frightening
        assert "Failed to process message" in line.getMessage()
        assert line.created <= ours[0].created
        assert "not a failure" in ours[0].getMessage()
    else:
        assert [record.getMessage() for record in frightening] == []
    assert app.ran == []
    assert app.dead_letters() == []
