# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A long job resumes where it was: tried by kills, by deploys, and between completion and acknowledgement.

``python -m tests.support.resumes kills --kills 30 --seed 1 [--rabbitmq]``
``python -m tests.support.resumes deploys --deploys 10 [--rabbitmq]``
``python -m tests.support.resumes completions --kills 500 (--rabbitmq | --apart) [--untracked]``

kills        the worker of a job of 1,000 steps is killed at random moments: SIGKILL; SIGTERM; SIGTERM and then SIGKILL;
             SIGSTOP for longer than its heartbeat is believed, then SIGCONT.  Each next run must begin exactly at the
             last save.
deploys      rolling deploys over such a job with ``hand_back``: no step is lost, and none is repeated.
completions  processes are killed when messages are complete, and not acknowledged: none of these starts again.
             ``--untracked`` shows what happens else.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cluster import Cluster, standalone
from .history import Event, History
from .rabbitmq import shared
from .servers import another_database
from .workers import WorkerProcess

__all__ = ["Completions", "Report", "kill_between_completion_and_ack", "kill_the_job", "roll_over_the_job"]

KEY = "job"

#: A run: the pid of its worker process, and its number.
Name = tuple[int, int]

#: The acts on the worker of the job.
SIGKILL, SIGTERM, BOTH, SIGSTOP = "SIGKILL", "SIGTERM", "SIGTERM and SIGKILL", "SIGSTOP and SIGCONT"
KINDS = (SIGKILL, SIGTERM, BOTH, SIGSTOP)


@dataclass
class Kill:
    """The kill of a run, and its time (``time.time``)."""

    kind: str
    #: The pid and the number of the run.
    run: Name
    at: float
    #: When it went on, if it was frozen.
    resumed: float | None = None


@dataclass
class Run:
    """The notes of a run of the job."""

    name: Name
    started: float
    crashes: int
    #: Where it may begin: the last save, or one whose answer was cut off.
    places: set[int]
    begun: list[tuple[float, int]] = field(default_factory=list)
    done: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class Report:
    """The judgement of a job's history."""

    steps: int
    kills: list[Kill]
    runs: list[Run]
    saves: int = 0
    done: int = 0
    #: For each kill, how many steps that had been done were done again by the next run.
    again: dict[str, list[int]] = field(default_factory=dict)
    #: How many steps frozen runs did after they went on.
    late: list[int] = field(default_factory=list)
    #: Seconds from the signal to the start of the next run, to its being enqueued, and of that from where the worker
    #: learns of the signal.
    to_next: dict[str, list[float]] = field(default_factory=dict)
    to_enqueued: list[float] = field(default_factory=list)
    to_enqueued_here: list[float] = field(default_factory=list)
    #: Findings that should not be.
    wrong: list[str] = field(default_factory=list)

    @property
    def crashes(self) -> int:
        """How many the last run knew of."""
        return self.runs[-1].crashes

    def __str__(self) -> str:
        kinds = Counter(kill.kind for kill in self.kills)
        lines = [
            f"{len(self.kills)} kills ({', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items()))}), "
            f"{len(self.runs)} runs, {self.saves} saves, {self.crashes} crashes counted; "
            f"{self.done} of {self.steps} steps done, {sum(map(sum, self.again.values()))} of them again"
        ]
        for kind in KINDS:
            if kind in self.again:
                lines.append(
                    f"after {kind}: steps done again {_spread(self.again[kind], '')}; "
                    f"to the next run {_spread(self.to_next[kind], ' s')}"
                )
        if self.to_enqueued:
            lines.append(
                f"SIGTERM to enqueued again {_spread(self.to_enqueued, ' s')}; of that after Dramatiq had begun "
                f"to shut down {_spread(self.to_enqueued_here, ' s')}"
            )
        if self.late:
            lines.append(f"steps that frozen runs did after they went on: {self.late}")
        return "\n    ".join([*lines, *(f"WRONG: {text}" for text in self.wrong)])


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "never"
    median, worst = statistics.median(values), max(values)
    return f"median {median:.3g}{unit}, worst {worst:.3g}{unit}"


