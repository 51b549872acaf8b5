# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Run the benchmarks: ``python -m benchmarks [all|overhead|commands|memory|recovery|watch] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import commands, memory, overhead, recovery, watch
from .support import Result, environment

BENCHMARKS = {
    "overhead": overhead.run,
    "commands": commands.run,
    "memory": memory.run,
    "recovery": recovery.run,
    "watch": watch.run,
}


def main() -> int:
    """Run what is asked for, and print tables.  Returns 0: a target that is missed is for the reader to judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="?", default="all", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: shows that it works, no more")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    options = parser.parse_args()
    where = environment()
    print(", ".join(f"{name} {value}" for name, value in where.items()), flush=True)
    results: dict[str, Result] = {}
    for name, run in BENCHMARKS.items():
        if options.which in (name, "all"):
            results[name] = run(quick=options.quick)
            print(f"\n{results[name]}", flush=True)
    if options.json is not None:
        figures = {name: result.as_dict() for name, result in results.items()}
        options.json.write_text(json.dumps({"environment": where, "results": figures}, indent=2) + "\n", "utf-8")
    missed = any(figure.met is False for result in results.values() for figure in result.figures)
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
