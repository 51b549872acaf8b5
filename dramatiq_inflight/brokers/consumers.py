# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The broker's consumers as a worker has them: what was fetched is acknowledged, given back, or still held here.

Dramatiq's consumer of delayed messages forgets them when its connection fails, and RedisBroker gives nobody what it has
delivered to a worker that lives.  So each consumer of a RedisBroker gives back what its worker's ack set has and nobody
in this process holds: what was forgotten, what was fetched and not handed out, and what was fetched without an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import redis
from dramatiq import Consumer
from dramatiq.common import q_name
from dramatiq.errors import ConnectionClosed

from ..threads.mutex import Mutex
from .redis import RedisQueues

__all__ = ["Held", "RabbitmqConsumer", "RedisConsumer", "fetched_from"]

#: How long a consumer that fetches nothing more waits for acknowledgements to send, at a time, seconds.
PAUSE = 0.1

#: How often a consumer compares its ack set with what is held here, seconds.  A client that tries a fetch again by
#: itself says nothing of the answer that it lost.
COMPARE = 60.0

#: Brokers whose id another process may have as well: it was forked after the application was imported.
HOME = os.getpid()


class Held:
    """What the workers of one RedisBroker in this process hold of each queue, by the broker's ids.

    One worker may hold two deliveries of one message: the broker took back the first.
    """

    def __init__(self) -> None:
        self._mutex = Mutex()
        self._holders: dict[str, dict[str, list[object]]] = {}
        self.workers = 0
        #: The queues whose consumer has compared its ack set, and has lost no connection since.
        self.compared: set[str] = set()

    def of(self, queue: str) -> dict[str, list[object]]:
        """The ids that are held of a queue, with the workers that hold them."""
        return self._holders.setdefault(queue, {})

    def add(self, queue: str, copy_id: str, worker: object) -> None:
        """A worker holds one delivery more."""
        with self._mutex:
            self.of(queue).setdefault(copy_id, []).append(worker)

    def drop(self, queue: str, copy_id: str, worker: object) -> None:
        """A worker is done with a delivery."""
        with self._mutex:
            holders = self.of(queue).get(copy_id, [])
            if worker in holders:
                holders.remove(worker)
            if not holders:
                self.of(queue).pop(copy_id, None)

    def leave(self, worker: object) -> None:
        """A worker has stopped, and nothing of it runs: it holds nothing any more."""
        for queue in list(self._holders):
            self.drop_all(queue, worker)
        self.compared.clear()

    def drop_all(self, queue: str, worker: object) -> None:
        """A worker has forgotten all that it held of a queue."""
        for copy_id, holders in list(self.of(queue).items()):
            for _ in range(holders.count(worker)):
                self.drop(queue, copy_id, worker)


class _Consumer(Consumer):
    """A consumer which gives back what is for others, and fetches nothing more then.

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


class RedisConsumer(_Consumer):
    """RedisBroker's, which keeps the ack set of its queue in step with what is held in this process."""

    def __init__(
        self,
        consumer: Any,
        is_for_others: Callable[[Any], bool],
        queues: RedisQueues,
        held: Held,
        worker: object,
        *,
        server: Callable[[], str],
    ) -> None:
        super().__init__(consumer, is_for_others)
        self._queues, self._held, self._worker, self._server = queues, held, worker, server
        self._fetched_from = ""
        self._queue: str = consumer.queue_name
        # A consumer that ends by anything else, such as a message that cannot be decoded, would turn its queue over.
        self._compare_at = time.monotonic() + COMPARE if self._queue in held.compared else 0.0
        if self._queue != q_name(self._queue):
            held.drop_all(self._queue, worker)  # Dramatiq forgets what it has delayed when it makes a new consumer

    def __next__(self) -> Any:
        try:
            if not self._consumer.message_cache:
                if time.monotonic() >= self._compare_at:
                    self._compare()
                self._fetched_from = self._server()
            message = super().__next__()
        except (ConnectionClosed, redis.RedisError):
            self._held.compared.discard(self._queue)
            raise
        if message is not None:
            message.fetched_from = self._fetched_from
            self._held.add(self._queue, message.options["redis_message_id"], self._worker)
        return message

    def _compare(self) -> None:
        """Give back what the ack set has and nobody here holds.

        In the thread that fetches, and with nothing fetched in between.  What is acknowledged meanwhile is not in the
        ack set any more when it is given back, so it is not moved.
        """
        if self._held.workers == 1 and os.getpid() == HOME:  # else others hold what is in the same ack set
            try:
                self._queues.give_back_unheld(self._queue, self._held.of(self._queue))
            except redis.RedisError as error:
                raise ConnectionClosed(error) from None
        self._held.compared.add(self._queue)
        self._compare_at = time.monotonic() + COMPARE

    def ack(self, message: Any) -> None:
        """As the consumer does it; what could not be acknowledged stays held, for it has run."""
        super().ack(message)
        self._held.drop(self._queue, message.options["redis_message_id"], self._worker)

    def nack(self, message: Any) -> None:
        """As the consumer does it; what could not be rejected stays held, for it has run."""
        super().nack(message)
        self._held.drop(self._queue, message.options["redis_message_id"], self._worker)

    def requeue(self, messages: Any) -> None:
        """As the consumer does it.

        Raises:
          ConnectionClosed: Redis is away.  Dramatiq's consumer thread would end by any other error.
        """
        messages = list(messages)
        if messages:
            self._queues.gives_back()
        try:
            super().requeue(messages)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None
        for message in messages:
            self._held.drop(self._queue, message.options["redis_message_id"], self._worker)

    def close(self) -> None:
        """As the consumer does it, and keeps nothing of ours."""
        self._server = str  # which says ""
        super().close()


def fetched_from(message: Any) -> str:
    """The Redis, by its run id, from which or from a later one a message was fetched; empty: that is not known."""
    return str(getattr(message, "fetched_from", ""))


class RabbitmqConsumer(_Consumer):
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
