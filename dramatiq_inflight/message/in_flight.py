# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The copies in this process: an entry for each, and the table of all of them."""

from __future__ import annotations

import contextvars
import dataclasses
import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dramatiq.logging import get_logger

from ..config.policy import Policy
from ..delivery import Copy, Delivery, is_own_enqueue
from ..threads.mutex import Mutex
from . import state as transitions
from .failure import UNKNOWN, Failure
from .interrupt import Strand
from .state import START, Phase, State, Transition

__all__ = [
    "Entry",
    "FollowUp",
    "Numbers",
    "Outcome",
    "Progress",
    "Retry",
    "Table",
    "current_entry",
    "entry_here",
    "new_context",
]

logger = get_logger(__name__)

#: The message that the present thread (greenlet, task) came from; see `entry_here`.
current_entry: contextvars.ContextVar[Entry | None] = contextvars.ContextVar("current_entry", default=None)


def new_context() -> None:
    """Begin with a message: nothing of an earlier one is left in this thread, whatever has interrupted that."""
    current_entry.set(None)
    is_own_enqueue.set(False)


_DEFAULT_POLICY = Policy()


class Outcome(enum.Enum):
    """How a run has ended."""

    #: Its actor has not ended, or was never begun.
    OPEN = "open"
    SUCCEEDED = "succeeded"
    #: It was lost, and has succeeded without what was to follow: its new owner has to do that, or who comes after.
    CUT_SHORT = "cut short"
    FAILED = "failed"
    #: It has failed, and its retry never got to the broker: the record is all there is of it.
    STRANDED = "stranded"
    #: It has failed for good, and the broker has dead-lettered its copy.
    DEAD_LETTERED = "dead-lettered"


class Retry(enum.Enum):
    """Whether a copy of the message itself follows from its run: a retry, or the copy that it is handed back as."""

    NONE = "none"
    #: Its enqueue has begun, or is to begin.
    WANTED = "wanted"
    #: The broker has it.
    ENQUEUED = "enqueued"


@dataclass(slots=True)
class FollowUp:
    """A message that follows from a run."""

    #: Messages still to be enqueued, with their delays in milliseconds, by message id.  Replaced, never changed.
    pending: dict[str, tuple[Any, int | None]] = field(default_factory=dict)
    retry: Retry = Retry.NONE
    #: True if the run itself has enqueued its own message again.
    enqueued_itself: bool = False

    def want_retry(self) -> None:
        """Note that a copy of the message is to follow."""
        if self.retry is Retry.NONE:
            self.retry = Retry.WANTED

    @property
    def enqueued_again(self) -> bool:
        """True if the broker has a newer copy of the message from this run."""
        return self.enqueued_itself or self.retry is Retry.ENQUEUED


class Numbers(NamedTuple):
    """The numbers of the record, as a script has answered them last.  Times are milliseconds of Redis's clock."""

    #: Counts the starts of the message; 0: not known.
    run: int = 0
    generation: int = 1
    crashes: int = 0
    drains: int = 0
    started_ms: int = 0
    first_ms: int = 0


_NO_NUMBERS = Numbers()


@dataclass(slots=True)
class Progress:
    """How far the actor has come."""

    #: When it started, kept a checkpoint or was done with an item last (``time.monotonic``); 0: it was not begun.
    moved_at: float = 0.0
    #: The progress that its runs have kept; None if nobody has asked.
    kept: dict[str, str] | None = None
    #: The iterations that have come to their end in this run, by name.
    gone_through: set[str] = field(default_factory=set)
    #: The service that keeps that.
    checkpoints: Any = None


