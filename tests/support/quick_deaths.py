# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How soon the messages of a killed process run again, at default settings, by who notices.

``python -m tests.support.quick_deaths --rounds 50 [--by siblings|witness] [--rabbitmq]``

siblings   ``dramatiq -p 4``: one process is killed, the others see it.
witness    ``-p 1`` and its heartbeat process; the rest is done by another ``dramatiq``, which sees nothing of the host.

A host that is lost as a whole: ``tests.support.lost_hosts``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from .cluster import Cluster, standalone
from .history import Event, History
from .rabbitmq import shared

__all__ = ["KINDS"]

DEFAULTS = {
    "HEARTBEAT_INTERVAL": "30",
    "HEARTBEAT_TTL": "90",
    "PROCESSING_WATCH_PROCESSES": "true",
    "PROCESSING_CONNECTION_TIMEOUT": "2",
}


def kill_one_of_four(cluster: Cluster, rounds: int, seed: int) -> list[float]:
    """``dramatiq -p 4 -t 8``; SIGKILL one process while it runs 8 messages.

    Returns: seconds from the kill to the first line of the first re-run, for each round.
    """
    choose, history, seconds = random.Random(seed), cluster.history, []
    for number in range(rounds):
        worker = cluster.worker(processes=4)
        cluster.wait(lambda w=worker: len(_pids(history, w.group)) == 4, what="all four have booted")
        keys = [f"{number}-{n}" for n in range(64)]  # each process prefetches 16
        gate = str(cluster.folder / f"gate-{number}-{{}}")
        for key in keys:
            cluster.app.gated.send(key, gate)
        cluster.wait(lambda ks=keys: len(history.keys("start") & set(ks)) == 32, what="every process runs 8 messages")
        victim = choose.choice(_pids(history, worker.group))
        mine = {event.key for event in history.events("start") if event.pid == victim and event.key in keys}
        assert len(mine) == 8
        seconds.append(_kill_and_wait(cluster, victim, sorted(mine), gate=Path(gate.format(""))))
        worker.process.wait(timeout=120)
        rest = cluster.worker()
        cluster.wait(lambda ks=keys: set(ks) <= history.keys("end"), timeout=150, what="all complete")
        rest.stop()
    return seconds


def kill_one_with_a_witness(cluster: Cluster, rounds: int, seed: int) -> list[float]:
    """``dramatiq -p 1 -t 8``, ``heartbeat="process"``; SIGKILL its worker process while it runs 8 messages.

    Returns: seconds from the kill to the first line of the first re-run by a second ``dramatiq``, for each round.
    """
    history, seconds = cluster.history, []
    for number in range(rounds):
        keys = [f"{number}-{n}" for n in range(8)]
        gate = str(cluster.folder / f"gate-{number}")
        for key in keys:
            cluster.app.gated.send(key, gate)
        worker = cluster.worker(PROCESSING_HEARTBEAT="process")
        cluster.wait(lambda ks=keys: history.keys("start") >= set(ks), what="it runs 8 messages")
        victim = _pids(history, worker.group)[0]
        cluster.wait(lambda: _subscribed(cluster) == [2], what="its heartbeat process is there")
        other = cluster.worker(PROCESSING_WATCH_PROCESSES="false")
        seconds.append(_kill_and_wait(cluster, victim, keys))
        Path(gate).touch()
        cluster.wait(lambda ks=keys: history.keys("end") >= set(ks), timeout=150, what="all complete")
        worker.process.wait(timeout=120)
        other.stop()
    return seconds


KINDS = {"siblings": kill_one_of_four, "witness": kill_one_with_a_witness}


def _kill_and_wait(cluster: Cluster, victim: int, keys: list[str], gate: Path | None = None) -> float:
    """Seconds from the kill to the first line of a re-run; `gate`: opened after the kill, so that threads are free."""
    history = cluster.history
    before = len(history.events())
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    if gate is not None:
        gate.touch()

    def again() -> list[Event]:
        return [event for event in history.events()[before:] if event.what == "start" and event.key in keys]

    cluster.wait(again, timeout=150, what="one of its messages runs again")
    return again()[0].at - killed


def _subscribed(cluster: Cluster) -> list[int]:
    """Return how many processes of each incarnation are subscribed."""
    names = [key.decode().rpartition(":")[2] for key in cluster.client.keys(cluster.prefix + "incarnation:*")]
    return [count for _, count in cluster.client.pubsub_numsub(*(f"{cluster.prefix}in:{name}" for name in names))]


def _pids(history: History, group: int) -> list[int]:
    return sorted({event.pid for event in history.events("boot") if event.extra == group})


def main() -> int:
    """Run the rounds, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by", choices=sorted(KINDS), default="siblings")
    parser.add_argument("--rabbitmq", action="store_true", help="the broker is a RabbitMQ")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rabbitmq = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder))} if options.rabbitmq else {}
        cluster = stack.enter_context(standalone(lambda url: {**DEFAULTS, **rabbitmq}))
        seconds = KINDS[options.by](cluster, options.rounds, options.seed)
    print(f"{options.by}, {len(seconds)} rounds: median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
