# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker in the test's own process, on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import dramatiq
import pika
import redis
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Middleware, Retries, default_middleware

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.message.in_flight import Entry

from .inside import entries_of
from .servers import wait_until

__all__ = ["RabbitApp"]


class RabbitApp:
    """A worker in this process, on RabbitMQ.

    Parameters:
      before: Middleware that comes before the tracker.
      arguments: The arguments of its queues, beside Dramatiq's.
    """

    def __init__(
        self,
        url: str,
        client: redis.Redis,
        namespace: str,
        *,
        before: list[Middleware] | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.queue = f"q{namespace}"
        middleware = [m() if m is not Retries else Retries(min_backoff=20, max_backoff=50) for m in default_middleware]
        self.broker = RabbitmqBroker(url=url, middleware=middleware + (before or []), confirm_delivery=True)
        build: Any = self.broker._build_queue_arguments
        made: Any = self.broker
        made._build_queue_arguments = lambda name: {**build(name), **arguments}
        self.tracker = InFlightTracker(
            namespace=namespace,
            client=client,
            heartbeat_interval=0.2,
            heartbeat_ttl=20,
            recovery_interval=0.2,
            watch_processes=False,
        )
        self.broker.add_middleware(self.tracker)
        self.url = url
        self.workers: list[dramatiq.Worker] = []
        self.ran: list[Any] = []

    def actor(self, fn: Callable[..., Any], **options: Any) -> Any:
        options = {"queue_name": self.queue, "track_inflight": True, **options}
        return dramatiq.actor(broker=self.broker, **options)(fn)

    def start(self, threads: int = 2) -> dramatiq.Worker:
        worker = dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=20)
        worker.start()
        self.workers.append(worker)
        return worker

    def waiting(self) -> int:
        """Return the number of ready messages in the queue and its delay queue."""
        return sum(self.broker.get_queue_message_counts(self.queue)[:2])

    def join(self, timeout: float = 120) -> None:
        """Wait until nothing is left, delivered or not: what was not acknowledged shows once nobody consumes."""
        wait_until(lambda: self.waiting() == 0 and not any(self.entries()), timeout=timeout, what="all is done")

    def entries(self) -> list[Entry]:
        return entries_of(self.tracker)

    def channel(self) -> Any:
        """One of the test's own."""
        return pika.BlockingConnection(pika.URLParameters(self.url)).channel()

    def stop(self) -> None:
        while self.workers:
            self.workers.pop().stop(timeout=5000)

    def close(self) -> None:
        self.stop()
        try:
            for suffix in ("", ".DQ", ".XQ"):
                self.broker.channel.queue_delete(self.queue + suffix)
            self.broker.close()
        except pika.exceptions.AMQPError:
            pass
