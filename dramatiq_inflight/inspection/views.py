# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The views of an `Inspector`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

__all__ = [
    "IN_FLIGHT",
    "WAITING_SHOWN",
    "Aside",
    "MessageView",
    "MinuteView",
    "Overview",
    "QueueView",
    "Tally",
    "WorkerView",
]

#: The states of a message that is in flight.
IN_FLIGHT = frozenset({"running", "recovering", "requeued"})

#: How many of the messages that wait are looked into for an `Overview`: there may be very many.
WAITING_SHOWN = 1000


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """One worker process: an incarnation."""

    #: The incarnation.
    id: str
    #: The pod, container or host; empty where Redis has lost what it said.
    instance: str
    host: str
    pid: str
    #: ``alive``, ``draining`` (it shuts down), ``silent`` (its heartbeat has expired, or it has left with messages
    #: running), or ``dead`` (that was seen, or somebody recovers what it left).
    state: str
    booted: datetime | None
    #: Until when its last heartbeat is believed, milliseconds from now; below 0: it has expired.
    expires_in_ms: int
    #: How many tracked messages it runs.
    running: int
    #: Why it is dead, as far as is known: ``out_of_memory``, ``signal 9``, ``exit 1``, ``heartbeat``, ...; else empty.
    cause: str
    #: The same in words.
    why: str
    #: The queues that it fetches from, where its broker is a RedisBroker on the tracker's Redis.
    queues: tuple[str, ...]
    #: Since when it is dead or silent, as far as is known; ``None``: it is not.
    dead_since: datetime | None = None
    #: The package that it has; empty where it does not say.
    version: str = ""
    #: Which schema it writes; 0: it does not say.  See docs/upgrading.rst.
    schema: int = 0
    #: How long its heartbeat is believed, and how often it beats, seconds; 0: it does not say.
    heartbeat_ttl: float = 0.0
    heartbeat_interval: float = 0.0
    #: Whether it was told that no two containers have its instance id at once.
    instance_exclusive: bool = False
    #: Where its process can be seen: processes of one host and pid namespace say the same; empty: nowhere.
    place: str = ""
    #: Redis sees its connection, so its death is known by the end of that.
    is_seen: bool = False

    @property
    def is_alive(self) -> bool:
        """True if it is believed to live."""
        return self.state in ("alive", "draining")


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """One message that is running, or waits to be recovered."""

    id: str
    #: ``running``, ``recovering`` (a recoverer has it in hand; or, without a worker, its copy
    #: could not be enqueued, and is tried again), ``requeued`` (its copy is with the broker);
    #: for `Inspector.message` also
    #: ``completed``, ``released`` (its retry is with the broker), ``let_go`` (a copy may run),
    #: ``dead_lettered``, ``aside``.
    state: str
    queue: str
    actor: str
    #: The incarnation that runs it, or recovers it; empty: nobody does now.
    worker: str
    instance: str
    #: The process of that; empty where it is not known.
    pid: str
    #: Whether that is believed to live.
    worker_alive: bool
    #: The present run, or the last one.
    started: datetime | None
    #: The first of all.
    first_started: datetime | None
    #: Seconds since `started`, by Redis's clock.
    age: float
    #: Numbers of its starts and of its copies.
    run: int
    generation: int
    crashes: int
    drains: int
    #: ``None``: no limit.
    max_recoveries: int | None
    #: It has its process to itself: one more death convicts it.
    alone: bool
    #: Its copy goes to the dead-letter queue.
    dead_letter: bool = False
    #: How often recovery has tried to put it back since it last ran.
    tries: int = 0
    #: When recovery looks after its copy, should that not have started by then.
    due: datetime | None = None
    #: Its last checkpoint: the share that is done, from 0 to 1, and the note.
    progress: float | None = None
    note: str = ""
    #: When that was kept; ``None``: it never was.
    checkpointed: datetime | None = None


@dataclass(frozen=True)
class Tally:
    """How many messages of one queue and actor are in flight."""

    queue: str
    actor: str
    running: int
    #: Messages that wait for their copy to start; of at most `WAITING_SHOWN` that were looked at.
    waiting: int
    #: Seconds since the oldest of those running was started.
    oldest: float


@dataclass(frozen=True, kw_only=True)
class QueueView:
    """How much one queue has, and how quickly that comes and goes."""

    name: str
    #: Messages that no worker has fetched.
    depth: int
    #: Messages that wait for their time, retries included.  With RabbitMQ only those that no worker has fetched.
    delayed: int
    #: Messages that workers have fetched and not acknowledged: those that run, and those that wait in its memory.
    #: None if the broker does not say (RabbitMQ).
    unacked: int | None
    #: Tracked messages that run.
    in_flight: int
    dead_letters: int
    #: Seconds since the message was enqueued that waits longest (a retry: since it was enqueued last); 0 if none waits,
    #: None if the broker does not say (RabbitMQ).
    oldest: float | None
    #: Messages a second over the last one or two minutes that were enqueued, retries included, and whose run ended.
    #: None if no worker has reported for so long.
    rate_in: float | None
    rate_out: float | None


@dataclass(frozen=True, kw_only=True)
class MinuteView:
    """Which messages ended in one minute, tracked or not, as the workers have reported."""

    #: When it began.
    at: datetime
    ended: int
    #: How many of them ended with an exception, whether or not they are retried.
    failed: int
    #: How long they ran on average, seconds; None if none ended.
    duration: float | None


@dataclass(frozen=True)
class Aside:
    """A message that could not be read or decoded, and is kept whole."""

    id: str
    #: Empty where the record itself cannot be read.
    queue: str
    actor: str
    size: int
    #: Why it cannot be read, and when it was set aside; as far as the history goes.
    reason: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class Overview:
    """All at a glance."""

    at: datetime
    workers: list[WorkerView]
    tallies: list[Tally]
    running: int
    waiting: int
    aside: int
    #: How many of those that wait are past their deadline, and for how long the first of them is, seconds.
    overdue: int = 0
    most_overdue: float = 0.0

    @property
    def alive(self) -> int:
        """How many worker processes are believed to live."""
        return sum(worker.is_alive for worker in self.workers)

    @property
    def oldest(self) -> float:
        """Seconds since the oldest running message was started; 0: there is none."""
        return max((tally.oldest for tally in self.tallies), default=0.0)
