# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The history, for people: the events that the scripts write, in the same step as their changes.

A stream of the last 10,000 or so, and beside it how often each event ever happened; both expire 30 days after the last
one.  A message that starts and completes as it should leaves nothing there.
"""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from ..store.cause import Cause

__all__ = ["Count", "Event", "EventKind", "Group", "Revival", "revivals"]


class Group(enum.Enum):
    """Kinds of events that belong together, with the name of the group."""

    WORKERS = "Worker processes"
    RECOVERIES = "Recoveries"
    TROUBLE = "Problems"
    OPERATORS = "By operators"


WORKERS, RECOVERIES, TROUBLE, OPERATORS = Group


class EventKind(enum.Enum):
    """The kind of an event of a worker process, or of a message.

    Each kind has the name under which the scripts write it, its groups, its mark on the web page (which also gives the
    command line its colour), a few words for it, and what it means.
    """

    # To a worker process.
    JOINED = "joined", {WORKERS}, "joined", "joined", "A worker process has booted."
    LEFT = "left", {WORKERS}, "left", "left", "A worker process has ended in order."
    DIED = "died", {WORKERS, TROUBLE}, "died", "died", "A worker process is dead."
    REVIVED = "revived", {WORKERS}, "joined", "alive after all", "A worker process that was declared dead is alive."
    CLEARED = (
        "cleared",
        {WORKERS},
        "cleared",
        "all its messages were recovered",
        "All messages of a dead worker process are recovered.",
    )

    # To a message.
    RECOVERED = (
        "recovered",
        {RECOVERIES},
        "recovered",
        "recovered",
        "The message's worker died. The message is with its broker again, or another worker runs it.",
    )
    COPIED_AGAIN = (
        "copied_again",
        {RECOVERIES},
        "recovered",
        "copied again: its copy did not start",
        "The copy of a recovered message did not start for so long that recovery made another one.",
    )
    POISON = (
        "poison",
        {TROUBLE},
        "poison",
        "dead-lettered as poison",
        "The message has killed its worker too often, or must not run again. It goes to the dead-letter queue.",
    )
    DEAD_LETTERED = (
        "dead_lettered",
        {TROUBLE},
        "poison",
        "in the dead-letter queue",
        "The message is in the dead-letter queue.",
    )
    SET_ASIDE = (
        "set_aside",
        {TROUBLE},
        "aside",
        "set aside, kept whole",
        "The message cannot be read or decoded. Redis keeps it whole.",
    )
    DEFERRED = (
        "deferred",
        {RECOVERIES},
        "other",
        "a copy was delayed",
        "A copy of the message was delayed, because the message was running, or the copy could not begin.",
    )
    LATE = (
        "late",
        {RECOVERIES},
        "other",
        "completed late, after it had been taken over",
        "A worker completed the message after another had taken it over. The completion counts.",
    )
    FENCED = (
        "fenced",
        {RECOVERIES},
        "other",
        "ended after it had been taken over: result ignored",
        "A worker ended the message after another had taken it over. The result is ignored.",
    )
    RETAKEN = (
        "retaken",
        {RECOVERIES},
        "recovered",
        "taken back by its worker",
        "A worker that was declared dead has the message again.",
    )
    HANDED_OVER = (
        "handed_over",
        {RECOVERIES},
        "other",
        "left to recovery: its retry or dead letter could not be enqueued",
        "The message failed, and its retry or its dead letter could not be enqueued. Recovery puts the message back.",
    )
    HANDED_BACK = (
        "handed_back",
        {RECOVERIES},
        "other",
        "stopped and enqueued again: its worker shut down",
        "The message stopped because its worker shuts down (``hand_back``), and is enqueued again.",
    )
    STALLED = (
        "stalled",
        {TROUBLE},
        "aside",
        "stalled",
        "The message has run for longer than its ``stall_timeout`` without a checkpoint.",
    )

    # Done by an operator.
    REQUEUED = (
        "requeued",
        {OPERATORS},
        "hand",
        "enqueued again by an operator",
        "An operator has enqueued the message again.",
    )
    CONDEMNED = (
        "condemned",
        {TROUBLE, OPERATORS},
        "poison",
        "sent to the dead-letter queue by an operator",
        "An operator has sent the message to the dead-letter queue.",
    )
    DISCARDED = (
        "discarded",
        {OPERATORS},
        "hand",
        "discarded by an operator",
        "An operator has discarded the message.",
    )

    _value_: str
    groups: frozenset[Group]
    mark: str
    said: str

    def __new__(
        cls, name: str, groups: Set[Group] = frozenset(), mark: str = "other", said: str = "", doc: str = ""
    ) -> EventKind:
        self = object.__new__(cls)
        self._value_ = name
        self.groups = frozenset(groups)
        self.mark = mark
        self.said = said
        self.__doc__ = doc
        return self

    @property
    def of_worker(self) -> bool:
        """True if it happens to a worker process, and not to a message."""
        return Group.WORKERS in self.groups


#: How a message was recovered, in words.
HOWS = {
    "handed back": "returned to its queue",
    "copied": "a copy was enqueued",
    "taken over": "another worker runs it",
}

#: The number that a field of an event is.
NUMBERS = ("run", "crashes", "running", "after", "number", "cause")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened.  Fields that do not apply are empty, or ``None``."""

    #: The id of the entry in the stream; grows.
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
    #: The broker's id of the copy that an operator has enqueued from a dead letter, or from what was set aside.
    copy: str = ""
    #: How it was recovered: ``handed back``, ``copied`` or ``taken over``.
    how: str = ""
    #: Why a worker has died, as far as is known: ``out_of_memory``, ``signal 9``, ``exit 1``, ``heartbeat``, ...
    cause: str = ""
    #: The same in words, or the error for which a message was dead-lettered.
    why: str = ""
    #: The end of the traceback with which a message was dead-lettered.
    traceback: str = ""
    #: How the run ended that was fenced: ``completed`` or ``failed``.
    outcome: str = ""
    #: How many messages were still running when a worker left.
    running: int | None = None
    #: From a death (or, where nobody saw it, the last heartbeat) to its full recovery, or since a stalled message moved
    #: last, milliseconds.
    after_ms: int | None = None
    #: How many dead letters an operator has discarded at once.
    number: int | None = None

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
        cause = Cause(values["cause"]) if values["cause"] is not None else None
        values["cause"] = cause.name if cause else ""
        if cause:
            values["why"] = cause.why(raw.get("draining") == "1")
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        milliseconds = int(id.partition("-")[0])
        kind = EventKind(name) if name in KINDS else None
        at = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
        return cls(**{**values, "id": id, "at": at, "kind": kind, "name": name})

    @property
    def of_worker(self) -> bool:
        """True if it is about a worker process; else it is about a message."""
        return not self.message_id if self.kind is None else self.kind.of_worker

    @property
    def text(self) -> str:
        """The event in a few words, without the name of its worker or message."""
        said = self.kind.said if self.kind is not None else self.name
        if self.why:
            said += f": {self.why}"
        if self.number is not None and self.number > 1:
            said += f": {self.number} dead letters"
        if self.kind is EventKind.LEFT and self.running:
            said += f" with {self.running} messages still running"
        if self.kind is EventKind.CLEARED and self.after_ms is not None:
            said += f", {self.after_ms / 1000:.1f} s after it died"
        if self.kind is EventKind.STALLED and self.after_ms is not None:
            said += f": {self.after_ms / 1000:.0f} s without a checkpoint"
        if self.kind is EventKind.RECOVERED and self.how:
            said += f" ({HOWS.get(self.how, self.how)})"
        if self.kind is EventKind.FENCED:
            said += f" ({self.outcome})"
        if self.crashes and self.kind in (EventKind.RECOVERED, EventKind.POISON, EventKind.DEAD_LETTERED):
            said += f", {self.crashes} crash{'es' if self.crashes > 1 else ''}"
        return said


