# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Read-only views of the workers, the messages in flight, and the history, for people and programs.

The command line, the web page and the metrics are made of this; so can yours be::

    inspector = Inspector.of(broker)
    for message in inspector.messages(actor="charge", older_than=600):
        print(message.id, message.instance, message.age)

It reads by the indexes, in a few round trips, and runs no script: no command takes Redis long, however much there is.
Values from different keys may be milliseconds apart.  Every method raises ``redis.RedisError`` when Redis cannot
be reached or refuses, and `SchemaError` when the namespace is written by a version of this package that this one cannot
read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import redis
from dramatiq import Broker
from dramatiq.errors import ConnectionClosed

from ..brokers.dead_letters import DeadLetter
from ..brokers.location import queues_of, tracker_client
from ..brokers.queues import BrokerQueues
from ..config.settings import Settings
from ..errors import ConfigurationError
from ..store.connection import bounded_client_from_url
from ..store.records import AT_A_TIME, Head, head_of, read_heads
from ..store.schema import FIELDS, Held
from ..tracker import tracker_of
from .dead_letters import Choice, DeadLetterView, Index, Letters, newest_first
from .delayed import DelayedIndex, DelayedView
from .history import Count, Event, EventKind
from .parsing import dead_letter_view, message_view, text, texts
from .queues import Throughput, queue_view
from .reader import Instances, Reader
from .views import IN_FLIGHT, WAITING_SHOWN, Aside, MessageView, MinuteView, Overview, QueueView, Tally, WorkerView

__all__ = [
    "Aside",
    "Choice",
    "DeadLetterView",
    "DelayedView",
    "Inspector",
    "MessageView",
    "MinuteView",
    "Overview",
    "QueueView",
    "Tally",
    "WorkerView",
]

#: All dead letters.
EVERYTHING = Choice()

#: More events than are kept.
MOST_EVENTS = 1_000_000

#: The events of an operator's act on a dead letter, whose record stays until a copy starts.
SINCE: dict[EventKind | None, str] = {EventKind.REQUEUED: "requeued", EventKind.DISCARDED: "completed"}


