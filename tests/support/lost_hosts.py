# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How soon the message of a worker runs again on another host, at default settings, when its host or process is killed.

``python -m tests.support.lost_hosts [--rounds 50] [--kill container|process] [--rabbitmq] [--most MEDIAN WORST]``

Root.  Each worker has a pid, a network and a UTS namespace of its own, so neither sees anything of the other.  Prints
the time from SIGKILL to the first line of the re-run, and fails if the median or the worst is more than ``--most``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .cluster import Cluster
from .history import History
from .networks import ip, no_namespaces
from .rabbitmq import RabbitServer
from .servers import RedisServer, find_server
from .workers import WorkerProcess

__all__ = ["DEFAULTS", "Hosts", "lose_hosts"]

#: The settings of a user who sets nothing, whatever the tests' own defaults are.
DEFAULTS = {
    "HEARTBEAT_INTERVAL": "30",
    "HEARTBEAT_TTL": "90",
    "PROCESSING_WATCH_PROCESSES": "true",
    "PROCESSING_CONNECTION_TIMEOUT": "2",
    "dramatiq_restart_delay": "3000",
}

#: For how long both workers are there before one is lost, seconds: longer than QUALIFYING in common.lua.
SETTLED = 8.0


class Hosts:
    """Two hosts, and a third one with the servers, joined by a bridge that leads nowhere else."""

    SERVER = "10.213.79.1"

    def __init__(self) -> None:
        name = uuid.uuid4().hex[:6]
        self._bridge = f"b{name}"
        self.names = (f"h{name}-0", f"h{name}-1")
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", f"{self.SERVER}/24", "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        for number, host in enumerate(self.names):
            ip("netns", "add", host)
            ip("link", "add", f"v{name}{number}", "type", "veth", "peer", "name", "eth0", "netns", host)
            ip("link", "set", f"v{name}{number}", "master", self._bridge, "up")
            ip("-n", host, "addr", "add", f"10.213.79.{10 + number}/24", "dev", "eth0")
            for each in ("lo", "eth0"):
                ip("-n", host, "link", "set", each, "up")

    def inside(self, number: int) -> tuple[str, ...]:
        """Return the prefix of a command that runs it as the first process of a container on a host."""
        host = self.names[number]
        container = ("unshare", "--fork", "--pid", "--uts", "--mount-proc", "--kill-child")
        return ("ip", "netns", "exec", host, *container, "sh", "-c", f'hostname {host} && exec "$@"', "sh")

    def remove(self) -> None:
        """Take it all down."""
        for host in self.names:
            ip("netns", "del", host)
        ip("link", "del", self._bridge)


def lose_hosts(cluster: Cluster, hosts: Hosts, rounds: int, kill: str) -> Iterator[float]:
    """SIGKILL a container, or the worker process in it, while it runs a message.

    Yields: seconds from the kill to the first line of the re-run in the other container, for each round.
    """
    history = cluster.history
    for number in range(rounds):
        key, gate = f"{number}", cluster.folder / f"gate-{number}"
        cluster.app.gated.send(key, str(gate))
        victim = cluster.worker(threads=1, inside=hosts.inside(number % 2), wait=False)
        cluster.wait(lambda k=key: k in history.keys("start"), what="it runs")
        other = cluster.worker(threads=1, inside=hosts.inside(1 - number % 2), wait=False)
        cluster.wait(lambda o=other: "ready for action" in o.output(), what="the other one boots")
        time.sleep(SETTLED)
        killed = time.time()
        if kill == "container":
            victim.kill()
        else:
            os.kill(_worker_pid(victim), signal.SIGKILL)
        cluster.wait(lambda k=key: len(_starts(history, k)) > 1, timeout=200, what="it runs again")
        yield _starts(history, key)[1] - killed
        gate.touch()
        cluster.wait(lambda k=key: k in history.keys("end"), what="it completes")
        for worker in (victim, other):
            worker.resume_and_kill()


def _starts(history: History, key: str) -> list[float]:
    return [event.at for event in history.events("start") if event.key == key]


def _worker_pid(worker: WorkerProcess) -> int:
    """The process below Dramatiq's main process that runs the messages, as seen from here."""
    pid = worker.process.pid
    while True:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()
        named = [int(child) for child in children if b"spawn_main" not in Path(f"/proc/{child}/cmdline").read_bytes()]
        if not children:
            return pid
        pid = (named or [int(child) for child in children])[0]


def _run(options: argparse.Namespace, stack: contextlib.ExitStack) -> list[float]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    hosts = Hosts()
    stack.callback(hosts.remove)
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    redis = RedisServer(binary, folder / "redis", address=hosts.SERVER, args=["--protected-mode", "no"]).start()
    stack.callback(redis.kill)
    settings = {"TEST_BROKER_URL": redis.url, **DEFAULTS}
    if options.rabbitmq:
        rabbitmq = RabbitServer(folder / "rabbitmq", address=hosts.SERVER).start()
        stack.callback(rabbitmq.remove)
        settings |= {"TEST_RABBITMQ_URL": rabbitmq.url, "PROCESSING_REDIS_URL": redis.url}
    cluster = Cluster(uuid.uuid4().hex[:8], folder, History(folder / "history"), settings)
    stack.callback(cluster.close)
    seconds = []
    for number, again in enumerate(lose_hosts(cluster, hosts, options.rounds, options.kill), 1):
        seconds.append(again)
        print(f"round {number}: {again:.2f} s", flush=True)
    return seconds


def main() -> int:
    """Run the rounds, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--kill", choices=("container", "process"), default="container")
    parser.add_argument("--rabbitmq", action="store_true", help="the broker is a RabbitMQ")
    parser.add_argument("--most", nargs=2, type=float, default=(3.0, 4.5), metavar=("MEDIAN", "WORST"))
    options = parser.parse_args()
    if why := no_namespaces():
        sys.exit(why)
    with contextlib.ExitStack() as stack:
        seconds = _run(options, stack)
    median, worst = statistics.median(seconds), max(seconds)
    broker = "RabbitMQ" if options.rabbitmq else "Redis"
    print(f"{broker}, {options.kill} killed, {len(seconds)} rounds: median {median:.2f} s, worst {worst:.2f} s")
    return int(median > options.most[0] or worst > options.most[1])


if __name__ == "__main__":
    sys.exit(main())
