# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Messages that run and do not move, that are to stop, or that are to be remembered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import Any

import pytest
import redis
from dramatiq.broker import MessageProxy
from dramatiq.middleware import CurrentMessage, SkipMessage

from dramatiq_inflight import EventKind, HandBack, Inspector, current
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.errors import MessageSkipped
from dramatiq_inflight.message.in_flight import current_entry
from dramatiq_inflight.store.messages import ACK_TTL
from dramatiq_inflight.store.replies import Finished, Start
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until


def stalls(app: App) -> list[str]:
    return [event.message_id for event in Inspector(app.client, app.namespace).history(kinds=[EventKind.STALLED])]


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
    assert len(stalls(app)) == 1
    assert "without a checkpoint" in caplog.text
    go.set()
    app.join()
    assert len(stalls(app)) == 1


def test_a_checkpoint_is_a_move(app: App) -> None:
    """One that keeps moving is never reported, and one that stops moving is, again."""
    go, moves = threading.Event(), 0

    def work() -> None:
        nonlocal moves
        handle = current()
        assert handle is not None
        entry = entry_of(app)
        while moves < 40:
            before = entry.progress.moved_at
            handle.checkpoint(moves)
            assert entry.progress.moved_at > before
            moves += 1
            time.sleep(0.01)
        assert stalls(app) == []
        busy(go)

    actor = app.actor(work, stall_timeout=4.0)
    app.start()
    actor.send()
    wait_until(lambda: len(stalls(app)) == 1, what="it has stopped moving")
    go.set()
    app.join()
    assert moves == 40


