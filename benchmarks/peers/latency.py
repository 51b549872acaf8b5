# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How long after SIGKILL the job runs again: this package, plain Dramatiq, and other systems.

Each system has two workers, each on a host of its own as far as it can tell: its own process and UTS namespace, so
another host name, and no view of the other's processes.  One job that works until it is told to end is sent; once it
has started, all processes of its worker are killed at once.  The figure is the time until the job starts on the other
one.  All the while each system has a small job to do once a second, as a system in use has: some recover only then.

All systems run at the same time, each with a Redis of its own; they do next to nothing.  A quick system has several
rounds.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..support import Result
from .hosts import Bench, benches, no_hosts, versions
from .systems import SYSTEMS

__all__ = ["run"]

#: The most rounds of one system.
ROUNDS = 5


def run(*, patience: float = 120.0) -> Result:
    """Measure.

    Parameters:
      patience: How long to wait for a job, seconds.
    """
    why_not = no_hosts()
    result = Result(f"latency: from SIGKILL of the worker to the start of its job on another, up to {patience:g} s")
    got: dict[str, list[float]] = {}
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory() as folder, benches(Path(folder), SYSTEMS, isolated=not why_not) as all_of_them:
        ready = threading.Barrier(len(all_of_them))

        def measure(bench: Bench) -> None:
            try:
                for _ in range(2):
                    bench.start_host()
                bench.wait_ready()
                ready.wait(240)
                got[bench.system.name] = _rounds(bench, patience)
            except BaseException as error:
                failures.append(error)
                ready.abort()

        threads = [threading.Thread(target=measure, args=(bench,)) for bench in all_of_them]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise next((one for one in failures if not isinstance(one, threading.BrokenBarrierError)), failures[0])
        used = [bench.system for bench in all_of_them]
    for system in used:
        values = got[system.name]
        note = f"not within {patience:g} s" if not values else ""
        result.add(system.name, *values, unit="s" if values else "", note=note)
    result.details = {
        "versions": versions(),
        "patience": patience,
        "systems": {one.name: {"settings": one.settings, "source": one.source} for one in used},
    }
    result.notes += [f"{one.name}: {one.settings}; {one.source}" for one in used]
    missing = sorted({system.name for system in SYSTEMS} - {system.name for system in used})
    if missing:
        result.notes.append(f"not here: {', '.join(missing)}")
    if why_not:
        result.notes.append(f"no hosts of their own ({why_not}): all processes see each other")
    return result


def _rounds(bench: Bench, patience: float) -> list[float]:
    """The latency of each round; none: the job did not start again in time."""
    until = time.monotonic() + patience
    latencies: list[float] = []
    for number in range(ROUNDS):
        latency = _round(bench, f"job{number}", until - time.monotonic())
        if latency is None:
            break
        latencies.append(latency)
        if time.monotonic() + 1.5 * latency + 5 > until:
            break
        bench.start_host()
        bench.wait_ready()
    return latencies


def _round(bench: Bench, key: str, patience: float) -> float | None:
    bench.ask("work", key)
    if not bench.wait(lambda: bench.events("started", key), 60):
        raise RuntimeError(f"{bench.system.name}: a job does not start")
    first: dict[str, Any] = bench.events("started", key)[0]
    victim = next(host for host in bench.hosts if host.name == first["worker"])
    killed = victim.kill()
    bench.hosts.remove(victim)
    again = bench.wait(lambda: len(bench.events("started", key)) > 1, patience)
    latency = bench.events("started", key)[1]["at"] - killed if again else None
    Path(bench.env["BENCH_GATE"] + key).touch()
    return latency
