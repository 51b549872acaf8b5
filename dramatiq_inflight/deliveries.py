# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the broker thinks of a delivery, where it is not on the tracker's Redis: is it ours, and is it acknowledged?

RabbitMQ takes back what was delivered on a connection that is lost, and delivers it again; and Dramatiq's consumer
sends its acknowledgements later, from its own thread.  So a message that was finished is remembered until its ack was
sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import redis

from .registry import BATCH, Registry
from .table import Entry

__all__ = ["Deliveries"]


class Deliveries:
    """The deliveries of one worker.

    Parameters:
      consumers: The worker's consumer threads, by queue.
    """

    def __init__(self, registry: Registry, consumers: Mapping[str, Any]) -> None:
        self.registry = registry
        self.consumers = consumers
        self._acked: deque[tuple[str, int]] = deque()

    def is_lost(self, message: Any) -> bool:
        """Whether the broker has taken this delivery back: its connection is gone, and the message delivered again."""
        tag, known = getattr(message, "_tag", None), getattr(self._consumer(message), "known_tags", None)
        return tag is not None and known is not None and tag not in known

    def acked(self, message: Any, entry: Entry) -> None:
        """Dramatiq has acknowledged a message that is finished: when that is sent, it need not be remembered."""
        connection: Any = getattr(self._consumer(message), "connection", None)
        if not hasattr(connection, "add_callback_threadsafe"):
            self._sent(entry)
        else:
            try:
                # After the ack, which is a callback, too.
                connection.add_callback_threadsafe(lambda: self._sent(entry))
            except Exception:
                return  # the connection is closed: the ack may not have been sent, and the fence stays
        if len(self._acked) >= BATCH:
            try:
                self.flush()
            except redis.RedisError:
                pass  # it is remembered for longer

    def flush(self) -> None:
        """Have Redis forget what need not be remembered.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        while self._acked:
            batch = [self._acked.popleft() for _ in range(min(BATCH, len(self._acked)))]
            self.registry.acked(batch)

    def _sent(self, entry: Entry) -> None:
        self._acked.append((entry.copy.message_id, entry.run))

    def _consumer(self, message: Any) -> Any:
        return getattr(self.consumers.get(message.queue_name), "consumer", None)
