# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""An application with workers that are real processes, on a namespace of its own."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import dramatiq
from dramatiq.results import ResultBackend

from .brokers import side_of
from .history import History
from .impossible import in_log
from .lab import JOURNAL
from .network import HostileNetwork
from .servers import RedisServer, connect, find_server, wait_until
from .workers import PROGRAM, WorkerProcess

__all__ = ["Cluster", "standalone"]

#: Short times, for tests that wait for a heartbeat to expire; and no evidence but that.
FAST = {
    "PROCESSING_WATCH_PROCESSES": "false",
    "PROCESSING_CONNECTION_TIMEOUT": "0",
    "HEARTBEAT_INTERVAL": "0.3",
    "HEARTBEAT_TTL": "1.5",
    "PROCESSING_MAX_RECOVERIES": "3",
    "dramatiq_restart_delay": "300",
}


@contextlib.contextmanager
def standalone(settings_for: Callable[[str], dict[str, str]], folder: Path | None = None) -> Iterator[Cluster]:
    """A cluster with a server of its own, outside of pytest.

    Parameters:
      settings_for: The workers' environment, given the server's URL.
      folder: Where logs and history are kept; ``None``: nowhere.
    """
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        server = RedisServer(binary, folder / "redis").start()
        settings = {"TEST_BROKER_URL": server.url, **settings_for(server.url)}
        cluster = Cluster(uuid.uuid4().hex[:8], folder, History(folder / "history"), settings)
        try:
            yield cluster
        finally:
            cluster.close()
            server.kill()


class Cluster:
    """Sends messages to workers of ``tests.support.app``, and does things to those."""

    def __init__(self, namespace: str, folder: Path, history: History, settings: dict[str, str]) -> None:
        self.namespace = namespace
        self.folder = folder
        self.history = history
        self.env = {
            **FAST,
            "TEST_HISTORY": str(history.path),
            "TEST_BROKER_NAMESPACE": f"{{{namespace}-broker}}",  # one hash slot, where that is a cluster
            "PROCESSING_NS": namespace,
            **settings,
        }
        if side_of(self.env).apart:
            self.env = {"TEST_QUEUE": f"q{namespace}", "PROCESSING_REDIS_URL": self.env["TEST_BROKER_URL"], **self.env}
        self.workers: list[WorkerProcess] = []
        kind = os.environ.get("TEST_NETWORK")
        self.network = HostileNetwork(kind) if kind else None
        self.encoder = dramatiq.get_encoder()
        self.app = self._load_app()
        self.broker: Any = self.app.broker
        self.client: Any = connect(self.env["TEST_BROKER_URL"])
        self.prefix = f"{{{namespace}}}:"
        self.side = side_of(self.env)(self.broker, self.app.QUEUE, self.client, self.prefix)

    def worker(
        self,
        *,
        threads: int = 8,
        processes: int = 1,
        wait: bool = True,
        inside: Sequence[str] = (),
        args: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
        app: str = "tests.support.app",
        env: Mapping[str, str] = MappingProxyType({}),
        **settings: str,
    ) -> WorkerProcess:
        """Start a worker process."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        whole = {**self.env, **env, **settings}
        worker = WorkerProcess(
            self.network.env(whole) if self.network is not None else whole,
            *(self.history, log),
            threads=threads,
            processes=processes,
            inside=inside,
            args=args,
            program=program,
            app=app,
        )
        self.workers.append(worker)
        return worker.wait_ready() if wait else worker

    def wait(self, condition: Any, *, timeout: float = 120, what: str = "") -> None:
        """Wait for a condition; if it does not come, show what the workers said."""
        try:
            wait_until(condition, timeout=timeout, what=what)
        except AssertionError as error:
            logs = "\n".join(f"--- {worker.log.name}\n{worker.output()[-3000:]}" for worker in self.workers)
            raise AssertionError(f"{error}\n{logs}") from None

    def enqueued(self) -> int:
        """Return how many messages the broker has: waiting, delayed or fetched."""
        return self.side.enqueued()

    def dead_letters(self, queue: str = "default") -> list[dramatiq.Message[Any]]:
        return self.side.dead_letters(queue)

    def results(self) -> ResultBackend:
        backend: ResultBackend = self.broker.get_results_backend()
        return backend

    def names(self) -> set[str]:
        """All keys of the tracker's namespace, without the prefix and the history, which outlasts them."""
        return {key.decode().removeprefix(self.prefix) for key in self.client.scan_iter(self.prefix + "*")} - JOURNAL

    def close(self) -> None:
        for worker in self.workers:
            worker.resume_and_kill()
        if self.network is not None:
            self.network.close()
        self.side.close()
        self.client.close()
        dramatiq.set_encoder(self.encoder)
        impossible = [line for worker in self.workers for line in in_log(worker.log)]
        assert impossible == []

    def _load_app(self) -> ModuleType:
        """The application as the sender has it: the workers' own module, on this namespace."""
        before = {name: os.environ.get(name) for name in self.env}
        os.environ.update(self.env)
        try:
            sys.modules.pop("tests.support.app", None)
            return importlib.import_module("tests.support.app")
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
