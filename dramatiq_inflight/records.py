# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shapes and the outcomes that cross modules."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple, TypedDict

__all__ = [
    "DRAINING",
    "LEFT",
    "OPTION",
    "Answer",
    "Challenged",
    "Claim",
    "Copy",
    "DeadIncarnation",
    "Due",
    "Enqueued",
    "Finished",
    "HandedBack",
    "Head",
    "Mark",
    "Mended",
    "Orphan",
    "Requeued",
    "Saved",
    "Stalled",
    "Start",
    "Started",
    "is_copy",
    "mark_of",
    "moment",
]

#: The one message option that this package writes; what is in it is a `Mark`.
OPTION: Final = "inflight"

#: What the TTL of a worker has more while it shuts down, milliseconds: its deadline tells that it was; see _common.lua.
DRAINING: Final = 0.5

#: Why a worker is dead that has ended in order.
LEFT: Final = "it left while messages were still running"


class Mark(TypedDict, total=False):
    """What a copy of a message carries with it in its options, under `OPTION`."""

    #: Grows with every copy that recovery enqueues; absent: 1.
    generation: int
    #: The id of the enqueue that this copy goes back to.  Where the broker gives ids, it is the broker's, and absent if
    #: the copy is itself the enqueue; elsewhere the tracker gives one to each enqueue.
    origin: str
    #: How often this copy was put off because the message was running.
    deferrals: int
    #: It was put off as a duplicate of the very enqueue that was running; else it is another enqueue, and waits.
    duplicate: bool
    #: How often the message was running when its worker died, at the time of the copy.
    crashes: int
    #: Why the message is dead-lettered.
    reason: str
    #: The queue that the message was sent to, if recovery has moved it to another: its results are looked for there.
    home: str
    #: The copy was made by a worker that had lost the message: it must not run.
    void: bool
    #: The number of the run that has enqueued it, itself or as its retry: the next one's is higher, though the record
    #: may be gone by then.
    run: int


#: What only a copy carries that this package has made.  Whatever else there is, a later version has added it.
OF_COPIES: Final = frozenset(Mark.__annotations__) - {"origin", "run"}


@dataclass(slots=True)
class Copy:
    """What identifies one copy of a message, as the broker delivered it.

    Not frozen: one is made for every message, and that would take four times as long.
    """

    message_id: str
    generation: int
    #: The id of the enqueue that the copy goes back to, the broker's or our own; empty if whoever sent it gave it none.
    origin: str
    #: The broker's own id of this copy; empty where it has none.
    broker_copy_id: str
    #: Whether it may be a redelivery of whatever the record is about: where there are no ids to tell.
    redelivered: bool
    queue: str
    actor: str
    #: Whether it was put off before as a duplicate of its origin.
    duplicate: bool = False
    #: Whether it is to be dead-lettered, and the broker has delivered it before: that did not happen then.
    condemned: bool = False
    #: The number of the run that has enqueued it; 0: none has.
    run: int = 0

    @classmethod
    def of(cls, message: Any) -> Copy:
        """Read it off a message (``dramatiq.Message`` or a proxy of one)."""
        options: dict[str, Any] = message.options
        broker_copy_id = options.get("redis_message_id")
        if broker_copy_id and OPTION not in options:  # as RedisBroker delivers what nobody has touched: nearly all
            inside = getattr(message, "_message", message)  # a proxy takes its time over each attribute
            return cls(
                inside.message_id, 1, broker_copy_id, broker_copy_id, False, inside.queue_name, inside.actor_name
            )
        mark = mark_of(message)
        broker_copy_id = str(broker_copy_id or "")
        origin = str(mark.get("origin") or broker_copy_id)
        return cls(
            message_id=message.message_id,
            generation=int(mark.get("generation", 1)),
            origin=origin,
            broker_copy_id=broker_copy_id,
            redelivered=not origin and bool(getattr(message, "redelivered", False) or mark.keys() & OF_COPIES),
            queue=message.queue_name,
            actor=message.actor_name,
            duplicate=bool(mark.get("duplicate")),
            condemned=bool(mark.get("reason") and getattr(message, "redelivered", False)),
            run=int(mark.get("run", 0)),
        )


