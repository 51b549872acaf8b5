# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What RabbitMQ tells of its queues: how many messages are ready in each, and not which."""

from __future__ import annotations

import sys
from typing import Any

from dramatiq import Broker
from dramatiq.common import dq_name

__all__ = ["RabbitmqQueues"]


class RabbitmqQueues:
    """The queues of one RabbitmqBroker."""

    def __init__(self, broker: Any) -> None:
        self.broker = broker

    @classmethod
    def of(cls, broker: Broker) -> RabbitmqQueues | None:
        """Return the queues of a RabbitmqBroker; None for any other broker."""
        module = sys.modules.get("dramatiq.brokers.rabbitmq")  # not imported here: that takes pika
        return cls(broker) if module is not None and isinstance(broker, module.RabbitmqBroker) else None

    def may_have(self, queue: str) -> bool:
        """Return True if messages are ready in a queue or its delay queue; False if none is, or there is no such queue.

        RabbitMQ does not count the messages that it has delivered.

        Raises:
          Exception: RabbitMQ cannot be reached.
        """
        return any(self._ready(name) for name in (queue, dq_name(queue)))

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
