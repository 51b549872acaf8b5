# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The answers of the scripts."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = [
    "Claim",
    "Finished",
    "Reasserted",
    "Requeued",
    "Returned",
    "Saved",
    "Seen",
    "Start",
    "Started",
    "Suspicion",
]


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
    """The answer to the start of a copy.  Times are milliseconds of Redis's clock."""

    answer: Start
    #: False if this incarnation had been taken for dead, or Redis has lost it; None if its heartbeat was not renewed.
    known: bool | None
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


class Seen(enum.Enum):
    """The connections of an incarnation of which none was seen, as far as known."""

    #: This incarnation has not been connected for long enough to judge others.
    UNQUALIFIED = "unqualified"
    #: The server does not see this incarnation either, or is another one than before.
    LOST = "lost"
    #: It is connected.
    PRESENT = "present"
    #: It cannot be seen there: its heartbeat decides.
    UNSEEABLE = "unseeable"
    #: It has no connection, and its patience is not over; or it may be the network.
    ABSENT = "absent"
    #: It was declared dead just now.
    GONE = "gone"


class Suspicion(NamedTuple):
    """The answer to a look at another incarnation."""

    seen: Seen
    #: Since when it is absent, milliseconds of Redis's clock; 0 if it is not.
    since: int
    #: How long it may be absent, seconds.
    patience: float


class Finished(enum.Enum):
    """The answer to a completion, a release or a hand-over."""

    FINISHED = "finished"
    RELEASED = "released"
    HANDED_OVER = "handed_over"
    #: The message had been given up, and its copy has not started: that is skipped.
    LATE = "late"
    #: Another worker owns the message: nothing was changed.
    FENCED = "fenced"
    #: There is no record.
    GONE = "gone"


class Reasserted(enum.Enum):
    """The answer to a mend of the record of a message that this process runs."""

    KEPT = "kept"
    WRITTEN = "written"
    #: It had been taken from us, and its copy had not started: it is ours again.
    RETAKEN = "retaken"
    #: Another worker has it, or it is settled.
    LOST = "lost"
    #: Its start was not recorded, and its record is about an earlier enqueue of it, which is not over.
    LATER = "later"
    #: It says neither: it came too late, time and again.
    AGAIN = "again"


class Returned(enum.Enum):
    """The answer to the return of a dead worker's copy that is with the broker."""

    RETURNED = "returned"
    SETTLED = "settled"
    #: Its recovery takes a copy: it is to be dead-lettered, or has a policy of its own.
    TO_CLAIM = "to_claim"
    BUSY = "busy"
    GONE = "gone"
    #: Not looked at: the payloads before it are enough for one script.
    LATER = "later"


class Claim(enum.Enum):
    """The answer to a recoverer that wants an orphan."""

    CLAIMED = "claimed"
    POISONED = "poisoned"
    #: Another recoverer has it in hand.
    BUSY = "busy"
    #: This one has, by a claim whose answer was lost; or another thread of it.
    MINE = "mine"
    #: It could not be enqueued, and is tried again when its deadline comes.
    WAITS = "waits"
    #: Not looked at: the payloads before it are enough for one script, or it is taken by itself.
    LATER = "later"
    ALIVE = "alive"
    GONE = "gone"
    #: Its record cannot be read, and was set aside whole.
    ASIDE = "aside"
    #: Its recoverers have died, one after the other; it was set aside whole.
    DEADLY = "deadly"


class Requeued(enum.Enum):
    """The answer to the confirmation of a copy that was enqueued after a claim."""

    REQUEUED = "requeued"
    POISONED = "poisoned"
    #: The copy has started already, or another recoverer has claimed it.
    FENCED = "fenced"


class Saved(enum.Enum):
    """The answer to a checkpoint."""

    SAVED = "saved"
    #: Another run has the message: nothing was changed.
    FENCED = "fenced"
