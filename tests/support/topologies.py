# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Several servers of the tests' own: a Cluster, and a primary with replicas behind sentinels."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis

from .servers import RedisServer, free_port, wait_until

__all__ = ["Nodes", "Sentinels"]

SLOTS = 16384


class Nodes:
    """A Redis Cluster: three primaries, and a replica of each."""

    def __init__(self, binary: str, folder: Path) -> None:
        args = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf"]
        self.servers = [RedisServer(binary, folder / f"node-{n}", args=args) for n in range(6)]

    @property
    def url(self) -> str:
        return f"cluster://127.0.0.1:{self.servers[0].port}"

    def start(self) -> Nodes:
        """Start them, give each primary its share of the slots, and wait until they agree."""
        for server in self.servers:
            server.start()
        clients = [_client(server) for server in self.servers]
        for n, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER ADDSLOTSRANGE", n * SLOTS // 3, (n + 1) * SLOTS // 3 - 1)
        for client in clients[1:]:
            client.execute_command("CLUSTER MEET", "127.0.0.1", self.servers[0].port)
        wait_until(lambda: all(_knows(client, 6) for client in clients), what="the nodes have met")
        ids = [client.execute_command("CLUSTER MYID").decode() for client in clients[:3]]
        for client, primary in zip(clients[3:], ids, strict=True):
            wait_until(partial(_replicates, client, primary), what="a replica has found its primary")
        wait_until(lambda: all(_is_ok(client) for client in clients), what="the cluster is whole")
        return self

    def primary_of(self, key: str) -> RedisServer:
        """The server that has a key."""
        client: Any = redis.RedisCluster(host="127.0.0.1", port=self.living().port)
        node = client.get_node_from_key(key)
        client.close()
        return next(server for server in self.servers if server.port == node.port)

    def living(self) -> RedisServer:
        return next(s for s in self.servers if s.process is not None and s.process.poll() is None)

    def kill(self) -> None:
        for server in self.servers:
            server.kill()


def _client(server: RedisServer) -> Any:
    return redis.Redis(port=server.port)


def _knows(client: Any, number: int) -> bool:
    return int(client.execute_command("CLUSTER INFO")["cluster_known_nodes"]) == number


def _is_ok(client: Any) -> bool:
    return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def _replicates(client: Any, primary: str) -> bool:
    try:
        return bool(client.execute_command("CLUSTER REPLICATE", primary))
    except redis.ResponseError:
        return False  # it does not know it yet


class Sentinels:
    """A primary, two replicas, and three sentinels that look after them."""

    NAME = "main"

    def __init__(self, binary: str, folder: Path, *, address: str = "127.0.0.1", args: Sequence[str] = ()) -> None:
        self.binary, self.folder, self.address = binary, folder, address
        # A primary that was replaced takes no writes when it comes back and nobody has told it yet: it has no replicas.
        self.args = ["--repl-diskless-sync-delay", "0", "--protected-mode", "no", "--min-replicas-to-write", "1", *args]
        self.servers = [RedisServer(binary, folder / "redis-0", address=address, args=self.args)]
        self.ports: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return "sentinel://" + ",".join(f"{self.address}:{port}" for port in self.ports) + f"/{self.NAME}"

    def start(self) -> Sentinels:
        """Start them, and wait until each sentinel knows the others and the replicas."""
        # One after the other: a server takes another port if somebody else has its own by then.
        primary = self.servers[0].start()
        replica = ["--replicaof", self.address, str(primary.port), *self.args]
        for n in (1, 2):
            server = RedisServer(self.binary, self.folder / f"redis-{n}", address=self.address, args=replica)
            self.servers.append(server)
            server.start()
        while len(self.ports) < 3:
            self._start_sentinel(free_port())
        wait_until(lambda: all(self._is_ready(port) for port in self.ports), what="the sentinels are ready")
        return self

    def _start_sentinel(self, port: int) -> None:
        """Start one, unless somebody else has its port by now."""
        conf = self.folder / f"sentinel-{port}.conf"
        conf.write_text(
            f"port {port}\nbind {self.address}\nprotected-mode no\ndir {self.folder}\n"
            f"sentinel monitor {self.NAME} {self.address} {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {self.NAME} 1000\n"
            f"sentinel failover-timeout {self.NAME} 3000\n"
        )
        process = subprocess.Popen(
            [self.binary, str(conf), "--sentinel"], stdout=subprocess.DEVNULL, start_new_session=True
        )
        self.processes.append(process)
        wait_until(lambda: process.poll() is not None or self._answers(port, process.pid), what="a sentinel answers")
        if process.poll() is None:
            self.ports.append(port)

    def _answers(self, port: int, pid: int) -> bool:
        client: Any = redis.Redis(host=self.address, port=port)
        try:
            return bool(client.info("server")["process_id"] == pid)
        except redis.RedisError:
            return False

    def primary(self) -> RedisServer:
        """The server that the sentinels name now."""
        client: Any = redis.Redis(host=self.address, port=self.ports[0])
        _, port = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self.NAME)
        return next(server for server in self.servers if server.port == int(port))

    def fail_over(self) -> None:
        """Ask for a failover, and wait until the sentinels name another primary."""
        before = self.primary()
        wait_until(self._takes_failover, what="the sentinels agree to a failover")
        wait_until(lambda: self.primary() is not before, what="another server is the primary")

    def wait_ready(self) -> None:
        """Wait until both other servers follow the primary."""
        wait_until(lambda: _followers(self.primary()) == 2, what="both replicas follow the primary")

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.kill()

    def _takes_failover(self) -> bool:
        client: Any = redis.Redis(host=self.address, port=self.ports[0])
        try:
            return bool(client.execute_command("SENTINEL FAILOVER", self.NAME))
        except redis.ResponseError:
            return False  # one is under way, or no replica is ready

    def _is_ready(self, port: int) -> bool:
        client: Any = redis.Redis(host=self.address, port=port)
        try:
            said = client.sentinel_master(self.NAME)
        except redis.RedisError:
            return False
        return bool(said["num-other-sentinels"] == 2 and said["num-slaves"] == 2)


def _followers(server: RedisServer) -> int:
    """Return how many replicas of a server have all of its data."""
    client: Any = server.client()
    try:
        info = client.info("replication")
    except redis.RedisError:
        return 0
    replicas = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
    return sum(replica["state"] == "online" for replica in replicas) if info["role"] == "master" else 0
