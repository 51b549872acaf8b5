# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What RabbitMQ tells of its queues: how many messages are ready in each, and not which."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

from dramatiq import Broker
from dramatiq.common import dq_name

from ..store.records import Head
from .queues import Answers, BrokerQueues, Registered

__all__ = ["RabbitmqQueues"]


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
