# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What happened, for people: the events that the scripts write, in the same step as what they change.

A stream of the last 10,000 or so, and beside it how often each event ever happened; both expire 30 days after the last
one.  A message that starts and completes as it should leaves nothing there.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any

__all__ = ["Count", "Event", "EventKind"]


class EventKind(enum.Enum):
    """What happened: to a worker process, or to a message."""

    # To a worker process.
    JOINED = "joined"
    #: It ended in order.
    LEFT = "left"
    DIED = "died"
    #: It had been taken for dead, and lives.
    REVIVED = "revived"
    #: All that a dead one left behind was recovered.
    CLEARED = "cleared"

    # To a message.
    #: Its worker died, and it is with its broker again, or another worker has taken it over.
    RECOVERED = "recovered"
    #: Its copy has not started for so long that another one is made.
    COPIED_AGAIN = "copied_again"
    #: It has killed its worker too often, or is never to run again: it goes to the dead-letter queue.
    POISON = "poison"
    #: It is in the dead-letter queue.
    DEAD_LETTERED = "dead_lettered"
    #: It cannot be read or decoded, and is kept whole in Redis.
    SET_ASIDE = "set_aside"
    #: A copy of it was put off, because it was running, or could not begin.
    DEFERRED = "deferred"
    #: A worker completed it after it had been taken over: that counts, and is the end of it.
    LATE = "late"
    #: A worker ended it after it had been taken over: that changes nothing.
    FENCED = "fenced"
    #: A worker that had been taken for dead has it again.
    RETAKEN = "retaken"
    #: It failed, and what was to come next could not be enqueued: recovery puts it back.
    HANDED_OVER = "handed_over"
    #: It stopped because its worker shuts down (``hand_back``), and is enqueued again.
    HANDED_BACK = "handed_back"

    #: It has run for longer than its ``stall_timeout`` without a checkpoint.
    STALLED = "stalled"

    # Done by an operator.
    REQUEUED = "requeued"
    CONDEMNED = "condemned"
    DISCARDED = "discarded"


#: Those that are about a worker process.
OF_WORKERS = frozenset({EventKind.JOINED, EventKind.LEFT, EventKind.DIED, EventKind.REVIVED, EventKind.CLEARED})

#: The number that a field of an event is.
NUMBERS = ("run", "crashes", "running", "after")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.  What does not apply is empty, or ``None``."""

    #: Of the entry in the stream; grows.
    id: str
    #: By Redis's clock.
    at: datetime
    #: ``None``: an event of a later version.
    kind: EventKind | None
    #: As it is written.
    name: str
    #: The incarnation that it is about, or whose run it was.
    worker: str = ""
    instance: str = ""
    host: str = ""
    pid: str = ""
    message_id: str = ""
    queue: str = ""
    actor: str = ""
    run: int | None = None
    crashes: int | None = None
    #: The incarnation that recovered the message.
    by: str = ""
    #: How it was recovered: ``handed back``, ``copied``, ``taken over``, or ``silent`` (copied, as its worker did not
    #: answer).
    how: str = ""
    #: What proved a death.
    why: str = ""
    #: How the run ended that was fenced: ``completed`` or ``failed``.
    outcome: str = ""
    #: How many messages were still running when a worker left.
    running: int | None = None
    #: From a death (or, where nobody saw it, the last heartbeat) to its full recovery, or since a stalled message moved
    #: last, milliseconds.
    after_ms: int | None = None

    @classmethod
    def of(cls, id: str, raw: Mapping[str, str]) -> Event:
        """Read an entry of the stream."""
        values: dict[str, Any] = dict(raw)
        name = values.pop("event", "")
        for number in NUMBERS:
            text = values.pop(number, None)
            values[number] = int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,18}", text) else None
        values["message_id"] = values.pop("message", "")
        values["after_ms"] = values.pop("after")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        milliseconds = int(id.partition("-")[0])
        kind = EventKind(name) if name in KINDS else None
        at = datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)
        return cls(**{**values, "id": id, "at": at, "kind": kind, "name": name})

    @property
    def of_worker(self) -> bool:
        """Whether it is about a worker process; else it is about a message."""
        return self.kind in OF_WORKERS or not self.message_id

    @property
    def text(self) -> str:
        """What happened, in a few words, without whom it happened to."""
        said = SAID.get(self.kind, self.name) if self.kind is not None else self.name
        if self.why:
            said += f": {self.why}"
        if self.kind is EventKind.LEFT and self.running:
            said += f" with {self.running} messages still running"
        if self.kind is EventKind.CLEARED and self.after_ms is not None:
            said += f", {self.after_ms / 1000:.1f} s after its death"
        if self.kind is EventKind.STALLED and self.after_ms is not None:
            said += f": {self.after_ms / 1000:.0f} s without a checkpoint"
        if self.kind is EventKind.RECOVERED and self.how:
            said += f" ({self.how})"
        if self.kind is EventKind.FENCED:
            said += f" ({self.outcome})"
        if self.crashes and self.kind in (EventKind.RECOVERED, EventKind.POISON, EventKind.DEAD_LETTERED):
            said += f", {self.crashes} crash{'es' if self.crashes > 1 else ''}"
        return said


#: The values of `EventKind`.
KINDS = frozenset(kind.value for kind in EventKind)

#: What happened, in words.
SAID = {
    EventKind.JOINED: "joined",
    EventKind.LEFT: "left",
    EventKind.DIED: "died",
    EventKind.REVIVED: "lives after all",
    EventKind.CLEARED: "all it left behind was recovered",
    EventKind.RECOVERED: "recovered",
    EventKind.COPIED_AGAIN: "copied again: its copy did not start",
    EventKind.POISON: "poison",
    EventKind.DEAD_LETTERED: "in the dead-letter queue",
    EventKind.SET_ASIDE: "set aside: it cannot be read",
    EventKind.DEFERRED: "a copy was put off",
    EventKind.LATE: "completed late, after it had been taken over",
    EventKind.FENCED: "ended after it had been taken over: ignored",
    EventKind.RETAKEN: "taken back by its worker",
    EventKind.HANDED_OVER: "handed over: what comes next could not be enqueued",
    EventKind.HANDED_BACK: "handed back: its worker shuts down",
    EventKind.STALLED: "stalled",
    EventKind.REQUEUED: "enqueued again by an operator",
    EventKind.CONDEMNED: "sent to the dead-letter queue by an operator",
    EventKind.DISCARDED: "discarded by an operator",
}


@dataclass(frozen=True)
class Count:
    """How often something ever happened; ``queue`` and ``actor`` are empty where it was not to a message."""

    kind: str
    queue: str
    actor: str
    number: int

    @classmethod
    def of(cls, name: str, number: int) -> Count:
        """Read a field of the hash."""
        if name.startswith("["):
            kind, queue, actor = json.loads(name)[:3]
            return cls(kind, queue, actor, number)
        return cls(name, "", "", number)
