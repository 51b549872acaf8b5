# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How far a message has come outlasts its run, and nobody but its owner says so."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest

from dramatiq_inflight import CheckpointError, Current, Inspector, MessageLost, current
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.message.checkpoints import LARGEST
from dramatiq_inflight.store.replies import Finished, Saved, Start
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until


def me() -> Current:
    handle = current()
    assert handle is not None
    return handle


def checkpoints(lab: Lab) -> set[str]:
    return {name for name in lab.names() if name.startswith("checkpoint:")}


# The script.


def test_a_zombie_cannot_overwrite_the_new_owners_checkpoint(lab: Lab, a: Store, b: Store) -> None:
    """I3, for checkpoints."""
    copy = copy_of()
    first = lab.runs(a, copy)
    assert a.messages.checkpoint(copy.message_id, first.run, {"value": "1"}) is Saved.SAVED
    lab.kill(a)
    second = lab.runs(b, copy)
    assert b.messages.kept(copy.message_id)["value"] == "1", "the next run finds it"
    assert b.messages.checkpoint(copy.message_id, second.run, {"value": "2"}) is Saved.SAVED
    assert a.messages.checkpoint(copy.message_id, first.run, {"value": "1.5"}) is Saved.FENCED
    assert a.messages.kept(copy.message_id)["value"] == "2"


def test_an_earlier_run_of_the_same_worker_is_a_zombie_too(lab: Lab, a: Store) -> None:
    copy = copy_of()
    first = lab.runs(a, copy)
    second = lab.runs(a, copy)
    assert a.messages.checkpoint(copy.message_id, first.run, {"value": "1"}) is Saved.FENCED
    assert a.messages.checkpoint(copy.message_id, second.run, {"value": "2"}) is Saved.SAVED
    assert a.messages.checkpoint(copy.message_id, 0, {"value": "3"}) is Saved.FENCED, "nobody knows which run it is"


def test_a_completion_deletes_a_checkpoint_that_else_expires(lab: Lab, a: Store) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    a.messages.checkpoint(copy.message_id, started.run, {"value": "1"})
    assert 0 < lab.client.ttl(f"{lab.prefix}checkpoint:{copy.message_id}") <= 30 * 24 * 3600
    keys = (lab.prefix + "acks", lab.prefix + "msgs")
    finished = a.messages.complete(copy, started.run, again=False, contended=False, broker_keys=keys)
    assert finished is Finished.FINISHED
    assert checkpoints(lab) == set()


@pytest.mark.parametrize("started_again", [False, True])
def test_a_late_success_deletes_the_checkpoint_if_no_run_goes_on(
    lab: Lab, a: Store, b: Store, started_again: bool
) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    a.messages.checkpoint(copy.message_id, started.run, {"value": "1"})
    lab.return_to_broker(b, a, copy)
    if started_again:
        lab.runs(b, copy)
    outcome = Finished.FENCED if started_again else Finished.LATE
    assert a.messages.complete(copy, started.run, again=False, contended=False) is outcome
    assert bool(checkpoints(lab)) is started_again


def test_a_checkpoint_of_a_run_that_redis_does_not_know_is_kept(app: App) -> None:
    """Redis has lost its record, or was away at its start: it is written first."""

    def work() -> None:
        app.lab.client.delete(f"{app.lab.prefix}record:{me().message_id}")
        me().checkpoint("here")
        app.ran.append(app.lab.client.hget(f"{app.lab.prefix}checkpoint:{me().message_id}", "value"))

    actor = app.actor(work)
    app.start()
    app.runtime.heartbeat.stop()
    actor.send()
    app.join()
    assert app.ran == [b'"here"']


def test_a_checkpoint_is_a_proof_of_life(lab: Lab, a: Store) -> None:
    copy = copy_of()
    started = lab.runs(a, copy)
    lab.kill(a)
    a.messages.checkpoint(copy.message_id, started.run, {"value": "1"})
    assert a.workers.heartbeat() is True, "it was revived by that, and not by its beat"


# The handle.


