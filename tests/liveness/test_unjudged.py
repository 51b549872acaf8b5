# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The living are never declared dead by their connections, as long as they can come back within their patience."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import lost_hosts
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.living import OneAddress, live
from tests.support.network import FailoverPair, through
from tests.support.network_proxy import NetworkProxy
from tests.support.servers import CAN_BE_SLOW, RedisServer
from tests.support.subscribers import Subscribers
from tests.support.throttle import KINDS, Throttle
from tests.support.workers import WorkerProcess

MakeCluster = Callable[..., Cluster]

#: No heartbeat expires while a test waits, so that it decides nothing here.
DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "900", "PROCESSING_CONNECTION_TIMEOUT": "2"}


class Living:
    """Two workers, one of which runs a message, and each of which can judge the other."""

    def __init__(self, made: Cluster, admin: Callable[[], Any], *, env: dict[str, str]) -> None:
        self.made, self.env = made, env
        self.subscribers = Subscribers(made.prefix, admin, 2)
        self.workers: list[WorkerProcess] = []

    def start(self, *, inside: Sequence[str] = (), **first: str) -> Living:
        """Start them.

        Parameters:
          inside: The words before the first one's command.
          first: The first one's own environment.
        """
        self.made.app.gated.send("m", str(self.gate))
        for words, own in ((inside, first), ((), {})):
            self.workers.append(self.made.worker(threads=1, inside=words, env={**self.env, **own}))
            self.made.wait(lambda: self.made.history.count("start") == 1, what="it runs")
        self.can_judge()
        return self

    @property
    def gate(self) -> Path:
        return self.made.folder / "gate"

    def can_judge(self) -> None:
        """Wait until each can judge the other."""
        self.made.wait(self.subscribers.can_judge, what="both are qualified")

    def are_back(self) -> None:
        """Wait until both are subscribed, and have entered on the server as it is."""
        self.made.wait(self.subscribers.are_back, what="both are back")

    def nobody_was_judged(self) -> None:
        """Both go on, and the message does not run again."""
        self.are_back()
        assert self.subscribers.events("died", "revived") == {}
        self.gate.touch()
        self.made.wait(lambda: self.made.history.count("end") == 1, what="it ends")
        assert self.made.history.count("start") == 1
        for worker in self.workers:
            assert "is dead" not in worker.output()


@pytest.fixture
def server(server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(server_binary, tmp_path / "redis", persistent=True, args=CAN_BE_SLOW).start()
    yield server
    server.resume()
    server.kill()


@pytest.fixture
def living(cluster: MakeCluster, server: RedisServer) -> Living:
    """Not started yet."""
    made = cluster(TEST_BROKER_URL=server.url, **DEFAULTS)
    return Living(made, server.client, env={})


@pytest.mark.parametrize("how", ["in order", "killed"])
def test_a_restart_of_the_server(living: Living, server: RedisServer, how: str) -> None:
    """With its data."""
    living.start()
    if how == "killed":
        server.kill()
    else:
        server.stop()
    server.start()
    living.nobody_was_judged()


def test_failovers_there_and_back(cluster: MakeCluster, server_binary: str, tmp_path: Path) -> None:
    """A demoted server that is promoted again has the run id of before."""
    pair = FailoverPair(server_binary, tmp_path / "pair").start()
    try:
        one, two = pair.proxy(), pair.proxy()
        made = cluster(TEST_BROKER_URL=pair.url, **DEFAULTS)
        living = Living(made, lambda: redis.Redis(port=pair.primary.port), env=through(made.env, one))
        living.start(**through(made.env, two))
        for _ in range(2):
            pair.fail_over()
            for proxy in (one, two):
                proxy.reset()
            living.are_back()
            living.can_judge()
            pair.wait_ready()
        living.nobody_was_judged()
    finally:
        pair.kill()


@pytest.mark.parametrize("kind", ["normal", "pubsub", "both", "one"])
def test_connections_that_the_server_closes(living: Living, server: RedisServer, kind: str) -> None:
    """``CLIENT KILL``, again and again."""
    living.start()
    for _ in range(5):
        client: Any = server.client()
        for each in ("normal", "pubsub") if kind == "both" else (kind,):
            if each == "one":
                living.subscribers.lose_one()
            else:
                client.execute_command("CLIENT", "KILL", "TYPE", each, "SKIPME", "yes")
        living.are_back()
    living.nobody_was_judged()


@pytest.mark.parametrize("kinds", [["pubsub"], ["pubsub", "normal"]])
def test_a_closed_connection_of_which_the_worker_is_not_told(
    living: Living, server: RedisServer, kinds: list[str]
) -> None:
    """A proxy swallows the end: the worker's own look does not count it any more, or gets no answer."""
    proxy = NetworkProxy(server.port)
    try:
        living.start(**through(living.made.env, proxy))
        proxy.keeps_open = True
        client: Any = server.client()
        for kind in kinds:
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        living.nobody_was_judged()
    finally:
        proxy.close()


def test_a_proxy_that_is_down_for_a_second_and_a_half(living: Living, server: RedisServer) -> None:
    """That of one worker: the other one can judge it all the time."""
    proxy = NetworkProxy(server.port)
    try:
        living.start(**through(living.made.env, proxy))
        proxy.down(1.5)
        living.nobody_was_judged()
    finally:
        proxy.close()


def test_a_server_that_takes_no_more_connections(living: Living, server: RedisServer) -> None:
    """One cannot subscribe again, beats by the connection that it has, and is not declared dead."""
    living.start()
    client: Any = server.client()
    client.config_set("maxclients", 1)
    living.subscribers.lose_one(client)
    time.sleep(6)  # three times its patience
    client.config_set("maxclients", 1000)
    living.nobody_was_judged()


def test_a_server_that_pauses_its_clients(living: Living, server: RedisServer) -> None:
    """While one is about to subscribe again."""
    living.start()
    client: Any = server.client()
    client.execute_command("CLIENT", "PAUSE", "5000", "ALL")
    living.subscribers.lose_one()
    living.nobody_was_judged()


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.2])
def test_a_server_whose_every_pass_is_slow(living: Living, server: RedisServer, seconds: float) -> None:
    """A look takes one pass, and to come back takes several."""
    living.start()
    with server.slow(seconds):
        time.sleep(3 * seconds)  # its slowness has been seen by then, in the looks
        living.subscribers.lose_one()
        time.sleep(10 * seconds + 3)
    living.nobody_was_judged()


