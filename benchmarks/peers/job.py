# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The job, the same for every system: it runs in that system's own environment, and needs nothing but Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["QUEUE", "REDIS_URL", "kill_itself", "noop", "nothing", "serve", "setting", "work"]

REDIS_URL = os.environ["BENCH_REDIS_URL"]

#: Systems that share a server without having namespaces of their own have a queue of their own.
QUEUE = os.environ["BENCH_QUEUE"]

#: Where each run of `noop` notes its start.  It stays open, because a job that is measured must cost next to nothing.
_STARTS = os.open(os.environ["BENCH_STARTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def setting(name: str, default: int) -> int:
    """A setting of the system that its row in `systems` changes; the default is the system's own."""
    return int(os.environ.get(name, default))


def _note(event: str, key: str) -> None:
    line = {"event": event, "key": key, "worker": os.environ["BENCH_WORKER"], "pid": os.getpid(), "at": time.time()}
    with Path(os.environ["BENCH_HISTORY"]).open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def work(key: str) -> None:
    """Works until it is told to end."""
    _note("started", key)
    while not Path(os.environ["BENCH_GATE"] + key).exists():
        time.sleep(0.02)
    _note("ended", key)


def kill_itself(key: str) -> None:
    """Kills its process, whenever it runs."""
    _note("started", key)
    os.kill(os.getpid(), signal.SIGKILL)


def nothing(key: str) -> None:
    """Do nothing, as the rest of a load."""
    _note("ran", key)


def noop(number: str) -> None:
    """Do nothing but note the start, in some two microseconds."""
    os.write(_STARTS, f"{time.monotonic()} {number}\n".encode())


def serve(send: Callable[[str, str], object], gave_up: Callable[[], object]) -> None:
    """Send what the lines of the standard input ask for: the name of a job, and a key; for `noops`, how many.

    Parameters:
      gave_up: Says whether the system has given a job up, and says so somewhere.
    """
    for line in sys.stdin:
        name, key = line.split()
        if name == "noops":
            for number in range(int(key)):
                send("noop", str(number))
        elif name != "gave_up":
            send(name, key)
        print(json.dumps(bool(gave_up()) if name == "gave_up" else None), flush=True)
