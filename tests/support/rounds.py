# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Kill rounds: workers are killed again and again under load, and a checker judges the history.

``python -m tests.support.rounds --rounds 200 --seed 1`` runs them at length.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .cluster import Cluster, standalone
from .history import Event, History
from .rabbitmq import find_newer, shared
from .servers import another_database
from .workers import WorkerProcess

__all__ = ["Report", "judge", "kill_rounds"]


@dataclass
class Report:
    """The judgement of a history."""

    rounds: int = 0
    sent: int = 0
    completed: int = 0
    #: Runs that a kill cut off.
    cut_off: int = 0
    #: Never completed.
    lost: list[Any] = field(default_factory=list)
    #: Started while another run of it went on in a living process.
    doubled: list[Any] = field(default_factory=list)
    #: Started again after it was completed and acknowledged.
    repeated: list[Any] = field(default_factory=list)
    #: Started again after a kill that hit between the end of the actor and the acknowledgement.
    torn: int = 0
    #: Rejected to the dead-letter queue.
    dead_lettered: int = 0

    @property
    def is_right(self) -> bool:
        """True if no message was lost, run twice at once, or run again after its completion."""
        return not (self.lost or self.doubled or self.repeated)

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.sent} messages sent, {self.completed} completed, "
            f"{self.cut_off} runs cut off; "
            f"lost {len(self.lost)}, run twice at once {len(self.doubled)}, run again after completion "
            f"{len(self.repeated)} (and {self.torn} that were killed between finish and ack)"
            + (f"; {self.dead_lettered} dead-lettered" if self.dead_lettered else "")
        )


#: For each pid, when (``time.time``) each process that has had it was started, and was killed: pids come again.
Deaths = Mapping[int, Sequence[tuple[float, float]]]


def judge(history: History, sent: Sequence[Any], deaths: Deaths) -> Report:
    """Judge a history: `deaths` are those of the worker processes."""
    report = Report(sent=len(sent))
    by_key = history.by_key()
    for key in sent:
        events = by_key.get(key, [])
        if any(event.what == "nacked" for event in events):
            report.dead_lettered += 1
        elif not any(event.what == "end" for event in events):
            report.lost.append(key)
            continue
        else:
            report.completed += 1
        _judge_one(key, events, deaths, report)
    return report


def _death(deaths: Deaths, event: Event) -> float:
    """When the process that wrote this was killed; infinite: it was not."""
    return max((life for life in deaths.get(event.pid, ()) if life[0] <= event.at), default=(0.0, math.inf))[1]


def _judge_one(key: Any, events: list[Event], deaths: Deaths, report: Report) -> None:
    open_runs: dict[int, Event] = {}
    ended_by: Event | None = None
    acked = False
    for event in events:
        if event.what == "start":
            for pid, run in list(open_runs.items()):
                if _death(deaths, run) <= event.at:
                    del open_runs[pid]
                    report.cut_off += 1
            if open_runs:
                report.doubled.append(key)
            if ended_by is not None:
                if acked or _death(deaths, ended_by) == math.inf:
                    report.repeated.append(key)
                else:
                    report.torn += 1
            open_runs[event.pid] = event
        elif event.what == "end":
            open_runs.pop(event.pid, None)
            ended_by, acked = event, False
        elif event.what == "interrupted":
            open_runs.pop(event.pid, None)
        elif event.what == "acked" and ended_by is not None and event.pid == ended_by.pid:
            acked = True