def judge(history: History, steps: int, kills: list[Kill]) -> Report:
    """Judge a history: each run begins where the last save was, and every step is done."""
    report = Report(steps, kills, [])
    runs: dict[Name, Run] = {}
    saved, saved_by, unanswered = 0, 0, dict[int, int]()  # by which of the runs
    for event in history.events():
        name = _name(event) if event.what in ("begun", "done", "saving", "saved", "fenced") else (0, 0)
        if event.what == "start" and event.key == KEY:
            runs[_name(event)] = Run(_name(event), event.at, event.extra[1], {saved, *unanswered.values()})
        elif event.what in ("begun", "done"):
            (runs[name].begun if event.what == "begun" else runs[name].done).append((event.at, event.extra[1]))
        elif event.what == "saving":
            unanswered[list(runs).index(name)] = event.extra[1]
        elif event.what in ("saved", "fenced"):
            number = list(runs).index(name)
            unanswered.pop(number, None)
            report.saves += event.what == "saved"
            if event.what == "saved" and number >= saved_by:  # not what a frozen run learns late
                saved, saved_by = event.extra[1], number
                unanswered = {by: at for by, at in unanswered.items() if by >= number}
    report.runs = list(runs.values())
    numbers = [number for _, number in runs]
    if numbers != sorted(set(numbers)):
        report.wrong.append(f"the numbers of its runs do not grow: {numbers}")
    _judge_runs(report)
    for kill in kills:
        _judge_kill(report, kill, history)
    return report


def _name(event: Event) -> Name:
    return event.pid, event.extra[0]


def _judge_runs(report: Report) -> None:
    counts: Counter[int] = Counter()
    may_repeat: set[int] = set()
    last: Run | None = None
    for run in report.runs:
        steps = [step for _, step in run.begun]
        if steps:
            if steps[0] not in run.places:
                report.wrong.append(f"run {run.name} began at {steps[0]}, the last save was at {run.places}")
            if steps != list(range(steps[0], steps[0] + len(steps))):
                report.wrong.append(f"run {run.name} went through {steps}")
            if last is not None:
                may_repeat |= set(range(min(run.places), last.begun[-1][1] + 1))
            last = run
        counts.update(step for _, step in run.done)
    report.done = len(counts)
    if missing := sorted(set(range(report.steps)) - set(counts)):
        report.wrong.append(f"steps that were never done: {missing}")
    if beyond := sorted(step for step, number in counts.items() if number > 1 and step not in may_repeat):
        report.wrong.append(f"done again, and saved before: {beyond}")


def _judge_kill(report: Report, kill: Kill, history: History) -> None:
    at = [run.name for run in report.runs].index(kill.run)
    victim, following = report.runs[at], report.runs[at + 1 :]
    if not following:
        report.wrong.append(f"nothing followed the kill of run {kill.run}")
        return
    report.to_next.setdefault(kill.kind, []).append(following[0].started - kill.at)
    begun = [run.begun[0][1] for run in following if run.begun]
    first = begun[0] if begun else report.steps
    again = sum(step >= first for _, step in victim.done)
    report.again.setdefault(kill.kind, []).append(again)
    if kill.kind == SIGTERM:
        if again:
            report.wrong.append(f"{again} steps were done again after the SIGTERM of run {kill.run}")
        shutting_down, enqueued = (
            [found.at for found in history.events(what) if found.pid == kill.run[0] and found.at >= kill.at][:1]
            for what in ("shutting_down", "enqueued")
        )
        if enqueued:
            report.to_enqueued.append(enqueued[0] - kill.at)
        else:
            report.wrong.append(f"run {kill.run} was not handed back")
        if enqueued and shutting_down:  # a short job may have ended before Dramatiq has seen the signal
            report.to_enqueued_here.append(enqueued[0] - shutting_down[0])
    if kill.resumed is not None:
        late = [step for at, step in victim.begun if at > kill.resumed]
        report.late.append(len([step for at, step in victim.done if at > kill.resumed]))
        if len(late) > 1:
            report.wrong.append(f"run {kill.run}, frozen and lost, began {late}")


class Job:
    """One long job, and the worker that has it."""

    def __init__(self, cluster: Cluster, steps: int, seconds: float, every: float) -> None:
        self.cluster = cluster
        self.steps = steps
        self.gate = cluster.folder / "gate"
        cluster.app.stepwise.send_with_options(args=(KEY, steps, seconds, every, str(self.gate)), hand_back=10)

    def latest(self) -> Name | None:
        """Its latest run."""
        starts = self.cluster.history.events("start")
        return _name(starts[-1]) if starts else None

    def wait_for_run(self, after: Name | None) -> Name:
        """Wait for a run after that one."""
        self.cluster.wait(
            lambda: self.latest() not in (None, after),
            what=f"the job runs again after {after}",
        )
        latest = self.latest()
        assert latest is not None
        return latest

    def finish(self, kills: list[Kill]) -> Report:
        """Let it end, and judge."""
        cluster = self.cluster
        self.gate.touch()
        cluster.wait(lambda: cluster.history.count("end"), timeout=180, what="the job ends")
        cluster.wait(lambda: cluster.enqueued() == 0, what="the broker is empty")
        report = judge(cluster.history, self.steps, kills)
        if cluster.history.count("end") > 1:
            report.wrong.append(f"it completed {cluster.history.count('end')} times")
        if letters := cluster.dead_letters(cluster.app.QUEUE):
            report.wrong.append(f"{len(letters)} dead letters")
        if kept := [name for name in cluster.names() if name.startswith("checkpoint:")]:
            report.wrong.append(f"kept, though it is complete: {kept}")
        return report