class Inspector(Reader):
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

    #: The application's broker, its queues and its dead letters; None: they cannot be seen from here.
    _broker: Broker | None = None
    _queues = BrokerQueues()
    _letters: Letters | None = None

    @classmethod
    def of(cls, broker: Broker) -> Inspector:
        """Return an inspector of the namespace of the tracker in a broker's middleware.

        Raises:
          ConfigurationError: There is no tracker in it, or it has no Redis.
        """
        settings = tracker_of(broker).settings
        client, shared = tracker_client(settings, broker)
        inspector = cls(client, settings.namespace)
        inspector._broker = broker
        inspector._queues = queues_of(broker, client, shared=shared)
        inspector._letters = Letters(broker, inspector._queues)
        return inspector

    @classmethod
    def from_url(cls, url: str, namespace: str = Settings.namespace) -> Inspector:
        """Return an inspector of the Redis at a URL.

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
        # Messages that wait: not all of them, for there may be very many.
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zrange(self._keys.waiting, 0, WAITING_SHOWN - 1, withscores=True)
        pipeline.zcard(self._keys.waiting)
        pipeline.zcount(self._keys.waiting, "-inf", now)
        pipeline.hlen(self._keys.aside)
        first, waiting, overdue, aside = pipeline.execute()
        shown = [text(id) for id, _ in first]
        tallies: dict[tuple[str, str], list[float]] = {}
        heads = read_heads(self._client, self._keys, [id for ids in running.values() for id, _ in ids])
        starts = {id: started for ids in running.values() for id, started in ids}
        for id, head in heads.items():
            if head.state == "running":
                tally = tallies.setdefault((head.queue, head.actor), [0, 0, 0.0])
                tally[0] += 1
                tally[2] = max(tally[2], (now - starts[id]) / 1000)
        for head in read_heads(self._client, self._keys, shown).values():
            tallies.setdefault((head.queue, head.actor), [0, 0, 0.0])[1] += 1
        return Overview(
            at=datetime.fromtimestamp(now / 1000, tz=UTC),
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

    def queues(self, seen: Overview | None = None) -> list[QueueView] | None:
        """Return the application's queues by name: how much each has, and how quickly that comes and goes.

        Parameters:
          seen: An overview of just now; None: it is read.

        Returns: None if they cannot be seen from here: it takes the application's broker (`of`), and that is to be a
          RedisBroker or a RabbitMQ.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        declared = sorted(self._broker.get_declared_queues()) if self._broker is not None else []
        depths = self._queues.depths(declared)
        if depths is None:
            return None
        seen = seen or self.overview()
        in_flight: Counter[str] = Counter()
        for tally in seen.tallies:
            in_flight[tally.queue] += tally.running
        now, throughput = self._throughput()
        return [queue_view(name, depth, in_flight[name], throughput, now) for name, depth in depths.items()]

    def ended(self) -> dict[str, int]:
        """Return how many messages have ever ended in each queue, tracked or not, as the workers have reported."""
        return self._throughput()[1].ended

    def minutes(self, queue: str | None = None) -> list[MinuteView]:
        """Return which messages ended in each minute of the last hour, tracked or not; the present minute last.

        The workers report every ten seconds.  A message that is put back unrun does not count.

        Parameters:
          queue: Only this; None: all.
        """
        now, throughput = self._throughput()
        return throughput.hour(now, queue)

    def _throughput(self) -> tuple[int, Throughput]:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(self._keys.throughput)
        now, (raw,) = self._timed(pipeline)
        return now, Throughput.of(texts(raw))

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
                message_view(id, head, now, by_id.get(head.owner), due.get(id))
                for id, head in read_heads(self._client, self._keys, chosen[at : at + at_once]).items()
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

        Nothing is known of a message that is queued, or is complete and was run but once.  A dead letter is known where
        the broker can be asked about its dead letters; see `dead_letters`.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zscore(self._keys.waiting, id)
        pipeline.hget(self._keys.aside, id)
        now, (deadline, aside) = self._timed(pipeline)
        head = read_heads(self._client, self._keys, [id]).get(id)
        if head is None and aside is None:
            dead = self.dead_letter(id)
            return None if dead is None else dead_letter_view(dead, now)
        if head is None:
            unreadable = Head("aside", "", 0, 0, 0, "unlimited", 0, 0, 0, 0, "", "", "", "", 0, 0, 0, 0, 0, 0)
            head = head_of(aside) or unreadable
            return message_view(id, head, now, None, None, state="aside")
        owner = self._workers([head.owner], now)[0] if head.owner else None
        view = message_view(id, head, now, owner if owner and owner.instance else None, deadline)
        if view.state == "dead_lettered" and self.dead_letter(id) is None:
            last = self.last_event(id)
            state = SINCE.get(last.kind, view.state) if last is not None else view.state
            view = dataclasses.replace(view, state=state)
        return self._with_progress([view])[0]

    def payload(self, id: str) -> bytes | None:
        """The encoded message, which is the user's data; ``None``: there is none."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(self._keys.record(id))
        pipeline.hget(self._keys.aside, id)
        record, aside = self._read(pipeline)
        raw = record or aside
        if raw is None or not raw.partition(b"\n")[2]:
            letter = self._find_letter(id)
            if letter is not None:
                return letter.data
        if raw is None:
            return None
        head, payload = head_of(raw), bytes(raw.partition(b"\n")[2])
        if head is not None and head.kept_in and not payload:
            pipeline.hget(head.kept_in, head.copy)
            (payload,) = self._read(pipeline)
        return payload or (None if head else bytes(raw))

    def aside(self) -> list[Aside]:
        """The messages that were set aside, with the reasons."""
        found = []
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hkeys(self._keys.aside)
        (ids,) = self._read(pipeline)
        events = self.history(kinds=[EventKind.SET_ASIDE], limit=MOST_EVENTS) if ids else []
        last = {event.message_id: event for event in reversed(events)}
        for id in sorted(ids):
            raw = self._client.hget(self._keys.aside, id)
            if raw is not None:
                head, event = head_of(raw), last.get(text(id))
                found.append(
                    Aside(
                        id=text(id),
                        queue=head.queue if head else "",
                        actor=head.actor if head else "",
                        size=len(raw),
                        reason=event.why if event else "",
                        at=event.at if event else None,
                    )
                )
        return found

    def ids(self, beginning: str) -> list[str]:
        """The ids of all known messages that begin so: those in flight, set aside, dead-lettered, or in the history.

        An id that is known comes alone, though it is the beginning of others.
        """
        _, _, running = self._look()
        found = {id for ids in running.values() for id, _ in ids} | self._waiting().keys()
        found |= {one.id for one in self.aside()}
        found |= {event.message_id for event in self.history(limit=MOST_EVENTS)}
        with contextlib.suppress(ConnectionClosed):
            known = self._letters.known() if self._letters is not None else None
            found |= {letter.id for letter in self.dead_letters() or ()} if known is None else known
        found.discard("")  # of events that are about no message
        return [beginning] if beginning in found else sorted(id for id in found if id.startswith(beginning))

    def dead_letters(self, choice: Choice = EVERYTHING, *, limit: int | None = None) -> list[DeadLetterView] | None:
        """The dead letters of the application's queues, of whatever kind, newest first.

        Parameters:
          choice: Which.
          limit: So many at the most.

        Returns: None if they cannot be seen from here: it takes the application's broker (`of`), and that is to be a
          RedisBroker or a RabbitMQ.  RabbitMQ 4.0 to 4.2 would count the look at a quorum queue's messages.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        if self._letters is None:
            return None
        found: list[DeadLetterView] = []
        reasons = self.reasons()
        for queue in self._letters.names(choice.queue):
            with self._letters.of(queue) as letters:
                if letters is None:
                    return None
                views = (self._letters.view(letter, reasons.get(letter.id)) for letter in letters)
                chosen = filter(choice.has, views)
                found += itertools.islice(chosen, limit) if letters.newest_first else chosen
        found.sort(key=newest_first)
        return found[:limit]

    def index_dead_letters(self) -> Index | None:
        """Keep all dead letters in memory from now on, for a program that asks again and again; None as above.

        Nothing is read before `Index.refresh`.
        """
        if self._letters is not None and self._letters.index is None:
            self._letters.index = Index(self._letters, self.reasons)
        return self._letters.index if self._letters is not None else None

    def delayed(self, choice: Choice = EVERYTHING) -> list[DelayedView] | None:
        """Return the delayed messages in the application's queues, retries included; the one that is due soonest comes
        first.

        Returns: None if that cannot be seen from here: it takes the application's broker (`of`), and that is to be a
          RedisBroker.  RabbitMQ shows nobody what workers hold.
        """
        index = self.index_delayed()
        return choice.of(index.found) if index is not None and index.refresh() else None

    def index_delayed(self) -> DelayedIndex | None:
        """Return an index of what waits for its time, for a program that asks again and again; None as above.

        Nothing is read before `DelayedIndex.refresh`.
        """
        return None if self._broker is None else DelayedIndex(self._broker, self._queues)

    def count_dead_letters(self) -> int | None:
        """Return how many dead letters there are; None as for `dead_letters`.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        if self._letters is None:
            return None
        total = 0
        for queue in self._letters.names():
            with self._letters.of(queue) as letters:
                if letters is None:
                    return None
                total += letters.count()
        return total

    def dead_letter(self, message_id: str) -> DeadLetterView | None:
        """The dead letter of a message; None if there is none, or it cannot be seen from here, or not now."""
        letter = self._find_letter(message_id)
        if letter is None or self._letters is None:
            return None
        events = self.history(kinds=[EventKind.DEAD_LETTERED], message_id=message_id, limit=1)
        return self._letters.view(letter, next(iter(events), None))

    def _find_letter(self, message_id: str) -> DeadLetter | None:
        with contextlib.suppress(ConnectionClosed):  # RabbitMQ is away: what Redis knows is worth showing
            return self._letters.find(message_id) if self._letters is not None else None
        return None

    def reasons(self) -> dict[str, Event]:
        """The last event by which each message came to a dead-letter queue, by its id."""
        events = self.history(kinds=[EventKind.DEAD_LETTERED], limit=MOST_EVENTS)
        return {event.message_id: event for event in reversed(events)}

    def is_unused(self) -> bool:
        """Return True if nobody has ever been in the namespace, or nobody for a month."""
        return not self._client.exists(self._keys.schema, self._keys.history, self._keys.heartbeats)

    def nearest_namespace(self) -> str:
        """Return the namespace with a name most like this one, of those in which workers live; empty if none is.

        Their workers are subscribed: there is no need to look through all keys of this Redis.
        """
        found = set[str]()
        for channels in ("CHANNELS", "SHARDCHANNELS"):
            with contextlib.suppress(redis.ResponseError):  # the user may not, or the server has none of these
                for name in self._client.execute_command("PUBSUB", channels, "{*}:in:*"):
                    found.add(text(name)[1:].rpartition("}:in:")[0])
        return next(iter(difflib.get_close_matches(self.namespace, found, 1, 0.6)), "")

    def overdue(self) -> int:
        """Return how many messages wait for a copy that should have started by now."""
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
        instances = Instances(self)
        while len(found) < limit:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.xrevrange(self._keys.history, last, first, at_once)
            (entries,) = self._read(pipeline)
            events = [Event.of(id.decode(), texts(raw)) for id, raw in entries if raw]
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

    def last_event(self, message_id: str) -> Event | None:
        """The last thing that happened to a message; None if the history has nothing of it."""
        return next(iter(self.history(message_id=message_id, limit=1)), None)

    def counts(self) -> list[Count]:
        """Return how often each event ever happened, by queue and actor."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(self._keys.counts)
        (raw,) = self._read(pipeline)
        return sorted(
            (Count.of(name.decode(), int(number)) for name, number in raw.items()),
            key=lambda count: (count.kind, count.queue, count.actor),
        )

    def schema(self) -> int:
        """Return which schema is in use in the namespace, known or not; 0: nothing was written there yet."""
        return Held.of(self._client.hmget(self._keys.schema, FIELDS)).schema
