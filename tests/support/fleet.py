# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dead incarnations with orphans, and recoverers of them, in the test's own process."""

from __future__ import annotations

from typing import Any

from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.brokers.redis import RedisQueues, RedisQueuesApart, batch_of
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.replies import Start
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store

from .lab import Lab, copy_of

__all__ = ["Fleet"]


class Fleet:
    """Dead incarnations with orphans, made by what a worker does."""

    def __init__(self, lab: Lab, broker: RedisBroker) -> None:
        self.lab = lab
        self.broker = broker
        self.queues = RedisQueues(broker, broker.client)
        self.queues_apart = RedisQueuesApart(broker, broker.client)

    def dead(
        self,
        name: str,
        messages: int,
        *,
        apart: bool = False,
        limit: int | str = 3,
        tailored: bool = False,
        size: int = 0,
    ) -> list[str]:
        """An incarnation that died with so many messages running.

        Parameters:
          apart: True if its broker is on another Redis.
          size: How many bytes each of the messages has, and a few more.
        """
        me = Store(Scripts(self.lab.client, self.lab.namespace, name, heartbeat_ttl=60, fence_ttl=60))
        fields = {"instance": f"pod-{name}", "host": "h", "pid": "1"}
        if not apart:
            fields |= {"broker_namespace": self.broker.namespace, "broker_id": name, "queues": '["default"]'}
        me.workers.register(fields)
        ids = []
        pipeline = self.broker.client.pipeline()
        for _ in range(messages):
            message: Message[None] = Message("default", "work", ("x" * size,) if size else (), {}, {})
            copy = copy_of(message.message_id, origin=f"r-{message.message_id}")
            data = message.copy(options={"redis_message_id": copy.origin}).encode()
            if not apart:
                pipeline.hset(f"{self.broker.namespace}:default.msgs", copy.origin, data)
                pipeline.sadd(f"{self.broker.namespace}:__acks__.{name}.default", copy.origin)
            assert self.lab.start(me, copy, payload=data, limit=limit, tailored=tailored).answer is Start.RUN
            ids.append(message.message_id)
        pipeline.execute()
        self.lab.kill(me)
        return ids

    def recovery(
        self, name: str, *, apart: bool = False, blind: bool = True, lock_ttl: float = 60, batches: bool = False
    ) -> Recoverer:
        """A recoverer, of a living incarnation.

        Parameters:
          blind: Apart, and its broker cannot be asked.
          batches: It enqueues several copies in one write, if the broker takes that.
        """
        client = bounded_client(self.lab.client)
        store = Store(Scripts(client, self.lab.namespace, name, heartbeat_ttl=60, fence_ttl=60))
        store.workers.register({"instance": f"pod-{name}", "host": "h", "pid": "2"})
        return Recoverer(
            store=store,
            enqueue=self.broker.enqueue,
            enqueue_batch=batch_of(self.broker) if batches else None,
            declared=lambda: (self.broker.get_declared_queues(), self.broker.get_declared_actors()),
            queues=self.queues if not apart else BrokerQueues() if blind else self.queues_apart,
            lock_ttl=lock_ttl,
        )

    def are_due(self, *ids: str) -> None:
        """The deadlines of those of them that could not be enqueued have passed."""
        for id in ids:
            if (self.lab.state(copy_of(id)) or "").startswith("recovering"):
                self.lab.overdue(copy_of(id))

    def enqueued(self) -> list[Message[Any]]:
        """Return the messages in the queue, in its order."""
        ids: Any = self.broker.client.lrange(f"{self.broker.namespace}:default", 0, -1)
        data: Any = self.broker.client.hmget(f"{self.broker.namespace}:default.msgs", ids) if ids else []
        return [Message.decode(item) for item in data]
