# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The cost of resuming a long job: a checkpoint, an iteration, a completion that is remembered.

The job runs in this process, by Dramatiq's own `WorkerThread`, on a server of the benchmark's own.  Iterations take
turns with the bare loop (bare, iterate, iterate, bare, ...), and every neighbouring pair gives one ratio.  A step keeps
the processor busy for a millisecond, so that what comes between two steps is all that is measured.
"""

from __future__ import annotations

import json
import secrets
import statistics
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import default_middleware

from dramatiq_inflight import Current, InFlightTracker, current
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.inside import runtime_of
from tests.support.servers import RedisServer, wait_until

from .commands import OneByOne
from .support import Result, calls, server, server_binaries, version

__all__ = ["run"]

STEP = 0.001


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.
    """
    pairs, steps, checkpoints, messages = {
        "quick": (2, 500, 500, 1000),
        "normal": (7, 6000, 5000, 4000),
        "full": (21, 12_000, 20_000, 10_000),
    }[size]
    result = Result(
        f"resume: {checkpoints:,} checkpoints, loops of {steps:,} steps of a millisecond, {messages:,} completions "
        "that are remembered"
    )
    with server() as redis_server:
        _checkpoints(redis_server, result, checkpoints)
        _iterations(redis_server, result, pairs, steps)
    for binary in server_binaries():
        with server(binary) as redis_server:
            for name, remember in (("remembered", 86400.0), ("not remembered", 0.0)):
                got = [_memory(redis_server, messages, remember) for _ in range(1 if size == "quick" else 3)]
                result.add(f"completion {name}, {version(binary)}", *got, unit="bytes/message")
    result.notes.append("iterate: saves every five seconds, and at its end, as it is by default")
    result.notes.append("a completion of a RedisBroker on the tracker's Redis")
    return result


def _checkpoints(redis_server: RedisServer, result: Result, number: int) -> None:
    client = redis_server.client()

    def measure(job: Current) -> tuple[list[float], dict[str, float], float]:
        job.checkpoint({"page": 0})  # connects, and loads the script
        before, writes = calls(client), _Writes()
        took = []
        with writes:
            for page in range(number):
                began = time.perf_counter()
                job.checkpoint({"page": page, "of": "a table"}, progress=page / number)
                took.append(time.perf_counter() - began)
        counted = {name: (n - before.get(name, 0)) / number for name, n in calls(client).items()}
        return took, counted, writes.number / number

    took, counted, writes = _in_a_job(redis_server, measure)
    result.add("checkpoint, round trips", writes, unit="/checkpoint", at_most=1)
    result.add("checkpoint, scripts called", counted["evalsha"], unit="/checkpoint", at_most=1)
    result.add("checkpoint, time", *(1e6 * seconds for seconds in took), unit="us")


def _iterations(redis_server: RedisServer, result: Result, pairs: int, steps: int) -> None:
    def bare(job: Current, name: str) -> Iterable[int]:
        return range(steps)

    def iterate(job: Current, name: str) -> Iterable[int]:
        return job.iterate(range(steps), name=name)

    def each(job: Current, name: str) -> Iterable[int]:
        return job.iterate(range(steps), name=name, every=0)

    def seconds(loop: Callable[[Current, str], Iterable[int]], step: float = STEP) -> float:
        def measure(job: Current) -> float:
            job.checkpoint(None)
            began = time.perf_counter()
            for _ in loop(job, "items"):
                deadline = time.perf_counter() + step
                while step and time.perf_counter() < deadline:
                    pass
            return time.perf_counter() - began

        return _in_a_job(redis_server, measure)

    took: dict[str, list[float]] = {"bare": [], "iterate": []}
    for pair in range(pairs):
        turns = [("bare", bare), ("iterate", iterate)]
        for name, loop in turns if pair % 2 == 0 else reversed(turns):
            took[name].append(seconds(loop))
    ratios = [100 * (on / off - 1) for on, off in zip(took["iterate"], took["bare"], strict=True)]
    result.add("iterate over steps of 1 ms, beyond the bare loop", *ratios, unit="%", at_most=2)
    bare_us, iterate_us = (
        1e6 * statistics.median(seconds(loop, 0.0) for _ in range(5)) / steps for loop in (bare, iterate)
    )
    result.add("iterate, without a save", iterate_us - bare_us, unit="us/step")
    result.add("iterate with every=0: a save for each step", 100 * (seconds(each) / seconds(bare) - 1), unit="%")


def _memory(redis_server: RedisServer, messages: int, remember: float) -> float:
    """Bytes that Redis has more for each message that was completed."""
    client: Any = redis_server.client()
    client.execute_command("FLUSHALL", "SYNC")
    worker = Store(
        Scripts(client, "dramatiq_processing", secrets.token_hex(8), heartbeat_ttl=3600, fence_ttl=7 * 24 * 3600)
    )
    worker.workers.register({"instance": "worker", "queues": json.dumps(["default"])})

    def complete() -> None:
        copy_id = str(uuid.uuid4())
        message = dramatiq.Message[None]("default", "send_invoice", (), {}, {"redis_message_id": copy_id})
        copy = Copy(message.message_id, 1, copy_id, copy_id, False, "default", "send_invoice")
        run = worker.messages.start(copy, message.encode(), limit=3, here="no").run
        worker.messages.complete(copy, run, again=False, contended=False, remember=remember)

    complete()  # loads the scripts
    wait_until(lambda: client.info("clients")["connected_clients"] == 2, what="two connections are left")
    before = client.info("memory")["used_memory"]
    for _ in range(messages):
        complete()
    kept = (client.info("memory")["used_memory"] - before) / messages
    worker.scripts.close()
    return max(float(kept), 0.0)


def _in_a_job(redis_server: RedisServer, measure: Callable[[Current], Any]) -> Any:
    """Return the result of a function that a tracked actor calls."""
    redis_server.client().execute_command("FLUSHALL", "SYNC")
    tracker, said = InFlightTracker(), []
    broker = RedisBroker(
        client=redis_server.client(),
        middleware=[*(middleware() for middleware in default_middleware), tracker],
        maintenance_chance=0,
    )

    @dramatiq.actor(broker=broker, track_inflight=True, max_retries=0)
    def job() -> None:
        handle = current()
        assert handle is not None
        said.append(measure(handle))

    one_by_one = OneByOne(broker, job.queue_name)
    try:
        job.send()
        one_by_one.work(1)
    finally:
        runtime_of(tracker).leave()
    if not said:
        raise RuntimeError("the job has failed")
    return said[0]


class _Writes:
    """Counts what is sent to Redis by tracked messages: one write is one round trip."""

    def __init__(self) -> None:
        self.number = 0
        self._before: Any = None

    def __enter__(self) -> _Writes:
        kind: Any = redis.connection.AbstractConnection
        self._before = before = kind.send_packed_command

        def counting(connection: Any, *args: Any, **kwargs: Any) -> Any:
            self.number += 1
            return before(connection, *args, **kwargs)

        kind.send_packed_command = counting
        return self

    def __exit__(self, *_: object) -> None:
        kind: Any = redis.connection.AbstractConnection
        kind.send_packed_command = self._before