def mark_of(message: Any) -> Mark:
    """The message's mark; empty for a message that this package never touched."""
    mark = message.options.get(OPTION)
    return mark if isinstance(mark, dict) else {}  # type: ignore[return-value]


def is_copy(message: Any) -> bool:
    """Whether this package has made the copy: recovery has, or it was put off."""
    return bool(mark_of(message).keys() & OF_COPIES)


def moment(ms: int) -> datetime | None:
    """A time of Redis's clock, in milliseconds; 0: ``None``."""
    return datetime.fromtimestamp(ms / 1000, tz=timezone.utc) if ms else None


class Start(enum.Enum):
    """The answer to a worker that is about to run a copy."""

    RUN = "run"
    #: An older generation than the record's: skip.
    STALE = "stale"
    #: This enqueue has already completed: skip.
    COMPLETED = "completed"
    #: It has ended in this process, and Redis is still to be told: skip.
    ENDING = "ending"
    #: Reject to the dead-letter queue.
    POISONED = "poisoned"
    #: The broker has given this delivery to another worker: skip.
    ELSEWHERE = "elsewhere"
    #: Another enqueue of the message has taken the place of this one: skip.
    SUPERSEDED = "superseded"
    #: This very enqueue is running: put this copy off.
    DUPLICATE = "duplicate"
    #: Another enqueue of the message is running, or waits to be recovered: put this one off until its turn.
    WAITING = "waiting"
    #: The broker does not have the payload: ask again with it.
    PAYLOAD = "payload"
    #: One more death may convict it: ask again when it has the process to itself.
    LAST_CHANCE = "last_chance"
    #: Its owner is dead, and its recovery takes a copy: enqueue that, skip this one.
    CLAIMED = "claimed"
    #: Its owner is dead, and that was once too often: enqueue a copy to be dead-lettered, skip this one.
    CONVICTED = "convicted"


class Started(NamedTuple):
    """What the start of a copy brought.  Times are milliseconds of Redis's clock."""

    answer: Start
    #: False if this incarnation had been taken for dead, or Redis has lost it.
    known: bool
    #: How long to put a duplicate off, at the least.
    wait_ms: int
    run: int
    generation: int
    crashes: int
    started_ms: int
    first_ms: int
    drains: int
    #: The incarnation that runs a duplicate, or whose death a take-over or a claim is; else empty.
    owner: str


class Answer(enum.Enum):
    """What is known of an incarnation that was asked whether it lives."""

    #: Nothing yet.
    ASKED = "asked"
    #: It was asked twice, and had its time to answer both times.
    SILENT = "silent"
    #: It has answered, or is known to be dead, or cannot be asked.
    OVER = "over"


class Challenged(NamedTuple):
    """What a challenge brought."""

    answer: Answer
    #: Seconds until it is worth asking again.
    wait: float
    #: To be given with the next question.
    token: str


class Finished(enum.Enum):
    """What became of a finish, a release or a hand-over."""

    FINISHED = "finished"
    RELEASED = "released"
    HANDED_OVER = "handed_over"
    #: Another worker had taken the message; it learns that it is complete.
    LATE = "late"
    #: Another worker owns the message: nothing was changed.
    FENCED = "fenced"
    #: There is no record.
    GONE = "gone"


class Mended(enum.Enum):
    """What became of the record of a message that this process runs."""

    KEPT = "kept"
    WRITTEN = "written"
    #: It had been taken from us, and its copy had not started: it is ours again.
    RETAKEN = "retaken"
    #: Another worker has it, or it is settled.
    LOST = "lost"
    #: Its start was not recorded, and its record is about an earlier enqueue of it, which is not over.
    LATER = "later"


class HandedBack(enum.Enum):
    """What became of a dead worker's record whose copy is with the broker."""

    HANDED_BACK = "handed_back"
    SETTLED = "settled"
    #: Its recovery takes a copy: it is to be dead-lettered, or has a policy of its own.
    TO_CLAIM = "to_claim"
    BUSY = "busy"
    GONE = "gone"


