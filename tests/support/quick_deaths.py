# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How soon the messages of a killed process run again, at default settings.

``python -m tests.support.quick_deaths --rounds 50``
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path

from .cluster import Cluster, standalone
from .history import History

__all__ = ["kill_one_of_four"]

DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "90", "PROCESSING_WATCH_PROCESSES": "true"}


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
        before = len(history.events())
        os.kill(victim, signal.SIGKILL)
        killed = time.time()
        Path(gate.format("")).touch()
        cluster.wait(
            lambda b=before, m=mine: any(e.what == "start" and e.key in m for e in history.events()[b:]),
            timeout=150,
            what="one of its messages runs again",
        )
        again = next(e for e in history.events()[before:] if e.what == "start" and e.key in mine)
        seconds.append(again.at - killed)
        worker.process.wait(timeout=60)
        rest = cluster.worker()
        cluster.wait(lambda ks=keys: set(ks) <= history.keys("end"), timeout=150, what="all complete")
        rest.stop()
    return seconds


def _pids(history: History, group: int) -> list[int]:
    return sorted({event.pid for event in history.events("boot") if event.extra == group})


def main() -> int:
    """Run the rounds, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with standalone(lambda url: DEFAULTS) as cluster:
        seconds = kill_one_of_four(cluster, options.rounds, options.seed)
    print(f"{len(seconds)} rounds: median {statistics.median(seconds):.3f} s, worst {max(seconds):.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
