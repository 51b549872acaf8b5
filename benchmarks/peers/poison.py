# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How many worker processes a job kills that kills its process whenever it runs.

Each system has one worker, and a supervisor that starts it again when it ends.  It goes on until the system gives the
job up, or so many are dead, or the time is over.  Where a system is slow to recover, it has its shorter setting.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from ..support import Result
from .hosts import Bench, benches, versions
from .systems import SYSTEMS

__all__ = ["run"]

#: How many workers a job may kill.
BOUND = 15


def run(*, patience: float = 120.0) -> Result:
    """Measure.

    Parameters:
      patience: How long to wait for the end of it, seconds.
    """
    result = Result(f"poison: the workers that a job kills which kills its worker, up to {BOUND} in {patience:g} s")
    got: dict[str, tuple[int, str]] = {}
    failures: list[BaseException] = []
    systems = [system for system in SYSTEMS if system.poison]
    with tempfile.TemporaryDirectory() as folder, benches(Path(folder), systems, isolated=False) as all_of_them:

        def measure(bench: Bench) -> None:
            try:
                got[bench.system.name] = _kills(bench, patience)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=measure, args=(bench,)) for bench in all_of_them]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        used = [bench.system for bench in all_of_them]
    for system in used:
        kills, end = got[system.name]
        result.add(system.name, kills, unit="workers", note=end)
    result.details = {
        "versions": versions(),
        "bound": BOUND,
        "patience": patience,
        "systems": {one.name: {"settings": one.settings, "end": got[one.name][1]} for one in used},
    }
    result.notes += [f"{one.name}: {one.settings}" for one in used]
    return result


def _kills(bench: Bench, patience: float) -> tuple[int, str]:
    """Return how many were killed, and how it ended."""
    host = bench.start_host()
    bench.wait_ready()
    bench.ask("kill_itself", "poison")

    def is_over() -> bool:
        nonlocal host
        if host.process.poll() is not None:
            bench.hosts.remove(host)
            host = bench.start_host()
        return len(bench.events("started", "poison")) >= BOUND or bool(bench.ask("gave_up"))

    over = bench.wait(is_over, patience)
    kills = len(bench.events("started", "poison"))
    if kills >= BOUND:
        return BOUND, "no end in sight"
    return kills, "given up" if over else f"not over after {patience:g} s"
