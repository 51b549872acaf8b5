# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the broker thinks of a delivery, where it is not on the tracker's Redis: is it ours, and is it acknowledged?

RabbitMQ takes back what was delivered on a connection that is lost, and delivers it again; and Dramatiq's consumer
sends its acknowledgements later, from its own thread.  So a message that was finished is remembered until its ack was
sent, and a copy in memory whose connection is gone is not run.

While a worker shuts down, its consumers fetch on, and nobody runs what they fetch until the last of its messages has
ended.  What is to be handed back goes back to the broker at once, or it would wait there for that; and from then on the
consumer fetches nothing more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from dramatiq import Broker, Consumer
from dramatiq.common import q_name
from dramatiq.errors import ConnectionClosed

from .registry import Registry
from .scripting import BATCH
from .table import Entry

__all__ = ["Deliveries"]

#: How long a consumer that fetches nothing more waits for acknowledgements to send, at a time, seconds.
PAUSE = 0.1


class Deliveries:
    """The deliveries of one worker.

    Parameters:
      is_for_others: Whether a message that was fetched goes back to the broker.
    """

    def __init__(self, registry: Registry, is_for_others: Callable[[Any], bool] = lambda message: False) -> None:
        self.registry = registry
        self._is_for_others = is_for_others
        self._before: Any = None
        self._mutex = threading.Lock()
        self._acked: deque[tuple[str, int, float]] = deque()

    def attach(self, broker: Broker) -> None:
        """From now on know by which connection each message came: where the broker's ids are those of a connection."""
        consume = broker.consume

        def tagged(*args: Any, **kwargs: Any) -> Consumer:
            consumer = consume(*args, **kwargs)
            if hasattr(consumer, "known_tags"):
                return _RabbitmqConsumer(consumer, self._is_for_others)
            if hasattr(consumer, "queued_message_ids"):
                return _RedisConsumer(consumer, self._is_for_others)
            return consumer

        self._before = broker.__dict__.get("consume")
        broker.consume = tagged  # type: ignore[method-assign]

    def detach(self, broker: Broker) -> None:
        """The broker's consumers are its own again."""
        if self._before is not None:
            broker.consume = self._before  # type: ignore[method-assign]
        else:
            broker.__dict__.pop("consume", None)

    def is_lost(self, message: Any) -> bool:
        """Whether the broker has taken this delivery back: its connection is gone, and the message is in its queue."""
        came_by = getattr(message, "came_by", None)
        return came_by is not None and (came_by.closed or not came_by.channel.is_open)

    def acked(self, message: Any, entry: Entry) -> None:
        """Dramatiq has acknowledged a message that is finished: when that is sent, it can be forgotten soon."""
        came_by = getattr(message, "came_by", None)
        if came_by is None:
            self._sent(entry)
        else:
            try:
                # After the ack, which is a callback, too.
                came_by.connection.add_callback_threadsafe(lambda: self._sent(entry))
            except Exception:
                return  # the connection is closed: the ack may not have been sent, and it stays remembered
        if len(self._acked) >= BATCH:
            try:
                self.flush()
            except redis.RedisError:
                pass  # it is remembered for longer

    def flush(self) -> None:
        """Have Redis forget in a while what need not be remembered for long.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        while True:
            with self._mutex:
                batch = [self._acked.popleft() for _ in range(min(BATCH, len(self._acked)))]
            if not batch:
                return
            self.registry.acked(batch)

    def _sent(self, entry: Entry) -> None:
        self._acked.append((entry.copy.message_id, entry.run, entry.policy.remember_completed))


class _RedisConsumer(Consumer):
    """RedisBroker's consumer, which gives back what is for others, and fetches nothing more then.

    There it comes to the end of the queue.  Who fetched on would give back whatever is there, and turn the queue over.
    That this worker lives the broker hears from the consumer of the queue's delayed messages.
    """

    def __init__(self, consumer: Any, is_for_others: Callable[[Any], bool]) -> None:
        self._consumer = consumer
        self._is_for_others = is_for_others

    def __next__(self) -> Any:
        message = next(self._consumer)
        if message is None or not self._is_for_others(message) or message.queue_name != q_name(message.queue_name):
            return message
        try:
            self._give_back(message)
        except Exception:
            return message  # the broker is away: it is put off, or goes back when the worker has stopped
        return None

    def _give_back(self, message: Any) -> None:
        self._consumer.prefetch = 0
        self._consumer.requeue([message])
        self._consumer.queued_message_ids.discard(message.message_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def ack(self, message: Any) -> None:
        """As the consumer does it."""
        self._consumer.ack(message)

    def nack(self, message: Any) -> None:
        """As the consumer does it."""
        self._consumer.nack(message)

    def requeue(self, messages: Any) -> None:
        """As the consumer does it."""
        self._consumer.requeue(messages)

    def close(self) -> None:
        """As the consumer does it.  Dramatiq keeps a stopped worker, with its consumers: they keep nothing of ours."""
        self._is_for_others = _nobodys
        self._consumer.close()


class _RabbitmqConsumer(_RedisConsumer):
    """RabbitMQ's, which fetches nothing more then; and which notes on each message that it came by this one.

    Delivery tags begin anew with each connection, so an acknowledgement by another connection's tag would hit whatever
    message has that tag now: it is left out.
    """

    def __init__(self, consumer: Any, is_for_others: Callable[[Any], bool]) -> None:
        super().__init__(consumer, is_for_others)
        self.closed = False
        self._cancelled = False

    def __next__(self) -> Any:
        if self._cancelled:
            try:
                self._consumer.connection.process_data_events(time_limit=PAUSE)  # acks, and heartbeats
            except Exception as error:
                raise ConnectionClosed(error) from None
            return None
        message = super().__next__()
        if message is not None:
            message.came_by = self
        return message

    def _give_back(self, message: Any) -> None:
        # Once and for all: a quorum queue counts how often a message was given back.
        channel, self._cancelled = self._consumer.channel, True
        channel.cancel()
        channel.basic_nack(message._tag, requeue=True)
        self._consumer.known_tags.discard(message._tag)

    def ack(self, message: Any) -> None:
        """Acknowledge, if the message came by this connection."""
        if message.came_by is self:
            self._consumer.ack(message)

    def nack(self, message: Any) -> None:
        """Reject, if the message came by this connection."""
        if message.came_by is self:
            self._consumer.nack(message)

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        super().close()


def _nobodys(message: Any) -> bool:
    return False
