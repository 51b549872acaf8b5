# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How the cost of a heartbeat and of a sweep, and Redis's memory, grow with incarnations and with running messages.

A heartbeat should cost the same, however many there are (O(1)); so should a sweep that finds nobody dead, which looks
at the next deadlines alone; memory should grow by the same for each.  The incarnations register, and start messages, by
the package's own `Store` on a real server.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.recovery.sweep import Recoverer
from tests.support.servers import RedisServer

from .memory import incarnation, start
from .support import Result, server

__all__ = ["run"]

INCARNATIONS = (10, 100, 1000, 10_000)
MESSAGES = (1, 10, 100, 1000, 10_000, 100_000)
#: From how many on memory is looked at: below, what the connections take would hide it.
ENOUGH = 1000
#: How many incarnations run the messages.
RUNNERS = 100


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``: up to a tenth of it.
    """
    cut = -1 if size == "quick" else None
    rounds = {"quick": 100, "normal": 300, "full": 3000}[size]
    result = Result(f"growth: a heartbeat, and a sweep with nobody dead, {rounds} of each")
    with server() as redis_server:
        client: Any = redis_server.client()

        def one_more() -> None:
            incarnation(client).scripts.close()

        by_incarnations = list(_measured(redis_server, INCARNATIONS[:cut], rounds, one_more))
    with server() as redis_server:
        client = redis_server.client()
        runners = [incarnation(client) for _ in range(RUNNERS)]
        turns = iter(range(max(MESSAGES)))
        by_messages = list(
            _measured(redis_server, MESSAGES[:cut], rounds, lambda: start(runners[next(turns) % RUNNERS], 100))
        )
        for runner in runners:
            runner.scripts.close()
    for what, rows in (("incarnations", by_incarnations), ("messages", by_messages)):
        for one, name in (("heartbeat", "beat"), ("sweep", "sweep")):
            for row in rows:
                result.add(f"{one}, {row['number']:,} {what}", *row[name], unit="ms")
            for row in rows:
                result.add(f"{one}: its script, {row['number']:,} {what}", *row[f"{name}_us"], unit="us")
            few, many = (statistics.median(row[f"{name}_us"]) for row in (rows[0], rows[-1]))
            result.add(f"{one}: its script, most {what} : fewest", many / few, at_most=3)
        for row in rows:
            if row["number"] >= ENOUGH:
                result.add(f"memory, up to {row['number']:,} {what}", row["bytes"], unit=f"bytes/{what[:-1]}")
    result.details = {
        what: [
            {name: statistics.median(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in rows
        ]
        for what, rows in (("incarnations", by_incarnations), ("messages", by_messages))
    }
    result.notes += [
        f"the messages are run by {RUNNERS} incarnations, and have an argument of 100 bytes",
        "its script: the time in the server, as its slow log has it",
        "memory: what Redis has more since the row before, for each one more; a message with its payload",
    ]
    return result


def _measured(
    redis_server: RedisServer, numbers: tuple[int, ...], rounds: int, add: Callable[[], object]
) -> Iterator[dict[str, Any]]:
    """A row for each number, as they grow."""
    client: Any = redis_server.client()
    me = incarnation(client)
    recovery = Recoverer(store=me, enqueue=_never, declared=lambda: (set(), set()), queues=BrokerQueues(), lock_ttl=300)
    recovery.sweep()
    client.config_set("slowlog-log-slower-than", 0)
    before, there = _used(client), 0
    for number in numbers:
        for _ in range(number - there):
            add()
        client.slowlog_reset()  # it takes memory, too
        used = _used(client)
        beats, beats_us = _timed(client, me.workers.heartbeat, rounds)
        sweeps, sweeps_us = _timed(client, recovery.sweep, rounds)
        yield {
            **{"number": number, "bytes": (used - before) / (number - there)},
            **{"beat": beats, "beat_us": beats_us, "sweep": sweeps, "sweep_us": sweeps_us},
        }
        client.slowlog_reset()
        before, there = _used(client), number
    me.scripts.close()


def _never(*args: object, **options: object) -> Any:
    raise AssertionError("nobody was dead")


def _timed(client: Any, do: Callable[[], object], times: int) -> tuple[list[float], list[float]]:
    """Return how long it takes, milliseconds each; and how long the server is at it, microseconds."""
    client.slowlog_reset()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        do()
        taken.append(1000 * (time.perf_counter() - began))
    logged = client.slowlog_get(100 * times)  # the commands in them, too
    scripts = [float(entry["duration"]) for entry in logged if entry["command"].startswith(b"EVALSHA")]
    if len(scripts) != times:
        raise RuntimeError(f"{len(scripts)} scripts, not one each time")
    return taken, scripts


def _used(client: Any) -> int:
    return int(client.info("memory")["used_memory"])
