# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The broker's consumers as a worker has them: what was fetched is acknowledged, given back, or still held here.

Dramatiq's consumer of delayed messages forgets them when its connection fails, and RedisBroker gives nobody what it has
delivered to a worker that lives.  So each consumer of a RedisBroker gives back what its worker's ack set has and nobody
in this process holds: what was forgotten, what was fetched and not handed out, and what was fetched without an answer.
"""

from __future__ import annotations

import copy
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from dramatiq import Consumer
from dramatiq.common import iter_queue, q_name
from dramatiq.errors import ConnectionClosed
from dramatiq.logging import get_logger
from dramatiq.worker import ConsumerThread

from ..delivery import mark_of
from ..threads.mutex import Mutex
from .redis import RedisQueues

__all__ = ["Held", "RabbitmqConsumer", "RedisConsumer", "fetched_from", "message_in"]

#: How long a consumer that fetches nothing waits, at a time, seconds: for acknowledgements to send, or for a beat.
PAUSE = 0.1

#: How often a consumer compares its ack set with what is held here, seconds.  A client that tries a fetch again by
#: itself says nothing of the answer that it lost.
COMPARE = 60.0

#: After how many returns that RabbitMQ has counted a message is published anew: well below its limit, which is 20.
RENEW_AT = 10

#: How long RabbitMQ may take to accept it, and the pause after it did not, seconds.
RENEW_WITHIN, RENEW_AGAIN = 5.0, 60.0

#: The header of a message that was published anew.
RENEWED = "inflight-renewed"

#: Brokers whose id another process may have as well: it was forked after the application was imported.
HOME = os.getpid()

logger = get_logger(__name__)


class Held:
    """The messages of each queue that the workers of one RedisBroker in this process hold, by the broker's ids.

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
    """A consumer of the broker, in a wrapper."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def __next__(self) -> Any:
        return next(self._consumer)

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
        """As the consumer does it."""
        self._consumer.close()


class RedisConsumer(_Consumer):
    """RedisBroker's, which keeps the ack set of its queue in step with what is held in this process.

    It gives back what is for others, and fetches nothing more then: there it comes to the end of the queue, so a
    consumer that fetched on would give back whatever is there, and turn the queue over.  That this worker lives the
    broker hears from the consumer of the queue's delayed messages.

    It fetches nothing while Redis may not know this worker, because it was silent for long, or that the worker has this
    queue.  Else the worker could be frozen, be recovered and forgotten, wake, fetch, and die before it has registered
    again: then nobody would know the ack set to which these messages went.
    """

    def __init__(
        self,
        consumer: Any,
        is_for_others: Callable[[Any], bool],
        queues: RedisQueues,
        held: Held,
        worker: object,
        *,
        server: Callable[[], str],
        may_fetch: Callable[[], bool],
    ) -> None:
        super().__init__(consumer)
        self._is_for_others = is_for_others
        self._queues, self._held, self._worker, self._server = queues, held, worker, server
        self._may_fetch = may_fetch
        self._fetched_from = ""
        self._queue: str = consumer.queue_name
        # A consumer that ends by anything else, such as a message that cannot be decoded, would turn its queue over.
        self._compare_at = time.monotonic() + COMPARE if self._queue in held.compared else 0.0
        if self._queue != q_name(self._queue):
            held.drop_all(self._queue, worker)  # Dramatiq forgets what it has delayed when it makes a new consumer

    def __next__(self) -> Any:
        try:
            if not self._consumer.message_cache:
                if not self._may_fetch():
                    self._say_that_it_lives()
                    time.sleep(PAUSE)
                    return None
                if time.monotonic() >= self._compare_at:
                    self._compare()
                self._fetched_from = self._server()
            message = self._fetch()
        except (ConnectionClosed, redis.RedisError):
            self._held.compared.discard(self._queue)
            raise
        if message is not None:
            message.fetched_from = self._fetched_from
            self._held.add(self._queue, message.options["redis_message_id"], self._worker)
        return message

    def _fetch(self) -> Any:
        message = next(self._consumer)
        if message is None or not self._is_for_others(message) or message.queue_name != q_name(message.queue_name):
            return message
        try:
            self._consumer.prefetch = 0
            self._consumer.requeue([message])
            self._consumer.queued_message_ids.discard(message.message_id)
        except Exception:
            return message  # the broker is away: it is put off, or goes back when the worker has stopped
        return None

    def _say_that_it_lives(self) -> None:
        """Tell the broker, by a fetch of none: its maintenance would give others what this worker runs."""
        try:
            self._consumer.broker.do_fetch(self._queue, 0)
        except redis.ConnectionError as error:
            raise ConnectionClosed(error) from None

    def _compare(self) -> None:
        """Give back what the ack set has and nobody here holds.

        In the thread that fetches, and with nothing fetched in between.  A message that is acknowledged meanwhile is
        not in the ack set any more when it is given back, so it is not moved.
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
        """As the consumer does it.  Dramatiq keeps a stopped worker, with its consumers: they keep nothing of ours."""
        self._server = str  # which says ""
        self._is_for_others = _nobodys
        self._may_fetch = bool  # which says False
        super().close()


