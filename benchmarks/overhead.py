# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Throughput of an actor that does nothing, with and without tracking.

A real ``dramatiq -p 1 -t 8`` works off messages that were enqueued before it booted; what counts is the time from the
first to the last.  The two ways take turns (off, on, on, off, ...), and every neighbouring pair gives one ratio.  Since
other load on the machine disturbs wall-clock time, the processor time of the worker process and of the server is
measured beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.support.servers import RedisServer

from . import support
from .support import ROOT, Result, calls, server

__all__ = ["run", "run_grid"]

#: What `benchmarks.app` calls it, without importing it here.
RESULT = "bench:result"

#: How long the argument of a message is, and how many threads the worker has.
ARGUMENTS, THREADS = (100, 1000, 10_000, 100_000), (1, 4, 8, 16)
#: How much is enqueued at once, at the most.
MOST_BYTES = 40_000_000


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.
    """
    pairs, messages = {"quick": (3, 2000), "normal": (9, 6000), "full": (21, 10_000)}[size]
    result = Result(f"overhead: an actor that does nothing, {messages:,} messages a round, 1 process, 8 threads")
    with server() as redis_server:
        _round(redis_server, "tracked", messages)  # warms up files and caches
        got: dict[str, list[dict[str, float]]] = defaultdict(list)
        for number in range(pairs):
            modes = ["untracked", "tracked"]
            if number % 2:
                modes.reverse()
            if number % 3 == 0:
                modes.append("plain")
            for mode in modes:
                got[mode].append(_round(redis_server, mode, messages))

    def column(mode: str, name: str) -> list[float]:
        return [one[name] for one in got[mode]]

    def ratios(name: str) -> list[float]:
        return [on / off for on, off in zip(column("tracked", name), column("untracked", name), strict=True)]

    for mode in ("plain", "untracked", "tracked"):
        result.add(f"throughput, {mode}", *column(mode, "rate"), unit="messages/s")
    result.add("throughput, tracked : untracked", *ratios("rate"), at_least=0.97)
    for mode in ("plain", "untracked", "tracked"):
        result.add(f"worker's processor time, {mode}", *column(mode, "cpu_us"), unit="us/message")
    for mode in ("plain", "untracked", "tracked"):
        result.add(f"server's processor time, {mode}", *column(mode, "server_us"), unit="us/message")
    for mode in ("untracked", "tracked"):
        result.add(f"scripts called, {mode}", *column(mode, "scripts"), unit="/message")
    result.notes.append("plain: without the middleware; untracked: with it, and the actor's track_inflight=False")
    return result


def run_grid(size: str) -> Result:
    """Measure by the size of the payload, and by the number of threads.

    Parameters:
      size: ``quick``, ``normal``: one after the other; ``full``: each size with each number.
    """
    pairs, messages = {"quick": (1, 500), "normal": (3, 1000), "full": (9, 5000)}[size]
    cells = [(argument, 8) for argument in ARGUMENTS] + [(ARGUMENTS[0], threads) for threads in THREADS]
    if size == "full":
        cells = [(argument, threads) for argument in ARGUMENTS for threads in THREADS]
    result = Result(
        f"payloads: throughput tracked : untracked, {messages:,} messages a round, {pairs} alternating pairs"
    )
    rows = []
    with server() as redis_server:
        _round(redis_server, "tracked", messages)
        for argument, threads in dict.fromkeys(cells):
            number = min(messages, MOST_BYTES // argument)
            ratios, rates = [], []
            for pair in range(pairs):
                modes = ["untracked", "tracked"] if pair % 2 == 0 else ["tracked", "untracked"]
                got = {mode: _round(redis_server, mode, number, argument=argument, threads=threads) for mode in modes}
                ratios.append(got["tracked"]["rate"] / got["untracked"]["rate"])
                rates.append(got["untracked"]["rate"])
            result.add(f"argument of {argument:,} bytes, {threads} threads", *ratios)
            rows.append({"bytes": argument, "threads": threads, "ratios": ratios, "untracked": rates})
    result.details = {"rows": rows}
    return result


def _round(
    redis_server: RedisServer, mode: str, messages: int, *, argument: int = 0, threads: int = 8
) -> dict[str, float]:
    client: Any = redis_server.client()
    client.execute_command("FLUSHALL", "SYNC")
    broker = RedisBroker(client=client, middleware=[], maintenance_chance=0)
    for _ in range(messages):
        broker.enqueue(dramatiq.Message("default", "noop", ("x" * argument,), {}, {}))
    client.config_resetstat()
    before = support.server_cpu(client)
    env = {"BENCH_MODE": mode, "BENCH_MESSAGES": str(messages), "BENCH_REDIS_URL": redis_server.url}
    deadline = time.monotonic() + 120
    worker = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "benchmarks.app", "-p", "1", "-t", str(threads)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        said = None
        while said is None:
            said = client.blpop(RESULT, timeout=5)
            if said is None and worker.poll() is not None:
                raise RuntimeError(f"the worker ({mode}) ended early, with {worker.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker ({mode}) did not get to the end of {messages} messages")
        server_cpu = support.server_cpu(client) - before
        scripts = calls(client).get("evalsha", 0)
    finally:
        worker.terminate()
        worker.wait(timeout=60)
    one = json.loads(said[1])
    return {
        "rate": messages / one["seconds"],
        "cpu_us": one["cpu"] / messages * 1e6,
        "server_us": server_cpu / messages * 1e6,
        "scripts": scripts / messages,
    }