def test_a_run_that_is_over_does_not_stall(lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    first = lab.runs(a, copy)
    lab.kill(a)
    second = lab.runs(b, copy)
    assert not a.messages.stall(copy.message_id, first.run, still=1)
    assert b.messages.stall(copy.message_id, second.run, still=1)
    assert lab.state(copy) == "running"


# Handed back at a shutdown.


def test_a_shutdown_stops_an_iteration_and_enqueues_its_message(app: App) -> None:
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
                wait_until(lambda: handle.stopping, what="it is asked to stop")

    actor = app.actor(work, hand_back=60, max_retries=0)
    app.start()
    message = actor.send()
    assert half.wait(120)
    app.stop()
    assert done == list(range(21))
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
    assert began.wait(120)
    app.stop()
    assert runs == ["run", "interrupted"]
    go.set()
    app.start()
    app.join()
    assert runs == ["run", "interrupted", "run"]
    assert app.dead_letters() == []


@pytest.mark.parametrize("error", [SkipMessage("a lock is held"), RuntimeError("the queue is full")])
def test_one_whose_copy_is_refused_is_recovered(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """By a sweep, at once: it is not in the queue, and its deadline there is ten TTLs away."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("dramatiq_inflight.message.continuations.PAUSE", 0.01)
    stopping, runs = threading.Event(), list[int]()

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append(handle.crashes)
        while len(runs) == 1:
            time.sleep(0.005)

    enqueue = app.broker.enqueue

    def refusing(message: Any, *, delay: int | None = None) -> Any:
        if stopping.is_set():
            raise error
        return enqueue(message, delay=delay)

    actor = app.actor(work, hand_back=0)
    monkeypatch.setattr(app.broker, "enqueue", refusing)
    app.start(threads=1)
    actor.send()
    wait_until(lambda: runs, what="it runs")
    stopping.set()
    app.stop()
    stopping.clear()
    assert "its next copy could not be enqueued. Recovery enqueues it" in caplog.text
    app.start(threads=1)
    wait_until(lambda: len(runs) == 2, what="it runs again")
    app.join()
    assert runs == [0, 0]
    assert app.unsettled() == set()


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
    assert began.wait(120)
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
    assert began.wait(120)
    app.stop()
    assert seen == [False]


# Remembered.


def test_a_completion_is_remembered_for_the_time_that_is_set(lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    assert a.messages.complete(copy, started.run, again=False, contended=False, remember=1000) is Finished.FINISHED
    assert 990 < lab.expiry(copy) <= 1000
    assert lab.payload(copy) == b""
    assert lab.start(b, copy).answer is Start.COMPLETED
    other = copy_of(copy.message_id, origin="o2")
    assert lab.start(b, other).answer is Start.RUN, "another enqueue is another job"


def test_a_completion_is_remembered_until_ack_and_time_are_over(lab: Lab) -> None:
    a, copy = lab.incarnation("a", fence_ttl=10 * ACK_TTL), copy_of()
    started = lab.runs(a, copy)
    a.messages.complete(copy, started.run, again=False, contended=False, unacked=True, remember=2 * ACK_TTL)
    assert lab.expiry(copy) > 9 * ACK_TTL
    a.messages.shorten_retention([(copy.message_id, started.run, 2 * ACK_TTL)])
    assert 1.9 * ACK_TTL < lab.expiry(copy) <= 2 * ACK_TTL


def test_a_longer_fence_is_not_cut_short(lab: Lab, a: Store) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    a.messages.complete(copy, started.run, again=False, contended=True, remember=1)
    assert lab.expiry(copy) > 50


def test_a_completion_of_an_unrecorded_run_is_remembered(lab: Lab, a: Store) -> None:
    """Redis was away at its start, and is back before the heartbeat has written the record."""
    copy = copy_of()
    assert a.messages.complete(copy, 0, again=False, contended=False, remember=1000) is Finished.GONE
    assert 990 < lab.expiry(copy) <= 1000, "for longer than the fence"
    assert lab.start(a, copy).answer is Start.COMPLETED


def test_a_late_completion_is_remembered_for_as_long(lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    assert a.messages.complete(copy, started.run, again=False, contended=False, remember=1000) is Finished.LATE
    assert lab.expiry(copy) > 990


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


def entry_of(app: App) -> Any:
    (entry,) = app.runtime.table.entries()
    return entry


def test_one_that_only_begins_does_not_stall(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look between its start and its first move sees that it has just begun."""
    actor = app.actor(lambda: None, stall_timeout=60)
    app.start()
    runtime = app.runtime
    monkeypatch.setattr(runtime.handing_back, "started", runtime.stalls.run_once)
    actor.send()
    app.join()
    assert stalls(app) == []


def test_one_that_moves_while_it_is_looked_into_does_not_stall(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert go.wait(120)

    actor = app.actor(work, stall_timeout=60)
    app.start()
    actor.send()
    assert began.wait(120)
    runtime, entry = app.runtime, entry_of(app)
    entry.progress.moved_at -= 100
    handle = entry.progress.checkpoints
    with entry.mutex:
        looker = threading.Thread(target=runtime.stalls.run_once)
        looker.start()  # it waits for what is told of the entry just now
        time.sleep(0.05)
        entry.progress.moved_at = time.monotonic()
    looker.join()
    assert handle is not None
    assert not entry.state.lost
    go.set()
    app.join()
    assert stalls(app) == []


def test_an_item_done_and_a_failed_checkpoint_count_as_moves(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis may be away for longer than the timeout, and an iteration saves its place from time to time only."""
    moved: list[float] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        entry = entry_of(app)

        def away(*args: Any) -> None:
            raise redis.ConnectionError("as asked for")

        for _ in handle.iterate(range(2), every=1000):
            moved.append(entry.progress.moved_at)
            entry.progress.moved_at = 0.0
        moved.append(entry.progress.moved_at)
        entry.progress.moved_at = 0.0
        with monkeypatch.context() as patch:
            patch.setattr(app.store.messages, "checkpoint", away)
            assert not handle.checkpoint(1)
        moved.append(entry.progress.moved_at)

    actor = app.actor(work)
    app.start(threads=1)
    actor.send()
    app.join()
    assert len(moved) == 4
    assert all(moved)


def test_a_stall_that_was_fenced_is_tried_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its start had not been recorded: once it is, it stalls like any other."""
    began, go = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        busy(go)

    actor = app.actor(work, stall_timeout=0.2)
    app.start()
    monkeypatch.setattr("dramatiq_inflight.message.stalls.LONGEST", 0.1)
    actor.send()
    assert began.wait(120)
    entry = entry_of(app)
    numbers, entry.numbers = entry.numbers, entry.numbers._replace(run=77)
    time.sleep(0.5)
    assert stalls(app) == []
    entry.numbers = numbers
    wait_until(lambda: len(stalls(app)) == 1, what="it is noted")
    go.set()
    app.join()


# A shutdown, in detail.


def test_an_error_raised_beside_the_interrupt_is_a_failure(app: App) -> None:
    """It is retried as ever, with its count."""
    began, retries = threading.Event(), []

    def work() -> None:
        retries.append(CurrentMessage.get_current_message().options.get("retries", 0))  # type: ignore[union-attr]
        if len(retries) > 1:
            return
        began.set()
        try:
            busy(threading.Event())
        except HandBack:
            raise RuntimeError("as asked for") from None

    app.broker.add_middleware(CurrentMessage())
    actor = app.actor(work, hand_back=0.1, min_backoff=1, max_backoff=2)
    app.start()
    actor.send()
    assert began.wait(120)
    app.stop()
    app.start()
    app.join()
    assert retries == [0, 1]


def test_what_ends_well_beside_the_interrupt_has_its_callback(app: App) -> None:
    began = threading.Event()
    told: list[Any] = []

    def work() -> None:
        began.set()
        with contextlib.suppress(HandBack):
            busy(threading.Event())

    app.actor(lambda message, result: told.append(message["message_id"]), actor_name="after")
    actor = app.actor(work, hand_back=0.1, on_success="after")
    app.start()
    message = actor.send()
    assert began.wait(120)
    app.stop()
    app.start()
    app.join()
    assert told == [message.message_id]


# Dramatiq's worker thread dies of that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_interrupt_while_dramatiq_logs_a_failure_is_harmless(app: App) -> None:
    """It hits Dramatiq's own code, which acknowledges without a word to any middleware."""
    runs: list[int] = []
    logged = threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "unhandled exception" in record.msg:
                logged.set()
                busy(threading.Event())

    def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError("as asked for")

    actor = app.actor(work, hand_back=0.1, max_retries=3, min_backoff=1, max_backoff=2)
    handler = Slow()
    logging.getLogger("dramatiq.worker.WorkerThread").addHandler(handler)
    try:
        app.start()
        actor.send()
        assert logged.wait(120)
        app.stop()
    finally:
        logging.getLogger("dramatiq.worker.WorkerThread").removeHandler(handler)
    app.start()
    wait_until(lambda: len(runs) == 2, what="it runs again")
    app.join()
    assert app.unsettled() == set()


def test_dramatiqs_own_shutdown_interrupt_hands_it_back_too(app: App) -> None:
    """Not as a failure: it has hand_back."""
    runs: list[str] = []
    began = threading.Event()

    def work() -> None:
        runs.append("run")
        if len(runs) == 1:
            began.set()
            busy(threading.Event())

    actor = app.actor(work, hand_back=20, notify_shutdown=True, max_retries=0)
    app.start()
    actor.send()
    assert began.wait(120)
    app.stop()
    assert app.dead_letters() == []
    app.start()
    app.join()
    assert runs == ["run", "run"]


def test_an_async_actor_that_cleans_up_slowly_is_handed_back(app: App) -> None:
    """Dramatiq waits a second for it, and raises an error of its own then."""
    runs: list[str] = []
    began = threading.Event()

    async def work() -> None:
        runs.append("run")
        if len(runs) > 1:
            return
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1.3)

    actor = app.actor(work, hand_back=0.1, max_retries=0)
    app.start()
    actor.send()
    assert began.wait(120)
    app.stop()
    assert app.dead_letters() == []
    app.start()
    app.join()
    assert runs == ["run", "run"]


def test_a_message_that_the_broker_took_back_is_not_deferred(app: App) -> None:
    """It runs elsewhere, and would run again here."""
    runs: list[int] = []
    actor = app.actor(lambda: runs.append(1), hand_back=20)
    app.start(threads=1)
    runtime = app.runtime
    runtime.handing_back.begun = True
    message = actor.message().copy(options={"redis_message_id": "r1"})
    app.client.hset(f"{app.broker.namespace}:default.msgs", "r1", message.encode())
    proxy = MessageProxy(message)  # fetched before, and given to somebody else since: not in our ack set
    with pytest.raises(MessageSkipped, match="given it to another worker"):
        app.tracker.before_process_message(app.broker, proxy)
    current_entry.set(None)
    assert app.client.hlen(f"{app.broker.namespace}:default.DQ.msgs") == 0
    app.client.hdel(f"{app.broker.namespace}:default.msgs", "r1")
    assert runs == []


def test_a_message_asked_to_stop_while_it_starts_is_interrupted(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time begins when it runs, and there is one interrupt, however many ask."""
    interrupts: list[str] = []
    runs: list[str] = []

    def work() -> None:
        runs.append("run")
        if len(runs) > 1:
            return
        try:
            busy(threading.Event())
        except HandBack:
            interrupts.append("interrupted")
            try:
                end = time.monotonic() + 0.3
                while time.monotonic() < end:
                    time.sleep(0.005)
            except HandBack:
                interrupts.append("again")
            raise

    actor = app.actor(work, hand_back=0.05)
    app.start(threads=1)
    runtime = app.runtime
    start = app.store.messages.start

    def slowly(*args: Any, **options: Any) -> Any:
        runtime.handing_back.begin()
        time.sleep(0.2)
        return start(*args, **options)

    monkeypatch.setattr(app.store.messages, "start", slowly)
    actor.send()
    wait_until(lambda: interrupts, what="Interrupting it")
    app.stop()
    monkeypatch.undo()
    app.start()
    app.join()
    assert interrupts == ["interrupted"]
    assert runs == ["run", "run"]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_kill_between_copy_and_ack_doubles_no_message(
    app: App, monkeypatch: pytest.MonkeyPatch, acknowledged: bool
) -> None:
    """The broker then has both, of one origin: one of them runs."""
    runs: list[tuple[int, int]] = []
    began = threading.Event()

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append((handle.crashes, handle.drains))
        if len(runs) == 1:
            began.set()
            while not handle.stopping:
                time.sleep(0.005)
            handle.hand_back()

    actor = app.actor(work, hand_back=20, max_retries=0)
    app.start(threads=1)
    runtime = app.runtime
    actor.send()
    assert began.wait(120)
    store = app.store
    with monkeypatch.context() as patch:

        def killed(*args: Any, **options: Any) -> None:
            if acknowledged:
                do_ack(*args)
            raise RuntimeError("as asked for")

        do_ack = app.broker.do_ack
        patch.setattr(app.broker, "do_ack", killed)
        patch.setattr(runtime.queues, "detach", lambda: None)
        patch.setattr(runtime.heartbeat, "once", lambda: None)
        patch.setattr(runtime.bookkeeping, "once", lambda: None)
        for step in ("settle_what_was_never_acknowledged", "let_go"):
            patch.setattr(runtime.ledger, step, lambda *args: None)
        app.stop()
    app.broker.__dict__.pop("do_ack", None)
    app.lab.kill(store, draining=True)
    assert isinstance(runtime.queues, RedisQueues)
    # As recovery does it; not here, where the next worker has the broker id of the first.
    runtime.queues.give_back(app.broker.broker_id, ["default"])
    app.start(threads=1)
    wait_until(lambda: len(runs) >= 2, what="it runs again")
    app.join()
    time.sleep(0.2)
    app.join()
    assert len(runs) == 2
    assert runs[1][0] == 0, "no crash"
    assert app.unsettled() == set()


def test_a_handed_back_copy_does_not_wait_for_the_first_runs_end(app: App) -> None:
    """A worker that fetches it before the first is acknowledged runs it at once."""
    began = threading.Event()
    starts: list[Start] = []

    def work() -> None:
        began.set()
        handle = current()
        assert handle is not None
        while not handle.stopping:
            time.sleep(0.005)
        handle.hand_back()

    actor = app.actor(work, hand_back=20)
    app.start(threads=1)
    actor.send()
    assert began.wait(120)
    other, broker = app.other(), app.broker  # type: Store, Any
    do_ack = broker.do_ack

    def meanwhile(*args: Any) -> None:
        broker.do_ack = do_ack
        consumer = type(broker).consume(broker, "default", timeout=50)  # another one's: ours give it back
        message: Any = None
        while message is None:
            message = next(consumer)
        copy = Copy.of(message)
        starts.append(app.lab.start(other, copy, payload=message.encode()).answer)
        assert other.messages.complete(copy, 2, again=False, contended=False) is Finished.FINISHED
        consumer.ack(message)
        do_ack(*args)

    for consumer in app.worker.consumers.values():  # type: ignore[union-attr]
        consumer.pause()
    time.sleep(0.1)
    broker.do_ack = meanwhile
    app.stop()
    assert starts == [Start.RUN]


def test_an_interrupt_before_the_actor_begins_hands_it_back_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    actor = app.actor(lambda: runs.append("run"), hand_back=20)
    app.start(threads=1)
    runtime = app.runtime

    def at_once() -> None:
        raise HandBack("as asked for")

    with monkeypatch.context() as patch:
        patch.setattr(runtime.handing_back, "started", at_once)
        actor.send()
        wait_until(lambda: app.records() or app.client.keys(f"{app.broker.namespace}:default*"), what="it has begun")
        time.sleep(0.1)
        app.stop()
    app.start()
    app.join()
    time.sleep(0.3)
    app.join()
    assert runs == ["run"]