@dataclass(eq=False, slots=True)
class Entry:
    """One copy of a message in this process.

    Its `state` changes by the transitions of `state.TRANSITIONS` alone, and each of them is a method here.  It is one
    assignment, so an interrupt comes before or after it.  Several threads make transitions, so a lock is held then.

    A transition that the table does not allow changes nothing, and is logged as an error.  It is not raised: the hooks
    around an actor would swallow the exception, and what they were about to do would be left undone.  An entry that
    stays behind costs less, since its record is not settled too early.
    """

    delivery: Delivery
    policy: Policy = _DEFAULT_POLICY
    state: State = START
    numbers: Numbers = _NO_NUMBERS
    #: The lease under which its ownership was last seen; see `Lease`.
    epoch: int = 0
    #: True if it has this process to itself, or is about to, as Redis is told.  Changed under `mutex`.
    alone: bool = False
    #: True if another copy of it may be under way, so that its end is remembered.
    contended: bool = False
    outcome: Outcome = Outcome.OPEN
    follow_up: FollowUp = field(default_factory=FollowUp, repr=False)
    progress: Progress = field(default_factory=Progress, repr=False)
    #: When Dramatiq began to acknowledge it (``time.monotonic``).
    acking_since: float = 0.0
    #: Where to interrupt it if another worker takes it; None: it is not to be interrupted.
    strand: Strand | None = None
    #: When it is to have stopped, because its worker shuts down (``time.monotonic``); 0: it was not asked to.
    stop_by: float = 0.0
    #: The exceptions that Dramatiq was to expect (option ``throws``) before it was told to expect a stop; None: it was
    #: not told.
    throws: tuple[Any] | None = None
    #: Why it does not run here; empty: it does.
    refusal: str = ""
    #: The error with which it was dead-lettered.
    failure: Failure = UNKNOWN
    #: Held while Redis is told anything about it.
    mutex: Mutex = field(default_factory=Mutex, repr=False)
    _changing: Mutex = field(default_factory=Mutex, repr=False)
    #: The identity of the copy: that of the delivery.
    copy: Copy = field(init=False)

    def __post_init__(self) -> None:
        self.copy = self.delivery.copy

    def mark(self, **marks: Any) -> None:
        """Note more about the copy: fields of `Copy`."""
        self.copy = self.delivery.copy = dataclasses.replace(self.copy, **marks)

    @property
    def has_run(self) -> bool:
        """True if its actor was begun here."""
        return self.progress.moved_at > 0 and self.state.phase is not Phase.STARTING

    @property
    def succeeded(self) -> bool:
        """True if its actor has succeeded."""
        return self.outcome in (Outcome.SUCCEEDED, Outcome.CUT_SHORT)

    @property
    def to_finish(self) -> bool:
        """True if it has succeeded, and Redis is still to be told."""
        return self.state.phase in (Phase.ENDED, Phase.ACKING) and self.succeeded and not self.state.told

    @property
    def is_over(self) -> bool:
        """True if the broker has all that follows from it: until then its copy is all that the broker has of it."""
        has_all = self.succeeded or self.follow_up.retry is Retry.ENQUEUED
        return self.state.phase in (Phase.ACKING, Phase.UNTOLD) and has_all

    @property
    def stopping(self) -> bool:
        """True if its worker shuts down, and it is to stop."""
        return self.stop_by > 0

    # The transitions of its start.

    def record_start(self, numbers: Numbers) -> None:
        """Note that Redis has recorded the start of the run."""
        self._change(transitions.RECORD_START, numbers)

    def begin(self) -> None:
        """Note that the actor is about to run."""
        self._change(transitions.BEGIN)

    def skip(self) -> None:
        """Note that the copy does not run, because another one has run, is running, or will."""
        self._change(transitions.SKIP)

    def reject(self) -> None:
        """Note that the copy does not run, because it is poison."""
        self._change(transitions.REJECT)

    def give_away(self) -> None:
        """Note that the copy does not run, because the broker has given it to another worker."""
        self._change(transitions.GIVE_AWAY)

    def withdraw(self) -> None:
        """Note that the copy does not run, though Redis may have recorded its start: another one was enqueued."""
        self._change(transitions.WITHDRAW)

    # The transitions of its end.

    def end(self, *, succeeded: bool) -> None:
        """Note that the actor has ended.  The last call counts: an interrupt may turn a success into a failure."""
        if self.strand is not None:
            self.strand.end()
        self.outcome = Outcome.SUCCEEDED if succeeded else Outcome.FAILED
        self._change(transitions.END)

    def follow(self) -> None:
        """Note that all that follows from the run was enqueued, or is pending in `follow_up`."""
        self._change(transitions.FOLLOW)

    def acknowledge(self) -> None:
        """Note that Dramatiq begins to acknowledge the copy."""
        self.acking_since = time.monotonic()
        self._change(transitions.ACKNOWLEDGE)

    def leave_untold(self) -> None:
        """Note that the broker is done with the copy, and Redis could not be told."""
        self._change(transitions.LEAVE_UNTOLD)

    # The transitions of its ownership.

    def lose(self) -> None:
        """Note that another run owns the message."""
        self._change(transitions.LOSE)

    def hand_back(self) -> None:
        """Note that the run has stopped, and a copy is to be enqueued in its place."""
        self._change(transitions.HAND_BACK)

    def take_back(self) -> None:
        """Note that the broker had taken the delivery back before it was rejected."""
        self._change(transitions.TAKE_BACK)

    # The transitions of its record.

    def record_run(self, **numbers: int) -> None:
        """Note that the record in Redis says that the message runs here.

        Parameters:
          numbers: The fields of `Numbers` that were answered.
        """
        with self._changing:
            self.numbers = self.numbers._replace(**numbers)
            self._change(transitions.RECORD_RUN)

    def record_copy(self) -> None:
        """Note that Redis has recorded that a copy takes the place of this one."""
        self._change(transitions.RECORD_COPY)

    def refuse_copy(self) -> None:
        """Note that the broker has refused for good the copy that was to take the place of this one."""
        self._change(transitions.REFUSE_COPY)

    def record_end(self) -> None:
        """Note that Redis has recorded how the run ended, or has nothing to record."""
        self._change(transitions.RECORD_END)

    def _change(self, transition: Transition, numbers: Numbers | None = None) -> None:
        with self._changing:
            if numbers is not None:
                self.numbers = numbers
            before = self.state
            after = transition.moves.get(before)
            if after is not None:
                self.state = after
        if after is None:
            impossible(self, transition, before)

    def forked(self) -> None:
        """Take new locks in a forked child: other threads may have held the old ones."""
        self.mutex, self._changing = Mutex(), Mutex()


