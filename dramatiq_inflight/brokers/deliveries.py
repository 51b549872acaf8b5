# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the broker thinks of a delivery: is it ours, and is it acknowledged?

RabbitMQ takes back what was delivered on a connection that is lost, and delivers it again; and Dramatiq's consumer
sends its acknowledgements later, from its own thread.  So a message that was finished is remembered until its ack was
sent, and a copy in memory whose connection is gone is not run.

While a worker shuts down, Dramatiq's consumers fetch on, and nobody runs what they fetch until the last of its messages
has ended.  So a consumer of RabbitMQ returns all that waits, and fetches nothing more.  A consumer of a RedisBroker
returns what is to be handed back, once it fetches that, and fetches nothing more then.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from dramatiq import Broker, Consumer

from ..liveness.lease import KnownBy, Lease
from ..store.scripts import BATCH
from ..store.store import Store
from ..threads.mutex import Mutex
from .consumers import Held, RabbitmqConsumer, RedisConsumer
from .queues import BrokerQueues
from .redis import RedisQueues

__all__ = ["Deliveries"]

#: By the broker, for it may have more than one worker, or one after the other.
_held: weakref.WeakKeyDictionary[Broker, Held] = weakref.WeakKeyDictionary()


class Deliveries:
    """The deliveries of one worker.

    Parameters:
      queues: The broker's.
      is_for_others: True if a message that was fetched goes back to a RedisBroker.
      is_draining: Returns True once the worker shuts down.
      may_fetch: Returns False while Redis may not know the worker, or one of its queues.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        queues: BrokerQueues,
        *,
        is_for_others: Callable[[Any], bool] = lambda message: False,
        is_draining: Callable[[], bool] = lambda: False,
        may_fetch: Callable[[], bool] = lambda: True,
    ) -> None:
        self.store = store
        self._lease = lease
        self._queues = queues
        self._is_for_others = is_for_others
        self._is_draining = is_draining
        self._may_fetch = may_fetch
        self._before: Any = None
        self._held: Held | None = None
        self._me: object = None
        self._mutex = Mutex()
        self._acked: deque[tuple[str, int, float]] = deque()

    def attach(self, broker: Broker) -> None:
        """From now on know by which connection each message came: where the broker's ids are those of a connection."""
        consume = broker.consume
        queues = self._queues
        held = self._held = _held.setdefault(broker, Held())
        held.workers += 1
        me = self._me = object()  # what is held for longer than this worker lives must not keep it in memory

        def tagged(queue_name: str, *args: Any, **kwargs: Any) -> Consumer:
            consumer = consume(queue_name, *args, **kwargs)
            if hasattr(consumer, "known_tags"):
                return RabbitmqConsumer(consumer, queue_name, self._is_draining, self.store.scripts.contact.is_away)
            if isinstance(queues, RedisQueues) and hasattr(consumer, "message_cache"):
                return RedisConsumer(
                    consumer, self._is_for_others, queues, held, me, server=self._server, may_fetch=self._may_fetch
                )
            return consumer

        self._before = broker.__dict__.get("consume")
        broker.consume = tagged  # type: ignore[method-assign]

    def detach(self, broker: Broker, *, over: bool = True) -> None:
        """The broker's consumers are its own again.

        Parameters:
          over: True if nothing of the worker runs any more.
        """
        if self._held is not None:
            self._held.workers -= 1
            if over:
                self._held.leave(self._me)
            self._held = None
        if self._before is not None:
            broker.consume = self._before  # type: ignore[method-assign]
        else:
            broker.__dict__.pop("consume", None)

    def is_lost(self, message: Any) -> bool:
        """Whether the broker has taken this delivery back: its connection is gone, and the message is in its queue."""
        came_by = getattr(message, "came_by", None)
        return came_by is not None and (came_by.closed or not came_by.channel.is_open)

    def is_elsewhere(self, queue: str, copy_id: str, *, always: bool = False, fetched_from: str = "") -> bool:
        """Return True if the broker has given a delivery that waited in our memory to another worker.

        That happens while this worker is declared dead, and when a command that gave messages back arrives late.
        Costs nothing for a worker that neither has happened to.  Tracked messages that are about to run need no such
        question: their start asks it in passing.

        Parameters:
          always: Ask in any case: RedisBroker's maintenance may be wrong about us as well.
          fetched_from: See `may_have_lost_data`.
        """
        judged = self._queues.shared and (always or self._lease.revived or self._lease.silent)
        if not (judged or self._queues.has_given_back):
            return False
        try:
            if always:
                self.store.workers.heartbeat()  # says whether Redis has lost its data, if we have not heard of that yet
            own, stored = self._queues.has_delivery(queue, copy_id)
            if own or stored or not self._queues.shared:  # a Redis apart may have lost what it does not have
                return stored and not own
            return not self.may_have_lost_data(fetched_from) or self.store.workers.was_handed_back()
        except redis.RedisError:
            return False

    def may_have_lost_data(self, fetched_from: str) -> bool:
        """Return whether Redis may have lost data since a message was fetched from it.

        Parameters:
          fetched_from: The server, by its run id, from which or from a later one it came; empty for the one at boot.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return self._lease.forgotten or self.store.workers.is_forgotten(fetched_from)

    def _server(self) -> str:
        """The server that is fetched from, or an earlier one, by its run id; empty if the tracker's Redis is another.

        It is asked while the connection that would tell of another one is lost.
        """
        if not self._queues.shared:
            return ""
        if self._lease.known_by is KnownBy.LOST:
            with contextlib.suppress(redis.RedisError):
                return self.store.workers.ask_server()
        return self.store.workers.server

    def acked(self, message: Any, run: int, retention: float) -> None:
        """Dramatiq has acknowledged a message that is finished: when that is sent, it can be forgotten soon.

        Parameters:
          retention: How long its outcome is to be remembered then, seconds.
        """
        acked = message.message_id, run, retention
        came_by = getattr(message, "came_by", None)
        if came_by is None:
            self._acked.append(acked)
        else:
            try:
                # After the ack, which is a callback, too.
                came_by.connection.add_callback_threadsafe(lambda: self._acked.append(acked))
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
            self.store.messages.shorten_retention(batch)
