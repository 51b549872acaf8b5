# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Deploys and kills over the same messages, which RabbitMQ gets back each time: those that run, wait and are delayed.

``python -m tests.support.returns --deploys 30 --kills 30 --newer`` runs them at length.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from .cluster import Cluster, standalone
from .rabbitmq import find_newer, shared
from .rounds import Report, judge

__all__ = ["Returns", "deploys_and_kills"]

#: As an application has them that says nothing of heartbeats.
SETTINGS = {
    "HEARTBEAT_INTERVAL": "30",
    "HEARTBEAT_TTL": "90",
    "PROCESSING_WATCH_PROCESSES": "true",
    "PROCESSING_CONNECTION_TIMEOUT": "2",
    "TEST_RABBITMQ_QUEUES": "quorum",
}

THREADS = 2


@dataclass
class Returns:
    """The ends of the messages."""

    report: Report
    #: How often a message began to run.
    runs: int
    dead_letters: int
    #: How often a message was published anew, before RabbitMQ's limit.
    renewed: int

    @property
    def is_right(self) -> bool:
        """True if all have run to their end, none beside itself, and none was dead-lettered."""
        return self.report.is_right and not self.dead_letters

    def __str__(self) -> str:
        return f"{self.report}; {self.runs} runs, {self.renewed} enqueued anew, {self.dead_letters} dead letters"


def deploys_and_kills(cluster: Cluster, deploys: int, kills: int, gate: Path, *, delay: float) -> Returns:
    """Replace the worker so often, in order and by SIGKILL in turns, while no message may end; then all may.

    Parameters:
      gate: The file that lets them end.
      delay: How long the delayed messages are delayed, seconds.
    """
    history = cluster.history
    options = {"hand_back": 0.2}
    sent = list(range(3 * THREADS + 6))  # they run, are fetched ahead, and two wait in the queue; six are delayed
    for key in sent:
        due = delay * 1000 if key >= 3 * THREADS + 2 else None
        cluster.app.interruptible.send_with_options(args=(key, str(gate)), delay=due, **options)
    deaths: dict[int, list[tuple[float, float]]] = defaultdict(list)
    old = cluster.worker(threads=THREADS)
    turns = [turn for pair in zip([False] * deploys, [True] * kills, strict=False) for turn in pair]
    turns += [deploys < kills] * abs(deploys - kills)
    for is_kill in turns:
        pid = old.booted_pid()
        assert pid is not None
        cluster.wait(lambda pid=pid: _running(cluster, pid) == THREADS, what="its threads are busy")
        cluster.wait(lambda: _delayed(cluster) == 0, what="what is delayed is fetched")
        new = cluster.worker(threads=THREADS)
        if is_kill:
            old.kill()
            deaths[pid].append((old.started_at, old.killed_at))
        else:
            old.stop()
        old = new
    gate.touch()
    cluster.wait(lambda: len(history.keys("end")) == len(sent), timeout=delay + 120, what="all end")
    cluster.wait(lambda: cluster.enqueued() == 0, timeout=delay + 120, what="the broker is empty")
    old.stop()
    report = judge(history, sent, deaths)
    report.rounds = len(turns)
    renewed = sum(worker.output().count("to the end of its queue, because RabbitMQ") for worker in cluster.workers)
    return Returns(report, history.count("start"), len(cluster.dead_letters()), renewed)


def _running(cluster: Cluster, pid: int) -> int:
    events = [event.what for event in cluster.history.events() if event.pid == pid]
    return events.count("start") - events.count("end") - events.count("interrupted")


def _delayed(cluster: Cluster) -> int:
    """Return how many delayed messages nobody has fetched."""
    return int(cluster.broker.get_queue_message_counts(cluster.app.QUEUE)[1])


def main() -> int:
    """Run them, and print what became of the messages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=30)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--delay", type=float, default=240, help="of the delayed messages, seconds")
    parser.add_argument("--newer", action="store_true", help="the RabbitMQ below TEST_RABBITMQ_ROOT")
    options = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = find_newer() if options.newer else None
        assert root or not options.newer, "TEST_RABBITMQ_ROOT names no Debian with a RabbitMQ"
        url = stack.enter_context(shared(folder, root))
        cluster = stack.enter_context(standalone(lambda redis_url: {**SETTINGS, "TEST_RABBITMQ_URL": url}))
        gate = cluster.folder / "gate"
        found = deploys_and_kills(cluster, options.deploys, options.kills, gate, delay=options.delay)
    print(f"{options.deploys} deploys and {options.kills} kills: {found}; {time.monotonic() - began:.0f} s")
    return 0 if found.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
