# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The zombie stops: a message that was taken from its worker is interrupted there, where that is asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.middleware import CurrentMessage

from dramatiq_inflight import MessageLost, current
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.message.state import Phase
from dramatiq_inflight.store.records import Enqueued, Orphan
from dramatiq_inflight.store.replies import Start
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import wait_until


class Zombie:
    """A worker whose message is taken from it while it runs."""

    def __init__(self, app: App, lab: Lab) -> None:
        self.app, self.lab = app, lab
        self.log: list[str] = []
        self.go_on = threading.Event()

    def runs(self, *, fails: bool = False, message: dict[str, Any] | None = None, **options: Any) -> Message[Any]:
        """A message runs until Interrupting it, or told to go on; `fails`: it has asked to be dead-lettered."""

        def work() -> None:
            self.log.append("start")
            if fails:
                CurrentMessage.get_current_message().fail()  # type: ignore[union-attr]
            try:
                while not self.go_on.is_set():
                    time.sleep(0.005)
            except MessageLost:
                self.log.append("interrupted")
                raise
            self.log.append("end")

        actor = self.app.actor(work, actor_name="work", min_backoff=10, max_backoff=20, **options)
        self.app.start()
        sent: Message[Any] = actor.send_with_options(**(message or {}))
        wait_until(lambda: self.log == ["start"], what="it runs")
        runtime = self.app.runtime
        wait_until(
            lambda: [e.state.phase for e in runtime.table.entries()] == [Phase.RUNNING], what="and is known to run"
        )
        return sent

    def loses(self, message: Message[Any]) -> Store:
        """Another worker takes it over, and runs it; this one hears of it."""
        runtime, other = self.app.runtime, self.app.other()
        (entry,) = runtime.table.entries()
        claimed: list[Any] = []

        def is_claimed() -> bool:
            self.lab.kill(self.app.store)  # whose heartbeat may be quicker
            claimed[:] = other.recovery.claim([entry.copy.message_id], dead=self.app.store.me, hold=60)
            return isinstance(claimed[0], Orphan)

        wait_until(is_claimed, what="another worker claims it")
        (orphan,) = claimed
        other.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead=self.app.store.me)
        copy = self.lab.recovered(entry.copy, orphan)
        assert self.lab.start(other, copy).answer is Start.RUN
        runtime.connectivity.wake.ring()  # a beat
        wait_until(lambda: entry.state.lost, what="it hears of it")
        return other


@pytest.fixture
def zombie(server_url: str, namespace: str, lab: Lab) -> Iterator[Callable[..., Zombie]]:
    made: list[Zombie] = []

    def make(**settings: Any) -> Zombie:
        app = App(server_url, namespace, lab, heartbeat_interval=6, recovery_interval=0, **settings)
        app.broker.add_middleware(CurrentMessage(), before=type(app.tracker))
        made.append(Zombie(app, lab))
        return made[-1]

    yield make
    for one in made:
        one.go_on.set()
        one.app.close()


