# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Bytes that a message costs: to and from Redis, to its append-only file, and to a replica, by the size of the payload.

One thread works off messages one by one (`benchmarks.commands.OneByOne`); what their enqueue takes is not counted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.servers import RedisServer, find_server

from .commands import booted
from .support import Result

__all__ = ["run"]

#: The sizes of the argument, in bytes.
SIZES = (100, 10_000, 1_000_000)
#: The byte counts, each with its section and field of INFO.
COUNTED = {
    "to Redis": ("stats", "total_net_input_bytes"),
    "from Redis": ("stats", "total_net_output_bytes"),
    "to its append-only file": ("persistence", "aof_current_size"),
    "to a replica": ("replication", "master_repl_offset"),
}
#: The most bytes that tracking may write, whatever the payload is.
MOST_WRITTEN = 900


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.
    """
    messages = {"quick": 10, "normal": 50, "full": 200}[size]
    result = Result(f"traffic: bytes of a message, tracked beyond untracked, {messages} messages one by one")
    for argument in SIZES:
        untracked, tracked = (_count(argument, messages, tracked=tracked) for tracked in (False, True))
        for name in COUNTED:
            more = (tracked[name] - untracked[name]) / messages
            written = {"at_most": MOST_WRITTEN} if name.startswith("to ") and name != "to Redis" else {}
            note = f"untracked: {untracked[name] / messages:,.0f}"
            result.add(f"{name}, argument of {argument:,} bytes", round(more), unit="bytes", **written).note = note
    return result


def _count(argument: int, messages: int, *, tracked: bool) -> dict[str, int]:
    binary = find_server()
    assert binary is not None
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("server", "replica")]
        for path in paths:
            path.mkdir()
        running = [RedisServer(binary, paths[0], persistent=True).start()]
        try:
            replica_of = ("--replicaof", "127.0.0.1", str(running[0].port))
            running.append(RedisServer(binary, paths[1], args=replica_of).start())
            return _work(running[0], argument, messages, tracked=tracked)
        finally:
            for one in running:
                one.kill()


def _work(redis_server: RedisServer, argument: int, messages: int, *, tracked: bool) -> dict[str, int]:
    client: Any = redis_server.client()
    one_by_one, noop, _ = booted(redis_server, tracked=tracked)
    for number in (3, messages):  # once before: scripts are loaded
        for _ in range(number):
            noop.send("x" * argument)
        while client.info("replication")["connected_slaves"] == 0:
            time.sleep(0.05)
        before = _counters(client)
        one_by_one.work(number)
        after = _counters(client)
    return {name: after[name] - before[name] for name in COUNTED}


def _counters(client: Any) -> dict[str, int]:
    return {name: int(client.info(section)[field]) for name, (section, field) in COUNTED.items()}