#: The values of `EventKind`.
KINDS = frozenset(kind.value for kind in EventKind)


@dataclass(frozen=True)
class Count:
    """How often something ever happened; ``queue`` and ``actor`` are empty where it was not to a message."""

    kind: str
    queue: str
    actor: str
    number: int
    #: The kind of cause of deaths, as `CauseKind` names it; empty for everything else.
    cause: str = ""

    @classmethod
    def of(cls, name: str, number: int) -> Count:
        """Read a field of the hash."""
        if name.startswith("["):
            kind, queue, actor, *rest = json.loads(name)
            cause = Cause(rest[0]).kind.value if rest and isinstance(rest[0], int) else ""
            return cls(kind, queue, actor, number, cause)
        return cls(name, "", "", number)


@dataclass(frozen=True)
class Revival:
    """A worker process that was declared dead, and lives."""

    worker: str
    instance: str
    host: str
    pid: str
    at: datetime
    #: How many of its messages were recovered meanwhile: they may have run twice at once.
    recovered: int


def revivals(events: Sequence[Event]) -> list[Revival]:
    """The last revival of each worker process, newest first.

    Parameters:
      events: Newest first.
    """
    last: dict[str, Event] = {}
    recovered: Counter[str] = Counter()
    ended = set[str]()
    for event in events:
        if event.kind is EventKind.REVIVED:
            if event.worker in last:
                ended.add(event.worker)  # an earlier one
            last.setdefault(event.worker, event)
        elif event.kind is EventKind.RECOVERED and event.worker in last and event.worker not in ended:
            recovered[event.worker] += 1
    return [
        Revival(event.worker, event.instance, event.host, event.pid, event.at, recovered[event.worker])
        for event in last.values()
    ]
