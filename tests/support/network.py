# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Networks between workers and their Redis: hostile ones for any test, and an address that fails over."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .network_proxy import Link, NetworkProxy
from .servers import RedisServer, wait_until

__all__ = ["KINDS", "FailoverPair", "HostileNetwork", "through"]

#: The ways in which a network can be bad all the time: ``TEST_NETWORK`` names one.
KINDS = ("plain", "delay", "stall", "idle", "reset", "narrow")

#: A Redis on loopback, as the tests name it.
ON_LOOPBACK = re.compile(r"redis://127\.0\.0\.1:(\d+)(/.*)?")


def through(env: Mapping[str, str], proxy: NetworkProxy, *, timeout: float | None = None) -> dict[str, str]:
    """A worker's environment in which its Redis is behind a proxy.

    Parameters:
      timeout: How long the broker's own client waits for an answer, seconds; ``None``: as in `env`.
    """
    found = {}
    for name in ("TEST_BROKER_URL", "PROCESSING_REDIS_URL"):
        match = ON_LOOPBACK.fullmatch(env.get(name, ""))
        if match is not None:
            more = f"?socket_timeout={timeout}" if timeout is not None and name == "TEST_BROKER_URL" else ""
            found[name] = f"redis://127.0.0.1:{proxy.port}{match[2] or '/0'}{more}"
    return {**env, **found}


class HostileNetwork:
    """A network that is bad in one way for as long as a test takes.

    Parameters:
      kind: One of `KINDS`.
    """

    def __init__(self, kind: str) -> None:
        if kind not in KINDS:
            raise ValueError(f"TEST_NETWORK is {kind!r}; it can be {', '.join(KINDS)}")
        self.kind = kind
        self._proxies: dict[int, NetworkProxy] = {}
        self._closed = threading.Event()
        self._random = random.Random(1)

    def env(self, env: Mapping[str, str]) -> dict[str, str]:
        """A worker's environment, through this network; the same if its Redis is not on loopback."""
        match = ON_LOOPBACK.fullmatch(env.get("TEST_BROKER_URL", ""))
        return through(env, self._proxy(int(match[1]))) if match is not None else dict(env)

    @property
    def links(self) -> list[Link]:
        """All connections so far."""
        return [link for proxy in self._proxies.values() for link in proxy.links]

    def close(self) -> None:
        self._closed.set()
        for proxy in self._proxies.values():
            proxy.close()

    def _proxy(self, port: int) -> NetworkProxy:
        if port not in self._proxies:
            proxy = self._proxies[port] = NetworkProxy(port)
            if self.kind == "delay":
                proxy.latency = 0.01
            elif self.kind == "narrow":
                proxy.bandwidth = 500_000
            elif self.kind == "idle":
                proxy.idle_limit = 2.0
            elif self.kind in ("stall", "reset"):
                threading.Thread(target=self._disturb, args=(proxy,), daemon=True).start()
        return self._proxies[port]

    def _disturb(self, proxy: NetworkProxy) -> None:
        while not self._closed.wait(self._random.uniform(0.5, 1.5)):
            if self.kind == "stall":
                proxy.stall()
                self._closed.wait(0.3)
                proxy.resume()
                continue
            links = proxy.open_links()
            if links:
                self._random.choice(links).reset()


class FailoverPair:
    """A primary and its replica, and addresses that always lead to the primary."""

    def __init__(self, binary: str, folder: Path, *, persistent: bool = False, args: Sequence[str] = ()) -> None:
        args = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *args]
        self.primary = RedisServer(binary, folder / "redis-0", persistent=persistent, args=args)
        self.replica = RedisServer(binary, folder / "redis-1", persistent=persistent, args=args)
        self.proxies: list[NetworkProxy] = []
        #: For the test itself: its connections are reset at a failover, so that its clients follow.
        self._own: NetworkProxy | None = None

    @property
    def url(self) -> str:
        """An address for the test itself and for senders, which is never in the way."""
        if self._own is None:
            self._own = self.proxy()
        return self._own.url

    def start(self) -> FailoverPair:
        self.primary.start()
        self.replica.start().client().execute_command("REPLICAOF", "127.0.0.1", str(self.primary.port))
        self._wait_for_replica()
        return self

    def proxy(self) -> NetworkProxy:
        """One more address of the primary."""
        self.proxies.append(NetworkProxy(self.primary.port))
        return self.proxies[-1]

    def fail_over(self) -> float:
        """Promote the replica, and lead new connections there.  Open connections stay, and may only read.

        Returns: when (``time.time``) the new primary took over.
        """
        old, new = self.primary, self.replica
        with old.client() as before, new.client() as after:
            before.execute_command("CLIENT", "PAUSE", "20000", "WRITE")  # no acknowledged write is lost
            wait_until(lambda: _offset(before) == _offset(after), what="the replica has all")
            after.execute_command("REPLICAOF", "NO", "ONE")
            before.execute_command("REPLICAOF", "127.0.0.1", str(new.port))
            at = time.time()
            for proxy in self.proxies:
                proxy.switch(new.port)
            if self._own is not None:
                self._own.reset()
            before.execute_command("CLIENT", "UNPAUSE")
        self.primary, self.replica = new, old
        return at

    def wait_ready(self) -> None:
        """Wait until the replica can take over again."""
        self._wait_for_replica()

    def kill(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        for server in (self.primary, self.replica):
            server.resume()
            server.kill()

    def _wait_for_replica(self) -> None:
        with self.replica.client() as client:
            wait_until(lambda: _link(client) == "up", what="the replica follows the primary")


def _link(client: Any) -> str:
    return str(client.info("replication").get("master_link_status", ""))


def _offset(client: Any) -> int:
    """Return how much of the primary's commands a server has."""
    info = client.info("replication")
    return int(info.get("slave_repl_offset", info["master_repl_offset"]))
