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

from .support import ROOT, Result, calls, server

__all__ = ["run"]

#: What `benchmarks.app` calls it, without importing it here.
RESULT = "bench:result"


def run(*, quick: bool = False) -> Result:
    """Measure."""
    pairs, messages = (3, 2000) if quick else (9, 10_000)
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
    result.add("throughput, tracked : untracked", *ratios("rate"), at_least=0.95)
    for mode in ("plain", "untracked", "tracked"):
        result.add(f"worker's processor time, {mode}", *column(mode, "cpu_us"), unit="us/message")
    for mode in ("plain", "untracked", "tracked"):
        result.add(f"server's processor time, {mode}", *column(mode, "server_us"), unit="us/message")
    for mode in ("untracked", "tracked"):
        result.add(f"scripts called, {mode}", *column(mode, "scripts"), unit="/message")
    result.notes.append("plain: without the middleware; untracked: with it, and the actor's track_inflight=False")
    return result


def _round(redis_server: RedisServer, mode: str, messages: int) -> dict[str, float]:
    client: Any = redis_server.client()
    client.execute_command("FLUSHALL", "SYNC")
    broker = RedisBroker(client=client, middleware=[], maintenance_chance=0)
    for _ in range(messages):
        broker.enqueue(dramatiq.Message("default", "noop", (), {}, {}))
    client.config_resetstat()
    before = _server_cpu(client)
    env = {"BENCH_MODE": mode, "BENCH_MESSAGES": str(messages), "BENCH_REDIS_URL": redis_server.url}
    deadline = time.monotonic() + 120
    worker = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "benchmarks.app", "-p", "1", "-t", "8"],
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
        server_cpu = _server_cpu(client) - before
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


def _server_cpu(client: Any) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
