# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A user's module, for type checkers alone: mypy and pyright, both strict, with the wheel (``nox -s wheel``)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, assert_type

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import DramatiqError
from dramatiq.middleware import Interrupt, SkipMessage

import dramatiq_inflight
from dramatiq_inflight import (
    Aside,
    CheckpointError,
    ConfigurationError,
    Count,
    Current,
    Done,
    Event,
    EventKind,
    HandBack,
    Incident,
    InFlightError,
    InFlightTracker,
    Inspector,
    Kind,
    MessageLost,
    MessageSkipped,
    MessageView,
    Operations,
    Overview,
    PoisonMessage,
    SchemaError,
    Swept,
    Tally,
    WorkerView,
    current,
)
from dramatiq_inflight.doctor import Finding, examine


def report(incident: Incident) -> None:
    """Told of each message whose worker died."""
    assert_type(incident.kind, Kind)
    assert_type(incident.crashes, int)


tracker = InFlightTracker(namespace="shop", heartbeat_ttl=60.0, callback=report)
broker = RedisBroker(url="redis://localhost:6379/0")
broker.add_middleware(tracker)
assert_type(tracker.healthy(), bool)
assert_type(dramatiq_inflight.__version__, str)


@dramatiq.actor(track_inflight=True, max_recoveries=5, hand_back=10)
def charge(order_id: int) -> None:
    """Uses what is known of the run."""
    job = current()
    assert_type(job, Current | None)
    if job is not None:
        assert_type(job.run, int)
        assert_type(job.fence, int)
        assert_type(job.recovered, bool)
        assert_type(job.checkpoint({"page": order_id}, progress=0.5, note="page"), bool)
        assert_type(job.last_checkpoint, Any)


@dramatiq.actor(track_inflight=True)
def export() -> None:
    """Goes on where it was."""
    job = current()
    assert job is not None
    for number in job.iterate([1, 2, 3]):
        assert_type(number, int)
    for word in job.iterate(words_after, key=len):
        assert_type(word, str)


def words_after(last: Any) -> Iterator[str]:
    """Return the words after a key."""
    yield from ("one", "two")[last or 0 :]


def look(inspector: Inspector) -> None:
    """All that can be read."""
    overview = inspector.overview()
    assert_type(overview, Overview)
    assert_type(overview.tallies, list[Tally])
    assert_type(overview.oldest, float)
    workers = inspector.workers()
    assert_type(workers, list[WorkerView])
    assert_type(workers[0].booted, datetime | None)
    assert_type(workers[0].schema, int)
    assert_type(inspector.messages(actor="charge", older_than=600, limit=10), list[MessageView])
    assert_type(inspector.message("id"), MessageView | None)
    assert_type(inspector.payload("id"), bytes | None)
    assert_type(inspector.aside(), list[Aside])
    assert_type(inspector.overdue(), int)
    events = inspector.history(kinds=[EventKind.DIED], since=timedelta(hours=1))
    assert_type(events, list[Event])
    assert_type(events[0].kind, EventKind | None)
    assert_type(inspector.counts(), list[Count])
    assert_type(inspector.schema(), int)


def act(operations: Operations) -> None:
    """All that can be done."""
    assert_type(operations.requeue("id", force=True), Done)
    assert_type(operations.dead_letter("id"), Done)
    assert_type(operations.discard("id"), Done)
    assert_type(operations.recover(), Swept)
    assert_type(operations.recover().next_in, float | None)


look(Inspector.of(broker))
look(Inspector.from_url("redis://localhost:6379/0", "shop"))
act(Operations(broker))
findings = examine(broker)
assert_type(findings, list[Finding])

errors: list[type[InFlightError]] = [CheckpointError, ConfigurationError, MessageSkipped, PoisonMessage, SchemaError]
of_dramatiq: list[type[DramatiqError]] = [InFlightError]
interrupts: list[type[Interrupt]] = [HandBack, MessageLost]
skipped: list[type[SkipMessage]] = [MessageSkipped, PoisonMessage]
wrong: list[type[ConfigurationError]] = [SchemaError]
