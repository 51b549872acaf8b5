# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The records in Redis of a message and of an incarnation, as they are read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import redis

from .cause import EXPIRED, Cause
from .keys import Keys
from .replies import Claim

__all__ = [
    "AT_A_TIME",
    "DRAINING",
    "DeadIncarnation",
    "Due",
    "Enqueued",
    "Head",
    "Orphan",
    "batches",
    "head_of",
    "moment",
    "read_heads",
]

#: Before its id: the member of the heartbeat set that says that it shuts down; see common.lua.
DRAINING: Final = "*draining:"

#: How much of a record is read at first, bytes: nearly every head is shorter.
HEAD = 512

#: How many commands are sent at a time.
AT_A_TIME = 1000

#: As `json.loads`, which spends as long again on finding out what it was given.
_decode = json.JSONDecoder().decode


def moment(ms: int) -> datetime | None:
    """A time of Redis's clock, in milliseconds; ``None`` for 0, and for a number that is no time."""
    try:
        return datetime.fromtimestamp(ms / 1000, tz=UTC) if ms else None
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True)
class Head:
    """A record without its payload.  Times are milliseconds of Redis's clock."""

    state: str
    owner: str
    run: int
    generation: int
    crashes: int
    limit: int | str
    contended: int
    forced: int
    started: int
    first: int
    origin: str
    copy: str
    queue: str
    actor: str
    drains: int
    alone: int
    tailored: int
    tries: int
    deaths: int
    dead_letter: int
    kept_in: str = ""
    causes: str = ""

    @classmethod
    def of(cls, fields: list[Any]) -> Head:
        """Read it; a later version may have added more.

        Raises:
          TypeError: It has too few, or one is not of its type: common.lua makes nothing of it either.
        """
        if not all(map(isinstance, fields, TYPES)):
            raise TypeError("a field is not of its type")
        return cls(*fields[: len(TYPES)])


#: The types of the fields that this version knows.
TYPES: Final[list[Any]] = [
    {"str": str, "int": (int, float), "int | str": (int, float, str)}[str(field.type)]
    for field in dataclasses.fields(Head)
]


def head_of(raw: bytes) -> Head | None:
    """Return the head of a record that begins with `raw`; ``None`` if it cannot be read, or is longer."""
    line, newline, _ = raw.partition(b"\n")
    if not newline:
        return None
    try:
        return Head.of(_decode(line.decode()))
    except (ValueError, TypeError):
        return None


def batches(client: redis.Redis, ask: Callable[[Any, str], object], ids: Sequence[str]) -> Iterator[Any]:
    """The replies to what is asked about each of some ids, in a few round trips."""
    for at in range(0, len(ids), AT_A_TIME):
        pipeline = client.pipeline(transaction=False)
        for id in ids[at : at + AT_A_TIME]:
            ask(pipeline, id)
        yield from pipeline.execute()


def read_heads(client: redis.Redis, keys: Keys, ids: Sequence[str]) -> dict[str, Head]:
    """The records that there are, and can be read, without their payloads."""
    found: dict[str, Head] = {}
    for id, raw in zip(
        ids, batches(client, lambda pipe, id: pipe.getrange(keys.record(id), 0, HEAD - 1), ids), strict=True
    ):
        head = head_of(raw)
        if head is None and len(raw) == HEAD:  # it is longer
            head = head_of(client.get(keys.record(id)) or b"")  # type: ignore[arg-type]
        if head is not None:
            found[id] = head
    return found


@dataclass(frozen=True)
class Orphan:
    """A message that was claimed to be put back."""

    message_id: str
    verdict: Claim
    run: int = 0
    generation: int = 0
    crashes: int = 0
    #: As the record has it; see `Policy.limit`.
    limit: int | str = "unlimited"
    started_ms: int = 0
    first_ms: int = 0
    drains: int = 0
    #: Which try of recovery's this is since it last ran.
    tries: int = 0
    origin: str = ""
    queue: str = ""
    actor: str = ""
    #: Of the last crashes, the newest last.
    causes: tuple[Cause, ...] = ()
    payload: bytes = b""


class Enqueued(NamedTuple):
    """The copy of an orphan, as it was enqueued."""

    orphan: Orphan
    #: Empty where the broker has none.
    broker_copy_id: str
    queue: str
    #: Seconds.
    delay: float


@dataclass(frozen=True)
class Due:
    """The work of a recovery."""

    dead: list[str]
    overdue: list[str]
    #: Seconds until there may be something next; ``None``: nothing is in sight.
    next_in: float | None


@dataclass(frozen=True)
class DeadIncarnation:
    """The description that a dead incarnation gave of itself at its boot; empty if Redis has lost it."""

    id: str
    instance: str
    host: str
    pid: str
    #: Namespace and id of its RedisBroker, where that is on the tracker's own Redis; else empty.
    broker_namespace: str
    broker_id: str
    queues: list[str]
    #: The broker that keeps its messages, if known; see `BrokerQueues.custody`.
    custody: str = ""
    #: When it was given up, milliseconds of Redis's clock; 0: not known.
    dead_since_ms: int = 0
    #: It was shutting down.
    draining: bool = False
    #: Why it has died, as far as is known; of one that lives nothing is said.
    cause: Cause = EXPIRED
    #: Where its process can be told from others; see `liveness.pidfd`.
    place: str = ""
    process_started: str = ""

    @property
    def why(self) -> str:
        """Why it has died, or how that became known."""
        return self.cause.why(self.draining)

    def __str__(self) -> str:
        if not self.instance:
            return f"an unknown instance (incarnation {self.id})"
        return f"{self.instance} (process {self.pid} on {self.host}, incarnation {self.id})"