def test_a_retry_goes_on_from_the_last_checkpoint(app: App) -> None:
    seen: list[Any] = []

    def work() -> None:
        handle = me()
        seen.append(handle.last_checkpoint)
        if len(seen) < 3:
            assert handle.checkpoint({"page": len(seen)}, progress=0.5, note="half")
            assert handle.last_checkpoint == {"page": len(seen)}
            raise RuntimeError("as asked for")

    actor = app.actor(work, max_retries=5, min_backoff=1, max_backoff=2)
    app.start()
    actor.send()
    app.join()
    assert seen == [None, {"page": 1}, {"page": 2}]
    assert checkpoints(app.lab) == set(), "it is complete"


def test_a_recovered_run_goes_on_from_the_last_checkpoint(app: App) -> None:
    seen: list[Any] = []
    actor = app.actor(lambda: seen.append(me().last_checkpoint))
    message = app.send_orphan(actor)
    app.client.hset(f"{app.lab.prefix}checkpoint:{message.message_id}", "value", json.dumps([1, "x", None]))
    app.start()
    app.join()
    assert seen == [[1, "x", None]]
    assert checkpoints(app.lab) == set()


def test_a_message_without_checkpoints_leaves_no_key(app: App) -> None:
    actor = app.actor(lambda: me().last_checkpoint)
    app.start()
    actor.send()
    app.join()
    assert checkpoints(app.lab) == set()


def test_progress_is_shown_to_people(app: App) -> None:
    from dramatiq_inflight import Inspector  # noqa: PLC0415

    shown: list[Any] = []
    inspector = Inspector(app.client, app.namespace)

    def work() -> None:
        handle = me()
        handle.checkpoint(17, progress=0.42, note="page 17")
        shown.extend([inspector.message(handle.message_id), *inspector.messages()])
        handle.checkpoint(18)
        shown.append(inspector.message(handle.message_id))

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    for view in shown[:2]:
        assert (view.progress, view.note) == (0.42, "page 17")
        assert view.checkpointed is not None
    assert (shown[2].progress, shown[2].note) == (None, ""), "what is not said anew is not true any more"


@pytest.mark.parametrize(
    ("note", "kept"), [("n" * 201, "n" * 199 + "…"), ("\udcff.csv", "\\udcff.csv"), ("\0\x1b[2J", "\0\x1b[2J")]
)
def test_no_note_makes_a_job_fail(app: App, note: str, kept: str) -> None:
    """It may be the name of a file."""
    seen: list[str] = []

    def work() -> None:
        me().checkpoint(1, note=note)
        seen.append(Inspector(app.client, app.namespace).messages()[0].note)

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    assert seen == [kept]


@pytest.mark.parametrize(
    ("value", "options", "said"),
    [
        (object(), {}, "JSON-able"),
        (float("nan"), {}, "JSON-able"),
        ("x" * LARGEST, {}, "65,538 bytes"),
        (1, {"progress": 1.5}, "from 0 to 1"),
        (1, {"progress": "half"}, "from 0 to 1"),
        (1, {"note": None}, "must be a text"),
    ],
)
def test_what_cannot_be_kept_is_named(app: App, value: Any, options: dict[str, Any], said: str) -> None:
    errors: list[CheckpointError] = []

    def work() -> None:
        try:
            me().checkpoint(value, **options)
        except CheckpointError as error:
            errors.append(error)

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    assert said in str(errors[0])
    assert checkpoints(app.lab) == set()


def test_a_checkpoint_stops_a_run_that_has_lost_its_message(app: App) -> None:
    """It stops there, fails nobody, and its new owner goes on."""
    runs: list[str] = []

    def work() -> None:
        handle = me()
        if runs:
            runs.append("again")
            return
        runs.append("first")
        runtime, other = app.runtime, app.other()
        runtime.heartbeat.stop()  # it would say that it lives
        runtime.recovery_thread.stop()
        app.lab.kill(app.store)
        copy = runtime.table.entries()[0].copy
        orphan = app.lab.claim(other, copy, app.store)
        app.lab.runs(other, app.lab.recovered(copy, orphan))
        try:
            handle.checkpoint(1)
        except MessageLost:
            runs.append("lost")
            raise

    actor = app.actor(work, max_retries=5, min_backoff=1)
    app.start(threads=1)
    actor.send()
    wait_until(lambda: "lost" in runs, what="it learns it")
    wait_until(lambda: not app.runtime.table.entries(), what="it is over")
    assert runs == ["first", "lost"]
    assert app.dead_letters() == []