def test_a_suspended_process(living: Living) -> None:
    """Its connections stay: its heartbeat decides."""
    living.start()
    living.workers[0].pause()
    time.sleep(6)  # three times its patience
    living.workers[0].resume()
    living.nobody_was_judged()


def test_a_call_that_holds_the_gil_beside_a_cut_connection(
    living: Living, server: RedisServer, history: History, tmp_path: Path
) -> None:
    """Its heartbeat's process comes back in its place."""
    proxy = NetworkProxy(server.port)
    made = living.made
    try:
        starved = made.worker(threads=1, env={**through(made.env, proxy), "PROCESSING_HEARTBEAT": "process"})
        made.app.starving.send("m", 60, str(tmp_path / "gate"))
        made.wait(lambda: history.count("start") == 1, what="it runs")
        other = made.worker(threads=1)
        living.can_judge()
        for _ in range(3):
            proxy.reset()
            time.sleep(2)
        living.are_back()
        (tmp_path / "gate.fed").touch()
        (tmp_path / "gate").touch()
        made.wait(lambda: history.count("end") == 1, what="it ends")
        assert history.count("start") == 1
        assert "is dead" not in starved.output() + other.output()
    finally:
        proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_throttled_process_gets_a_tenth_of_a_processor(kind: str) -> None:
    """Or less, on a machine that is busy."""
    throttle = Throttle(kind)
    command = [*throttle.inside, sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            throttle.begin(process.pid)
            before, begun = _processor_time(process.pid), time.monotonic()
            time.sleep(3)
            used, took = _processor_time(process.pid) - before, time.monotonic() - begun
        finally:
            throttle.end()
            process.kill()
    assert 0 < used / took < 0.4


def _processor_time(pid: int) -> float:
    """The processor time that a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_with_a_tenth_of_a_processor(living: Living, server: RedisServer, kind: str) -> None:
    """It comes back each time that its connections are cut."""
    proxy, throttle = NetworkProxy(server.port), Throttle(kind)
    try:
        living.start(inside=throttle.inside, **through(living.made.env, proxy))
        throttle.begin(living.workers[0].group)
        for _ in range(3):
            living.can_judge()
            proxy.reset()
            living.are_back()
        living.nobody_was_judged()
    finally:
        throttle.end()
        proxy.close()


@pytest.mark.long
def test_a_nemesis_of_connections(
    cluster: MakeCluster, server_binary: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes of one instance lose them together, and the broker is on another server."""
    servers = OneAddress(server_binary, tmp_path / "tracker")
    only = ("cut", "close both", "swallow the end", "proxy down", "SIGKILL")
    try:
        figures = live(cluster(**lost_hosts.DEFAULTS), servers, 25, 1, only=only, longest=10)
    finally:
        servers.kill()
    assert figures.is_right, f"{figures}\n{figures.errors}\n{capsys.readouterr().out}"
    assert figures.faults.total() > 0
    assert figures.sent > 0
