# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ's queues: how many messages are ready in each, and which messages are dead letters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker, Message
from dramatiq.common import dq_name, xq_name
from dramatiq.errors import ConnectionClosed, DecodeError

from ..store.records import Head
from .queues import Answers, BrokerQueues, Registered

__all__ = ["DeadLetter", "RabbitmqQueues"]

#: From the first version to the one before the second a look at a message of a quorum queue counts as a delivery.
LOOKS_COUNT = (4, 0), (4, 3)

#: RabbitMQ's reason for a dead letter that nobody has rejected: a quorum queue's delivery limit.
BY_LIMIT = "delivery_limit"


@dataclass(frozen=True)
class DeadLetter:
    """A message in a dead-letter queue.

    Parameters:
      message: None if it cannot be decoded.
      reason: RabbitMQ's: ``rejected`` by a worker, or ``delivery_limit``.
      tag: The delivery's, on the channel that has looked at it.
    """

    message: Message[Any] | None
    reason: str
    tag: int


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

    def dead_letters(self, queue: str, most: int) -> list[DeadLetter] | None:
        """Return the first dead letters of a queue, at most so many; None if RabbitMQ would count the look at them.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        with self._channel() as channel:
            if LOOKS_COUNT[0] <= version_of(channel) < LOOKS_COUNT[1]:
                return None
            found = []
            for letter in self._look(channel, queue):
                found.append(letter)
                if len(found) == most:
                    break
            _return_all(channel, found)
            return found

    def replay(self, queue: str, message_id: str, enqueue: Callable[[Message[Any]], bool]) -> bool | None:
        """Enqueue a dead letter of a queue, and take it out of the dead-letter queue.

        Parameters:
          enqueue: Returns False if it has not enqueued the message, which stays a dead letter then.

        Returns: what `enqueue` has returned; None if there is no such dead letter, or RabbitMQ would count the look.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        with self._channel() as channel:
            if LOOKS_COUNT[0] <= version_of(channel) < LOOKS_COUNT[1]:
                return None
            seen = []
            for letter in self._look(channel, queue):
                if letter.message is not None and str(letter.message.message_id) == message_id:
                    done = enqueue(letter.message)
                    if done:
                        channel.basic_ack(letter.tag)
                    else:
                        seen.append(letter)
                    _return_all(channel, seen)
                    return done
                seen.append(letter)
            _return_all(channel, seen)
            return None

    def _look(self, channel: Any, queue: str) -> Iterator[DeadLetter]:
        from pika.exceptions import ChannelClosedByBroker  # noqa: PLC0415  it is there by now

        while True:
            try:
                method, properties, body = channel.basic_get(xq_name(queue))
            except ChannelClosedByBroker:
                return  # there is no such queue
            if method is None:
                return
            try:
                message = Message.decode(body)
            except DecodeError:
                message = None
            deaths = (properties.headers or {}).get("x-death") or [{}]
            yield DeadLetter(message, str(deaths[0].get("reason", "")), method.delivery_tag)

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


def version_of(channel: Any) -> tuple[int, int]:
    """Return the version of the RabbitMQ that a channel leads to."""
    major, minor = channel.connection._impl.server_properties["version"].split(".")[:2]
    return int(major), int(minor)


def _return_all(channel: Any, letters: list[DeadLetter]) -> None:
    """By ``basic.nack``, one after the other: what returns with its connection is counted on quorum queues."""
    if channel.is_open:
        for letter in letters:
            channel.basic_nack(letter.tag, requeue=True)