class Claim(enum.Enum):
    """The answer to a recoverer that wants an orphan."""

    CLAIMED = "claimed"
    POISONED = "poisoned"
    SETTLED = "settled"
    BUSY = "busy"
    ALIVE = "alive"
    GONE = "gone"
    #: Its record cannot be read, and was set aside whole.
    ASIDE = "aside"


class Requeued(enum.Enum):
    """What became of a claim after its copy was enqueued."""

    REQUEUED = "requeued"
    POISONED = "poisoned"
    #: The copy has started already, or another recoverer has claimed it.
    FENCED = "fenced"


class Saved(enum.Enum):
    """What became of a checkpoint."""

    SAVED = "saved"
    #: Another run has the message: nothing was changed.
    FENCED = "fenced"


class Stalled(enum.Enum):
    """What became of a message that does not move."""

    NOTED = "noted"
    RECOVERING = "recovering"
    #: It has stalled too often.
    CONDEMNED = "condemned"
    #: Another run has it, or its start is not recorded.
    FENCED = "fenced"


@dataclass(frozen=True)
class Orphan:
    """A message that was claimed to be put back."""

    message_id: str
    verdict: Claim
    run: int
    generation: int
    crashes: int
    #: As the record has it; see `Policy.limit`.
    limit: int
    started_ms: int
    first_ms: int
    drains: int
    origin: str
    queue: str
    actor: str
    payload: bytes


class Enqueued(NamedTuple):
    """The copy of an orphan, as it was enqueued."""

    orphan: Orphan
    #: Empty where the broker has none.
    broker_copy_id: str
    queue: str
    #: Seconds.
    delay: float


@dataclass(frozen=True)
class Head:
    """A record without its payload.  Times are milliseconds of Redis's clock."""

    state: str
    owner: str
    run: int
    generation: int
    crashes: int
    limit: int
    contended: int
    done: int
    started: int
    first: int
    origin: str
    copy: str
    queue: str
    actor: str
    drains: int
    alone: int
    tailored: int

    @classmethod
    def of(cls, fields: list[Any]) -> Head:
        """Read it; a later version may have added more.

        Raises:
          TypeError: It has too few.
        """
        return cls(*fields[:FIELDS])


#: How many fields this version knows.
FIELDS: Final = len(dataclasses.fields(Head))


@dataclass(frozen=True)
class Due:
    """What there is to recover."""

    dead: list[str]
    overdue: list[str]
    #: Seconds until there may be something next; ``None``: nothing is in sight.
    next_in: float | None


@dataclass(frozen=True)
class DeadIncarnation:
    """What a dead incarnation said of itself when it booted; empty where Redis has lost it."""

    id: str
    instance: str
    host: str
    pid: str
    #: Namespace and id of its RedisBroker, where that is on the tracker's own Redis; else empty.
    broker_namespace: str
    broker_id: str
    queues: list[str]
    #: Who keeps its messages, where that can be told; see `runtime.custody`.
    custody: str = ""
    #: When it was given up, milliseconds of Redis's clock; 0: not known.
    dead_since_ms: int = 0
    #: It was shutting down.
    draining: bool = False
    #: It ended in order, with messages still running.
    left: bool = False
    #: What proved its death; empty: its heartbeat has expired.
    proof: str = ""
    #: Where its process can be told from others; see `evidence`.
    place: str = ""
    process_started: str = ""

    @property
    def why(self) -> str:
        """What proves that it is dead."""
        if self.proof:
            return f"{self.proof}{' while it was shutting down' if self.draining else ''}"
        if self.left:
            return LEFT
        return f"its heartbeat has expired{' while it was shutting down' if self.draining else ''}"

    def __str__(self) -> str:
        if not self.instance:
            return f"an unknown instance (incarnation {self.id})"
        return f"{self.instance} (process {self.pid} on {self.host}, incarnation {self.id})"
