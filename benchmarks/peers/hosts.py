# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One system with its server, its sender and its workers, each on a host of its own as far as it can tell."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.rabbitmq import RabbitServer, find_rabbitmq
from tests.support.servers import RedisServer, find_server

from ..support import ROOT
from .systems import SYSTEMS, System

__all__ = ["Bench", "Host", "benches", "no_hosts", "versions"]

#: Where the environments of the systems are: one folder each, named after it.
FOLDER = os.environ.get("BENCH_PEERS", "")

#: The command for a host of its own: processes that see no others, and another name.
ISOLATED = (
    "unshare",
    "--pid",
    "--uts",
    "--fork",
    "--mount-proc",
    "--kill-child",
    "sh",
    "-c",
    'hostname "$0"; exec "$@"',
)


def no_hosts() -> str:
    """Return why there can be no hosts of their own here; empty if there can."""
    try:
        made = subprocess.run([*ISOLATED, "probe", "true"], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return made.stderr.strip()


def python_of(environment: str) -> str | None:
    """The Python of a system's environment; this one will do for Dramatiq; ``None``: there is none."""
    path = Path(FOLDER, environment, "bin", "python")
    if FOLDER and path.exists():
        return str(path)
    return sys.executable if environment == "dramatiq" else None


def versions() -> dict[str, dict[str, str]]:
    """Return the packages in each environment that is here."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    named = ("celery", "kombu", "rq", "arq", "taskiq", "taskiq-redis", "taskiq-aio-pika", "dramatiq", "redis")
    named += ("hiredis", "pika")
    found: dict[str, dict[str, str]] = {}
    for environment in sorted({system.environment for system in SYSTEMS}):
        python = python_of(environment)
        if python is not None:
            said = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True).stdout)
            found[environment] = {name: said[name] for name in named if name in said}
    return found


class Host:
    """A worker with all of its processes."""

    def __init__(self, command: list[str], env: dict[str, str], name: str, log: Path, *, isolated: bool) -> None:
        self.name = name
        self._isolated = isolated
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*ISOLATED, name, *command] if isolated else command,
                env={**os.environ, **env, "PYTHONPATH": str(ROOT), "BENCH_WORKER": name},
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> float:
        """SIGKILL all of it.  Returns when (``time.time``)."""
        at = time.time()
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, IndexError):
            if self._isolated:
                # The first process of the host: the kernel kills all others with it.
                children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGKILL)
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)
        return at


class Bench:
    """One system at work."""

    def __init__(
        self, system: System, folder: Path, redis_url: str, rabbitmq_url: str | None, *, isolated: bool
    ) -> None:
        self.system = system
        self.folder = folder
        self.isolated = isolated
        self.redis_url = redis_url
        self.queue = "".join(letter for letter in system.name.lower() if letter.isalnum())
        self.history = folder / "history"
        self.history.touch()
        #: A line for each run of a `noop`: when it started (``time.monotonic``), and the job's number.
        self.starts = folder / "starts"
        self.env = {
            **{"BENCH_REDIS_URL": redis_url, "BENCH_QUEUE": self.queue, "BENCH_HISTORY": str(self.history)},
            **{"BENCH_STARTS": str(self.starts), "BENCH_GATE": str(folder / "gate-")},
            **{"BENCH_WORKER": "sender", "PYTHONPATH": str(ROOT), **system.env},
        }
        if system.rabbitmq:
            assert rabbitmq_url is not None
            self.env |= {"BENCH_RABBITMQ_URL": rabbitmq_url, "PROCESSING_REDIS_URL": redis_url}
        self.hosts: list[Host] = []
        self._number = 0
        self._pinged = 0.0
        python = python_of(system.environment)
        assert python is not None
        self._python = python
        with (folder / "sender.log").open("ab") as log:
            self._sender = subprocess.Popen(
                [python, "-m", f"benchmarks.peers.{system.app}"],
                env={**os.environ, **self.env},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start_host(self) -> Host:
        """One more."""
        self._number += 1
        name = f"host{self._number}"
        values = {"worker": name, "number": self._number, "redis": self.redis_url, "queue": self.queue}
        command = [self._python, *(word.format(**values) for word in self.system.worker)]
        host = Host(command, self.env, name, self.folder / f"{name}.log", isolated=self.isolated)
        self.hosts.append(host)
        return host

    def ask(self, name: str, key: str = "-") -> Any:
        """Have a job sent, or ask whether one was given up."""
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write(f"{name} {key}\n")
        self._sender.stdin.flush()
        answer = self._sender.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.system.name}: {(self.folder / 'sender.log').read_text()[-2000:]}")
        return json.loads(answer)

    def events(self, event: str, key: str | None = None) -> list[dict[str, Any]]:
        """Return the notes of the jobs, in order."""
        lines = [json.loads(line) for line in self.history.read_text().splitlines()]
        return [line for line in lines if line["event"] == event and key in (None, line["key"])]

    def log(self, host: Host) -> str:
        """Return the end of a host's output."""
        return (self.folder / f"{host.name}.log").read_text()[-1500:]

    def wait(self, condition: Callable[[], object], seconds: float, *, every: float = 1.0) -> bool:
        """Wait until it holds, while a job that does nothing is sent now and then; False: it did not, for so long."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            if time.monotonic() - self._pinged >= every:
                self._pinged = time.monotonic()
                self.ask("nothing")
            time.sleep(0.02)
        return True

    def wait_ready(self) -> None:
        """Wait until every host has run a job."""
        names = {host.name for host in self.hosts}
        if not self.wait(lambda: names <= {one["worker"] for one in self.events("ran")}, 120, every=0.2):
            logs = "\n".join(self.log(host) for host in self.hosts)
            raise RuntimeError(f"{self.system.name}: a worker does not work\n{logs}")

    def close(self) -> None:
        """End all of it."""
        for host in self.hosts:
            host.kill()
        self._sender.kill()
        self._sender.wait()


def _here(system: System) -> bool:
    return python_of(system.environment) is not None and (not system.rabbitmq or find_rabbitmq() is not None)


@contextlib.contextmanager
def benches(folder: Path, systems: list[System], *, isolated: bool) -> Iterator[list[Bench]]:
    """All systems that are here, each with a Redis of its own; those with RabbitMQ share one.

    Parameters:
      isolated: True if each host is one of its own; else the processes of a system see each other.
    """
    binary = find_server()
    if binary is None:
        sys.exit("No Redis or Valkey here: set TEST_REDIS_SERVER, put redis-server on the PATH, or install one.")
    with contextlib.ExitStack() as stack:
        here = [system for system in systems if _here(system)]
        rabbitmq_url = None
        if any(system.rabbitmq for system in here):
            rabbitmq = RabbitServer(folder / "rabbitmq")
            stack.callback(rabbitmq.remove)
            rabbitmq_url = rabbitmq.start().url
        made = []
        for number, system in enumerate(here):
            own = folder / str(number)
            server = RedisServer(binary, own).start()
            stack.callback(server.kill)
            bench = Bench(system, own, server.url, rabbitmq_url, isolated=isolated and not system.together)
            stack.callback(bench.close)
            made.append(bench)
        yield made
