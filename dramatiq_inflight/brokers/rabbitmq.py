# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ's queues: how many messages are ready in each, and which messages are dead letters."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from dramatiq import Broker
from dramatiq.common import dq_name, xq_name
from dramatiq.errors import ConnectionClosed

from ..store.records import Head
from .dead_letters import DeadLetter, DeadLetters
from .queues import Answers, BrokerQueues, Depth, Registered

__all__ = ["RabbitmqQueues"]

#: From the first version to the one before the second a look at a message of a quorum queue counts as a delivery.
LOOKS_COUNT = (4, 0), (4, 3)

#: RabbitMQ's reason for a dead letter that nobody has rejected: a quorum queue's delivery limit.
BY_LIMIT = "delivery_limit"


class RabbitmqQueues(BrokerQueues):
    """The queues of one RabbitmqBroker."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker

    @classmethod
    def of(cls, broker: Broker) -> RabbitmqQueues | None:
        """Return the queues of a RabbitmqBroker; None for any other broker."""
        module = sys.modules.get("dramatiq.brokers.rabbitmq")  # not imported here: that takes pika
        return cls(broker) if module is not None and isinstance(broker, module.RabbitmqBroker) else None

    @property
    def custody(self) -> str:
        """As `BrokerQueues.custody`."""
        parameters = self.broker.parameters  # of one node or several
        first = parameters[0] if isinstance(parameters, list) and parameters else parameters
        vhost = getattr(first, "virtual_host", None)
        return f"RabbitMQ, virtual host {vhost!r}" if vhost is not None else ""

    def ask(self, heads: Mapping[str, Head], declared: Collection[str], registered: Registered) -> Answers:
        """As `BrokerQueues.ask`; RabbitMQ says of a queue that it has messages, and not which."""
        enqueued = {id: head.queue for id, head in heads.items() if head.tries and head.queue in declared}
        try:
            may_have = {queue: self.may_have(queue) for queue in set(enqueued.values())}
        except Exception:
            return {}, 0  # it cannot be reached: nor can another copy be enqueued
        return {id: "maybe" for id, queue in enqueued.items() if may_have[queue]}, 0

    def may_have(self, queue: str) -> bool:
        """Return True if messages are ready in a queue or its delay queue; False if none is, or there is no such queue.

        RabbitMQ does not count the messages that it has delivered.

        Raises:
          Exception: RabbitMQ cannot be reached.
        """
        return any(self._ready(name) for name in (queue, dq_name(queue)))

    def version(self) -> tuple[int, int]:
        """Return RabbitMQ's version.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        with self._channel() as channel:
            return version_of(channel)

    def depths(self, queues: Iterable[str]) -> dict[str, Depth]:
        """As `BrokerQueues.depths`.  RabbitMQ tells a client neither what is fetched nor since when a message waits."""
        with self._channel() as first:
            channels = [first]

            def ready(name: str) -> int:
                number = ready_in(channels[0], name)
                if number is None:
                    channels[0] = first.connection.channel()
                return number or 0

            return {queue: Depth(ready(queue), ready(dq_name(queue)), None, ready(xq_name(queue))) for queue in queues}

    @contextmanager
    def dead_letters(self, queue: str) -> Iterator[DeadLetters | None]:
        """As `BrokerQueues.dead_letters`; None if RabbitMQ would count the look at them."""
        with self._channel() as channel:
            if LOOKS_COUNT[0] <= version_of(channel) < LOOKS_COUNT[1]:
                yield None
                return
            letters = RabbitmqDeadLetters(channel, queue)
            try:
                yield letters
            finally:
                letters.return_all()

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        """A channel of its own: the broker's would be closed if there is no such queue."""
        import pika  # noqa: PLC0415  an optional dependency of Dramatiq

        try:
            connection = pika.BlockingConnection(self.broker.parameters)
            try:
                yield connection.channel()
            finally:
                connection.close()
        except (pika.exceptions.AMQPError, OSError) as error:
            raise ConnectionClosed(error) from None

    def _ready(self, name: str) -> int:
        from pika.exceptions import AMQPChannelError, AMQPConnectionError  # noqa: PLC0415  it is there by now

        for last in (False, True):
            try:
                # Passive: nothing is declared, so the arguments of the queue do not matter.
                return int(self.broker.channel.queue_declare(queue=name, passive=True).method.message_count)
            except AMQPChannelError:
                del self.broker.channel  # there is no such queue, and RabbitMQ closes the channel for that
                return 0
            except AMQPConnectionError:
                del self.broker.connection  # it was idle for too long, perhaps
                if last:
                    raise
        raise AssertionError


def ready_in(channel: Any, name: str) -> int | None:
    """Return how many messages of a queue no worker has fetched; None if there is no such queue.

    Then RabbitMQ has closed the channel.
    """
    from pika.exceptions import ChannelClosedByBroker  # noqa: PLC0415  it is there by now

    try:
        # Passive: nothing is declared, so the arguments of the queue do not matter.
        return int(channel.queue_declare(queue=name, passive=True).method.message_count)
    except ChannelClosedByBroker:
        return None


def version_of(channel: Any) -> tuple[int, int]:
    """Return the version of the RabbitMQ that a channel leads to."""
    major, minor = channel.connection._impl.server_properties["version"].split(".")[:2]
    return int(major), int(minor)


class RabbitmqDeadLetters(DeadLetters):
    """The dead letters of one queue of RabbitMQ, the oldest first: fetched, and returned in the end."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._fetched: list[int] = []
        self._dropped: set[int] = set()

    def read(self, known: Collection[str]) -> Iterator[DeadLetter]:
        """As `DeadLetters`; once only, and all of each: there are no ids."""
        from pika.exceptions import ChannelClosedByBroker  # noqa: PLC0415  it is there by now

        while True:
            try:
                method, properties, body = self._channel.basic_get(xq_name(self._queue))
            except ChannelClosedByBroker:
                return  # there is no such queue
            if method is None:
                return
            self._fetched.append(method.delivery_tag)
            death = ((properties.headers or {}).get("x-death") or [{}])[0]
            at = death.get("time")
            at_ms = int(at.replace(tzinfo=UTC).timestamp() * 1000) if isinstance(at, datetime) else 0
            yield DeadLetter(self._queue, body, "", at_ms, str(death.get("reason", "")), method.delivery_tag)

    def count(self) -> int:
        """As `DeadLetters.count`; to be asked before the letters are read."""
        return ready_in(self._channel, xq_name(self._queue)) or 0

    def drop(self, letter: DeadLetter) -> None:
        """As `DeadLetters.drop`."""
        self._channel.basic_ack(letter.tag)
        self._dropped.add(letter.tag)

    def return_all(self) -> None:
        """By ``basic.nack``, one after the other: what returns with its connection is counted on quorum queues."""
        if self._channel.is_open:
            for tag in self._fetched:
                if tag not in self._dropped:
                    self._channel.basic_nack(tag, requeue=True)
