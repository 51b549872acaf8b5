# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What runs where, since when, and what happened: read-only, for people and programs.

The command line, the web page and the metrics are made of this; so can yours be::

    inspector = Inspector.of(broker)
    for message in inspector.messages(actor="charge", older_than=600):
        print(message.id, message.instance, message.age)

It reads by the indexes, in a few round trips, and runs no script: no command takes Redis long, however much there is.
What it shows of different keys may be milliseconds apart.  Every method raises ``redis.RedisError`` when Redis cannot
be reached or refuses, and `SchemaError` when the namespace is written by a version of this package that this one cannot
read.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from dramatiq import Broker

from .connection import bounded_client, bounded_client_from_url
from .errors import ConfigurationError, SchemaError
from .history import Count, Event, EventKind
from .keys import Keys
from .middleware import tracker_of
from .records import Head, moment
from .schema import FIELDS, OURS, Held, Refusal
from .settings import Settings
from .version import __version__
from .whereabouts import tracker_client

__all__ = ["Aside", "Inspector", "MessageView", "Overview", "Tally", "WorkerView"]

#: How much of a record is read at first, bytes: nearly every head is shorter.
HEAD = 512

#: How many commands are sent at a time.
AT_A_TIME = 1000

#: A heartbeat below this is no time: the incarnation was proven dead (see _common.lua).
PROVEN_MS = 100


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
    #: What proved that it is dead; else empty.
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

    @property
    def is_alive(self) -> bool:
        """Whether it is believed to live."""
        return self.state in ("alive", "draining")


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """One message that is running, or waits to be recovered."""

    id: str
    #: ``running``, ``recovering`` (a recoverer has it in hand), ``requeued`` (its copy is with the broker),
    #: ``condemned`` or ``poisoned`` (its copy goes to the dead-letter queue); for `Inspector.message` also
    #: ``completed``, ``released`` (its retry is with the broker), ``dead_lettered``, ``aside``.
    state: str
    queue: str
    actor: str
    #: The incarnation that runs it, or recovers it; empty: nobody does now.
    worker: str
    instance: str
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
    #: When recovery looks after its copy, should that not have started by then.
    due: datetime | None = None
    #: What its last checkpoint said: how much is done, from 0 to 1, and what was being done.
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
    #: Those that wait for their copy to start; of at most `WAITING_SHOWN` that were looked at.
    waiting: int
    #: Seconds since the oldest of those running was started.
    oldest: float


@dataclass(frozen=True)
class Aside:
    """A message that could not be read or decoded, and is kept whole."""

    id: str
    #: Empty where the record itself cannot be read.
    queue: str
    actor: str
    size: int


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


#: How many of the messages that wait are looked into for an `Overview`: there may be very many.
WAITING_SHOWN = 1000


