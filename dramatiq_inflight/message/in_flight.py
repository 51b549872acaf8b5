# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What this process runs: its own table, which is the truth about itself."""

from __future__ import annotations

import contextvars
import enum
import threading
from dataclasses import dataclass, field
from typing import Any

from ..config.policy import Policy
from ..delivery import Copy, is_own_enqueue
from ..threads.mutex import Mutex
from .interrupt import Strand

__all__ = [
    "Entry",
    "Phase",
    "Table",
    "current_entry",
    "entry_here",
    "new_context",
]

#: The message that the present thread (greenlet, task) came from; see `entry_here`.
current_entry: contextvars.ContextVar[Entry | None] = contextvars.ContextVar("current_entry", default=None)


def new_context() -> None:
    """Begin with a message: nothing of an earlier one is left in this thread, whatever has interrupted that."""
    current_entry.set(None)
    is_own_enqueue.set(False)


_DEFAULT_POLICY = Policy()


class Phase(enum.Enum):
    """Where a message is on its way through this process."""

    #: Reserved here; Redis is being asked.
    STARTING = "starting"
    RUNNING = "running"
    #: The actor has returned or failed; the hooks behind it enqueue what follows.
    ENDING = "ending"
    #: All of these were called; the broker is still to be told.
    ENDED = "ended"
    #: The broker was told, and Redis could not be: to be tried again.
    UNTOLD = "untold"
    #: This copy does not run: the broker is told that it is done with, and nobody else.
    SKIPPED = "skipped"
    #: This copy is rejected as poison.
    POISONED = "poisoned"


@dataclass(eq=False, slots=True)
class Entry:
    """One copy of a message in this process."""

    copy: Copy
    #: The broker that has delivered it.
    broker: Any = field(default=None, repr=False)
    #: What came from the broker; encoded only where that is needed: see `encoded`.
    message: Any = field(default=None, repr=False)
    payload: bytes = b""
    policy: Policy = _DEFAULT_POLICY
    phase: Phase = Phase.STARTING
    #: Whether Redis is known to have the record.
    written: bool = False
    #: The record's run, as the start gave it; 0: not known.
    run: int = 0
    generation: int = 1
    crashes: int = 0
    drains: int = 0
    #: Whether it has this process to itself, or is about to: what Redis is told.  Changed under `mutex`.
    alone: bool = False
    started_ms: int = 0
    first_ms: int = 0
    #: How the last run of the hooks saw it end.
    succeeded: bool = False
    #: Whether it was enqueued again while it ran, or by a retry.
    enqueued_again: bool = False
    #: Whether its retry was enqueued, or the copy that it is handed back as.
    retried: bool = False
    #: What follows from it and is still to be enqueued, with its delay in milliseconds, by message id.
    to_follow: dict[str, tuple[Any, int | None]] | None = field(default=None, repr=False)
    #: Whether it has failed, and Dramatiq has tried to enqueue its retry.
    retry_begun: bool = False
    #: Whether it was acknowledged as failed while its retry never got to the broker: the record is all there is.
    stranded: bool = False
    #: The broker has given this delivery to another worker, or to this one again.
    given_away: bool = False
    #: It was lost, and has succeeded without what was to follow: its new owner has to do that, or who comes after.
    cut_short: bool = False
    #: It has failed for good, and the broker has dead-lettered its copy.
    dead_lettered: bool = False
    #: It has failed for good, and the broker had taken its copy back by then: whoever has that now may run it.
    taken_back: bool = False
    #: Whether another copy of it was met here.
    contended: bool = False
    #: Whether another worker has it.
    lost: bool = False
    #: The lease under which its ownership was last seen; see `Lease`.
    epoch: int = 0
    #: The thread that it came to.
    thread: int = field(default_factory=threading.get_ident)
    #: Where to interrupt it if another worker takes it; ``None``: it is not to be interrupted.
    strand: Strand | None = None
    #: When Dramatiq began to acknowledge it (``time.monotonic``); 0: not yet.
    acking_since: float = 0.0
    #: Whether Redis was told how it ended: from then on its record must not be written again.
    told: bool = False
    #: Its worker shuts down, and it is to stop by then (``time.monotonic``); 0: it was not asked to.
    stop_by: float = 0.0
    #: Whether Dramatiq was told to expect that, and what it was to expect else (the message's option ``throws``).
    expecting: bool = False
    throws: Any = None
    #: It has stopped for that, and is enqueued again.
    handed_back: bool = False
    #: Why it does not run here; empty: it does.
    refusal: str = ""
    #: When it started, kept a checkpoint or was done with an item last (``time.monotonic``).
    moved_at: float = 0.0
    #: What its runs have kept of how far they have come; ``None``: nobody has asked.
    kept: dict[str, str] | None = field(default=None, repr=False)
    #: The iterations that have come to their end in this run, by name.
    gone_through: set[str] = field(default_factory=set, repr=False)
    #: What keeps that.
    checkpoints: Any = field(default=None, repr=False)
    #: Held while Redis is told anything about it.
    mutex: Mutex = field(default_factory=Mutex, repr=False)

    def encoded(self) -> bytes:
        """The message, encoded at the first call: as it came, if the actor has not run yet."""
        if not self.payload:
            self.payload = self.message.encode()
        return self.payload

    @property
    def to_finish(self) -> bool:
        """Whether it has succeeded, and Redis is still to be told."""
        return self.phase is Phase.ENDED and self.succeeded and not self.told

    @property
    def stopping(self) -> bool:
        """Whether its worker shuts down, and it is to stop."""
        return self.stop_by > 0

    @property
    def has_run(self) -> bool:
        """Whether its actor was begun here."""
        return self.moved_at > 0

    @property
    def has_ended(self) -> bool:
        """Whether its actor has, and the broker is still to be told."""
        return self.phase in (Phase.ENDING, Phase.ENDED)

    @property
    def may_run_again(self) -> bool:
        """Whether it was not consumed: there is a copy of the same origin."""
        return self.handed_back or self.taken_back

    @property
    def is_over(self) -> bool:
        """Whether the broker has all that follows from it: until then its copy is all that the broker has of it."""
        return self.acking_since > 0 and (self.succeeded or self.retried)

    def end(self, *, succeeded: bool) -> None:
        """The actor has ended.  The last call counts: an interrupt may turn a success into a failure."""
        if self.strand is not None:
            self.strand.end()
        self.phase, self.succeeded = Phase.ENDING, succeeded

    def follow(self) -> None:
        """All that follows from it was enqueued, or is noted in `to_follow`."""
        if self.phase is Phase.ENDING:
            self.phase = Phase.ENDED


