# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One delivery of a message, and the mark that says which copy it is."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict

__all__ = ["OPTION", "Copy", "Delivery", "Mark", "is_copy", "is_own_enqueue", "mark_of", "mark_of_copy", "own_enqueue"]

#: The one message option that this package writes; what is in it is a `Mark`.
OPTION: Final = "inflight"

#: True while this package itself enqueues: the copy keeps its mark.
is_own_enqueue: contextvars.ContextVar[bool] = contextvars.ContextVar("is_own_enqueue", default=False)


@contextlib.contextmanager
def own_enqueue() -> Iterator[None]:
    """Mark an enqueue as the package's own: a copy that recovery makes, or one that is put off."""
    try:
        is_own_enqueue.set(True)  # within the `try`: an interrupt may come as this returns
        yield
    finally:
        is_own_enqueue.set(False)


class Mark(TypedDict, total=False):
    """The mark that a copy of a message carries in its options, under `OPTION`."""

    #: Grows with every copy that recovery enqueues; absent: 1.
    generation: int
    #: The id of the enqueue that this copy goes back to.  Where the broker gives ids, it is the broker's, and absent if
    #: the copy is itself the enqueue; elsewhere the tracker gives one to each enqueue.
    origin: str
    #: Which of recovery's tries has made the copy; absent: none has.  With the generation it names the copy.
    tries: int
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
    #: The fence of the run that has enqueued it, itself or as its retry: the next one's is higher, though the record
    #: may be gone by then.
    fence: int


#: Fields that only a copy of this package carries.  A later version has added any other.
OF_COPIES: Final = frozenset(Mark.__annotations__) - {"origin", "fence"}


@dataclass(slots=True)
class Copy:
    """The identity of one copy of a message, as the broker delivered it.

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
    #: The fence of the run that has enqueued it; 0: none has.
    fence: int = 0
    #: Which of recovery's tries has made it; 0: none has.
    tries: int = 0

    @classmethod
    def of(cls, message: Any) -> Copy:
        """Read it off a message (``dramatiq.Message`` or a proxy of one)."""
        options: dict[str, Any] = message.options
        broker_copy_id = options.get("redis_message_id")
        if broker_copy_id and OPTION not in options:  # as RedisBroker delivers what nobody has touched: nearly all
            inside = getattr(message, "_message", message)  # a proxy takes its time over each attribute
            return cls(
                *(str(inside.message_id), 1, broker_copy_id, broker_copy_id),
                *(False, inside.queue_name, inside.actor_name),
            )
        mark = mark_of(message)
        broker_copy_id = str(broker_copy_id or "")
        origin = str(mark.get("origin") or broker_copy_id)
        return cls(
            message_id=str(message.message_id),
            generation=int(mark.get("generation", 1)),
            origin=origin,
            broker_copy_id=broker_copy_id,
            redelivered=not origin and bool(getattr(message, "redelivered", False) or mark.keys() & OF_COPIES),
            queue=message.queue_name,
            actor=message.actor_name,
            duplicate=bool(mark.get("duplicate")),
            condemned=bool(mark.get("reason") and getattr(message, "redelivered", False)),
            fence=int(mark.get("fence", 0)),
            tries=int(mark.get("tries", 0)),
        )


@dataclass(eq=False, slots=True)
class Delivery:
    """A copy of a message, as the broker has delivered it to a thread of this process."""

    copy: Copy
    broker: Any = field(default=None, repr=False)
    #: The message; it is encoded only where that is needed.
    message: Any = field(default=None, repr=False)
    payload: bytes = field(default=b"", repr=False)
    thread: int = field(default_factory=threading.get_ident)

    def encoded(self) -> bytes:
        """Return the message, encoded at the first call: as it came, if the actor has not run yet."""
        if not self.payload:
            self.payload = self.message.encode()
        return self.payload


def mark_of(message: Any) -> Mark:
    """The message's mark; empty for a message that this package never touched."""
    mark = message.options.get(OPTION)
    return mark if isinstance(mark, dict) else {}  # type: ignore[return-value]


def mark_of_copy(message: Any, *, generation: int, origin: str) -> Mark:
    """The mark of a copy that takes the message's place: of the same enqueue, and not put off."""
    mark: Mark = {**mark_of(message), "generation": generation}
    mark.pop("duplicate", None)
    mark.pop("deferrals", None)
    if origin:
        mark["origin"] = origin
    return mark


def is_copy(message: Any) -> bool:
    """Return whether this package has made the copy: recovery has, or it was put off."""
    return bool(mark_of(message).keys() & OF_COPIES)
