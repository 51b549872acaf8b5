# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The brokers that the tests' application can have, and what each is asked by its own means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dramatiq
import pika
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import xq_name

from .servers import connect, count_stored

__all__ = ["make_broker", "quorum_arguments", "side_of"]


def make_broker(env: Mapping[str, str], middleware: Sequence[dramatiq.Middleware]) -> dramatiq.Broker:
    """RabbitMQ or PostgreSQL if there is an address of one, else Redis."""
    return side_of(env).make(env, middleware)


def side_of(env: Mapping[str, str]) -> type[Redis]:
    """The kind of broker that an environment asks for."""
    if "TEST_RABBITMQ_URL" in env:
        return RabbitMQ
    return Postgres if "TEST_POSTGRES_URL" in env else Redis


class Redis:
    """A RedisBroker: everything can be counted."""

    #: Whether the tracker has no Redis but its own.
    apart = False

    def __init__(self, broker: Any, queue: str, tracker: Any, prefix: str) -> None:
        self.broker = broker
        self.queue = queue
        #: A client of the tracker's Redis, and the prefix of its keys.
        self.tracker = tracker
        self.prefix = prefix

    @staticmethod
    def make(env: Mapping[str, str], middleware: Sequence[dramatiq.Middleware]) -> dramatiq.Broker:
        return RedisBroker(
            client=connect(env["TEST_BROKER_URL"]),
            namespace=env["TEST_BROKER_NAMESPACE"],
            middleware=list(middleware),
            maintenance_chance=int(env.get("TEST_MAINTENANCE_CHANCE", "0")),
            heartbeat_timeout=int(env.get("TEST_HEARTBEAT_TIMEOUT", "60000")),
        )

    def enqueued(self) -> int:
        """Return how many messages the broker has: waiting, delayed or fetched."""
        queues = self.broker.get_declared_queues() | self.broker.get_declared_delay_queues()
        return count_stored(self.broker.client, self.broker.namespace, queues)

    def dead_letters(self, queue: str) -> list[dramatiq.Message[Any]]:
        """The messages that were dead-lettered from a queue."""
        raw: Any = self.broker.client.hvals(f"{self.broker.namespace}:{queue}.XQ.msgs")
        return [dramatiq.Message.decode(data) for data in raw]

    def close(self) -> None:
        """Remove what a server that is shared would keep."""

    def _tracked(self) -> int:
        """Return how many messages the tracker knows of that are not settled: these the broker does not count."""
        running = sum(self.tracker.zcard(key) for key in self.tracker.keys(self.prefix + "running:*"))
        return int(running + self.tracker.zcard(self.prefix + "waiting"))


class RabbitMQ(Redis):
    """It does not say what was fetched."""

    apart = True

    @staticmethod
    def make(env: Mapping[str, str], middleware: Sequence[dramatiq.Middleware]) -> dramatiq.Broker:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415  needs pika

        broker: Any = RabbitmqBroker
        if env.get("TEST_RABBITMQ_QUEUES") == "quorum":
            broker = type("QuorumBroker", (RabbitmqBroker,), {"_build_queue_arguments": quorum_arguments})
        made: dramatiq.Broker = broker(url=env["TEST_RABBITMQ_URL"], middleware=list(middleware), confirm_delivery=True)
        return made

    def enqueued(self) -> int:
        try:
            waiting, delayed, _ = self.broker.get_queue_message_counts(self.queue)
        except pika.exceptions.AMQPError:
            del self.broker.connection
            return 1  # it was restarted: at least one, as long as nobody knows
        return int(waiting + delayed + self._tracked())

    def dead_letters(self, queue: str) -> list[dramatiq.Message[Any]]:
        return [dramatiq.Message.decode(data) for data in iter(self._next_dead_letter, None)]

    def _next_dead_letter(self) -> bytes | None:
        body: bytes | None = self.broker.channel.basic_get(f"{self.queue}.XQ", auto_ack=True)[2]
        return body

    def close(self) -> None:
        try:
            for suffix in ("", ".DQ", ".XQ"):
                self.broker.channel.queue_delete(self.queue + suffix)
            self.broker.close()
        except pika.exceptions.AMQPError:
            pass  # it is gone, or was restarted, and is the test's own


def quorum_arguments(broker: Any, queue_name: str) -> dict[str, Any]:
    """As Dramatiq has them, but for the type: it has no option for that."""
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": xq_name(queue_name),
        "x-queue-type": "quorum",
    }


class Postgres(Redis):
    """dramatiq-postgres: a table with one row a message, whatever copies there are."""

    apart = True

    @staticmethod
    def make(env: Mapping[str, str], middleware: Sequence[dramatiq.Middleware]) -> dramatiq.Broker:
        from dramatiq_postgres import PostgresBroker  # noqa: PLC0415

        broker: dramatiq.Broker = PostgresBroker(
            url=env["TEST_POSTGRES_URL"],
            middleware=list(middleware),
            results=False,
            poll_interval=0.2,
            heartbeat_interval=1,
            heartbeat_ttl=3,
            maintenance_interval=1,
        )
        return broker

    def _rows(self, where: str) -> list[Any]:
        with self.broker.pool.connection() as connection:
            rows: list[Any] = connection.execute(
                f"SELECT message::text FROM dramatiq.queue WHERE queue_name LIKE %s AND {where}", (self.queue + "%",)
            ).fetchall()
            return rows

    def enqueued(self) -> int:
        return len(self._rows("state <> 'rejected'")) + self._tracked()

    def dead_letters(self, queue: str) -> list[dramatiq.Message[Any]]:
        return [dramatiq.Message.decode(text.encode()) for (text,) in self._rows("state = 'rejected'")]

    def close(self) -> None:
        self.broker.close()