# Iterations.


def items_of(app: App, items: Any, stops: Iterator[int], **options: Any) -> list[Any]:
    """Return the items of each run of an actor that fails after so many."""
    done: list[Any] = []

    def work() -> None:
        stop = next(stops)
        for number, item in enumerate(me().iterate(items(), **options)):
            if number == stop:
                raise RuntimeError("as asked for")
            done.append(item)

    actor = app.actor(work, max_retries=20, min_backoff=1, max_backoff=2)
    app.start()
    actor.send()
    app.join()
    return done


@pytest.mark.parametrize("make", [lambda: list(range(10)), lambda: range(10), lambda: iter(range(10))])
def test_an_iteration_goes_on_where_it_was(app: App, make: Any) -> None:
    assert items_of(app, make, iter([3, 0, 4, 99]), every=0) == list(range(10))
    assert checkpoints(app.lab) == set()


def test_an_exception_saves_an_iteration_before_its_time(app: App) -> None:
    """An exception leaves the loop, and the place is kept."""
    assert items_of(app, lambda: range(10), iter([3, 4, 99]), every=1000) == list(range(10))


def test_a_cursor_is_positioned_by_its_key(app: App) -> None:
    asked: list[Any] = []

    def after(last: Any) -> Iterator[dict[str, Any]]:
        asked.append(last)
        return ({"id": number} for number in range((last or 0) + 10, 60, 10))

    done = items_of(app, lambda: after, iter([2, 1, 99]), every=0, key=lambda row: row["id"])
    assert [row["id"] for row in done] == [10, 20, 30, 40, 50]
    assert asked == [None, 20, 30]


def test_an_iteration_ends_when_its_message_is_known_to_be_lost(app: App) -> None:
    """Though it is not time to save: each further item would be done twice."""
    done: list[int] = []
    ended: list[BaseException] = []
    other = app.other()

    def is_taken_over(copy: Copy) -> bool:
        app.lab.kill(app.store)  # whose heartbeat may be quicker
        return app.lab.start(other, copy).answer is Start.RUN

    def work() -> None:
        handle = me()
        try:
            for item in handle.iterate(range(1000), every=1000):
                if item == 0:
                    wait_until(lambda: is_taken_over(app.runtime.table.entries()[0].copy), what="it is taken over")
                done.append(item)
                time.sleep(0.01)
        except MessageLost as lost:
            ended.append(lost)
            raise

    actor = app.actor(work)
    app.start(threads=1)
    actor.send()
    wait_until(lambda: not app.runtime.table.entries() and done, what="it is over")
    assert len(ended) == 1
    assert len(done) < 1000


def test_a_finished_iteration_is_not_gone_through_again(app: App) -> None:
    done: list[Any] = []

    def work() -> None:
        handle = me()
        for name in ("a", "b"):
            for item in handle.iterate(range(3), name=name, every=1000):
                done.append((name, item))
        if len(done) == 6 and handle.last_checkpoint is None:
            handle.checkpoint("both are done")
            raise RuntimeError("as asked for")

    actor = app.actor(work, max_retries=3, min_backoff=1)
    app.start()
    actor.send()
    app.join()
    assert done == [(name, item) for name in ("a", "b") for item in range(3)]


def test_a_checkpoint_that_is_kept_first_does_not_hide_the_place(app: App) -> None:
    """A checkpoint that is kept before the first read does not replace the others."""
    done: list[int] = []

    def work() -> None:
        handle = me()
        handle.checkpoint(f"after {len(done)}")
        for item in handle.iterate(range(10), every=0):
            if item == 4 and len(done) == 4:
                done.append(item)
                raise RuntimeError("as asked for")
            done.append(item)

    actor = app.actor(work, max_retries=3, min_backoff=1)
    app.start()
    actor.send()
    app.join()
    assert done == [0, 1, 2, 3, 4, 4, *range(5, 10)], "it goes on at the one that failed"


