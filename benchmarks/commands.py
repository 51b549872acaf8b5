# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The commands that tracking sends to Redis, counted: ``INFO commandstats`` before and after.

One thread fetches, runs and acknowledges messages one by one, by Dramatiq's own `WorkerThread` and consumer, so that
the counts are exact.  (`benchmarks.overhead` counts the scripts of a real worker.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from queue import PriorityQueue
from typing import Any

import dramatiq
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import default_middleware
from dramatiq.worker import ConsumerThread, WorkerThread

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.worker import WorkerProcess
from tests.support.inside import runtime_of
from tests.support.servers import RedisServer

from .support import Result, calls, server

__all__ = ["OneByOne", "booted", "run"]

#: The client's own commands; a script called every other one that is counted.
CLIENTS = ("evalsha", "zcard")
#: The commands that would make Redis look at all of its keys.
FORBIDDEN = ("keys", "scan")


def run(*, quick: bool = False) -> Result:
    """Measure."""
    messages, beats = 200, 100
    result = Result(f"commands: what Redis is asked to do, {messages} messages one by one, {beats} idle heartbeats")
    with server() as redis_server:
        untracked, _ = _count(redis_server, messages, beats, tracked=False)
        tracked, idle = _count(redis_server, messages, beats, tracked=True)
    total = untracked + tracked + idle
    extra = Counter({name: tracked[name] - untracked[name] for name in tracked | untracked})
    result.add("scripts called, untracked", untracked["evalsha"] / messages, unit="/message")
    result.add("scripts called, tracked", tracked["evalsha"] / messages, unit="/message")
    result.add("scripts called, tracking alone", extra["evalsha"] / messages, unit="/message", at_most=2)
    result.add("commands in scripts, tracking alone", _inner(extra) / messages, unit="/message")
    for name, number in sorted(extra.items(), key=lambda pair: (-pair[1], pair[0])):
        if number and name not in CLIENTS:
            result.add(f"    {name}", number / messages, unit="/message")
    result.add("calls, idle heartbeat", sum(idle[name] for name in CLIENTS) / beats, unit="/beat")
    result.add("commands in scripts, idle heartbeat", _inner(idle) / beats, unit="/beat")
    result.add("KEYS and SCAN", sum(total[name] for name in FORBIDDEN), at_most=0)
    result.notes.append("a script that is sent along with another shares its round trip")
    return result


def _inner(counted: Counter[str]) -> int:
    return sum(number for name, number in counted.items() if name not in CLIENTS)


def _count(redis_server: RedisServer, messages: int, beats: int, *, tracked: bool) -> tuple[Counter[str], Counter[str]]:
    """Count the commands of so many messages, and of so many heartbeats of an idle worker."""
    client = redis_server.client()
    client.execute_command("FLUSHALL", "SYNC")
    one_by_one, noop, runtime = booted(redis_server, tracked=tracked)
    # Once before: scripts are loaded, and the first message finds no set of its worker.
    for number in (1, messages):
        for _ in range(number):
            noop.send()
        counted = _counting(client, lambda number=number: one_by_one.work(number))  # type: ignore[misc]
    runtime.heartbeat.run_once()
    if runtime.store.messages.count_running():
        raise RuntimeError(
            "the tracker has not tracked these messages to their end: the counts are not of what it does"
        )
    if counted["set"] != messages * tracked:
        raise RuntimeError(f"{counted['set']} records for {messages} messages")
    idle = _counting(client, lambda: [runtime.heartbeat.run_once() for _ in range(beats)])
    return counted, idle


def booted(redis_server: RedisServer, *, tracked: bool) -> tuple[OneByOne, Any, WorkerProcess]:
    """Return a worker in this thread that neither beats nor sweeps by itself, and an actor that does nothing."""
    tracker = InFlightTracker()
    broker = RedisBroker(
        client=redis_server.client(),
        middleware=[*(middleware() for middleware in default_middleware), tracker],
        maintenance_chance=0,  # Dramatiq's own maintenance calls KEYS, at random
    )

    @dramatiq.actor(broker=broker, track_inflight=tracked)
    def noop(argument: str = "") -> None:
        """Does nothing."""

    one_by_one, runtime = OneByOne(broker, noop.queue_name), runtime_of(tracker)
    runtime.recovery_thread.stop()
    runtime.heartbeat.stop()
    return one_by_one, noop, runtime


class OneByOne:
    """Fetches, runs and acknowledges messages in this thread, by the code of Dramatiq's own threads."""

    def __init__(self, broker: RedisBroker, queue: str) -> None:
        worker = Worker(broker)
        broker.emit_before("worker_boot", worker)
        broker.emit_after("worker_boot", worker)
        self.work_queue: PriorityQueue[Any] = PriorityQueue()
        consumer_thread = ConsumerThread(
            broker=broker, queue_name=queue, prefetch=1, work_queue=self.work_queue, worker_timeout=1000
        )
        self.consumer = consumer_thread.consumer = broker.consume(queue, prefetch=1, timeout=1)
        self.thread = WorkerThread(
            broker=broker, consumers={queue: consumer_thread}, work_queue=self.work_queue, worker_timeout=1000
        )

    def work(self, messages: int) -> None:
        for _ in range(messages):
            message = next(self.consumer)
            assert message is not None
            self.work_queue.put(0)
            self.work_queue.get()
            self.thread.process_message(message)


def _counting(client: Any, do: Callable[[], object]) -> Counter[str]:
    before = calls(client)
    do()
    after = calls(client)
    counted = Counter({name: number - before.get(name, 0) for name, number in after.items()})
    counted["info"] = 0  # our own
    return +counted