def kill_the_job(
    cluster: Cluster,
    kills: int,
    seed: int,
    *,
    steps: int = 1000,
    seconds: float = 0.05,
    every: float = 0.2,
    workers: int = 3,
    kinds: Sequence[str] = KINDS,
) -> Report:
    """Kill the worker of a job so often, at random moments.

    Parameters:
      seconds: How long a step takes.
      every: How long it goes on without a save, seconds.
      workers: How many there are; what is killed is replaced.
    """
    random_ = random.Random(seed)
    choices = [*kinds, *random_.choices(kinds, k=max(0, kills - len(kinds)))][:kills]
    random_.shuffle(choices)
    pool = [cluster.worker(wait=False) for _ in range(workers)]
    for worker in pool:
        worker.wait_ready()
    job = Job(cluster, steps, seconds, every)
    done: list[Kill] = []
    run: Name | None = None
    for kind in choices:
        job.wait_for_run(run)
        # The moment of the kill is what is random here; on the average a half of the job is done by the last.
        time.sleep(random_.uniform(0, steps * seconds / kills))
        cluster.wait(lambda: sum(w.booted_pid() is not None for w in pool) > 1, what="another worker is there")
        run = job.latest()
        assert run is not None
        victim = next(worker for worker in pool if worker.booted_pid() == run[0])
        kill = Kill(kind, run, time.time())
        done.append(kill)
        if kind == SIGSTOP:
            victim.pause()
            job.wait_for_run(run)
            time.sleep(random_.uniform(0, 0.3))
            kill.resumed = time.time()
            victim.resume()
            continue
        pool[pool.index(victim)] = cluster.worker(wait=False)
        if kind == SIGKILL:
            victim.kill()
        else:
            victim.process.terminate()
            if kind == BOTH:
                time.sleep(random_.uniform(0, 1.3))  # Dramatiq looks once a second whether it is to stop
                victim.kill()
    report = job.finish(done)
    _stop(pool)
    return report


def _stop(workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.wait(timeout=120)


def roll_over_the_job(
    cluster: Cluster, deploys: int, seed: int, *, steps: int = 1000, seconds: float = 0.05, every: float = 5.0
) -> Report:
    """Deploy so often while a job goes on: a new worker, and SIGTERM for the old one."""
    random_ = random.Random(seed)
    pool = [cluster.worker()]
    job = Job(cluster, steps, seconds, every)
    kills: list[Kill] = []
    run: Name | None = None
    for _ in range(deploys):
        run = job.wait_for_run(run)
        new = cluster.worker()
        time.sleep(random_.uniform(0, 0.2 * steps * seconds / deploys))
        kills.append(Kill(SIGTERM, run, time.time()))
        pool[-1].process.terminate()
        job.wait_for_run(run)
        pool.append(new)
    report = job.finish(kills)
    if report.crashes:
        report.wrong.append(f"{report.crashes} crashes were counted")
    if len(report.runs) != deploys + 1:
        report.wrong.append(f"{len(report.runs)} runs")
    _stop(pool)
    return report


@dataclass
class Completions:
    """The judgement of messages that were complete, and not acknowledged, when their process was killed."""

    #: How many these were, and by how many kills.
    messages: int = 0
    kills: int = 0
    #: Started again.
    again: list[Any] = field(default_factory=list)
    #: Cut off before they had ended, and started again.
    cut_off: int = 0
    #: Messages whose completion was not recorded in Redis before.
    untold: list[Any] = field(default_factory=list)
    #: Delivered again, and acknowledged by another process.
    delivered_again: int = 0
    lost: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.messages} messages killed between completion and acknowledgement, by {self.kills} SIGKILLs of "
            f"their process: {self.delivered_again} delivered again, {len(self.again)} run again, {len(self.lost)} lost"
            + (f"; {self.cut_off} others were cut off, and run again" if self.cut_off else "")
            + (f"; of {len(self.untold)} Redis had not been told" if self.untold else "")
        )