def impossible(entry: Entry, transition: Transition, state: State) -> None:
    """Report a transition that the table does not allow."""
    logger.error(
        "Ignored the transition %r of message %s. This is a defect of dramatiq_inflight; please report it (%s).",
        *(transition.name, entry.copy.message_id, state),
    )


def entry_here(broker: Any = None) -> Entry | None:
    """Return the message that the present thread, greenlet or task acts for; ``None`` if there is none.

    A task inherits the context of the message that created it, and may outlive that message.  So the message counts in
    its own thread until the broker is done with it, and elsewhere while its actor runs.

    Parameters:
      broker: Only a message that this broker has delivered.
    """
    entry = current_entry.get()
    if entry is None or (broker is not None and entry.delivery.broker is not broker):
        return None
    if entry.state.phase is not Phase.RUNNING and entry.delivery.thread != threading.get_ident():
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
            if other is None or other is entry or other.state.lost:
                self._by_id[entry.copy.message_id] = entry
                return "no"
            other.contended = True
            if other.state.may_run_again:
                return "handed_back"  # this may be the copy that it has enqueued, or that the broker has taken back
            return "ended" if other.is_over else "running"

    def get(self, message: Any) -> Entry | None:
        """The entry of this very object."""
        found = self._by_object.get(id(message))
        return found[1] if found is not None else None

    def run(self, entry: Entry) -> None:
        """The copy runs: the id is its own from now on, even if an earlier run of it has not been forgotten yet."""
        with self._mutex:
            entry.begin()
            self.started += 1
            self._by_id[entry.copy.message_id] = entry

    def refuse(self, entry: Entry, refusal: Callable[[Entry], None]) -> None:
        """The copy does not run: its id is free again, if it was reserved for it.

        Parameters:
          refusal: `Entry.skip`, `Entry.reject` or `Entry.give_away`.
        """
        with self._mutex:
            refusal(entry)
            self._free(entry)

    def forget(self, message: Any) -> None:
        """The broker is done with this object.

        An entry with a report that Redis still has to get stays, and keeps its id.
        """
        with self._mutex:
            found = self._by_object.pop(id(message), None)
            if found is None:
                return
            if found[1].state.phase is Phase.UNTOLD:
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
            entry.forked()

    def _has(self, entry: Entry) -> bool:
        return self._by_id.get(entry.copy.message_id) is entry

    def _free(self, entry: Entry) -> None:
        if self._has(entry):
            del self._by_id[entry.copy.message_id]
