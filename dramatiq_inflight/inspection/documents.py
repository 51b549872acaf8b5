# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The JSON documents of ``--json`` and of the web page's JSON interface: the fields of views, under their names."""

from __future__ import annotations

import base64
import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from .dead_letters import DeadLetterView
from .history import Event
from .views import MessageView, Overview, Tally, WorkerView

__all__ = [
    "STATES",
    "Cause",
    "Details",
    "DetailsWithPayload",
    "Glance",
    "WorkerStates",
    "causes",
    "details",
    "document",
    "glance",
    "iso",
    "time_of",
    "worker_states",
]

#: The states of a worker, in the order in which they are shown.
STATES = ("alive", "draining", "silent", "dead")


@dataclass(frozen=True, kw_only=True)
class WorkerStates:
    """How many worker processes are in each state."""

    alive: int
    draining: int
    silent: int
    dead: int


@dataclass(frozen=True, kw_only=True)
class Glance:
    """All at a glance."""

    #: By Redis's clock.
    at: datetime
    namespace: str
    #: How many worker processes are in each state.
    workers: WorkerStates
    #: How many tracked messages run, and how many wait for their copy to start.
    running: int
    waiting: int
    #: How many messages are set aside.
    aside: int
    #: Seconds since the oldest running message was started; 0: there is none.
    oldest: float
    #: What is in flight, by queue and actor.
    in_flight: list[Tally]
    #: What happened last, newest first.
    events: list[Event]


@dataclass(frozen=True, kw_only=True)
class Details:
    """All that is known of one message."""

    #: ``None``: nothing is known of it now.
    message: MessageView | None
    #: Why it is in a dead-letter queue; ``None``: it is in none that can be seen from here.
    dead_letter: DeadLetterView | None
    #: What happened to it, newest first.
    history: list[Event]


@dataclass(frozen=True, kw_only=True)
class DetailsWithPayload(Details):
    """All that is known of one message, and the message itself, which is the user's data."""

    #: The encoded message; ``None``: there is none, or it is no text.
    payload: str | None
    #: The encoded message where it is no text.
    payload_base64: str | None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """How many dead letters of one actor have one cause."""

    number: int
    #: The reason without what differs from letter to letter.
    cause: str
    actor: str


def glance(of: Overview, namespace: str, events: Iterable[Event]) -> Glance:
    """Return an overview with the last events."""
    return Glance(
        at=of.at,
        namespace=namespace,
        workers=WorkerStates(**worker_states(of.workers)),
        running=of.running,
        waiting=of.waiting,
        aside=of.aside,
        oldest=of.oldest,
        in_flight=of.tallies,
        events=list(events),
    )


def worker_states(workers: Iterable[WorkerView]) -> dict[str, int]:
    """Return how many there are in each state."""
    counted = Counter(worker.state for worker in workers)
    return {state: counted[state] for state in STATES}


def details(known: Details, payload: bytes | None) -> DetailsWithPayload:
    """Return what is known of a message with its payload, which is a text, or, where it is none, base64."""
    text = encoded = None
    if payload is not None:
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            encoded = base64.b64encode(payload).decode()
    return DetailsWithPayload(**vars(known), payload=text, payload_base64=encoded)


def causes(letters: Iterable[DeadLetterView]) -> list[Cause]:
    """Count letters by cause and actor, the commonest first."""
    counted = Counter((view.cause, view.actor) for view in letters)
    return [Cause(number=number, cause=cause, actor=actor) for (cause, actor), number in counted.most_common()]


def document(of: Any) -> Any:
    """Return a view, or anything made of views, as JSON has it.  Times are ISO 8601; an enumeration is its value."""
    match of:
        case datetime():
            return iso(of)
        case enum.Enum():
            return of.value
        case float():
            return of if math.isfinite(of) else None
        case list() | tuple():
            return [document(one) for one in of]
        case Mapping():
            return {document(key): document(value) for key, value in of.items()}
        case Event():
            said = _fields(of)
            # As it is written: that is there for an event of a later version, too.
            said["kind"] = said.pop("name")
            return {**said, "text": of.text}
        case _:
            return _fields(of) if is_dataclass(of) else of


def _fields(of: Any) -> dict[str, Any]:
    return {field.name: document(getattr(of, field.name)) for field in fields(of)}


def iso(at: datetime) -> str:
    """Return a time for programs: ISO 8601, UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(text: object) -> datetime | None:
    """Return the time that a text in ISO 8601 says; None if it says none, or does not name its zone."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
        return at.astimezone(UTC) if at is not None and at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
