# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis behind sentinels, as a Cluster, with TLS and with a user that may do what is needed and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.rounds import judge, kill_rounds
from tests.support.servers import RedisServer, wait_until
from tests.support.topologies import Nodes, Sentinels
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]

ROOT = Path(__file__).parents[2]

#: The newer protocol, and a client that tries again what failed; with a redis-py whose cluster client can do both.
RESP3 = "?protocol=3" if int(redis.__version__.split(".")[0]) >= 6 else ""

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))


@pytest.fixture
def sentinels(server_binary: str, tmp_path: Path) -> Iterator[Sentinels]:
    made = Sentinels(server_binary, tmp_path / "s").start()
    yield made
    made.kill()


@pytest.fixture
def nodes(server_binary: str, tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(server_binary, tmp_path / "n").start()
    yield made
    made.kill()


def test_a_failover_under_load_loses_nothing_that_was_replicated(
    cluster: MakeCluster, sentinels: Sentinels, history: History
) -> None:
    """The broker and the tracker find the new primary; what was running goes on, and is finished there."""
    made = cluster(TEST_BROKER_URL=sentinels.url + RESP3, HEARTBEAT_INTERVAL="0.5", HEARTBEAT_TTL="3")
    workers = [made.worker(threads=4), made.worker(threads=4)]
    for key in range(80):
        made.app.work.send(key, 0.4)
    wait_until(lambda: _replicas(sentinels.servers[0]) == 2, what="the replicas follow")
    assert redis.Redis(port=sentinels.servers[0].port).wait(2, 5000) == 2  # all is replicated
    made.wait(lambda: history.count("end") >= 16, what="they run")
    before = sentinels.primary()
    before.kill()
    wait_until(lambda: sentinels.primary() is not before, what="the failover")
    made.wait(lambda: len(history.keys("end")) == 80, what="all complete")
    for worker in workers:
        worker.stop()
        assert "is dead" not in worker.output()  # no outage makes a living worker look dead
    report = judge(history, list(range(80)), {})
    print(report, made.enqueued(), "still with the broker")
    assert report.lost == []
    # Writes that the old primary had not passed on: starts and acknowledgements of the last moment.
    assert len(report.doubled) + len(report.repeated) + made.enqueued() <= 24


def test_killed_workers_on_a_cluster_lose_and_double_nothing(cluster: MakeCluster, nodes: Nodes) -> None:
    """The broker's keys and the tracker's are in different slots."""
    report = kill_rounds(cluster(TEST_BROKER_URL=nodes.url), ROUNDS, seed=5)
    print(report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * ROUNDS


def test_a_cluster_whose_slots_move_and_whose_primary_dies(
    cluster: MakeCluster, nodes: Nodes, history: History
) -> None:
    """The tracker's slot moves to another node under load; then that node dies, and its replica takes over.

    While it does, the others refuse commands for their own slots as well, the broker's acks among them, with an error
    after which Dramatiq does not try again: what it has then completed stays with the worker that has completed it.
    """
    made = cluster(TEST_BROKER_URL=nodes.url + RESP3, HEARTBEAT_INTERVAL="0.5", HEARTBEAT_TTL="3")
    workers = [made.worker(threads=4), made.worker(threads=4)]
    for key in range(80):
        made.app.work.send(key, 0.4)
    made.wait(lambda: history.count("end") >= 8, what="they run")
    _move(nodes, made.prefix + "heartbeats")
    made.wait(lambda: history.count("end") >= 24, what="they go on")
    victim = nodes.primary_of(made.prefix + "heartbeats")
    wait_until(lambda: _replicas(victim) == 1, what="it has a replica that follows")
    redis.Redis(port=victim.port).wait(1, 2000)
    victim.kill()
    made.wait(lambda: len(history.keys("end")) == 80, what="all complete")
    made.wait(lambda: made.enqueued() == sum(map(_refused_acks, workers)), what="all is done")
    report = judge(history, list(range(80)), {})
    print(report)
    assert report.lost == report.doubled == []
    for worker in workers:
        worker.stop()
        assert "is dead" not in worker.output()


def _refused_acks(worker: WorkerProcess) -> int:
    return worker.output().count("Unhandled error during post_process_message")


def _replicas(server: RedisServer) -> int:
    info: Any = redis.Redis(port=server.port).info("replication")
    return sum(1 for n in range(info["connected_slaves"]) if info[f"slave{n}"]["state"] == "online")


def _move(nodes: Nodes, key: str) -> None:
    """Move a key's slot, with all that is in it, to another primary, as ``redis-cli --cluster reshard`` does."""
    source = nodes.primary_of(key)
    target = next(server for server in nodes.servers[:3] if server is not source)
    here, there = _raw(source), _raw(target)
    slot = here.execute_command("CLUSTER KEYSLOT", key)
    ids = {server.port: _raw(server).execute_command("CLUSTER MYID").decode() for server in nodes.servers[:3]}
    there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
    here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target.port])
    while names := here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
        here.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
    for server in (target, source, *nodes.servers[:3]):
        _raw(server).execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target.port])


