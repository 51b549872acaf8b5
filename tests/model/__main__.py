# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``python -m tests.model``: explore at length, and drive the real scripts; ``--mutations``: see each noticed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import redis

from tests.support.servers import RedisServer, find_server

from .bounds import LARGE, SMALL, VARIANTS, in_words
from .drive import Executed, caught, drive_any, drive_steps, merge
from .explore import Explored, Violation, explore
from .mutations import MUTATIONS
from .world import Bounds


def main() -> int:
    """Do it, and print what was found."""
    parser = argparse.ArgumentParser(prog="tests.model", description=__doc__)
    parser.add_argument("--mutations", action="store_true", help="run every mutation of the scripts")
    parser.add_argument("--small", action="store_true", help="explore no more than the ordinary tests do")
    parser.add_argument("--examples", type=int, default=1000, help="how often to make any calls in any order")
    parser.add_argument("--seed", type=int, help="of these calls; without it they are always the same ones")
    options = parser.parse_args()
    print("Explored: states, transitions, deepest, seconds")
    explored = [_explored(bounds) for bounds in (SMALL if options.small else SMALL + LARGE)]
    total = Explored(
        states=sum(one.states for one in explored),
        transitions=sum(one.transitions for one in explored),
        seconds=sum(one.seconds for one in explored),
        depth=max(one.depth for one in explored),
    )
    print(_line("all of these", total), "\n")
    if not options.mutations:
        for name, variant in VARIANTS.items():
            try:
                explore(variant.bounds, variant.scripts)
            except Violation as found:
                print(f"{name}: {found}\n")
    executed = merge(explored)
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(binary, Path(folder) / "redis").start()
        client = redis.Redis.from_url(server.url)
        try:
            began = time.monotonic()
            steps = drive_steps(client, executed)
            print(f"{steps} steps driven in {time.monotonic() - began:.0f} s: all as the model says")
            if options.mutations:
                return _mutations(client, executed)
            began = time.monotonic()
            drive_any(client, executed, options.examples, seed=options.seed)
            print(
                f"{options.examples} times 20 of any calls in {time.monotonic() - began:.0f} s: all as the model says"
            )
        finally:
            server.kill()
    return 0


def _explored(bounds: Bounds) -> Explored:
    found = explore(bounds)
    print(_line(in_words(bounds), found), flush=True)
    return found


def _line(what: str, found: Explored) -> str:
    return f"{what:<76} {found.states:>9,} {found.transitions:>10,} {found.depth:>4} {found.seconds:>6.1f}"


def _mutations(client: redis.Redis, executed: Executed) -> int:
    missed = 0
    for mutation in MUTATIONS:
        found = caught(client, mutation, executed)
        missed += found is None
        by, steps = found or ("NOT CAUGHT", 0)
        print(f"{mutation.script:<10} {mutation.name:<45} {steps or 'any calls':>9}  {by[:110]}", flush=True)
    print(f"{len(MUTATIONS)} mutations, {missed} of them not caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