def kill_between_completion_and_ack(
    cluster: Cluster, kills: int, *, workers: int = 3, threads: int = 4, tracked: bool = True
) -> Completions:
    """So many messages complete, and their process is killed before it acknowledges them.

    Parameters:
      threads: How many messages at a time in one process.
    """
    killed = cluster.folder / "killed"
    killed.mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        "TEST_KILL_UNACKNOWLEDGED": str(threads),
        "TEST_KILLED": str(killed),
        "PROCESSING_ENABLED": str(tracked).lower(),
    }

    def start() -> WorkerProcess:
        return cluster.worker(threads=threads, wait=False, **settings)

    for key in range(kills):
        cluster.app.work.send(key, 0.01)
    pool = [start() for _ in range(workers)]
    deaths = 0

    def is_over() -> bool:
        nonlocal deaths
        for i, worker in enumerate(pool):
            if worker.process.poll() is not None:
                deaths += 1
                pool[i] = start()
        history = cluster.history
        return len(history.keys("unacknowledged")) == kills and cluster.enqueued() == 0

    cluster.wait(is_over, timeout=120 + 2 * kills, what="all complete, and the broker is empty")
    _stop([worker.wait_ready() for worker in pool])
    report = Completions(kills=deaths)
    for key, events in cluster.history.by_key().items():
        if key is not None:
            _judge_completion(key, events, report)
    report.lost += sorted(set(range(kills)) - cluster.history.keys("end"))
    return report


def _judge_completion(key: Any, events: list[Event], report: Completions) -> None:
    window: Event | None = None
    for event in events:
        if event.what == "unacknowledged":
            window = event
            report.messages += 1
            if not event.extra:
                report.untold.append(key)
        elif event.what == "start" and window is not None:
            report.again.append(key)
        elif event.what == "acked" and window is not None and event.pid != window.pid:
            report.delivered_again += 1
    if window is not None:
        report.cut_off += max(0, sum(event.what == "start" and event.at < window.at for event in events) - 1)


def main() -> int:
    """Run one of them at length, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["kills", "deploys", "completions"])
    parser.add_argument("--kills", type=int, help="how many; 30, of completions 500")
    parser.add_argument("--deploys", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the moments and kinds of kills")
    parser.add_argument("--steps", type=int, default=1000, help="of the job")
    parser.add_argument("--seconds", type=float, default=0.05, help="of a step")
    parser.add_argument("--rabbitmq", action="store_true", help="the broker is a RabbitMQ")
    parser.add_argument("--apart", action="store_true", help="the tracker's Redis is not the broker's")
    parser.add_argument("--untracked", action="store_true", help="completions: without the tracker")
    parser.add_argument("--keep", type=Path, help="a folder for the logs and the history")
    options = parser.parse_args()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rabbitmq = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder))} if options.rabbitmq else {}

        def settings(url: str) -> dict[str, str]:
            apart = {"PROCESSING_REDIS_URL": another_database(url)} if options.apart else {}
            return {**SETTINGS[options.mode], **apart, **rabbitmq}

        cluster = stack.enter_context(standalone(settings, options.keep))
        if options.mode == "completions":
            report = kill_between_completion_and_ack(cluster, options.kills or 500, tracked=not options.untracked)
            wrong = bool(report.again or report.lost or report.untold)
            said = str(report)
        else:
            job = {"steps": options.steps, "seconds": options.seconds}
            if options.mode == "kills":
                verdict = kill_the_job(cluster, options.kills or 30, options.seed, **job)
            else:
                verdict = roll_over_the_job(cluster, options.deploys, options.seed, **job)
            wrong, said = bool(verdict.wrong), f"seed {options.seed}: {verdict}"
    print(f"{said}; {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


#: The workers' environment.
NOTED = {"TEST_NOTES": "yes", "RECOVERY_LOCK_TTL": "30"}
SETTINGS = {
    "kills": NOTED,
    "deploys": NOTED,
    "completions": {
        "PROCESSING_REMEMBER_COMPLETED": "3600",
        "RECOVERY_LOCK_TTL": "30",
        # RedisBroker's own redelivery of what the dead had fetched.
        "TEST_MAINTENANCE_CHANCE": "1000000",
        "TEST_HEARTBEAT_TIMEOUT": "2000",
    },
}


if __name__ == "__main__":
    sys.exit(main())
