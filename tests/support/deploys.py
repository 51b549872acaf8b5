# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Rolling deploys over a long message: the next worker starts, the old one gets SIGTERM, and then SIGKILL.

``python -m tests.support.deploys --cycles 30`` runs them at length.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from dramatiq_inflight.store.records import DRAINING

from .cluster import Cluster, standalone

__all__ = ["rolling_deploys"]


def rolling_deploys(cluster: Cluster, cycles: int, gate: Path, *, max_recoveries: int) -> list[dict[str, int]]:
    """Deploy so often while one message runs, and then let it end.

    Parameters:
      gate: The file that lets it end.

    Returns: run, crashes and drains as the actor saw them, for each of its runs.
    """
    history = cluster.history
    cluster.app.gated.send_with_options(args=("long", str(gate)), max_recoveries=max_recoveries)
    old = cluster.worker()
    cluster.wait(lambda: history.count("start") == 1, what="the message runs")
    for cycle in range(1, cycles + 1):
        new = cluster.worker()
        old.process.terminate()
        cluster.wait(lambda: _drains(cluster), what="the old worker shuts down")
        old.kill()
        cluster.wait(lambda runs=cycle + 1: history.count("start") == runs, what=f"the message runs again ({cycle})")
        old = new
    gate.touch()
    cluster.wait(lambda: history.count("end") == 1, what="the message ends")
    cluster.wait(lambda: cluster.enqueued() == 0, what="the broker is empty")
    old.stop()
    return [dict(event.extra) for event in history.events("start")]


def _drains(cluster: Cluster) -> bool:
    """Return whether Redis knows of a worker that it is shutting down."""
    scores = dict(cluster.client.zrange(cluster.prefix + "heartbeats", 0, -1, withscores=True))
    now = cluster.client.time()[0] * 1000
    return any(score > now and DRAINING.encode() + id in scores for id, score in scores.items())


def main() -> int:
    """Run the cycles, and print what the actor saw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=30)
    parser.add_argument("--max-recoveries", type=int, default=3)
    options = parser.parse_args()
    began = time.monotonic()
    with standalone(lambda url: {}) as cluster:
        gate = cluster.folder / "gate"
        runs = rolling_deploys(cluster, options.cycles, gate, max_recoveries=options.max_recoveries)
        crashes = runs[-1]["crashes"]
        letters = len(cluster.dead_letters())
    print(
        f"{options.cycles} deploys over one message with max_recoveries={options.max_recoveries}: {len(runs)} runs, "
        f"{crashes} crashes and {runs[-1]['drains']} shutdowns counted, {letters} dead letters; "
        f"{time.monotonic() - began:.0f} s"
    )
    return 1 if letters or crashes or len(runs) != options.cycles + 1 else 0


if __name__ == "__main__":
    sys.exit(main())