class Inspector:
    """Reads one namespace.

    >>> inspector = Inspector.of(broker)
    >>> [worker.instance for worker in inspector.workers() if not worker.is_alive]
    ['billing-1', 'billing-1']
    >>> inspector.history(limit=1)[0].text
    'joined'

    Parameters:
      client: A Redis client; the inspector makes connections of its own, with bounds.
      namespace: As the trackers have it.
    """

    def __init__(self, client: redis.Redis, namespace: str = Settings.namespace) -> None:
        self.namespace = namespace
        self._client: Any = bounded_client(client)
        self._keys = Keys(namespace)

    @classmethod
    def of(cls, broker: Broker) -> Inspector:
        """Of what the tracker in a broker's middleware writes.

        Raises:
          ConfigurationError: There is no tracker in it, or it has no Redis.
        """
        settings = tracker_of(broker).settings
        return cls(tracker_client(settings, broker)[0], settings.namespace)

    @classmethod
    def from_url(cls, url: str, namespace: str = Settings.namespace) -> Inspector:
        """Of the Redis at a URL.

        Raises:
          ConfigurationError: It is no URL of a Redis.
        """
        try:
            return cls(bounded_client_from_url(url), namespace)
        except ValueError:
            raise ConfigurationError(
                "The Redis URL is wrong; it must be one such as redis://host:6379/0, rediss://... or unix://..."
            ) from None

    def overview(self) -> Overview:
        """All at a glance: workers, how much runs and waits by queue and actor, what is set aside."""
        now, workers, running = self._look()
        # Those that wait: not all of them, for there may be very many.
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zrange(self._keys.waiting, 0, WAITING_SHOWN - 1, withscores=True)
        pipeline.zcard(self._keys.waiting)
        pipeline.zcount(self._keys.waiting, "-inf", now)
        pipeline.hlen(self._keys.aside)
        first, waiting, overdue, aside = pipeline.execute()
        shown = [_text(id) for id, _ in first]
        tallies: dict[tuple[str, str], list[float]] = {}
        heads = self._heads([id for ids in running.values() for id, _ in ids])
        starts = {id: started for ids in running.values() for id, started in ids}
        for id, head in heads.items():
            if head.state == "running":
                tally = tallies.setdefault((head.queue, head.actor), [0, 0, 0.0])
                tally[0] += 1
                tally[2] = max(tally[2], (now - starts[id]) / 1000)
        for head in self._heads(shown).values():
            tallies.setdefault((head.queue, head.actor), [0, 0, 0.0])[1] += 1
        return Overview(
            at=_moment(now),
            workers=workers,
            tallies=[
                Tally(queue, actor, int(count), int(waits), max(oldest, 0.0))
                for (queue, actor), (count, waits, oldest) in sorted(tallies.items())
            ],
            running=sum(map(len, running.values())),
            waiting=int(waiting),
            aside=int(aside),
            overdue=int(overdue),
            most_overdue=max(0.0, (now - first[0][1]) / 1000) if first else 0.0,
        )

    def workers(self) -> list[WorkerView]:
        """All worker processes that live, or whose death is not recovered yet, by instance."""
        return self._look(messages=False)[1]

    def messages(
        self,
        *,
        instance: str | None = None,
        worker: str | None = None,
        queue: str | None = None,
        actor: str | None = None,
        state: str | None = None,
        older_than: float | None = None,
        limit: int | None = None,
    ) -> list[MessageView]:
        """The messages that run, or wait to be recovered, oldest first.

        Parameters:
          instance, worker, queue, actor, state: Only those; a worker by its incarnation.
          older_than: Only those that were started so many seconds ago, or earlier.
          limit: So many at the most: the oldest.
        """
        now, workers, running = self._look()
        by_id = {view.id: view for view in workers}
        chosen = [
            id
            for owner, ids in running.items()
            for id, started in ids
            if worker in (None, owner)
            and instance in (None, by_id[owner].instance)
            and (older_than is None or now - started >= older_than * 1000)
        ]
        due: dict[str, float] = {}
        if worker is None and instance is None and state != "running":
            due = self._waiting()
            chosen += due
        at_once = len(chosen)
        if state == "running" and limit is not None:
            # The oldest are known by the index, and there may be very many others: read no more than it takes.
            starts = {id: started for ids in running.values() for id, started in ids}
            chosen.sort(key=starts.__getitem__)
            at_once = max(limit, AT_A_TIME)
        chosen = list(dict.fromkeys(chosen))
        found: list[MessageView] = []
        for at in range(0, len(chosen), max(at_once, 1)):
            found += [
                _message(id, head, now, by_id.get(head.owner), due.get(id))
                for id, head in self._heads(chosen[at : at + at_once]).items()
                if head.state in IN_FLIGHT
                and queue in (None, head.queue)
                and actor in (None, head.actor)
                and state in (None, head.state)
                and (older_than is None or now - head.started >= older_than * 1000)
            ]
            if limit is not None and len(found) >= limit:
                break
        found.sort(key=lambda view: (-view.age, view.id))
        return self._with_progress(found[:limit])

    def message(self, id: str) -> MessageView | None:
        """One message, whatever its state; ``None``: nothing is known of it.

        Nothing is known of a message that is queued, or is complete and was run but once.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zscore(self._keys.waiting, id)
        pipeline.hget(self._keys.aside, id)
        now, (deadline, aside) = self._timed(pipeline)
        head = self._heads([id]).get(id)
        if head is None:
            if aside is None:
                return None
            head = _head(aside) or Head("aside", "", 0, 0, 0, -1, 0, 0, 0, 0, "", "", "", "", 0, 0, 0)
            return _message(id, head, now, None, None, state="aside")
        owner = self._workers([head.owner], now)[0] if head.owner else None
        view = _message(id, head, now, owner if owner and owner.instance else None, deadline)
        return self._with_progress([view])[0]

    def payload(self, id: str) -> bytes | None:
        """The encoded message, which is the user's data; ``None``: there is none."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(self._keys.record(id))
        pipeline.hget(self._keys.aside, id)
        record, aside = self._read(pipeline)
        raw = record or aside
        if raw is None:
            return None
        return bytes(raw.partition(b"\n")[2] or b"") or (None if _head(raw) else bytes(raw))

    def aside(self) -> list[Aside]:
        """The messages that were set aside."""
        found = []
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hkeys(self._keys.aside)
        (ids,) = self._read(pipeline)
        for id in sorted(ids):
            raw = self._client.hget(self._keys.aside, id)
            if raw is not None:
                head = _head(raw)
                found.append(
                    Aside(_text(id), head.queue if head else "", head.actor if head else "", len(raw)),
                )
        return found

    def overdue(self) -> int:
        """How many messages wait for a copy that should have started by now."""
        return int(self._client.zcount(self._keys.waiting, "-inf", self._now()))

    def history(
        self,
        *,
        limit: int = 100,
        kinds: Collection[EventKind] = (),
        message_id: str | None = None,
        instance: str | None = None,
        since: timedelta | None = None,
        after: str | None = None,
    ) -> list[Event]:
        """The last events, newest first.

        Parameters:
          limit: So many at the most.
          kinds, message_id, instance: Only those.
          since: Only those of so long ago, or later.
          after: Only those after the event with this id.
        """
        found: list[Event] = []
        last = "+"
        first = f"({after}" if after else "-"
        if since is not None:
            first = str(max(0, self._now() - round(since.total_seconds() * 1000)))
        at_once = AT_A_TIME if kinds or message_id or instance else min(limit, AT_A_TIME)
        instances = _Instances(self)
        while len(found) < limit:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.xrevrange(self._keys.journal[0], last, first, at_once)
            (entries,) = self._read(pipeline)
            events = [Event.of(id.decode(), _texts(raw)) for id, raw in entries if raw]
            instances.learn(events)
            for event in map(instances.complete, events):
                if (
                    (not kinds or event.kind in kinds)
                    and message_id in (None, event.message_id)
                    and instance in (None, event.instance)
                ):
                    found.append(event)
            if len(entries) < at_once:
                break
            last = f"({entries[-1][0].decode()}"
        return found[:limit]

    def counts(self) -> list[Count]:
        """How often each event ever happened, by queue and actor."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(self._keys.journal[1])
        (raw,) = self._read(pipeline)
        return sorted(
            (Count.of(name.decode(), int(number)) for name, number in raw.items()),
            key=lambda count: (count.kind, count.queue, count.actor),
        )

    def schema(self) -> int:
        """Which schema is in use in the namespace, known or not; 0: nothing was written there yet."""
        return Held.of(self._client.hmget(self._keys.schema, FIELDS)).schema

    # How it reads.

    def _read(self, pipeline: Any) -> list[Any]:
        """What a pipeline has found, if this version can read it."""
        pipeline.hmget(self._keys.schema, FIELDS)
        *found, raw = pipeline.execute()
        held = Held.of(raw)
        if not OURS.reads(held.schema):
            raise SchemaError(Refusal(held.schema, "").text(self.namespace, __version__, OURS, held, None))
        return list(found)

    def _look(self, *, messages: bool = True) -> tuple[int, list[WorkerView], dict[str, list[tuple[str, float]]]]:
        """The time, the workers, and what each runs (with its start)."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zrange(self._keys.heartbeats, 0, -1)
        now, (members,) = self._timed(pipeline)
        ids = [_text(member) for member in members if not member.startswith(b"*")]
        running: dict[str, list[tuple[str, float]]] = {}
        if messages:
            replies = self._batches(lambda pipe, id: pipe.zrange(self._keys.running(id), 0, -1, withscores=True), ids)
            running = {
                id: [(_text(message), score) for message, score in reply]
                for id, reply in zip(ids, replies, strict=True)
            }
        workers = self._workers(ids, now)
        workers.sort(key=lambda view: (view.instance, view.booted or _moment(0), view.id))
        return now, workers, running

    def _waiting(self) -> dict[str, float]:
        """What waits for its copy, with its deadline."""
        found: dict[str, float] = {}
        for at in itertools.count(0, AT_A_TIME):
            batch = self._client.zrange(self._keys.waiting, at, at + AT_A_TIME - 1, withscores=True)
            found.update((_text(id), score) for id, score in batch)
            if len(batch) < AT_A_TIME:
                break
        return found

    def _now(self) -> int:
        return self._timed(self._client.pipeline(transaction=False))[0]

    def _timed(self, pipeline: Any) -> tuple[int, list[Any]]:
        """The time by the server that has the namespace, milliseconds; and what a pipeline has found."""
        if isinstance(self._client, redis.RedisCluster):  # there a pipeline takes no command without a key
            node: Any = self._client.get_node_from_key(self._keys.heartbeats)
            time: Any = self._client.time(target_nodes=node)
            found = self._read(pipeline)
        else:
            pipeline.time()
            *found, time = self._read(pipeline)
        seconds, micro = time
        return seconds * 1000 + micro // 1000, found

    def _workers(self, ids: Sequence[str], now: int) -> list[WorkerView]:
        def ask(pipe: Any, id: str) -> None:
            pipe.hgetall(self._keys.incarnation(id))
            pipe.zscore(self._keys.heartbeats, id)
            pipe.zcard(self._keys.running(id))

        replies = list(self._batches(ask, ids))
        return [_worker(id, replies[3 * i : 3 * i + 3], now) for i, id in enumerate(ids)]

    def _with_progress(self, views: list[MessageView]) -> list[MessageView]:
        def ask(pipe: Any, id: str) -> None:
            pipe.hmget(self._keys.checkpoint(id), "at", "progress", "note")

        replies = self._batches(ask, [view.id for view in views])
        return [_progressed(view, *reply) for view, reply in zip(views, replies, strict=True)]

    def _heads(self, ids: Sequence[str]) -> dict[str, Head]:
        """The records that there are, without their payloads."""
        found: dict[str, Head] = {}
        long: list[str] = []
        replies = self._batches(lambda pipe, id: pipe.getrange(self._keys.record(id), 0, HEAD - 1), ids)
        for id, raw in zip(ids, replies, strict=True):
            head = _head(raw)
            if head is not None:
                found[id] = head
            elif len(raw) == HEAD:
                long.append(id)
        for id in long:
            head = _head(self._client.get(self._keys.record(id)) or b"")
            if head is not None:
                found[id] = head
        return found

    def _batches(self, ask: Any, ids: Sequence[str]) -> Iterator[Any]:
        for at in range(0, len(ids), AT_A_TIME):
            pipeline = self._client.pipeline(transaction=False)
            for id in ids[at : at + AT_A_TIME]:
                ask(pipeline, id)
            yield from pipeline.execute()


