# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A sweep of the signals that end a service, over one long message and many short ones.

``python -m tests.support.signals`` has all of them; ``--restarts 100`` restarts one service so often, each time by a
signal to all of its processes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

from .cluster import Cluster, standalone
from .history import Event
from .rabbitmq import shared
from .rounds import Report, judge
from .workers import WorkerProcess

__all__ = ["SETTINGS", "Outcome", "Scenario", "restarts", "scenarios", "sweep"]

#: Deaths are seen by processes of the same host; a heartbeat that is late on a slow machine is no death.
SETTINGS = {"PROCESSING_WATCH_PROCESSES": "true", "HEARTBEAT_INTERVAL": "5", "HEARTBEAT_TTL": "15"}

#: How many worker processes a service has.
PROCESSES = 2

#: How long the service may take to end before it is killed, as by a process manager, seconds.
GRACE = 3.0

#: For how long a signal that is to change nothing is watched to do so, seconds.
WATCH = 1.5

#: The key of the long message.
LONG = "long"


@dataclass(frozen=True)
class Scenario:
    """Which signal is sent, how often, to whom, and how long apart, seconds."""

    number: Signals
    times: int
    to: str
    gap: float = 0.0

    def __str__(self) -> str:
        often = "once" if self.times == 1 else "twice"
        return f"{self.number.name} {often} to {self.to}, {self.gap * 1000:.0f} ms apart"

    @property
    def changes_nothing(self) -> bool:
        """True if nobody minds it: Dramatiq's worker processes leave SIGINT to the main process."""
        return self.number is SIGINT and self.to == "worker"


@dataclass
class Outcome:
    """The effects of all scenarios."""

    scenarios: int
    #: The long message: its runs, and how they were counted in the end.
    runs: int
    crashes: int
    drains: int
    #: How many crashes there were before the first SIGKILL, and how many SIGKILLs.
    unjust: int
    kills: int
    dead_letters: int
    #: The short messages, and the long one.
    report: Report
    #: Each scenario after which something was wrong, and what.
    wrong: list[str]

    def __str__(self) -> str:
        return (
            f"{self.scenarios} scenarios, {self.runs} runs of the long message, {self.unjust} crashes counted without "
            f"a SIGKILL, {self.crashes} for {self.kills} SIGKILLs, {self.drains} shutdowns counted, "
            f"{self.runs - 1 - self.crashes - self.drains} times handed back, {self.dead_letters} dead letters; "
            f"{self.report}"
        )

    @property
    def is_right(self) -> bool:
        return self.report.is_right and not (self.wrong or self.dead_letters)


def scenarios() -> list[Scenario]:
    """All of them; those that kill come last."""
    found = []
    for number in (SIGTERM, SIGINT, SIGHUP):
        found += [Scenario(number, 1, to) for to in ("main", "worker")]
        found += [Scenario(number, 1, "all", gap) for gap in (0.0, 0.02, 0.7)]
        found += [Scenario(number, 2, to, gap) for to in ("main", "worker", "all") for gap in (0.0, 0.02, 0.7)]
    return found + [Scenario(SIGKILL, 1, to) for to in ("main", "worker", "all")]