def fetched_from(message: Any) -> str:
    """The Redis, by its run id, from which or from a later one a message was fetched; empty if not known."""
    return str(getattr(message, "fetched_from", ""))


class RabbitmqConsumer(_Consumer):
    """RabbitMQ's, which notes on each message that it came by this one, and returns messages so that nobody counts it.

    Delivery tags begin anew with each connection, so an acknowledgement by another connection's tag would hit whatever
    message has that tag now: it is left out.

    A quorum queue counts how often a message comes back, and dead-letters it at its delivery limit (20 by default from
    RabbitMQ 4.0 on), whether it has ever run or not.  From 4.3 on what comes back by ``basic.nack`` is not counted, and
    what comes back with its connection is.  So at the beginning of a shutdown this consumer cancels itself and returns
    whatever waits in this process.  A message that has come back many times all the same is published anew, if its
    origin tells that from another enqueue.

    Parameters:
      is_draining: Returns True once the worker shuts down.
      is_away: Returns True while the tracker's Redis cannot be reached, so that RabbitMQ alone counts crashes.
    """

    def __init__(
        self, consumer: Any, queue_name: str, is_draining: Callable[[], bool], is_away: Callable[[], bool]
    ) -> None:
        super().__init__(consumer)
        self._queue_name = queue_name
        self.closed = False
        self._is_draining = is_draining
        self._is_away = is_away
        self._cancelled = False
        self._properties: Any = None
        self._body = b""
        self._renew_after = 0.0
        consumer.iterator = self._noting(consumer.iterator)

    def _noting(self, deliveries: Iterator[Any]) -> Iterator[Any]:
        for method, properties, body in deliveries:
            self._properties, self._body = properties, body
            yield method, properties, body

    def __next__(self) -> Any:
        if self._is_draining() and not self._cancelled:
            self._drain()
        if self._cancelled:
            try:
                self._consumer.connection.process_data_events(time_limit=PAUSE)  # acks, and heartbeats
            except Exception as error:
                raise ConnectionClosed(error) from None
            return None
        try:
            message = super().__next__()
        except StopIteration:  # RabbitMQ has cancelled it, and Dramatiq closes it, and makes another
            self._cancelled = True
            raise
        if message is None:
            return None
        message.came_by = self
        headers = self._properties.headers or {}
        if RENEWED in headers:
            message.redelivered = True  # the delivery that this one replaces may be in the queue still
        is_worn = headers.get("x-delivery-count", 0) >= RENEW_AT and mark_of(message).get("origin")
        if is_worn and time.monotonic() >= self._renew_after and not self._is_away() and self._renew(message):
            return None
        return message

    def _drain(self) -> None:
        """Take nothing more, and return what no thread has begun: in the consumer's thread, which alone may do so."""
        self._cancel()
        thread = threading.current_thread()
        if isinstance(thread, ConsumerThread):
            for waiting in (thread.work_queue, thread.delay_queue):
                for item in iter_queue(waiting):
                    message = message_in(item)
                    message.came_by.give_back(message)
                    waiting.task_done()

    def _cancel(self) -> None:
        """Cancel the consumer, so that what is returned does not come here again; RabbitMQ is told before all else."""
        self._cancelled = True
        channel = self._consumer.channel
        # Pika returns by basic.reject what it has not handed out, and what arrives meanwhile: that would be counted.
        channel._impl.basic_reject = channel._impl.basic_nack
        try:
            channel.cancel()
        except Exception as error:
            raise ConnectionClosed(error) from None

    def give_back(self, message: Any) -> None:
        """Return a message that came by this consumer, in the consumer's own thread.  Any thread may call this."""
        consumer = self._consumer
        try:
            consumer.known_tags.remove(message._tag)
            consumer.connection.add_callback_threadsafe(
                functools.partial(consumer.channel.basic_nack, message._tag, requeue=True)
            )
        except Exception:
            pass  # it is acknowledged, or its connection is lost: RabbitMQ has taken it back

    def _renew(self, message: Any) -> bool:
        """Publish a message anew, so that RabbitMQ counts from 0; the tracker's record counts what is to be counted.

        Returns: False if RabbitMQ has not taken it: the message stays as it is.
        """
        old = self._properties
        properties = copy.copy(old)
        kept = {name: value for name, value in old.headers.items() if not name.startswith("x-")}
        properties.headers = {**kept, RENEWED: True}
        try:
            self._publish(properties)
        except Exception as error:
            self._renew_after = time.monotonic() + RENEW_AGAIN
            logger.warning(
                "Could not move message %s to the end of its queue (%s). It keeps its place.",
                message.message_id,
                type(error).__name__,
            )
            return False
        self._consumer.ack(message)
        logger.info(
            "Moved message %s to the end of its queue, because RabbitMQ had counted %d returns of it and has a limit.",
            *(message.message_id, old.headers["x-delivery-count"]),
        )
        return True

    def _publish(self, properties: Any) -> None:
        """Publish the message at hand by a connection of its own.

        RabbitMQ reads nothing more from a connection that publishes during an alarm (memory, disk): no acknowledgement
        could leave this consumer's.
        """
        import pika  # noqa: PLC0415

        parameters = copy.copy(self._consumer.connection._impl.params)
        parameters.blocked_connection_timeout = parameters.socket_timeout = RENEW_WITHIN
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", self._queue_name, self._body, properties, mandatory=True)
        finally:
            if connection.is_open:
                connection.close()

    def ack(self, message: Any) -> None:
        """Acknowledge, if the message came by this connection."""
        if message.came_by is self:
            self._consumer.ack(message)

    def nack(self, message: Any) -> None:
        """Reject, if the message came by this connection."""
        if message.came_by is self:
            self._consumer.nack(message)

    def requeue(self, messages: Any) -> None:
        """Return messages that no thread has begun; Dramatiq leaves that to the end of the connection."""
        for message in messages:
            message.came_by.give_back(message)

    def close(self) -> None:
        """Return the messages that were fetched and not handed out, and close the connection."""
        if not self._cancelled and self._consumer.channel.is_open:
            try:
                self._cancel()
            except ConnectionClosed:
                pass
        self.closed = True
        self._is_draining = self._is_away = bool  # which says False
        super().close()


def _nobodys(message: Any) -> bool:
    return False


def message_in(item: Any) -> Any:
    """Return the message of an item in a worker's queue: Dramatiq before 2.1 has pairs there."""
    return item[-1] if isinstance(item, tuple) else item.message
