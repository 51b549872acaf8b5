# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Run the benchmarks: ``python -m benchmarks NAME``; each takes some minutes, with ``--full`` more.

``all`` runs those that need nothing but this package; ``peers`` runs ``latency``, ``poison`` and ``throughput``, which
compare it with other systems (``nox -s peers`` installs them); ``plot`` draws what ``--save`` has written to the docs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import commands, growth, memory, overhead, plot, presence, recovery, resume, traffic, watch
from .peers import latency, poison, throughput
from .support import Result, environment

#: Each is given how much to do: ``quick``, ``normal`` or ``full``.
ALONE: dict[str, Callable[[str], Result]] = {
    "overhead": overhead.run,
    "payloads": overhead.run_grid,
    "commands": lambda size: commands.run(quick=size == "quick"),
    "traffic": traffic.run,
    "memory": memory.run,
    "recovery": lambda size: recovery.run(quick=size != "full"),
    "presence": lambda size: presence.run(quick=size == "quick"),
    "watch": lambda size: watch.run(quick=size != "full"),
    "growth": growth.run,
    "resume": resume.run,
}
#: These need other systems.
PEERS = ["latency", "poison", "throughput"]
#: How long they wait for a job, seconds.
PATIENCE = {"quick": 30.0, "normal": 120.0, "full": 1500.0}


def main() -> int:
    """Run what is asked for, and print tables.  Returns 0: a target that is missed is for the reader to judge."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*ALONE, *PEERS]
    parser.add_argument(
        "which",
        nargs="*",
        default="all",
        choices=[*names, "all", "peers", "plot"],
        metavar="NAME",
        help=", ".join([*names, "all", "peers", "plot"]),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--save", action="store_true", help="also write them to docs/benchmarks, one file each")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="fewer and shorter rounds: shows that it works, no more")
    size.add_argument("--full", action="store_true", help="more and longer rounds")
    parser.add_argument("--patience", type=float, help="how long to wait for a job, seconds (latency, poison)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    how_much = "quick" if options.quick else "full" if options.full else "normal"
    patience = options.patience or PATIENCE[how_much]
    benchmarks = {name: lambda run=run: run(how_much) for name, run in ALONE.items()}  # type: ignore[misc]
    benchmarks["latency"] = lambda: latency.run(patience=patience)
    benchmarks["poison"] = lambda: poison.run(patience=min(patience, PATIENCE["normal"]))
    benchmarks["throughput"] = lambda: throughput.run(how_much)
    groups = {"all": list(ALONE), "peers": PEERS, "plot": []}
    named = [options.which] if isinstance(options.which, str) else options.which
    asked = {name for which in named for name in groups.get(which, [which])}
    where = environment()
    if asked:
        print(", ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    results: dict[str, Result] = {}
    for name, run in benchmarks.items():
        if name in asked:
            began = time.monotonic()
            results[name] = run()
            results[name].seconds = round(time.monotonic() - began, 1)
            print(f"\n{results[name]}", flush=True)
            if options.save:
                plot.FOLDER.mkdir(parents=True, exist_ok=True)
                saved = {"environment": where, **results[name].as_dict()}
                (plot.FOLDER / f"{name}.json").write_text(json.dumps(saved, indent=2) + "\n", "utf-8")
    if options.json is not None:
        figures = {name: result.as_dict() for name, result in results.items()}
        options.json.write_text(json.dumps({"environment": where, "results": figures}, indent=2) + "\n", "utf-8")
    if "plot" in named:
        plot.run()
    missed = any(figure.met is False for result in results.values() for figure in result.figures)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
