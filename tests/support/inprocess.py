# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker in the test's own process, with a real broker on a real server."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import dramatiq
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, GroupCallbacks, TimeLimit, default_middleware
from dramatiq.rate_limits.backends import RedisBackend as RateLimiterBackend
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.replies import Start
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.worker import WorkerProcess

from .inside import runtime_if_any, runtime_of
from .lab import Lab
from .servers import count_stored, wait_until

__all__ = ["App", "put_off_briefly"]


def put_off_briefly(tracker: InFlightTracker) -> None:
    """Put messages off for moments only."""
    tracker.policies.settings = dataclasses.replace(tracker.settings, heartbeat_interval=0.1, heartbeat_ttl=0.6)


class App:
    """A broker, its tracker and a worker in this process."""

    def __init__(self, url: str, namespace: str, lab: Lab, *, broker_client: Any = None, **settings: Any) -> None:
        self.lab = lab
        self.namespace = namespace
        self.client: Any = redis.Redis.from_url(url, socket_timeout=30)  # results are waited for
        self.backend = RedisBackend(client=self.client, namespace=f"{namespace}-results")
        self.tracker = InFlightTracker(
            **{
                "namespace": namespace,
                "heartbeat_interval": 0.2,
                "heartbeat_ttl": 20,
                "recovery_interval": 0.2,
                **settings,
            }
        )
        # TimeLimit with a shorter interval than its default of a second.
        middleware = [m() if m is not TimeLimit else TimeLimit(interval=50) for m in default_middleware]
        self.broker = RedisBroker(
            client=broker_client or redis.Redis.from_url(url),
            namespace=f"{namespace}-broker",
            middleware=middleware,
            maintenance_chance=0,
        )
        self.broker.add_middleware(Results(backend=self.backend))
        self.broker.add_middleware(GroupCallbacks(RateLimiterBackend(client=self.client)))
        self.broker.add_middleware(AsyncIO())
        self.broker.add_middleware(self.tracker)
        dramatiq.set_broker(self.broker)  # pipelines and groups ask for it
        self.worker: dramatiq.Worker | None = None
        self.ran: list[Any] = []

    def actor(self, fn: Callable[..., Any], **options: Any) -> Any:
        options.setdefault("track_inflight", True)
        return dramatiq.actor(broker=self.broker, **options)(fn)

    def start(self, threads: int = 4) -> None:
        self.broker.emit_after("process_boot")
        self.worker = dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=20)
        self.worker.start()

    def stop(self) -> None:
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def join(self, timeout: float = 120) -> None:
        """Wait until the broker has nothing left, nothing runs, and nothing waits to be recovered."""
        runtime = runtime_if_any(self.tracker)

        def done() -> bool:
            queues = self.broker.get_declared_queues() | self.broker.get_declared_delay_queues()
            left = count_stored(self.client, self.broker.namespace, queues)
            idle = runtime is None or not (runtime.table.entries() or runtime.recovery.leftovers)
            return left == 0 and idle and not self.lab.client.zcard(f"{self.lab.prefix}waiting")

        wait_until(done, timeout=timeout, what="the broker is empty")

    @property
    def runtime(self) -> WorkerProcess:
        return runtime_of(self.tracker)

    @property
    def store(self) -> Store:
        return self.runtime.store

    def redeliver(self, message: Message[Any]) -> None:
        """As Dramatiq's maintenance does it: the id of a message that is running is pushed to its queue again."""
        self.client.rpush(f"{self.broker.namespace}:default", message.options["redis_message_id"])

    def other(self, name: str = "other") -> Store:
        """Another incarnation, driven by hand."""
        store = Store(Scripts(self.lab.client, self.namespace, name, heartbeat_ttl=20, fence_ttl=60))
        store.workers.register({"instance": name})
        return store

    def orphan(
        self,
        message: Message[Any],
        *,
        limit: int | str = 3,
        crashes: int = 0,
        tailored: bool = False,
        draining: bool = False,
    ) -> Store:
        """A message is running on a worker that is dead, and has crashed so often before."""
        rid = message.options["redis_message_id"]
        data = self.client.hget(f"{self.broker.namespace}:{message.queue_name}.msgs", rid) or message.encode()
        copy = Copy(message.message_id, 1, rid, rid, False, message.queue_name, message.actor_name)
        for i in range(crashes + 1):
            dead = self.other(f"dead-{message.message_id[:8]}-{i}")
            assert (
                self.lab.start(dead, copy, payload=data, limit=limit, tailored=tailored and i == crashes).answer
                is Start.RUN
            )
            self.lab.kill(dead, draining=draining and i == crashes)
        return dead

    def send_orphan(self, actor: Any, **orphan: Any) -> Message[Any]:
        """Send a message that is an orphan before any worker can fetch it: whoever fetches it takes it over."""
        if runtime := runtime_if_any(self.tracker):
            runtime.recovery_thread.stop()  # or it recovers the message between two of its deaths
        message: Message[Any] = actor.message().copy(options={"redis_message_id": uuid.uuid4().hex})
        self.orphan(message, **orphan)
        self.deliver(message)
        return message

    def deliver(self, message: Message[Any]) -> None:
        """Put a message with an id of its own into its queue."""
        rid, queue = message.options["redis_message_id"], f"{self.broker.namespace}:{message.queue_name}"
        self.client.hset(f"{queue}.msgs", rid, message.encode())
        self.client.rpush(queue, rid)

    def close(self) -> None:
        """Close what the test opened."""
        self.stop()
        self.broker.client.close()
        self.client.close()

    def records(self) -> set[str]:
        return {name for name in self.lab.names() if name.startswith("record:")}

    def unsettled(self) -> set[str]:
        """The records that are kept for ever."""
        return {name for name in self.records() if self.client.ttl(self.lab.prefix + name) == -1}

    def dead_letters(self, queue: str = "default") -> list[Message[Any]]:
        return [Message.decode(data) for data in self.client.hvals(f"{self.broker.namespace}:{queue}.XQ.msgs")]