class Sweep:
    """One service, stopped and started again, over a message that does not end before it may."""

    def __init__(self, cluster: Cluster, gate: Path, seed: int, *, heartbeat: str) -> None:
        self.cluster = cluster
        self.history = cluster.history
        self.gate = gate
        self.heartbeat = heartbeat
        self.random = random.Random(seed)
        self.services: list[WorkerProcess] = []
        self.sent: list[str] = []
        self.deaths: dict[int, list[tuple[float, float]]] = {}
        self.wrong: list[str] = []
        self.kills = self.unjust = 0
        #: How often a worker process of the present service had booted before the present scenario.
        self._booted = 0
        self._sending = threading.Event()
        self._watching = threading.Event()

    def run(self, played: Sequence[Scenario], hand_back: float | None, max_recoveries: int | None) -> Outcome:
        """Play them, one after the other, and let the message end."""
        cluster = self.cluster
        options = {"max_recoveries": max_recoveries, "hand_back": hand_back}
        cluster.app.gated.send_with_options(args=(LONG, str(self.gate)), **options)
        self.sent.append(LONG)
        threads = [threading.Thread(target=target, daemon=True) for target in (self._send, self._watch)]
        for thread in threads:
            thread.start()
        try:
            self._serve()
            for scenario in played:
                began = time.monotonic()
                self._play(scenario)
                print(f"    {scenario}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
                if self.wrong:
                    break  # what comes after it may be wrong for that reason
            crashes, drains = self._counts()
        finally:
            self._sending.set()
            threads[0].join()
        self.gate.touch()
        if not self.wrong:
            self._wait(lambda: self.history.keys("end") >= set(self.sent), what="all messages complete")
            self._wait(lambda: cluster.enqueued() == 0, what="the broker is empty")
        self._watching.set()
        threads[1].join()
        self.services[-1].resume_and_kill()
        if hand_back is not None and drains:
            self.wrong.append(f"{drains} shutdowns were counted, though it is to be handed back")
        if crashes != self.kills:
            self.wrong.append(f"{crashes} crashes were counted for {self.kills} SIGKILLs")
        return Outcome(
            *(len(played), len(self._starts()), crashes, drains, self.unjust, self.kills, len(cluster.dead_letters())),
            judge(self.history, self.sent, self.deaths),
            self.wrong,
        )

    def _play(self, scenario: Scenario) -> None:
        self._wait(self._runs, what="the long message runs")
        # A worker may start a message before it notes that it has booted.
        self._wait(lambda: sum(map(_lives, self._boots())) >= PROCESSES, what="the service has booted")
        service, before = self.services[-1], len(self._starts())
        self._booted = len(self._boots())
        pids = self._targets(scenario.to)
        for n, pid in enumerate(pids * scenario.times):
            if n:
                time.sleep(scenario.gap)
            _send_signal(pid, scenario.number)
        if scenario.changes_nothing:
            time.sleep(WATCH)
            if len(self._starts()) != before or not self._runs():
                self.wrong.append(f"{scenario}: the message was disturbed")
            return
        if not self._comes_to_an_end(scenario):
            _send_signal(service.group, SIGTERM)  # as a process manager does, and kills it at last
            self._comes_to_an_end(scenario)
        if not self._is_reloaded(scenario):
            service.resume_and_kill()
            self._serve()
        self.kills += scenario.number is SIGKILL
        crashes, _ = self._counts()
        if not self.kills:
            unjust = [event for event in self.history.events("start") if _crashes(event)]
            self.unjust = len(unjust)
            if unjust:
                self.wrong.append(f"{scenario}: counted as a crash: {unjust[0].key}")
        elif crashes != self.kills:
            self.wrong.append(f"{scenario}: {crashes} crashes for {self.kills} kills")

    def _comes_to_an_end(self, scenario: Scenario) -> bool:
        """Wait until the service has ended, or started itself anew.  False: its workers do not end within `GRACE`."""
        deadline = time.monotonic() + GRACE
        while self.services[-1].process.poll() is None and not self._is_reloaded(scenario):
            if time.monotonic() > deadline and any(map(_lives, self._boots()[: self._booted])):
                return False
            time.sleep(0.01)
        return True

    def _serve(self) -> None:
        """Start the service, and wait until the long message runs."""
        self._start()
        self._wait(self._runs, what="the long message runs")

    def _start(self) -> None:
        env = {"PROCESSING_HEARTBEAT": self.heartbeat}
        self.services.append(self.cluster.worker(processes=PROCESSES, threads=2, wait=False, env=env))

    def _wait(self, condition: Callable[[], bool], *, what: str) -> None:
        """Wait for something that takes a service: a late signal may end one that has started itself anew."""

        def holds() -> bool:
            if condition():
                return True
            if self.services[-1].process.poll() is not None:
                self.services[-1].resume_and_kill()
                self._start()
            return False

        self.cluster.wait(holds, timeout=120, what=what)

    def _targets(self, to: str) -> list[int]:
        main = self.services[-1].group
        if to == "main":
            return [main]
        if to == "worker":
            return [self._starts()[-1].pid]
        everybody = [main, *_descendants(main)]
        self.random.shuffle(everybody)
        return everybody

    def _is_reloaded(self, scenario: Scenario) -> bool:
        """Return whether the main process has started itself anew, after SIGHUP, and its workers run the message."""
        if scenario.number is not SIGHUP or self.services[-1].process.poll() is not None:
            return False
        boots = self._boots()
        return self._runs() and self._starts()[-1].pid not in boots[: self._booted] and all(map(_lives, boots[-2:]))

    def _boots(self) -> list[int]:
        """The worker processes of the present service, in the order of their boots."""
        return [event.pid for event in self.history.events("boot") if event.extra == self.services[-1].group]

    def _starts(self) -> list[Event]:
        return [event for event in self.history.events("start") if event.key == LONG]

    def _runs(self) -> bool:
        """Return whether it runs, in a process that lives."""
        starts = self._starts()
        return bool(starts) and _lives(starts[-1].pid)

    def _counts(self) -> tuple[int, int]:
        """Its crashes and shutdowns so far."""
        said = self._starts()[-1].extra
        return said["crashes"], said["drains"]

    def _send(self) -> None:
        while not self._sending.wait(0.05):
            self.sent.append(f"short-{len(self.sent)}")
            self.cluster.app.work.send(self.sent[-1], self.random.uniform(0.02, 0.3))

    def _watch(self) -> None:
        """Note when each process that has ended was seen alive last: the others cannot know of its end before."""
        seen: dict[int, float] = {}
        while not self._watching.wait(0.01):
            for event in self.history.events("boot"):
                if event.pid not in self.deaths:
                    seen.setdefault(event.pid, event.at)
            for pid in list(seen):
                now = time.time()
                if _lives(pid):
                    seen[pid] = now
                else:
                    self.deaths[pid] = [(0.0, seen.pop(pid))]


def _crashes(event: Event) -> int:
    extra = event.extra
    return int(extra["crashes"] if isinstance(extra, dict) else extra[2])


def _send_signal(pid: int, number: Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _lives(pid: int) -> bool:
    """Return whether it has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _descendants(pid: int) -> Iterator[int]:
    """The processes below one: those of a service, in whatever session they are."""
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for below in map(int, child.read_text("utf-8").split()):
                yield below
                yield from _descendants(below)


def sweep(
    cluster: Cluster,
    gate: Path,
    played: Sequence[Scenario],
    *,
    seed: int = 1,
    hand_back: float | None = None,
    max_recoveries: int | None = None,
    heartbeat: str = "thread",
) -> Outcome:
    """Play scenarios over one message.

    Parameters:
      gate: The file that lets the message end.
      seed: Determines the order in which the processes of a service get their signals.
    """
    return Sweep(cluster, gate, seed, heartbeat=heartbeat).run(played, hand_back, max_recoveries)


def restarts(number: int) -> list[Scenario]:
    """Restarts of a service by a signal to all its processes, at once or one after the other."""
    gaps = itertools.cycle((0.0, 0.02, 0.005))
    return [Scenario(SIGTERM, 1, "all", gap) for gap in itertools.islice(gaps, number)]


def _settings(env: dict[str, str], url: str) -> dict[str, str]:
    return env


def main() -> int:
    """Run the chosen scenarios, and print their effects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["redis", "rabbitmq", "both"], default="both")
    parser.add_argument("--hand-back", choices=["yes", "no", "both"], default="both")
    parser.add_argument("--heartbeat", choices=["thread", "process", "both"], default="both", help="both: in turns")
    parser.add_argument("--restarts", type=int, help="restart a service so often instead, with max_recoveries=3")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    kinds = itertools.product(
        ("redis", "rabbitmq") if options.broker == "both" else (options.broker,),
        ("no", "yes") if options.hand_back == "both" else (options.hand_back,),
    )
    code = 0
    for n, (broker, hand_back) in enumerate(kinds):
        heartbeat = ("thread", "process", "process", "thread")[n % 4]
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rabbitmq = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder))} if broker == "rabbitmq" else {}
            env = {**SETTINGS, **rabbitmq}
            cluster = stack.enter_context(standalone(functools.partial(_settings, env)))
            began = time.monotonic()
            outcome = sweep(
                *(cluster, folder / "gate", restarts(options.restarts) if options.restarts else scenarios()),
                seed=options.seed,
                hand_back=0.5 if hand_back == "yes" else None,
                max_recoveries=3 if options.restarts else None,
                heartbeat=heartbeat if options.heartbeat == "both" else options.heartbeat,
            )
            kind = f"{broker}, {'hand_back=0.5' if hand_back == 'yes' else 'no hand_back'}"
            print(f"{kind}: {outcome}; {time.monotonic() - began:.0f} s", flush=True)
            for text in outcome.wrong:
                print(f"    WRONG {text}", flush=True)
            if outcome.wrong:
                for worker in cluster.workers[-3:]:
                    print(f"--- {worker.log.name}\n{worker.output()[-3000:]}")
            code = code if outcome.is_right else 1
    return code


if __name__ == "__main__":
    sys.exit(main())
