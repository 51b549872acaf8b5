# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Throughput, and the processor time of the worker and of the server, with tracking and without.

A real ``dramatiq -p 1`` works off messages that were enqueued before it booted, whose actor does nothing; what counts
is the time from the first to the last.  The two ways take turns (off, on, on, off, ...), and every neighbouring pair
gives one ratio.  Throughput moves with the machine's other load, processor time hardly does; so each is there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from tests.support import rabbitmq
from tests.support.servers import RedisServer

from . import support
from .support import ROOT, Figure, Result, calls, server

__all__ = ["run", "run_grid"]

#: The name in `benchmarks.app`, without importing it here.
RESULT = "bench:result"

#: How long the argument of a message is, and how many threads the worker has.
ARGUMENTS, THREADS = (100, 1000, 10_000, 100_000, 1_000_000), (1, 4, 8, 16)
#: How much is enqueued at once, at the most.
MOST_BYTES = 40_000_000
#: How many processes keep the machine busy, where it is to be.
BUSY = 3


@dataclass(frozen=True)
class Case:
    """A worker, and what it has to do with."""

    threads: int
    broker: str = "RedisBroker"
    gevent: bool = False
    #: Whether `BUSY` processes compute all the while.
    busy: bool = False

    def __str__(self) -> str:
        kind = "greenlets" if self.gevent else "thread" if self.threads == 1 else "threads"
        return f"{self.broker}, {self.threads} {kind}{f', beside {BUSY} busy loops' if self.busy else ''}"

    @property
    def missing(self) -> str:
        """The software that the case needs and this machine lacks; empty if none."""
        if self.gevent and importlib.util.find_spec("gevent") is None:
            return "gevent is not installed"
        return "no RabbitMQ here" if self.broker == "RabbitmqBroker" and not rabbitmq.BINARY.exists() else ""


CASES = (
    *(Case(threads) for threads in (1, 8, 16, 64)),
    Case(16, busy=True),
    Case(16, gevent=True),
    *(Case(threads, "RabbitmqBroker") for threads in (8, 16)),
)

#: The targets of the ratios, tracked : untracked: throughput by the case, and both processor times.
THROUGHPUT = {Case(16): 0.85, Case(16, busy=True): 0.75}
WORKERS, SERVERS = 1.18, 1.9


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.
    """
    pairs, messages = {"quick": (1, 500), "normal": (9, 3000), "full": (21, 10_000)}[size]
    result = Result(f"overhead: an actor that does nothing, {messages:,} messages a round, 1 process, {pairs} pairs")
    with server() as redis_server, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        _round(redis_server, "tracked", messages)  # warms up files and caches
        url = ""
        for case in CASES:
            if case.missing:
                result.notes.append(f"{case}: not measured, {case.missing}")
                continue
            if case.broker == "RabbitmqBroker":
                url = url or stack.enter_context(rabbitmq.shared(Path(folder)))
            with _busy() if case.busy else contextlib.nullcontext():
                where = url if case.broker == "RabbitmqBroker" else ""
                _compare(result, case, redis_server, pairs=pairs, messages=messages, url=where)
    result.notes += [
        "each with the middleware; untracked: the actor's track_inflight=False",
        "RabbitMQ's own processor time is not measured; there Redis has nothing to do for what is untracked",
    ]
    return result


def _compare(result: Result, case: Case, redis_server: RedisServer, *, pairs: int, messages: int, url: str) -> None:
    got: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(pairs):
        for mode in ("tracked", "untracked") if number % 2 else ("untracked", "tracked"):
            got[mode].append(
                _round(redis_server, mode, messages, threads=case.threads, gevent=case.gevent, rabbitmq_url=url)
            )

    def add(what: str, name: str, **target: float) -> Figure:
        both = zip(got["tracked"], got["untracked"], strict=True)
        figure = result.add(
            f"{case}: {what}, tracked : untracked", *(on[name] / off[name] for on, off in both), **target
        )
        off, on = (statistics.median(one[name] for one in got[mode]) for mode in ("untracked", "tracked"))
        figure.note = f"{off:,.0f} and {on:,.0f} {'messages/s' if name == 'rate' else 'us/message'}"
        return figure

    at_least = THROUGHPUT.get(case)
    add("throughput", "rate", **({} if at_least is None else {"at_least": at_least}))
    add("worker's processor time", "cpu_us", **({"at_most": WORKERS} if not url else {}))
    if url:
        ours = [one["server_us"] for one in got["tracked"]]
        result.add(f"{case}: Redis's processor time, tracked", *ours, unit="us/message")
    else:
        add("server's processor time", "server_us", at_most=SERVERS)


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


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


def _enqueue(client: Any, messages: int, argument: int, rabbitmq_url: str) -> None:
    if rabbitmq_url:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415  pika may be missing

        broker: dramatiq.Broker = RabbitmqBroker(url=rabbitmq_url, middleware=[])
    else:
        broker = RedisBroker(client=client, middleware=[], maintenance_chance=0)
    broker.declare_queue("default")
    if rabbitmq_url:
        broker.flush("default")
    for _ in range(messages):
        broker.enqueue(dramatiq.Message("default", "noop", ("x" * argument,), {}, {}))
    if rabbitmq_url:
        broker.close()


def _round(
    redis_server: RedisServer,
    mode: str,
    messages: int,
    *,
    argument: int = 0,
    threads: int = 8,
    gevent: bool = False,
    rabbitmq_url: str = "",
) -> dict[str, float]:
    client: Any = redis_server.client()
    client.execute_command("FLUSHALL", "SYNC")
    _enqueue(client, messages, argument, rabbitmq_url)
    client.config_resetstat()
    before = support.server_cpu(client)
    env = {
        **{"BENCH_MODE": mode, "BENCH_MESSAGES": str(messages), "BENCH_REDIS_URL": redis_server.url},
        **({"BENCH_RABBITMQ_URL": rabbitmq_url, "PROCESSING_REDIS_URL": redis_server.url} if rabbitmq_url else {}),
    }
    deadline = time.monotonic() + 300
    program = [str(Path(sys.executable).with_name("dramatiq-gevent"))] if gevent else ["-m", "dramatiq"]
    worker = subprocess.Popen(
        [sys.executable, *program, "benchmarks.app", "-p", "1", "-t", str(threads)],
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