@pytest.mark.parametrize("where", ["tracker", "actor", "message"])
def test_a_message_that_was_taken_is_interrupted(
    zombie: Callable[..., Zombie], lab: Lab, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """And its retry does not run: the message is with its new owner."""
    made = zombie(interrupt_on_loss=where == "tracker")
    option = {"interrupt_on_loss": True}
    message = made.runs(message=option if where == "message" else {}, **(option if where == "actor" else {}))
    made.loses(message)
    wait_until(lambda: made.log == ["start", "interrupted"], what="Interrupting it")
    made.app.join()
    assert made.log == ["start", "interrupted"]
    head = lab.head(Copy.of(message))
    assert head is not None
    assert (head.state, head.owner, head.crashes) == ("running", "other", 0)
    wait_until(lambda: "Its run is interrupted here; its result is ignored." in caplog.text, what="said")
    assert made.app.dead_letters() == []


@pytest.mark.parametrize("how", ["no retries", "throws", "failed by hand"])
def test_a_message_that_was_taken_is_not_dead_lettered(zombie: Callable[..., Zombie], how: str) -> None:
    """However it ends here: whoever replayed it from there would run it twice."""
    made = zombie(interrupt_on_loss=True)
    option = {"no retries": ("max_retries", 0), "throws": ("throws", MessageLost)}.get(how)
    options: dict[str, Any] = dict([option] if option else [])
    message = made.runs(fails=how == "failed by hand", **options)
    made.loses(message)
    wait_until(lambda: made.log == ["start", "interrupted"], what="Interrupting it")
    made.app.join()
    assert made.app.dead_letters() == []
    assert made.log == ["start", "interrupted"]


def test_a_message_goes_on_where_that_is_not_asked_for(
    zombie: Callable[..., Zombie], caplog: pytest.LogCaptureFixture
) -> None:
    """Its work is not undone by stopping in the middle."""
    made = zombie()
    made.loses(made.runs())
    wait_until(lambda: "Its run goes on here; its result is ignored." in caplog.text, what="said")
    made.go_on.set()
    made.app.join()
    assert made.log == ["start", "end"]


def test_the_next_message_of_the_thread_is_not_interrupted(zombie: Callable[..., Zombie]) -> None:
    """The one that was lost has ended: there is nothing to interrupt any more."""
    made = zombie(interrupt_on_loss=True)
    message = made.runs()
    runtime = made.app.runtime
    (entry,) = runtime.table.entries()
    before = made.app.tracker.after_process_message
    reached, go_on = threading.Event(), threading.Event()

    def held(*args: Any, **kwargs: Any) -> None:
        before(*args, **kwargs)
        reached.set()
        go_on.wait(120)

    made.app.tracker.after_process_message = held  # type: ignore[method-assign]
    made.go_on.set()
    assert reached.wait(120)
    assert entry.state.phase is Phase.ENDING
    with entry.mutex:
        runtime.ledger.lose(entry)
    go_on.set()
    made.app.join()
    assert made.log == ["start", "end"]
    assert message.message_id == entry.copy.message_id
    assert current() is None


@pytest.mark.parametrize("interrupted", [True, False])
def test_nothing_follows_from_a_message_that_was_taken(zombie: Callable[..., Zombie], interrupted: bool) -> None:
    """No callback of its actor's: they are its new owner's to send."""
    made = zombie(interrupt_on_loss=interrupted)
    told: list[str] = []
    for name in ("succeeded", "failed", "exhausted"):
        made.app.actor(lambda *args, name=name: told.append(name), actor_name=name, track_inflight=False)
    message = made.runs(on_success="succeeded", on_failure="failed", on_retry_exhausted="exhausted", max_retries=0)
    made.loses(message)
    made.go_on.set()
    made.app.join()
    assert made.log in (["start", "interrupted"], ["start", "end"])
    assert (told, made.app.dead_letters()) == ([], [])


def test_an_actor_that_fails_during_a_look_up_costs_no_thread(zombie: Callable[..., Zombie]) -> None:
    """An interrupt that came up after the actor had ended would end its thread for good."""
    made = zombie(interrupt_on_loss=True)

    def fails() -> None:
        made.log.append("start")
        made.go_on.wait(120)
        raise RuntimeError("its own failure")

    actor = made.app.actor(fails, actor_name="fails", max_retries=0)
    made.app.start(threads=1)
    runtime = made.app.runtime
    assert made.app.worker is not None
    threads = list(made.app.worker.workers)
    message = actor.send()
    wait_until(lambda: [e.state.phase for e in runtime.table.entries()] == [Phase.RUNNING], what="it runs")
    (entry,) = runtime.table.entries()
    mend = runtime.store.messages.reassert

    def slow(*args: Any, **kwargs: Any) -> Any:
        """Its answer is under way while the actor ends."""
        reply = mend(*args, **kwargs)
        made.go_on.set()
        wait_until(lambda: entry.state.has_ended, what="it has ended")
        return reply

    runtime.store.messages.reassert = slow  # type: ignore[method-assign]
    made.loses(message)
    made.app.join()
    assert [thread.is_alive() for thread in threads] == [True]
    made.app.actor(lambda: made.log.append("next"), actor_name="next").send()
    wait_until(lambda: made.log == ["start", "next"], what="the thread goes on")


def test_what_a_zombie_enqueues_of_itself_is_void(
    zombie: Callable[..., Zombie], caplog: pytest.LogCaptureFixture
) -> None:
    """A poll loop that enqueues its own message again: its new owner does so, too."""
    caplog.set_level(logging.INFO)
    made = zombie()

    def polls() -> None:
        made.log.append("start")
        made.go_on.wait(120)
        message = CurrentMessage.get_current_message()
        assert message is not None
        made.app.broker.enqueue(message.copy())

    actor = made.app.actor(polls, actor_name="polls")
    made.app.start()
    message = actor.send()
    runtime = made.app.runtime
    wait_until(lambda: [e.state.phase for e in runtime.table.entries()] == [Phase.RUNNING], what="it runs")
    made.loses(message)
    made.go_on.set()
    wait_until(lambda: "it was enqueued by a worker that had lost the message" in caplog.text, what="it is void")
    made.app.join()
    assert made.log == ["start"]
