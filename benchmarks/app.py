# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application that the workers of the benchmarks run.

``BENCH_MODE`` is ``tracked``, ``untracked`` (the middleware is there, the actor says ``track_inflight=False``), or
``plain`` (no middleware).
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import time
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import default_middleware

from dramatiq_inflight import InFlightTracker

__all__ = ["RESULT", "broker", "noop"]

#: The list to which the worker says how it went, once the last message has started.
RESULT = "bench:result"

mode = os.environ["BENCH_MODE"]
messages = int(os.environ["BENCH_MESSAGES"])
client = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
broker: dramatiq.Broker
if os.environ.get("BENCH_RABBITMQ_URL"):
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(
        url=os.environ["BENCH_RABBITMQ_URL"], middleware=[middleware() for middleware in default_middleware]
    )
else:
    broker = RedisBroker(
        url=os.environ["BENCH_REDIS_URL"],
        middleware=[middleware() for middleware in default_middleware],
        maintenance_chance=0,  # Dramatiq's own maintenance calls KEYS, at random
    )
if mode != "plain":
    broker.add_middleware(InFlightTracker())
dramatiq.set_broker(broker)

_runs = itertools.count(1)
_began: list[tuple[float, float]] = []


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def noop(argument: str = "") -> None:
    """Does nothing, and times the first and the last of its runs."""
    run = next(_runs)
    if run == 1:
        _began.append((time.perf_counter(), _cpu()))
    elif run == messages:
        seconds, cpu = time.perf_counter() - _began[0][0], _cpu() - _began[0][1]
        client.rpush(RESULT, json.dumps({"seconds": seconds, "cpu": cpu}))


options: dict[str, Any] = {} if mode == "plain" else {"track_inflight": mode == "tracked"}
dramatiq.actor(**options)(noop)
