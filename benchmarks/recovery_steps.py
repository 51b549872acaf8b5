# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The steps of `benchmarks.recovery`, each a process of its own: ``python -m benchmarks.recovery_steps STEP ...``."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import default_middleware

from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.brokers.redis import RedisQueues, batch_of
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.connection import bounded_client_from_url
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store

NAMESPACE = "dramatiq_processing"
QUEUE, ACTOR = "default", "send_invoice"
#: How many messages a dead worker fetched at a time.
PREFETCH = 100


def _broker() -> RedisBroker:
    broker = RedisBroker(
        url=os.environ["BENCH_REDIS_URL"],
        middleware=[middleware() for middleware in default_middleware],
        maintenance_chance=0,
    )
    dramatiq.actor(broker=broker, actor_name=ACTOR, queue_name=QUEUE)(lambda number: None)
    return broker


def _registry(me: str, heartbeat_ttl: float) -> Store:
    client = bounded_client_from_url(os.environ["BENCH_TRACKER_URL"])
    return Store(Scripts(client, NAMESPACE, me, heartbeat_ttl=heartbeat_ttl, fence_ttl=3600))


def enqueue(where: str, messages: int) -> dict[str, Any]:
    """Plain Dramatiq."""
    broker = _broker()
    ready = [dramatiq.Message[None](QUEUE, ACTOR, (number,), {}, {}) for number in range(messages)]
    broker.client.ping()
    broker._max_unpack_size()
    started = time.perf_counter()
    for message in ready:
        broker.enqueue(message)
    return {"seconds": time.perf_counter() - started}


def die(where: str, messages: int, incarnations: int) -> dict[str, Any]:
    """Fetch and start all messages, as so many workers, and end without a word."""
    left = messages
    for number in range(incarnations):
        share = left // (incarnations - number)
        left -= share
        broker = _broker()
        dead = _registry(f"dead{number:012d}", heartbeat_ttl=1.0)
        said = {"instance": "dead", "host": "dead", "pid": str(number)}
        if where == "same":
            said |= {"broker_namespace": broker.namespace, "broker_id": broker.broker_id}
            said["queues"] = json.dumps([QUEUE, QUEUE + ".DQ"])
        dead.workers.register(said)
        consumer: Any = broker.consume(QUEUE, prefetch=PREFETCH)
        for _ in range(share):
            if not consumer.message_cache:
                size = min(PREFETCH, share)
                share -= size
                consumer.message_cache = broker.do_fetch(QUEUE, size)
            message = next(consumer)
            assert message is not None
            keys = RedisQueues(broker, broker.client).keys(QUEUE) if where == "same" else ()
            started = dead.messages.start(Copy.of(message), message.encode(), limit=3, here="no", broker_keys=keys)
            assert started.run == 1, started
        broker.client.close()
        dead.scripts.close()
        dead.scripts.close()
        dead.client.close()
    assert left == 0
    return {}


def sweep(where: str, messages: int, incarnations: int) -> dict[str, Any]:
    """Wait until all heartbeats have expired, and sweep once."""
    broker = _broker()
    store = _registry("recoverer", heartbeat_ttl=90.0)
    store.workers.register({"instance": "recoverer", "host": "here", "pid": "1"})
    recovery = Recoverer(
        store=store,
        enqueue=broker.enqueue,
        enqueue_batch=batch_of(broker),
        declared=lambda: (broker.get_declared_queues(), broker.get_declared_actors()),
        queues=RedisQueues(broker, broker.client) if where == "same" else BrokerQueues(),
        lock_ttl=300,
    )
    broker.client.ping()
    broker._max_unpack_size()
    deadline = time.monotonic() + 60
    while _dead(store) < incarnations:
        assert time.monotonic() < deadline, "the dead are not taken for dead"
        time.sleep(0.1)
        store.workers.heartbeat()
    gc.collect()
    _reset_peak()
    before = _status("VmRSS")
    started = time.perf_counter()
    swept = recovery.sweep()
    seconds = time.perf_counter() - started
    client: Any = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])
    return {
        **dataclasses.asdict(swept),
        "seconds": seconds,
        "grown_kb": _status("VmHWM") - before,
        "queued": client.hlen(f"{broker.namespace}:{QUEUE}.msgs"),
        "scripts": {
            **{script.sha: f"{name}.lua" for name, script in store.scripts.loaded.items()},
            **{script.sha: f"Dramatiq's {name}.lua" for name, script in broker.scripts.items()},
        },
    }


def _dead(store: Store) -> int:
    """Count the dead.  Each is judged by that: a pause of this process is no outage to any of them from then on."""
    found = 0
    while batch := store.recovery.find_due(skip_dead=found).dead:
        found += len(batch)
    return found


def _reset_peak() -> None:
    """Linux: the peak counts from now on."""
    Path("/proc/self/clear_refs").write_text("5", "ascii")


def _status(name: str) -> int:
    """A line of what the kernel knows of this process, kB."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    logging.getLogger().addHandler(logging.NullHandler())  # one line for every dead worker
    steps: dict[str, Callable[..., dict[str, Any]]] = {"enqueue": enqueue, "die": die, "sweep": sweep}
    print(json.dumps(steps[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))))
