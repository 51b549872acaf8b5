# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Crash loops: messages that kill their worker among innocent ones, on supervised workers, and who pays for it.

``python -m tests.support.crash_loops --seeds 1-50`` runs them at length.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from .cluster import Cluster, standalone
from .servers import another_database
from .workers import WorkerProcess

__all__ = ["CrashLoops", "Plan", "Verdict"]


@dataclass(frozen=True)
class Plan:
    """A random workload."""

    seed: int
    workers: int
    max_recoveries: int
    #: Seconds until each one kills its worker.
    poison: list[float]
    #: Seconds of work of each innocent message.
    innocent: list[float]
    #: How often each innocent message fails by itself before it succeeds.
    failures: list[int]
    #: The tracker's Redis is not the broker's: recovery makes copies.
    apart: bool
    #: Worker processes in each container; more than one: they die together, with what the others run.
    processes: int

    @classmethod
    def of(cls, seed: int) -> Plan:
        choose = random.Random(seed)
        short = [choose.uniform(0.01, 0.3) for _ in range(choose.randrange(20, 60))]
        long = [choose.uniform(2, 6) for _ in range(choose.randrange(2, 7))]
        innocent = short + long
        choose.shuffle(innocent)
        return cls(
            seed=seed,
            workers=choose.choice((2, 3, 4)),
            max_recoveries=choose.choice((1, 2, 3)),
            poison=[choose.choice((0.0, choose.uniform(0, 0.5))) for _ in range(choose.choice((1, 2, 5)))],
            innocent=innocent,
            failures=[choose.choice((0, 0, 0, 1)) for _ in innocent],
            apart=choose.random() < 0.5,
            processes=choose.choice((1, 1, 2)),
        )


@dataclass
class Verdict:
    """The verdict of a history."""

    plan: Plan
    deaths: int = 0
    most_deaths: int = 0
    #: The runs of each poison message.
    runs: list[int] = field(default_factory=list)
    #: Findings that should not be.
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        plan = self.plan
        return (
            f"seed {plan.seed}: {plan.workers} x {plan.processes} workers, {len(plan.innocent)} innocent and "
            f"{len(plan.poison)} poison messages, max_recoveries {plan.max_recoveries}, "
            f"{'copies' if plan.apart else 'hand back'}: "
            f"{self.deaths} of at most {self.most_deaths} deaths, runs of the poison {self.runs}; {self.seconds:.0f} s"
            + "".join(f"\n    WRONG: {text}" for text in self.wrong)
        )


