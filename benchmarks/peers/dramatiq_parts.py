# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The parts that both applications with Dramatiq share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers import job

__all__ = ["make_broker", "sender"]


def make_broker() -> dramatiq.Broker:
    """RabbitMQ if there is an address of one, else Redis; with Dramatiq's default middleware."""
    broker: dramatiq.Broker
    if "BENCH_RABBITMQ_URL" in os.environ:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415  needs pika

        broker = RabbitmqBroker(url=os.environ["BENCH_RABBITMQ_URL"], confirm_delivery=True)
    else:
        broker = RedisBroker(
            url=job.REDIS_URL,
            heartbeat_timeout=job.setting("BENCH_HEARTBEAT_TIMEOUT", 60_000),
            maintenance_chance=job.setting("BENCH_MAINTENANCE_CHANCE", 1000),
        )
    dramatiq.set_broker(broker)
    return broker


def sender(broker: dramatiq.Broker, **options: Any) -> tuple[Callable[[str, str], object], Callable[[], object]]:
    """Declare the jobs.  Returns what sends them, and what says whether there are dead letters."""
    actors = {
        function.__name__: dramatiq.actor(broker=broker, queue_name=job.QUEUE, time_limit=7_200_000, **options)(
            function
        )
        for function in (job.work, job.kill_itself, job.nothing, job.noop)
    }

    def dead_letters() -> int:
        if isinstance(broker, RedisBroker):
            return int(broker.client.zcard(f"dramatiq:{job.QUEUE}.XQ"))  # type: ignore[arg-type]
        return broker.get_queue_message_counts(job.QUEUE)[2]  # type: ignore[attr-defined,no-any-return]

    return lambda name, key: actors[name].send(key), dead_letters