def kill_rounds(
    cluster: Cluster,
    rounds: int,
    seed: int,
    *,
    at_most_once: bool = False,
    beside: Mapping[str, Any] = MappingProxyType({}),
    **worker: Any,
) -> Report:
    """Two workers; again and again one is killed while 8 of its messages run, and replaced.

    Parameters:
      seed: The seed of the moments, the victims and the lengths of the messages.
      at_most_once: A message that may have run is dead-lettered; a second start counts as `repeated`.
      beside: The second worker's arguments beside `worker`.
    """
    random_ = random.Random(seed)
    history = cluster.history
    kinds = [worker, {**worker, **beside}]
    workers = [cluster.worker(**kind) for kind in kinds]
    deaths: dict[int, list[tuple[float, float]]] = defaultdict(list)
    sent: list[int] = []
    owed: list[float] = []
    sent_at = 0.0
    options = {"on_orphan": "dead_letter"} if at_most_once else {}

    def running(victim: WorkerProcess) -> int:
        pid = victim.booted_pid()
        balance = [
            (event.what == "start") - (event.what == "end")
            for event in history.events()
            if event.pid == pid and event.at >= victim.started_at and event.what in ("start", "end")
        ]
        return sum(balance)

    def send(number: int, longer: int = 1) -> None:
        nonlocal sent_at
        sent_at = time.monotonic()
        for _ in range(number):
            sent.append(len(sent))
            seconds = round(longer * random_.uniform(0.02, 0.5), 3)
            owed.append(seconds)
            cluster.app.work.send_with_options(args=(sent[-1], seconds), **options)

    def is_busy(victim: WorkerProcess) -> bool:
        # What is put off for long keeps nobody busy; but one that boots, or has no turn, needs no more at once.
        idle = not running(victim) and time.monotonic() - sent_at > 1
        if cluster.enqueued() < 32 or idle:
            # A machine that sends more slowly than messages end would never have 8 at once: they get longer each time.
            batches.append(1)
            send(16, longer=len(batches))
        return running(victim) >= 8

    for _ in range(rounds):
        batches: list[int] = []
        send(32)
        victim = random_.choice(workers)
        begun, moment = time.monotonic(), random_.uniform(0, 0.3)
        # The moment of the kill is what is random here.
        cluster.wait(
            lambda victim=victim, at=begun + moment: time.monotonic() > at and is_busy(victim),
            what="8 messages run on the victim",
        )
        pid = victim.booted_pid()
        assert pid is not None
        victim.kill()
        deaths[pid].append((victim.started_at, victim.killed_at))
        index = workers.index(victim)
        workers[index] = cluster.worker(**kinds[index])
    cluster.wait(
        lambda: len(history.keys("end") | history.keys("nacked")) == len(sent),
        timeout=120 + sum(owed) / 4,  # two workers of 8 threads at least
        what=f"all of {len(sent)} messages complete, which take {sum(owed):.0f} seconds in all",
    )
    cluster.wait(lambda: cluster.enqueued() == 0, timeout=120, what="the broker is empty")
    report = judge(history, sent, deaths)
    report.rounds = rounds
    if at_most_once:
        starts = Counter(event.key for event in history.events("start"))
        report.repeated = [key for key, number in starts.items() if number > 1]
    for survivor in workers:
        survivor.stop()
    return report


def main() -> int:
    """Run the rounds at length, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--maintenance", type=int, default=0, help="RedisBroker's chance of maintenance, in a million")
    parser.add_argument("--heartbeat-timeout", type=int, default=60_000, help="RedisBroker's own, ms")
    parser.add_argument("--at-most-once", action="store_true", help="on_orphan is dead_letter")
    parser.add_argument("--apart", action="store_true", help="the tracker's Redis is not the broker's")
    parser.add_argument("--rabbitmq", action="store_true", help="the broker is a RabbitMQ")
    parser.add_argument("--newer", action="store_true", help="the one below TEST_RABBITMQ_ROOT")
    parser.add_argument("--quorum", action="store_true", help="its queues are quorum queues")
    parser.add_argument("--heartbeat", choices=["thread", "process"], default="thread")
    parser.add_argument("--seen", action="store_true", help="deaths are seen by processes of the same host")
    options = parser.parse_args()

    def settings(url: str) -> dict[str, str]:
        apart = {"PROCESSING_REDIS_URL": another_database(url)} if options.apart else {}
        return {
            "TEST_MAINTENANCE_CHANCE": str(options.maintenance),
            "TEST_HEARTBEAT_TIMEOUT": str(options.heartbeat_timeout),
            "TEST_RABBITMQ_QUEUES": "quorum" if options.quorum else "",
            "PROCESSING_HEARTBEAT": options.heartbeat,
            "PROCESSING_WATCH_PROCESSES": "true" if options.seen else "false",
            # Overdue copies that a killed recoverer had claimed are taken up after this.
            "RECOVERY_LOCK_TTL": "30",
            **apart,
            **rabbitmq,
        }

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = find_newer() if options.newer else None
        assert root or not options.newer, "TEST_RABBITMQ_ROOT names no Debian with a RabbitMQ"
        rabbitmq = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder, root))} if options.rabbitmq else {}
        cluster = stack.enter_context(standalone(settings))
        started = time.monotonic()
        report = kill_rounds(cluster, options.rounds, options.seed, at_most_once=options.at_most_once)
        print(f"seed {options.seed}: {report}; {time.monotonic() - started:.0f} s")
        for name in ("lost", "doubled", "repeated"):
            for key in getattr(report, name)[:5]:
                print(f"{name} {key}:")
                for event in cluster.history.by_key().get(key, []):
                    print(f"    {event.at:.3f} {event.pid} {event.what} {event.extra or ''}")
    return 0 if report.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