class CrashLoops:
    """One workload, from its first message to its last."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self.cluster = cluster
        self.plan = plan
        self.deaths = 0
        self.workers: list[WorkerProcess] = []

    def run(self) -> Verdict:
        plan, app, began = self.plan, self.cluster.app, time.monotonic()
        self.workers = [self._worker(i) for i in range(plan.workers)]
        sends: list[tuple[Any, tuple[Any, ...]]] = [
            (app.killer, (f"poison-{i}", seconds)) for i, seconds in enumerate(plan.poison)
        ]
        for i, (seconds, failures) in enumerate(zip(plan.innocent, plan.failures, strict=True)):
            key = f"innocent-{i}"
            sends.append((app.failing, (key, failures, seconds)) if failures else (app.work, (key, seconds)))
        random.Random(plan.seed).shuffle(sends)
        for actor, args in sends:
            actor.send_with_options(args=args, max_recoveries=plan.max_recoveries)
        verdict = Verdict(plan, most_deaths=len(plan.poison) * (plan.max_recoveries + 1))
        try:
            self.cluster.wait(self._is_over, timeout=300, what="all is done, and the broker is empty")
        except AssertionError as error:
            verdict.wrong.append(str(error))
        self._judge(verdict)
        for worker in self.workers:
            worker.stop()
        if left := self._keys_without_expiry():
            verdict.wrong.append(f"keys left: {left}")
        verdict.seconds = time.monotonic() - began
        return verdict

    def _worker(self, number: int) -> WorkerProcess:
        return self.cluster.worker(
            threads=8 // self.plan.processes,
            processes=self.plan.processes,
            wait=False,
            PROCESSING_INSTANCE_ID=f"pod-{number}",
        )

    def _is_over(self) -> bool:
        """Supervise the workers, and say whether nothing is left to do."""
        for i, worker in enumerate(self.workers):
            if worker.process.poll() is not None:
                self.deaths += 1
                self.workers[i] = self._worker(i)
        done = self.cluster.history.keys("end") | self._dead_letters().keys()
        return all(f"innocent-{i}" in done for i in range(len(self.plan.innocent))) and self.cluster.enqueued() == 0

    def _dead_letters(self) -> dict[str, Any]:
        """By key.  The broker is asked, because a neighbour may kill a worker before it has noted what it rejected."""
        return {letter.args[0]: letter for letter in self.cluster.dead_letters()}

    def _keys_without_expiry(self) -> list[str]:
        env = self.cluster.env
        client: Any = redis.Redis.from_url(env.get("PROCESSING_REDIS_URL", env["TEST_BROKER_URL"]))
        keys = client.keys(self.cluster.prefix + "*")
        assert keys, "not even a fence is left: is this the right server?"
        return sorted(key.decode() for key in keys if client.pttl(key) < 0)

    def _judge(self, verdict: Verdict) -> None:
        plan, history = self.plan, self.cluster.history.by_key()
        verdict.deaths = self.deaths
        if self.deaths > verdict.most_deaths:
            verdict.wrong.append(f"{self.deaths} workers died")
        letters = self._dead_letters()
        for i, failures in enumerate(plan.failures):
            what = [event.what for event in history.get(f"innocent-{i}", [])]
            if f"innocent-{i}" in letters or ("success" if failures else "end") not in what:
                verdict.wrong.append(f"innocent-{i} did not complete: {what}")
        for i in range(len(plan.poison)):
            starts = [event.extra for event in history.get(f"poison-{i}", []) if event.what == "start"]
            # The number of the last run: one before may have been cut off before the actor could note it.
            verdict.runs.append(starts[-1][0])
            if starts[-1][0] != plan.max_recoveries + 1 or f"poison-{i}" not in letters:
                verdict.wrong.append(f"poison-{i}: {starts}")
        if len(self.cluster.dead_letters()) != len(letters):
            verdict.wrong.append("a message was dead-lettered twice")
        for key, letter in letters.items():
            reason = letter.options["inflight"].get("reason", "")
            times = f"{plan.max_recoveries + 1} times"
            if f"its worker died while running it: {times} (" not in reason:
                verdict.wrong.append(f"{key} has the reason {reason!r}")


def settings_of(plan: Plan, url: str) -> dict[str, str]:
    """The environment of the workers."""
    settings = {
        "TEST_BROKER_URL": url,
        "HEARTBEAT_INTERVAL": "0.7",
        "HEARTBEAT_TTL": "2.5",
        # A message waits as long as the longest innocent message takes, and for a slow machine.
        "PROCESSING_ALONE_TIMEOUT": "60",
        "PROCESSING_ALONE_IN": "container" if plan.processes > 1 else "auto",
    }
    if plan.apart:
        settings["PROCESSING_REDIS_URL"] = another_database(url)
        # The broker's own redelivery of what the dead had fetched.
        settings["TEST_MAINTENANCE_CHANCE"] = "1000000"
        settings["TEST_HEARTBEAT_TIMEOUT"] = "3000"
    return settings


def main() -> int:
    """Run the seeds one after another, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1-50", help="a number, or first-last")
    parser.add_argument("--alone-in", help="the setting of the workers: auto, to see what happens without the gate")
    parser.add_argument("--keep", help="a folder for the logs")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    wrong = 0
    for seed in range(int(first), int(last or first) + 1):
        plan = Plan.of(seed)

        def settings(url: str, plan: Plan = plan) -> dict[str, str]:
            alone_in = {"PROCESSING_ALONE_IN": options.alone_in} if options.alone_in else {}
            return {**settings_of(plan, url), **alone_in}

        folder = Path(options.keep, f"seed-{seed}") if options.keep else None
        with standalone(settings, folder) as cluster:
            verdict = CrashLoops(cluster, plan).run()
        print(verdict, flush=True)
        wrong += bool(verdict.wrong)
    print(f"{wrong} of the seeds went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
