# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How fast a sweep puts back what dead workers left, in both ways, against plain ``broker.enqueue``.

Every round enqueues messages (timed: the yardstick), lets workers that soon are dead fetch and start them, waits until
their heartbeats have expired, and sweeps once (timed).  Each step is a process of its own.

*hand back*: RedisBroker on the tracker's own Redis.  *copy*: the tracker's Redis is a server apart, as with any other
broker.
"""

from __future__ import annotations

import statistics
from typing import Any

from tests.support.servers import RedisServer

from .support import Result, child, server

__all__ = ["run"]

#: The name of the scripts that ran while plain Dramatiq enqueued.
CONTROL = ""

WAYS = ("hand back", "copy")


def run(*, quick: bool = False) -> Result:
    """Measure."""
    rounds, messages, sizes = (2, 1000, (1000, 2000)) if quick else (5, 10_000, (1000, 10_000, 100_000))
    result = Result("recovery: one sweep over what dead workers were running")
    slow: dict[str, list[int]] = {}
    memory: dict[tuple[str, int], list[float]] = {}
    rates: dict[tuple[str, int, str], list[dict[str, float]]] = {}

    def one(way: str, number: int, incarnations: int, label: str) -> None:
        got = _round((broker_server, apart), way, number, incarnations, slow)
        rates.setdefault((way, number, label), []).append(got)
        if incarnations == 1:
            memory.setdefault((way, number), []).append(got["grown_mb"])

    with server() as broker_server, server() as apart:
        for _ in range(rounds):
            for way in WAYS:
                one(way, messages, 1, "1 dead worker")
        for way in WAYS:
            one(way, messages, messages // 8, f"{messages // 8:,} dead workers")
        for number in sizes:
            for way in WAYS:
                if (way, number) not in memory:
                    one(way, number, 1, "1 dead worker")

    for (way, number, label), got in sorted(rates.items()):
        name = f"{way}, {number:,} of {label}"
        result.add(f"{name}: enqueue", *(one["enqueue"] for one in got), unit="messages/s")
        result.add(f"{name}: sweep", *(one["sweep"] for one in got), unit="messages/s")
        result.add(f"{name}: sweep : enqueue", *(one["sweep"] / one["enqueue"] for one in got), at_least=0.8)
    control = max(slow.pop(CONTROL, [1000]))
    result.add("longest single enqueue by plain Dramatiq (control)", control / 1000, unit="ms")
    for script, micros in sorted(slow.items(), key=lambda pair: -max(pair[1])):
        result.add(f"longest run of {script}", max(micros) / 1000, unit="ms", at_most=5)
        result.add("    of those over 1 ms: the median", statistics.median(micros) / 1000, unit="ms", at_most=5)
        result.add("    and how many took over 5 ms", sum(one > 5000 for one in micros), unit=f"of {len(micros):,}")
    if not slow:
        result.add("longest script", 1.0, unit="ms (or less)", at_most=5)
    for (way, number), grown in sorted(memory.items()):
        first = memory[way, sizes[0]][0]
        result.add(f"{way}, {number:,}: growth of the process", *grown, unit="MB", at_most=max(5.0, 2 * first))
    result.notes.append("a script's time is the clock's: that of a server which had to wait for a processor is in it,")
    result.notes.append("as the control shows, which takes some 20 us of work")
    result.notes.append("growth: the peak of the recovering process's resident memory, less what it was before")
    return result


def _round(
    servers: tuple[RedisServer, RedisServer], way: str, messages: int, incarnations: int, slow: dict[str, list[int]]
) -> dict[str, float]:
    broker_server, apart = servers
    same = way == "hand back"
    tracker_server = broker_server if same else apart
    for one in (broker_server, apart):
        one.client().execute_command("FLUSHALL", "SYNC")
    env = {"BENCH_REDIS_URL": broker_server.url, "BENCH_TRACKER_URL": tracker_server.url}
    where = "same" if same else "apart"

    def step(name: str, *args: int) -> Any:
        return child("benchmarks.recovery_steps", name, where, *map(str, args), env=env)

    for one in {broker_server, tracker_server}:
        one.client().slowlog_reset()
    enqueued = step("enqueue", messages)
    _note_slow(broker_server, {}, slow)
    step("die", messages, incarnations)
    for one in {broker_server, tracker_server}:
        one.client().slowlog_reset()
    swept = step("sweep", messages, incarnations)
    for one in {broker_server, tracker_server}:
        _note_slow(one, swept["scripts"], slow)
    done = swept["handed_back"] if same else swept["copied"]
    if done != messages or swept["queued"] != messages * (1 if same else 2):
        # Apart, the dead worker's copies are still in the broker's hash beside the new ones.
        raise RuntimeError(f"{messages} messages were to be recovered: {swept}")
    return {
        "enqueue": messages / enqueued["seconds"],
        "sweep": messages / swept["seconds"],
        "grown_mb": swept["grown_kb"] / 1024,
    }


def _note_slow(redis_server: RedisServer, scripts: dict[str, str], slow: dict[str, list[int]]) -> None:
    client: Any = redis_server.client()
    for entry in client.slowlog_get(100_000):
        words = entry["command"].split()
        if words[0].upper() == b"EVALSHA":
            slow.setdefault(scripts.get(words[1].decode(), CONTROL), []).append(entry["duration"])
