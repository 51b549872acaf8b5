# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How many jobs that do nothing a worker runs in a second, and how much processor time a job takes.

Each system has one worker, and its jobs are in Redis before that boots.  The rate counts from the first start to the
last.  The processor time is that of the worker with all of its processes, and of its Redis, over the same time.

The systems take turns, each with a new Redis, in one order and then in the other; each round gives one ratio to every
other system that loses nothing.  Other load on the machine changes the processor time less than the rate.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import redis

from tests.support.servers import wait_until

from ..support import Result, server_cpu, tree_cpu
from .hosts import Bench, Host, benches, versions
from .systems import THROUGHPUT

__all__ = ["run"]

#: How long a worker has for its jobs, seconds.
PATIENCE = 600.0


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.

    Raises:
      RuntimeError: A worker ended early, or ran a job twice.
    """
    rounds, jobs = {"quick": (1, 200), "normal": (9, 4000), "full": (15, 10_000)}[size]
    result = Result(f"throughput: {jobs:,} jobs that do nothing, one worker with eight at once, {rounds} rounds")
    got: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for system in reversed(THROUGHPUT) if number % 2 else THROUGHPUT:
            with tempfile.TemporaryDirectory() as folder, benches(Path(folder), [system], isolated=False) as here:
                got[system.name] += [_round(bench, jobs // system.slower) for bench in here]
    used = [system for system in THROUGHPUT if got[system.name]]
    for system in used:
        figures = got[system.name]
        result.add(f"{system.name}: throughput", *(one["rate"] for one in figures), unit="jobs/s")
        for whose in ("worker", "server"):
            values = (one[whose] for one in figures)
            result.add(f"{system.name}: {whose}'s processor time", *values, unit="us/job")
    for system in used:
        if system.environment != "dramatiq":
            both = [*zip(got["inflight"], got[system.name], strict=True)]
            rates = (ours["rate"] / theirs["rate"] for ours, theirs in both)
            times = ((ours["worker"] + ours["server"]) / (theirs["worker"] + theirs["server"]) for ours, theirs in both)
            result.add(f"inflight : {system.name}, throughput", *rates, at_least=1)
            result.add(f"inflight : {system.name}, processor time", *times, at_most=1)
    result.details = {"versions": versions()}
    result.notes += [f"{one.name}: {one.settings}" for one in used]
    missing = [system.name for system in THROUGHPUT if system not in used]
    if missing:
        result.notes.append(f"not here: {', '.join(missing)}")
    return result


def _round(bench: Bench, jobs: int) -> dict[str, float]:
    """Have the worker run the jobs: the rate, jobs a second, and the processor times of a job, microseconds."""
    bench.ask("noops", str(jobs))
    host = bench.start_host()
    first = _sample(bench, host, 1)
    last = _sample(bench, host, jobs)
    starts = [line.split() for line in bench.starts.read_text("ascii").splitlines()]
    if len(starts) != jobs or len({number for _, number in starts}) != jobs:
        raise RuntimeError(f"{bench.system.name}: {len(starts)} starts of {jobs} jobs\n{bench.log(host)}")
    times = [float(at) for at, _ in starts]
    between, worker, server = (after - before for before, after in zip(first, last, strict=True))
    return {
        "rate": (jobs - 1) / (max(times) - min(times)),
        "worker": worker / between * 1e6,
        "server": server / between * 1e6,
    }


def _sample(bench: Bench, host: Host, least: int) -> tuple[int, float, float]:
    """Wait until so many jobs have started: how many have, and the processor time of worker and server, seconds."""
    client = redis.Redis.from_url(bench.redis_url)

    def started() -> int:
        return bench.starts.read_bytes().count(b"\n")

    wait_until(lambda: started() >= least or host.process.poll() is not None, timeout=PATIENCE, what=bench.system.name)
    if host.process.poll() is not None:
        raise RuntimeError(f"{bench.system.name}: the worker ended early\n{bench.log(host)}")
    return started(), tree_cpu(host.process.pid), server_cpu(client)
