# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The messages that Dramatiq's RedisBroker keeps in Redis for a worker, and how to return those of a dead one.

The key names are those at the head of Dramatiq's ``dispatch.lua`` (the same from 2.0 to 2.2).  Nothing is moved by
hand: the broker's own ``requeue`` command does it, which moves a message only if the ack set still has it.  So it
never doubles with the broker's own maintenance, or with another recoverer.
"""

from __future__ import annotations

import copy
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import redis
from dramatiq import Broker, Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis, dq_name, xq_name

from ..store.connection import close_client
from ..store.errors import comes_and_goes
from ..store.records import Head
from ..store.scripts import BATCH
from ..store.transport import Call
from .dead_letters import DeadLetter, DeadLetters
from .following import Following, drop_idle
from .queues import Answers, BrokerQueues, Complete, Depth, Registered

__all__ = ["EnqueueBatch", "RedisQueues", "RedisQueuesApart", "batch_of"]

#: For how long a command that was given up may still arrive, seconds: kernels send again for a quarter of an hour.
MAY_ARRIVE = 3600.0

#: How many queues are asked about at a time.
QUEUES = 100

#: How many dead letters are read at a time.
LETTERS = 500

#: The most bytes of letters that one command reads.  A larger letter is read by itself.
MOST_BYTES = 256 * 1024

#: The parts of a RedisBroker's enqueue, as Dramatiq has it.
ENQUEUE = {name: getattr(RedisBroker, name, None) for name in ("enqueue", "do_enqueue", "_dispatch")}


class RedisQueues(BrokerQueues):
    """The queues of one RedisBroker, on the tracker's own Redis.

    No thread of the tracker uses the broker's own client, which may wait for an answer for ever.

    Parameters:
      client: A client of the broker's Redis, with the tracker's bounds.
    """

    shared = True

    def __init__(self, broker: RedisBroker, client: redis.Redis) -> None:
        self.broker = broker
        self.namespace: str = broker.namespace
        self._client = client
        #: Not on Redis Cluster, where a script cannot see keys of another hash slot.
        self.completes_with_ack = self.shared and not isinstance(client, redis.RedisCluster)
        self._keys: dict[str, tuple[str, ...]] = {}
        self._gave_back_at = float("-inf")

    @property
    def custody(self) -> str:
        """As `BrokerQueues.custody`."""
        return f"a RedisBroker, namespace {self.namespace!r}"

    def identity(self) -> dict[str, str]:
        """As `BrokerQueues.identity`."""
        return {
            "broker_namespace": self.namespace,
            "broker_id": self.broker.broker_id,
            "queues": json.dumps(self.names()),
        }

    def close(self) -> None:
        """Close the connections."""
        close_client(self._client)

    def attach(self, complete: Complete) -> None:
        """Have the broker's own commands get back to the right server after a failover, too; and its acks complete."""
        script = self.broker.scripts["dispatch"]
        if not isinstance(script, Following):
            self.broker.scripts["dispatch"] = Following(script)
        if self.completes_with_ack:
            self._ack_with(complete)

    def forked(self) -> None:
        """Give the broker's pool new locks in a forked child: redis-py 8 waits there for the old ones, for ever."""
        pool = getattr(self.broker.client, "connection_pool", None)
        for name in ("_lock", "_fork_lock"):
            if hasattr(pool, name):
                setattr(pool, name, threading.RLock())

    def detach(self) -> None:
        """Leave the broker's commands and acknowledgements to the broker again."""
        self.broker.__dict__.pop("do_ack", None)
        script = self.broker.scripts["dispatch"]
        if isinstance(script, Following):
            self.broker.scripts["dispatch"] = script.plain

    def keys(self, queue: str) -> tuple[str, ...]:
        """As `BrokerQueues.keys`."""
        keys = self._keys.get(queue)
        if keys is None:
            keys = (self._acks(self.broker.broker_id, queue), self._messages(queue)) if self.completes_with_ack else ()
            self._keys[queue] = keys
        return keys

    def _ack_with(self, complete: Complete) -> None:
        """Let a worker's acknowledgements take another script along, in one write.

        A message that is finished in the same write as it is acknowledged cannot be killed in between.
        """

        def do_ack(queue: str, copy_id: str) -> None:
            try:
                complete(queue, copy_id, self.ack_call(queue, copy_id))
            except redis.RedisError as error:
                if comes_and_goes(error):
                    # Dramatiq tries an ack again after a connection error, and gives it up after any other.
                    raise redis.ConnectionError(str(error)) from error
                raise

        # RedisBroker finds its commands by __getattr__: an attribute of the object comes first.
        self.broker.do_ack = do_ack  # type: ignore[attr-defined]

    def names(self) -> list[str]:
        """All queues that a worker of this broker may fetch from."""
        return sorted(self.broker.get_declared_queues() | self.broker.get_declared_delay_queues())

    def held(self, copies: Sequence[tuple[str, str]]) -> list[bool]:
        """Return whether the broker still holds each copy, given as queue and the broker's id; delayed ones included.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        pipeline = self._client.pipeline(transaction=False)
        for queue, copy_id in copies:
            pipeline.hexists(self._messages(queue), copy_id)
            pipeline.hexists(self._messages(dq_name(queue)), copy_id)
        answers = pipeline.execute()
        return [bool(answers[i] or answers[i + 1]) for i in range(0, len(answers), 2)]

    def payload(self, queue: str, copy_id: str) -> bytes:
        """The encoded message as the broker has it; empty if it has none.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        data = self._client.hget(self._messages(queue), copy_id)
        return data if isinstance(data, bytes) else b""

    def depths(self, queues: Iterable[str]) -> dict[str, Depth]:
        """As `BrokerQueues.depths`; in three round trips for each hundred queues."""
        found: dict[str, Depth] = {}
        names = list(queues)
        for at in range(0, len(names), QUEUES):
            found |= self._depths(names[at : at + QUEUES])
        return found

    def _depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        pipeline = self._client.pipeline(transaction=False)
        for queue in queues:
            pipeline.llen(f"{self.namespace}:{queue}")
            pipeline.hlen(self._messages(queue))
            pipeline.hlen(self._messages(dq_name(queue)))
            pipeline.zcard(f"{self.namespace}:{xq_name(queue)}")
            pipeline.lindex(f"{self.namespace}:{queue}", 0)
        replies = pipeline.execute()
        rows = {queue: replies[5 * i : 5 * i + 5] for i, queue in enumerate(queues)}
        first = self._first({queue: row[4] for queue, row in rows.items() if row[4] is not None})
        return {
            queue: Depth(ready, delayed, max(0, stored - ready), dead, first.get(queue, b""))
            for queue, (ready, stored, delayed, dead, _) in rows.items()
        }

    def _first(self, ids: Mapping[str, bytes]) -> dict[str, bytes]:
        """Read one message of each queue, but for those that are so large that Redis takes long."""
        pipeline = self._client.pipeline(transaction=False)
        for queue, copy_id in ids.items():
            pipeline.hstrlen(self._messages(queue), copy_id)
        small = [queue for queue, size in zip(ids, pipeline.execute(), strict=True) if 0 < size <= MOST_BYTES]
        for queue in small:
            pipeline.hget(self._messages(queue), ids[queue])
        return {queue: data for queue, data in zip(small, pipeline.execute(), strict=True) if data is not None}

    @contextmanager
    def dead_letters(self, queue: str) -> Iterator[DeadLetters | None]:
        """As `BrokerQueues.dead_letters`; the newest come first."""
        yield RedisDeadLetters(self._client, self.namespace, queue)

    def delayed(self, queue: str) -> Iterator[list[str]]:
        """As `BrokerQueues.delayed`: what no worker has fetched, and what each has in its memory."""
        name = dq_name(queue)
        for at in itertools.count(0, LETTERS):
            ids = cast("list[bytes]", self._client.lrange(f"{self.namespace}:{name}", at, at + LETTERS - 1))
            if not ids:
                break
            yield [id.decode("utf-8", "backslashreplace") for id in ids]
        heartbeats = f"{self.namespace}:__heartbeats__"
        for at in itertools.count(0, LETTERS):
            workers = cast("list[bytes]", self._client.zrange(heartbeats, at, at + LETTERS - 1))
            if not workers:
                break
            pipeline = self._client.pipeline(transaction=False)
            for worker in workers:
                pipeline.smembers(self._acks(worker.decode("utf-8", "backslashreplace"), name))
            for members in pipeline.execute():
                yield [id.decode("utf-8", "backslashreplace") for id in members]

    def delayed_messages(self, queue: str, copy_ids: list[str]) -> dict[str, bytes]:
        """As `BrokerQueues.delayed_messages`."""
        found: dict[str, bytes] = {}
        for at in range(0, len(copy_ids), LETTERS):
            ids = copy_ids[at : at + LETTERS]
            bodies = bodies_of(self._client, self._messages(dq_name(queue)), ids)
            found |= {id: data for id, data in zip(ids, bodies, strict=True) if data is not None}
        return found

    def versions(self, queues: Iterable[str]) -> dict[str, object]:
        """As `BrokerQueues.versions`: how many there are, and the newest."""
        names = list(queues)
        pipeline = self._client.pipeline(transaction=False)
        for queue in names:
            pipeline.zcard(f"{self.namespace}:{xq_name(queue)}")
            pipeline.zrevrange(f"{self.namespace}:{xq_name(queue)}", 0, 0)
        replies = pipeline.execute()
        return {queue: (replies[2 * i], *replies[2 * i + 1]) for i, queue in enumerate(names)}

    def has_dead_letter(self, queue: str, copy_id: str) -> bool:
        """Return whether that copy is in the dead-letter queue.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return bool(self._client.hexists(self._messages(xq_name(queue)), copy_id))

    def has_delivery(self, queue: str, copy_id: str) -> tuple[bool, bool]:
        """Return whether a delivery to this broker is still its own, and whether the broker has the message at all.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.sismember(self._acks(self.broker.broker_id, queue), copy_id)
        pipeline.hexists(self._messages(queue), copy_id)
        own, stored = pipeline.execute()
        return bool(own), bool(stored)

    def gives_back(self) -> None:
        """Note that a worker of this broker gives back what it has fetched.

        The command may arrive once more, minutes after it was given up and sent again.  It then takes away what the
        worker has fetched anew.
        """
        self._gave_back_at = time.monotonic()

    @property
    def has_given_back(self) -> bool:  # type: ignore[override]
        """True while a command that gave something back may still arrive."""
        return time.monotonic() - self._gave_back_at < MAY_ARRIVE

    def ack_call(self, queue: str, copy_id: str) -> Call:
        """The broker's script that acknowledges one of its own copies."""
        return self._command("ack", current_millis(), queue, self.broker.broker_id, [copy_id])

    def acknowledge(self, queue: str, copy_id: str, run: Callable[[Call], object]) -> None:
        """As `BrokerQueues.acknowledge`."""
        run(self.ack_call(queue, copy_id))

    def take_back(self, queue: str, copy_id: str, broker_ids: Collection[str]) -> bool:
        """Move a message back to its queue from whichever of these workers has fetched it.

        If that worker has it in memory after all, its start finds that it is not its own any more.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        ids = list(broker_ids)
        pipeline = self._client.pipeline(transaction=False)
        for broker_id in ids:
            pipeline.sismember(self._acks(broker_id, queue), copy_id)
        holders = [broker_id for broker_id, has in zip(ids, pipeline.execute(), strict=True) if has]
        for broker_id in holders:
            # At the present time, which the command notes as a heartbeat: a living worker must not look dead.
            self._requeue(broker_id, queue, [copy_id], at=current_millis())
        return bool(holders)

    def give_back(self, broker_id: str, queues: Collection[str]) -> int:
        """Move all that a worker had fetched back to its queues, a batch at a time.

        Returns: how many messages there were.

        Raises:
          redis.RedisError: Redis cannot be reached; what was moved is moved, the rest stays.
        """
        moved = 0
        for queue in queues:
            key = self._acks(broker_id, queue)
            # A worker that is not dead after all may fetch more meanwhile: only what is there now.
            for _ in range(0, self._client.scard(key), BATCH):
                ids = cast("list[bytes | str]", self._client.srandmember(key, BATCH))
                if not ids:
                    break
                self._requeue(broker_id, queue, ids)
                moved += len(ids)
        return moved

    def give_back_own(self, registered: Registered) -> None:
        """As `BrokerQueues.give_back_own`; not if an earlier worker of this process, or a fork, has the same id."""
        if registered().count((self.namespace, self.broker.broker_id)) <= 1:
            self.give_back(self.broker.broker_id, self.names())

    def give_back_unheld(self, queue: str, held: Collection[str]) -> int:
        """Move what this broker has fetched from a queue back to it, but for what is held in this process.

        At the present time: a living worker must not look dead.

        Returns: how many messages there were.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        key = self._acks(self.broker.broker_id, queue)
        if self._client.scard(key) == 0:
            return 0
        members = cast("set[bytes]", self._client.smembers(key))
        strays = [id for id in members if id.decode() not in held]
        for start in range(0, len(strays), BATCH):
            self._requeue(self.broker.broker_id, queue, strays[start : start + BATCH], at=current_millis())
        return len(strays)

    def is_empty(self, broker_id: str, queues: Collection[str]) -> bool:
        """Return whether a worker has nothing left that it had fetched."""
        keys = [self._acks(broker_id, queue) for queue in queues]
        return not keys or not self._client.exists(*keys)

    def keeps(self, head: Head) -> bool:
        """As `BrokerQueues.keeps`: no name of a queue has a colon."""
        return not head.kept_in or head.kept_in.rpartition(":")[0] == self.namespace

    def sharing(self, namespace: str) -> RedisQueues | None:
        """As `BrokerQueues.sharing`."""
        return self if namespace == self.namespace else None

    def ask(self, heads: Mapping[str, Head], declared: Collection[str], registered: Registered) -> Answers:
        """As `BrokerQueues.ask`.

        A copy that the broker has is in a long queue, or stranded with a living worker whose fetch timed out on a
        stalled Redis.  It goes back to its queue: should a worker have it in memory after all, its start will know.
        """
        held = self._held_of(heads)
        brokers = [id for namespace, id in registered() if namespace == self.namespace] if any(held.values()) else []
        returned = sum(self.take_back(heads[id].queue, heads[id].copy, brokers) for id, has in held.items() if has)
        return {id: "held" if has else "consumed" for id, has in held.items()}, returned

    def _held_of(self, heads: Mapping[str, Head]) -> dict[str, bool]:
        """Return whether the broker has each copy; of those that it can be asked about."""
        named = {id: head for id, head in heads.items() if head.copy}
        held = self.held([(head.queue, head.copy) for head in named.values()]) if named else []
        return dict(zip(named, held, strict=True))

    def _requeue(self, broker_id: str, queue: str, ids: Sequence[bytes | str], *, at: int = 0) -> None:
        # As RedisBroker's own do_requeue, but in the other worker's name.  The command also notes a heartbeat for that
        # name: at time 0 for the dead, so that they look no younger than they are.
        if broker_id == self.broker.broker_id:
            self.gives_back()
        script, keys, args = self._command("requeue", at, queue, broker_id, ids)
        script(keys=keys, args=args, client=self._client)

    def _command(self, command: str, at: int, queue: str, broker_id: str, ids: Sequence[bytes | str]) -> Call:
        broker = self.broker
        args = [
            *(command, at, queue, broker_id, broker.heartbeat_timeout, broker.dead_message_ttl),
            *(0, broker._max_unpack_size(), *ids),
        ]
        script = broker.scripts["dispatch"]
        return Call(script.plain if isinstance(script, Following) else script, [broker.namespace], args)

    def _acks(self, broker_id: str, queue: str) -> str:
        return f"{self.namespace}:__acks__.{broker_id}.{queue}"

    def _messages(self, queue: str) -> str:
        return f"{self.namespace}:{queue}.msgs"