def _raw(server: RedisServer) -> Any:
    return redis.Redis(port=server.port)


# TLS, and a user of its own.


@pytest.fixture
def tls_server(server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that speaks TLS, and has the user of the documentation and no other."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    server = RedisServer(server_binary, tmp_path / "tls")
    port = server.port + 10_000  # free, too
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    server.args = ["--tls-port", str(port), "--tls-auth-clients", "no", *files]
    try:
        server.start()
    except AssertionError:
        pytest.skip("this server has no TLS")
    yield server
    server.kill()


def test_a_user_with_the_documented_permissions_and_tls_suffices(
    cluster: MakeCluster, tls_server: RedisServer, history: History, tmp_path: Path
) -> None:
    """For a worker's whole life, with recovery, results, dead letters and a heartbeat process."""
    admin = tls_server.client()
    made = cluster(TEST_BROKER_URL=tls_server.url)
    text = (ROOT / "docs" / "brokers.rst").read_text()
    rules = re.search(r"ACL SETUSER app on >password\s+(.*?)\n\n", text, re.DOTALL)
    assert rules is not None
    allowed = (
        rules[1]
        .replace("{dramatiq_processing}", f"{{{made.namespace}}}")
        .replace("~dramatiq", f"~{{{made.namespace}-broker}}")
    )
    admin.execute_command("ACL", "SETUSER", "app", "on", ">password", *allowed.split())
    url = f"rediss://app:password@127.0.0.1:{tls_server.port + 10_000}/0?ssl_ca_certs={tmp_path / 'cert.pem'}"
    settings: dict[str, Any] = {"TEST_BROKER_URL": url, "PROCESSING_HEARTBEAT": "process"}
    first, second = made.worker(**settings), made.worker(**settings)
    for key in range(24):
        made.app.work.send(key, 0.3)
    for key in range(100, 104):
        made.app.failing.send(key, 1, 0.05)
    made.app.work.send_with_options(args=(200, 0), delay=500)
    made.app.failing.send_with_options(args=(300, 1, 0), max_retries=0)
    made.wait(lambda: history.count("start") >= 8, what="they run")
    first.kill()
    made.wait(
        lambda: {*range(24), 200} <= history.keys("end") and len(history.keys("success")) == 4,
        what="all complete",
    )
    assert len(made.dead_letters()) == 1
    assert second.stop() == 0
    assert "has no permissions" not in "".join(worker.output() for worker in made.workers)
    log: Any = admin.execute_command("ACL", "LOG")
    assert log == []


@pytest.mark.parametrize("topology", ["cluster", "sentinels"])
def test_a_death_is_known_by_its_connection(
    cluster: MakeCluster, history: History, request: pytest.FixtureRequest, tmp_path: Path, topology: str
) -> None:
    """By sharded channels on a cluster, which take Redis 7; and where sentinels give the address."""
    fixture = request.getfixturevalue("nodes" if topology == "cluster" else "sentinels")
    made = cluster(
        TEST_BROKER_URL=fixture.url + (RESP3 if topology == "sentinels" else ""),
        HEARTBEAT_INTERVAL="30",
        HEARTBEAT_TTL="90",
        PROCESSING_CONNECTION_TIMEOUT="2",
    )
    gate = tmp_path / "gate"
    made.app.gated.send("m", str(gate))
    first = made.worker(threads=1)
    made.wait(lambda: history.count("start") == 1, what="it runs")
    other = made.worker(threads=1)
    made.wait(
        lambda: "Its heartbeat alone decides" not in other.output() and _has_entered(made, 2), what="both entered"
    )
    first.kill()
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    assert "its connections to Redis are closed" in other.output()
    gate.touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")


def _has_entered(made: Cluster, number: int) -> bool:
    keys = list(made.client.scan_iter(made.prefix + "incarnation:*"))
    return sum(bool(made.client.hexists(key, "life")) for key in keys) == number
