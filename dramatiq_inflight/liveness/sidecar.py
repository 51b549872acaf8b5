# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Start the heartbeat's own process (`sidecar_main`), and start it again if it ends before its worker."""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import threading
from pathlib import Path

import redis
from dramatiq.logging import get_logger

from ..config.settings import Settings
from ..store.connection import Address
from ..threads.service import Service
from .pidfd import Process
from .sidecar_main import BYE, READY, Task

__all__ = ["HeartbeatProcess", "launch"]

#: How long to wait before a process that has ended is started again, seconds; doubles, up to the second.
RESTART, LONGEST_RESTART = 1.0, 60.0

#: How long it may take to end, seconds.
END = 3.0

#: Its part of our environment, which may hold anybody's credentials: how to start, to resolve names, to trust.
ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ", "RES_OPTIONS"),
    *("LOCALDOMAIN", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF"),
)

#: Where the package is: the program imports it from there, whatever else is on its path.
PACKAGE = Path(__file__).parents[1] / "__init__.py"

#: The program.  It has this very package: the child's own path may lead to another version.
PROGRAM = """
import importlib.util, pickle, sys
path, init = pickle.load(sys.stdin.buffer)
sys.path += [folder for folder in path if folder not in sys.path]
spec = importlib.util.spec_from_file_location("dramatiq_inflight", init)
sys.modules["dramatiq_inflight"] = importlib.util.module_from_spec(spec)
from dramatiq_inflight.liveness.sidecar_main import main
main()
"""


class HeartbeatProcess(Service):
    """Starts it, and starts it again should it end before the worker does."""

    def __init__(self, task: Task) -> None:
        super().__init__("heartbeat-process", "The heartbeat's own process")
        self.task = task
        self._mutex = threading.Lock()
        #: The one that runs now.
        self.process: subprocess.Popen[bytes] | None = None
        self._restart = RESTART

    @classmethod
    def of(
        cls, client: redis.Redis, settings: Settings, incarnation: str, process: Process | None
    ) -> HeartbeatProcess | None:
        """That of an incarnation; ``None``: it is not possible here, which is said.

        Parameters:
          client: Whose Redis it is to beat in.
          process: The worker's own, where that can be told from others.
        """
        address = Address.of(client)
        try:
            if address is None:
                raise TypeError(f"a {type(client).__name__} cannot be made anew there")
            if getattr(sys, "frozen", False) or not sys.executable:
                raise OSError("there is no Python to start")
            if not hasattr(select, "poll"):
                raise OSError("this system cannot wait for a process and a pipe at once")
            pickled = address.pickled()
        except Exception as error:
            get_logger(__name__, cls).error(
                "heartbeat='process' is not possible here (%s: %s): no other process could start and connect to "
                "Redis as this client does. A thread sends the heartbeat instead. If the client is the cause, "
                "set redis_url (PROCESSING_REDIS_URL).",
                *(type(error).__name__, error),
            )
            return None
        task = Task(
            address=pickled,
            namespace=settings.namespace,
            incarnation=incarnation,
            process=process,
            parent=os.getpid(),
            interval=settings.beat_interval,
            ttl=settings.heartbeat_ttl,
            connection_timeout=settings.connection_timeout,
            health_file=settings.health_file,
        )
        return cls(task)

    def run_once(self) -> float:
        """Start it, and wait until it ends."""
        self._attend()
        return self._back_off()

    def failed(self, error: Exception) -> float:
        """As `Service.failed`; pause for longer with each time."""
        super().failed(error)
        return self._back_off()

    def _back_off(self) -> float:
        pause, self._restart = self._restart, min(2 * self._restart, LONGEST_RESTART)
        return pause

    def stop(self, within: float = 5.0) -> None:
        """End it, so that no beat comes any more; returns when it has ended."""
        self.stopping = True  # first: whatever ends now is not started again
        with self._mutex:
            process = self.process
        if process is not None and process.stdin is not None:
            try:
                process.stdin.write(BYE)
                process.stdin.close()
            except (OSError, ValueError):
                pass  # it has ended, or was told before
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        super().stop(within)

    def _attend(self) -> None:
        with self._mutex:
            if self.stopping:
                return
            self.process = process = launch(self.task)
        assert process.stdout is not None
        if READY in process.stdout:  # up to that line; whatever else a site's own start-up may say
            self._restart = RESTART
        process.stdout.read()  # until it ends
        code = process.wait()
        if not self.stopping:
            self.logger.warning(
                "The heartbeat process ended (%s). Starting it again; until then the heartbeat thread continues alone.",
                f"signal {-code}" if code < 0 else f"exit code {code}",
            )


def launch(task: Task) -> subprocess.Popen[bytes]:
    """Start the process, and give it its task."""
    process = subprocess.Popen(
        # Isolated: our path comes with the task, and behind its own, lest a module of the application hides another.
        # The last arguments are for whoever looks at the list of processes.
        [sys.executable, "-I", "-c", PROGRAM, "dramatiq_inflight heartbeat of", str(task.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        start_new_session=True,  # a signal to the worker's group is not for it
    )
    assert process.stdin is not None
    try:
        process.stdin.write(pickle.dumps((sys.path, str(PACKAGE))) + pickle.dumps(task))
        process.stdin.flush()
    except OSError:
        pass  # it has ended already: that is seen next
    return process