def test_a_run_that_reads_no_checkpoint_deletes_it_at_its_end(app: App) -> None:
    """Or a message that is sent again under its id would go on from there."""
    runs: list[Any] = []

    def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            me().checkpoint("half")
            raise RuntimeError("as asked for")

    actor = app.actor(work, max_retries=3, min_backoff=1)
    app.start()
    actor.send()
    app.join()
    assert len(runs) == 2
    assert checkpoints(app.lab) == set()


def test_two_iterations_of_one_name_are_refused(app: App) -> None:
    """The second would pass over as many of its items as the first has."""
    done: list[Any] = []
    errors: list[CheckpointError] = []

    def work() -> None:
        handle = me()
        try:
            done.extend(handle.iterate("abc"))
            done.extend(handle.iterate("uvwxyz"))
        except CheckpointError as error:
            errors.append(error)

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    assert done == list("abc")
    assert "name=" in str(errors[0])


@pytest.mark.parametrize("where", ["in the heartbeat", "in its own thread"])
def test_a_generator_is_collected_under_any_lock(app: App, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The collector closes it in whatever thread allocates next, be it one that tells Redis of this very message."""
    dropped, go = threading.Event(), threading.Event()

    class Import:
        """A cycle, with an iteration that was left."""

        def __init__(self) -> None:
            self.items, self.me = me().iterate(range(100), every=1000), self

        def some(self) -> None:
            for item in self.items:
                if item == 3:
                    return

    def work() -> None:
        Import().some()
        dropped.set()
        assert go.wait(120)
        if where == "in its own thread":
            me().checkpoint("a value")

    app.start()
    runtime = app.runtime
    write, mend = runtime.store.messages.checkpoint, runtime.store.messages.reassert
    monkeypatch.setattr(runtime.store.messages, "checkpoint", lambda *args: (gc.collect(), write(*args))[1])
    monkeypatch.setattr(
        runtime.store.messages, "reassert", lambda *args, **kwargs: (gc.collect(), mend(*args, **kwargs))[1]
    )
    gc.disable()
    try:
        app.actor(work).send()
        assert dropped.wait(120)
        if where == "in the heartbeat":
            runtime.lease.answer_lost()  # the next beat looks its messages up
            (entry,) = runtime.table.entries()
            runtime.heartbeat.connectivity.wake.ring()
            wait_until(lambda: entry.epoch == runtime.lease.epoch > 1, what="it is looked up")
        go.set()
        app.join()
    finally:
        gc.enable()
    assert runtime.heartbeat.is_alive()


def test_an_iteration_that_was_left_may_be_gone_on_with(app: App) -> None:
    done: list[int] = []

    def work() -> None:
        handle = me()
        for item in handle.iterate(range(6)):
            if item == 3:
                break
            done.append(item)
        done.extend(handle.iterate(range(6)))

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    assert done == list(range(6))


def test_a_run_takes_back_its_message_by_a_checkpoint(app: App) -> None:
    """A false alarm: the record waits for its copy, and the run that goes on has it back by its checkpoint."""
    seen: list[Any] = []
    again: list[Any] = []

    def work() -> None:
        handle = me()
        if seen:
            again.append(handle.last_checkpoint)
            return
        runtime, other = app.runtime, app.other()
        runtime.heartbeat.stop()  # it would look first
        runtime.recovery_thread.stop()  # that would say that it lives
        app.lab.kill(app.store)
        assert other.recovery.return_to_broker(app.store.me, [(handle.message_id, True)]) is not None
        seen.append(handle.checkpoint("half"))

    actor = app.actor(work, max_retries=0)
    app.start(threads=1)
    actor.send()
    app.join()
    assert seen == [True]
    assert again == []


def test_an_iteration_of_both_or_neither_kind_is_refused(app: App) -> None:
    errors: list[TypeError] = []

    def work() -> None:
        for wrong in ({"items": [1], "key": str}, {"items": lambda last: [1]}):
            try:
                list(me().iterate(**wrong))
            except TypeError as error:
                errors.append(error)

    actor = app.actor(work)
    app.start()
    actor.send()
    app.join()
    assert len(errors) == 2


def test_an_untracked_message_has_no_handle(app: App) -> None:
    seen: list[Any] = []
    actor = app.actor(lambda: seen.append(current()), track_inflight=False)
    app.start()
    actor.send()
    app.join()
    assert seen == [None]
    assert isinstance(actor, dramatiq.Actor)
