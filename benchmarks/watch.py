# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The cost of watching each other, at rest; and the memory of a heartbeat process."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from pathlib import Path

from dramatiq_inflight.liveness.pidfd import Process
from dramatiq_inflight.liveness.process_watch import NEIGHBOURS, REFRESH, Watch
from dramatiq_inflight.liveness.sidecar import HeartbeatProcess
from dramatiq_inflight.liveness.sidecar_main import Task
from dramatiq_inflight.store.connection import Address, bounded_client
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.servers import RedisServer, wait_until

from . import support
from .support import Result, server

__all__ = ["run"]

#: How long all is at rest, seconds: two times that each looks for new neighbours.
REST = 2 * REFRESH


def run(*, quick: bool = False) -> Result:
    """Measure."""
    number, rest = (50, REFRESH) if quick else (500, REST)
    result = Result(f"watch: {number} incarnations on one host, each watches {NEIGHBOURS}, {rest:g} seconds at rest")
    with server() as redis_server:
        worker, server_cpu, descriptors = _at_rest(redis_server, number, rest)
        result.add("CPU of one process's watch", 100 * worker / number / rest, unit="% of a core", at_most=0.1)
        result.add("CPU of all of them", 100 * worker / rest, unit="% of a core")
        result.add("CPU of Redis for all of them", 100 * server_cpu / rest, unit="% of a core")
        result.add("descriptors of one process's watch", descriptors / number)
        own, shared = _heartbeat_process(redis_server)
        result.add("memory of a heartbeat process, its own", own, unit="MB")
        result.add("memory of a heartbeat process, shared with others", shared, unit="MB")
    result.notes.append("the watches are threads of one process here; what they watch are processes")
    return result


def _at_rest(redis_server: RedisServer, number: int, rest: float) -> tuple[float, float, int]:
    """CPU seconds of all watches and of the server, and how many descriptors the watches have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    me = Process.here()
    assert me is not None, "this system shows no processes"
    client = bounded_client(redis_server.client())
    watched = [subprocess.Popen(["sleep", "3600"]) for _ in range(number)]
    watches: list[Watch] = []
    try:
        for child in watched:
            started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
            store = Store(Scripts(client, "bench", f"{child.pid:016}", heartbeat_ttl=3600, fence_ttl=60))
            said = {"instance": "host", "pid": str(child.pid), "place": me.place, "process_started": started}
            store.workers.register(said)
            watches.append(Watch(store, me, lambda: None))
        for watch in watches:
            watch.start()
        while any(len(watch.watched) < NEIGHBOURS for watch in watches):
            time.sleep(0.1)
        time.sleep(2)  # they greet each other
        descriptors = sum(len(watch.watched) + 2 for watch in watches)
        cpu, server_cpu = time.process_time(), support.server_cpu(client)
        time.sleep(rest)
        return time.process_time() - cpu, support.server_cpu(client) - server_cpu, descriptors
    finally:
        threads = [threading.Thread(target=watch.stop) for watch in watches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for child in watched:
            child.kill()
            child.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _heartbeat_process(redis_server: RedisServer) -> tuple[float, float]:
    """Its memory in megabytes: what nobody shares, and its part of what others share."""
    address = Address.of(redis_server.client())
    assert address is not None
    store = Store(Scripts(bounded_client(redis_server.client()), "bench", "me", heartbeat_ttl=3600, fence_ttl=60))
    store.workers.register({"instance": "host"})
    task = Task(address.pickled(), "bench", "me", Process.here(), os.getpid(), 1.0, 90.0, 2.0, None)
    process = HeartbeatProcess(task)
    process.start()
    wait_until(lambda: process.process is not None, what="it is there")
    assert process.process is not None
    time.sleep(3)
    rollup = Path(f"/proc/{process.process.pid}/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
    process.stop()
    own = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return own / 1024, (kilobytes["Pss"] - own) / 1024