#: The states of a message that is in flight.
IN_FLIGHT = frozenset({"running", "recovering", "condemned", "requeued", "poisoned"})


class _Instances:
    """Which instance an incarnation was: events of messages name the incarnation alone."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._known: dict[str, str] = {}

    def learn(self, events: Iterable[Event]) -> None:
        unknown: dict[str, None] = {}
        for event in events:
            if event.instance:
                self._known[event.worker] = event.instance
            elif event.worker:
                unknown[event.worker] = None
        ids = [id for id in unknown if id not in self._known]
        for view in self._inspector._workers(ids, 0) if ids else ():
            self._known[view.id] = view.instance

    def complete(self, event: Event) -> Event:
        if event.instance or not self._known.get(event.worker):
            return event
        values = dict(vars(event))
        return Event(**{**values, "instance": self._known[event.worker]})


def _worker(id: str, replies: Sequence[Any], now: int) -> WorkerView:
    raw, deadline, running = replies
    said = _texts(raw)
    if deadline is None or deadline < PROVEN_MS or "noticed" in said:
        state = "dead"
    elif deadline <= now or "left" in said:
        state = "silent"
    else:
        state = "draining" if deadline % 1 >= 0.5 else "alive"
    since = said.get("gone") or said.get("left") or (deadline if deadline and deadline >= PROVEN_MS else 0)
    return WorkerView(
        id=id,
        instance=said.get("instance", ""),
        host=said.get("host", ""),
        pid=said.get("pid", ""),
        state=state,
        booted=moment(_number(said.get("booted", ""))),
        expires_in_ms=int((deadline or 0) - now),
        running=int(running),
        why=said.get("why", "it left while messages were still running" if "left" in said else ""),
        queues=_names(said.get("queues", "[]")),
        dead_since=moment(int(since)) if state in ("silent", "dead") else None,
        version=said.get("version", ""),
        schema=_number(said.get("schema", "")),
        heartbeat_ttl=_number(said.get("ttl", "")) / 1000,
        heartbeat_interval=_number(said.get("interval", "")) / 1000,
        instance_exclusive=said.get("exclusive") == "1",
        place=said.get("place", ""),
    )


def _progressed(view: MessageView, at: bytes | None, progress: bytes | None, note: bytes | None) -> MessageView:
    if at is None:
        return view
    return dataclasses.replace(
        view,
        checkpointed=moment(int(at)),
        progress=float(progress) if progress else None,
        note=_text(note or b""),
    )


def _message(
    id: str, head: Head, now: int, owner: WorkerView | None, deadline: float | None, *, state: str = ""
) -> MessageView:
    return MessageView(
        id=id,
        state=state or head.state,
        queue=head.queue,
        actor=head.actor,
        worker=head.owner,
        instance=owner.instance if owner else "",
        worker_alive=owner.is_alive if owner else False,
        started=moment(head.started),
        first_started=moment(head.first or head.started),
        age=max(0.0, (now - head.started) / 1000) if head.started else 0.0,
        run=head.run,
        generation=head.generation,
        crashes=head.crashes,
        drains=head.drains,
        max_recoveries=head.limit if head.limit >= 0 else None,
        alone=head.alone == 1,
        due=moment(int(deadline)) if deadline is not None else None,
    )


#: As `json.loads`, which spends as long again on finding out what it was given.
_decode = json.JSONDecoder().decode


def _head(raw: bytes) -> Head | None:
    line, newline, _ = raw.partition(b"\n")
    if not newline:
        return None
    try:
        return Head.of(_decode(line.decode()))
    except (ValueError, TypeError):
        return None  # damaged, or of another version


def _texts(raw: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in raw.items()}


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")  # what is damaged is shown, and breaks nothing


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 15 else 0


def _names(text: str) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(text)))
    except (ValueError, TypeError):
        return ()


def _moment(ms: int) -> datetime:
    return moment(ms or 1) or datetime.now()