def entry_here(broker: Any = None) -> Entry | None:
    """Return the message that the present thread, greenlet or task acts for; ``None`` if there is none.

    A task inherits the context of the message that created it, and may outlive that message.  So the message counts in
    its own thread until the broker is done with it, and elsewhere while its actor runs.

    Parameters:
      broker: Only a message that this broker has delivered.
    """
    entry = current_entry.get()
    if entry is None or (broker is not None and entry.broker is not broker):
        return None
    if entry.phase is not Phase.RUNNING and entry.thread != threading.get_ident():
        return None
    return entry


class Table:
    """The copies in this process, by message object, and the messages that run, by id.

    By object, because Dramatiq's hooks are called with copies that share an id: the delay queue's thread moves a copy
    of a message while another one runs.
    """

    def __init__(self) -> None:
        self._mutex = Mutex()
        self._by_object: dict[int, tuple[Any, Entry]] = {}
        self._by_id: dict[str, Entry] = {}
        self._untold: list[Entry] = []
        #: How many copies have run here.
        self.started = 0

    def reserve(self, message: Any, entry: Entry) -> str:
        """Note a copy before Redis is asked about it.

        Returns: ``no`` if the id was free, or a run had it that is lost, and is now reserved for it; else what the
        process knows of the message, ``running``, ``ended`` (and what follows is with the broker) or ``handed_back``,
        and that one is marked as contended.
        """
        with self._mutex:
            self._by_object[id(message)] = (message, entry)
            other = self._by_id.get(entry.copy.message_id)
            if other is None or other is entry or other.lost:
                self._by_id[entry.copy.message_id] = entry
                return "no"
            other.contended = True
            if other.may_run_again:
                return "handed_back"  # this may be the copy that it has enqueued, or that the broker has taken back
            return "ended" if other.is_over else "running"

    def get(self, message: Any) -> Entry | None:
        """The entry of this very object."""
        found = self._by_object.get(id(message))
        return found[1] if found is not None else None

    def run(self, entry: Entry) -> None:
        """The copy runs: the id is its own from now on, even if an earlier run of it has not been forgotten yet."""
        with self._mutex:
            entry.phase = Phase.RUNNING
            self.started += 1
            self._by_id[entry.copy.message_id] = entry

    def skip(self, entry: Entry, phase: Phase = Phase.SKIPPED) -> None:
        """The copy does not run: its id is free again, if it was reserved for it."""
        with self._mutex:
            entry.phase = phase
            self._free(entry)

    def forget(self, message: Any) -> None:
        """The broker is done with this object.  What Redis is still to be told stays, and keeps its id."""
        with self._mutex:
            found = self._by_object.pop(id(message), None)
            if found is None:
                return
            if found[1].phase is Phase.UNTOLD:
                self._untold.append(found[1])
            else:
                self._free(found[1])

    def drop(self, entry: Entry) -> None:
        """Nothing is left to be told of the entry."""
        with self._mutex:
            self._free(entry)
            if entry in self._untold:
                self._untold.remove(entry)
            for key, (_, other) in list(self._by_object.items()):
                if other is entry:
                    del self._by_object[key]

    def entries(self) -> list[Entry]:
        """The messages that run, have ended, or are untold."""
        with self._mutex:
            return [*self._by_id.values(), *(entry for entry in self._untold if not self._has(entry))]

    def forked(self) -> None:
        """Take new locks in a forked child: other threads may have held the old ones."""
        self._mutex = Mutex()
        for entry in self.entries():
            entry.mutex = Mutex()

    def _has(self, entry: Entry) -> bool:
        return self._by_id.get(entry.copy.message_id) is entry

    def _free(self, entry: Entry) -> None:
        if self._has(entry):
            del self._by_id[entry.copy.message_id]
