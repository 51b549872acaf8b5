# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A message is delivered again while its first delivery is on its way through the very process that has it."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
from dramatiq import Middleware

from .support.inprocess import App
from .support.lab import copy_of
from .support.servers import count_stored


class Holds(Middleware):
    """Holds up a message at a hook, the first time."""

    def __init__(self, hook: str) -> None:
        self.there, self.go = threading.Event(), threading.Event()

        def hold(broker: Any, message: Any, **outcome: Any) -> None:
            if not self.there.is_set():
                self.there.set()
                assert self.go.wait(20)

        setattr(self, hook, hold)


class Skipped(Middleware):
    """Notes what does not run, when the broker was told."""

    def __init__(self) -> None:
        self.skipped, self.acked = set[int](), threading.Event()

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.skipped.add(id(message))

    def after_ack(self, broker: Any, message: Any) -> None:
        if id(message) in self.skipped:
            self.acked.set()


def short(app: App) -> None:
    """What is put off comes back soon."""
    app.tracker.policies.settings = dataclasses.replace(app.tracker.settings, heartbeat_interval=0.1, heartbeat_ttl=0.6)


@pytest.mark.parametrize("when", ["it runs", "it has ended"])
def test_a_failure_whose_nack_comes_too_late_is_dead_lettered_all_the_same(app: App, when: str) -> None:
    """RedisBroker has given it away, and its second delivery is acknowledged: the nack of the first moves nothing."""
    short(app)
    running, go = threading.Event(), threading.Event()

    def work() -> None:
        app.ran.append(1)
        running.set()
        assert go.wait(20)
        raise RuntimeError("as asked for")

    ended, skipped = Holds("before_nack"), Skipped()
    app.broker.add_middleware(ended)
    app.broker.add_middleware(skipped)
    actor = app.actor(work, max_retries=0)
    app.start()
    message = actor.send()
    assert running.wait(20)
    if when == "it has ended":
        go.set()
        assert ended.there.wait(20)
    app.redeliver(message)
    assert skipped.acked.wait(20)
    go.set()
    ended.go.set()
    app.join()
    assert [dead.message_id for dead in app.dead_letters()] == [message.message_id]


def test_a_second_delivery_is_kept_until_what_follows_is_with_the_broker(app: App) -> None:
    """The first would be lost with its process: the broker had neither it nor what follows from it."""
    short(app)
    ended, skipped = Holds("after_process_message"), Skipped()
    app.broker.add_middleware(ended, before=type(app.tracker))
    app.broker.add_middleware(skipped)
    after = app.actor(app.ran.append, actor_name="after", track_inflight=False)
    actor = app.actor(lambda: 1, actor_name="work")
    app.start()
    pipe: Any = actor.message() | after.message()
    message = pipe.run().messages[0]
    assert ended.there.wait(20)
    sent = next(iter(app.client.hkeys(f"{app.broker.namespace}:default.msgs"))).decode()
    app.client.rpush(f"{app.broker.namespace}:default", sent)
    assert skipped.acked.wait(20)
    queues = app.broker.get_declared_queues() | app.broker.get_declared_delay_queues()
    assert count_stored(app.client, app.broker.namespace, queues) == 1
    assert app.lab.state(copy_of(message.message_id)) == "running"
    ended.go.set()
    app.join()
    assert app.ran == [1]