class RedisQueuesApart(RedisQueues):
    """The queues of a RedisBroker on another Redis: no script sees both that and the tracker's."""

    shared = False
    identity = BrokerQueues.identity
    give_back_own = BrokerQueues.give_back_own
    payload = BrokerQueues.payload
    acknowledge = BrokerQueues.acknowledge
    sharing = BrokerQueues.sharing

    def ask(self, heads: Mapping[str, Head], declared: Collection[str], registered: Registered) -> Answers:
        """As `BrokerQueues.ask`; another copy is made of what the broker does not have, which it may have lost."""
        return {id: "held" for id, has in self._held_of(heads).items() if has}, 0


class RedisDeadLetters(DeadLetters):
    """The dead letters of one queue of a RedisBroker, the newest first."""

    newest_first = True

    def __init__(self, client: redis.Redis, namespace: str, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._key = f"{namespace}:{xq_name(queue)}"
        self._at = 0

    def read(self, known: Collection[str]) -> Iterator[DeadLetter]:
        """As `DeadLetters`."""
        self._at, before = 0, set[bytes]()
        while True:
            found = cast(
                "list[tuple[bytes, float]]",
                self._client.zrevrange(self._key, self._at, self._at + LETTERS - 1, withscores=True),
            )
            if not found:
                return
            self._at += len(found)
            # New letters move what was read before to where is read now.
            fresh = [(id, score) for id, score in found if id not in before]
            before = {id for id, _ in found}
            if not fresh:
                continue
            yield from self._letters(fresh, known)

    def some(self, copy_ids: Iterable[str]) -> Iterator[DeadLetter]:
        """As `DeadLetters`."""
        ids = list(copy_ids)
        for at in range(0, len(ids), LETTERS):
            batch = [id.encode() for id in ids[at : at + LETTERS]]
            pipeline = self._client.pipeline(transaction=False)
            for id in batch:
                pipeline.zscore(self._key, id)
            scores = pipeline.execute()
            there = [(id, score) for id, score in zip(batch, scores, strict=True) if score is not None]
            yield from self._letters(there, ())

    def _letters(self, found: Sequence[tuple[bytes, float]], known: Collection[str]) -> Iterator[DeadLetter]:
        named = [(id, id.decode("utf-8", "backslashreplace"), int(score)) for id, score in found]
        unknown = [id for id, copy_id, _ in named if copy_id not in known]
        bodies = dict(zip(unknown, bodies_of(self._client, f"{self._key}.msgs", unknown), strict=True))
        for id, copy_id, at_ms in named:
            data = bodies.get(id, b"")
            if data is not None:
                yield DeadLetter(self._queue, data, copy_id, at_ms)

    def count(self) -> int:
        """As `DeadLetters.count`."""
        return self._client.zcard(self._key)

    def drop(self, letter: DeadLetter) -> None:
        """As `DeadLetters.drop`."""
        pipeline = self._client.pipeline()
        pipeline.zrem(self._key, letter.copy_id)
        pipeline.hdel(f"{self._key}.msgs", letter.copy_id)
        self._at -= pipeline.execute()[0]


def bodies_of(client: redis.Redis, key: str, ids: Sequence[bytes | str]) -> Iterator[bytes | None]:
    """Read messages from their hash, in commands that take Redis a moment each, however large they are."""
    if not ids:
        return
    pipeline = client.pipeline(transaction=False)
    for id in ids:
        pipeline.hstrlen(key, cast("str", id))

    def read(batch: list[bytes | str]) -> list[bytes | None]:
        return cast("list[bytes | None]", client.hmget(key, batch))

    batch, size = list[bytes | str](), 0
    for id, length in zip(ids, pipeline.execute(), strict=True):
        if batch and size + length > MOST_BYTES:
            yield from read(batch)
            batch, size = [], 0
        batch.append(id)
        size += length
    yield from read(batch)


class EnqueueBatch(Protocol):
    """Enqueues messages, each with its delay in milliseconds; returns each as enqueued, or its error.

    A message whose error is passing (`is_passing`) may have arrived.
    """

    def __call__(self, copies: Sequence[tuple[Message[Any], int | None]]) -> list[Message[Any] | Exception]: ...


def batch_of(broker: Broker) -> EnqueueBatch | None:
    """Return what enqueues several messages in one write; None if the broker has to be given one at a time.

    A broker with an `enqueue` of its own has that called for each message.
    """
    if (
        not isinstance(broker, RedisBroker)
        or not isinstance(broker.client, redis.Redis)  # a cluster's pipelines run no scripts
        or any(getattr(type(broker), name, None) is not plain for name, plain in ENQUEUE.items())
        or vars(broker).keys() & ENQUEUE
    ):
        return None

    def enqueue_batch(copies: Sequence[tuple[Message[Any], int | None]]) -> list[Message[Any] | Exception]:
        return _enqueue(broker, copies)

    return enqueue_batch


def _enqueue(broker: RedisBroker, copies: Sequence[tuple[Message[Any], int | None]]) -> list[Message[Any] | Exception]:
    # Dramatiq's own `enqueue` runs for each message, on a twin of the broker.  The twin's script writes to a pipeline,
    # and its hooks are the broker's: those behind the enqueue wait for the answer.
    pipeline = broker.client.pipeline(transaction=False)
    script, encoder = broker.scripts["dispatch"], broker.client.get_encoder()
    written: list[tuple[Message[Any], int | None]] = []

    def write(keys: list[Any], args: list[Any]) -> None:
        data = encoder.encode(args[-1])  # or what cannot be sent would keep the others from being sent
        pipeline.evalsha(script.sha, len(keys), *keys, *args[:-1], data)

    twin: Any = copy.copy(broker)
    twin.scripts = {**broker.scripts, "dispatch": write}
    twin.emit_before = broker.emit_before
    twin.emit_after = lambda signal, message, delay: written.append((message, delay))
    results: list[Message[Any] | Exception] = []
    for message, delay in copies:
        try:
            results.append(twin.enqueue(message, delay=delay))
        except Exception as error:
            results.append(error)
    try:
        answers = pipeline.execute(raise_on_error=False)
    except Exception as error:
        answers = [error] * len(written)
    except BaseException:
        drop_idle(broker.client)  # an interrupt: the pipeline's connection still has answers for somebody else to read
        raise
    sent = [at for at, result in enumerate(results) if not isinstance(result, Exception)]
    # The last one first: hooks may nest, such as those that enter a context and leave it.
    for at, answer, (message, delay) in reversed(list(zip(sent, answers, written, strict=True))):
        if isinstance(answer, Exception):
            results[at] = answer
        else:
            broker.emit_after("enqueue", message, delay)
    return results
