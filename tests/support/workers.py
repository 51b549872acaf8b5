# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Real ``dramatiq`` command lines, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .history import History
from .servers import wait_until

__all__ = ["PROGRAM", "WorkerProcess"]

ROOT = Path(__file__).parents[2]

#: The command line of a worker, without its arguments.
PROGRAM = (sys.executable, "-m", "dramatiq")

#: Dramatiq starts itself anew as the ``python`` that it finds.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


class WorkerProcess:
    """One ``dramatiq`` with its worker process, or several: the process group is one pod."""

    def __init__(
        self,
        env: dict[str, str],
        history: History,
        log: Path,
        *,
        app: str = "tests.support.app",
        threads: int = 8,
        processes: int = 1,
        args: Sequence[str] = (),
        inside: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.log = log
        self.history = history
        #: When it was started (``time.time``).
        self.started_at = time.time()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*inside, *program, app, "-p", str(processes), "-t", str(threads), *args],
                env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": PATH, **env},
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.group = self.process.pid
        #: When it was killed (``time.time``).
        self.killed_at = float("inf")

    def wait_ready(self) -> WorkerProcess:
        """Wait until its worker threads are there."""
        wait_until(lambda: self.booted_pid() is not None, what=f"worker {self.group} boots")
        return self

    def booted_pid(self) -> int | None:
        """The pid of the worker process below the main process, once it has booted.

        Within minutes on a busy machine the kernel gives the number of a group that has ended to another one.
        """
        for event in self.history.events("boot"):
            if event.extra == self.group and event.at >= self.started_at:
                return int(event.pid)
        return None

    def runs_the_first(self) -> bool:
        """Return whether the first message that was started was started here."""
        return bool(self.history.events("start")[0].pid == self.booted_pid())

    def kill(self) -> None:
        """SIGKILL the whole group, as when a container dies."""
        self.killed_at = time.time()  # before: others may know of it sooner than we get to look at the clock
        try:
            os.killpg(self.group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(timeout=120)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        os.killpg(self.group, number)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def resume_and_kill(self) -> None:
        """End it, whatever was done to it."""
        if self.process.poll() is None or self._has_members():
            self.kill()

    def stop(self, timeout: float = 120) -> int:
        """SIGTERM the main process, and wait until all is gone."""
        self.process.terminate()
        return self.process.wait(timeout=timeout)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def _has_members(self) -> bool:
        """True if processes of the group live though its first one has ended.

        The kernel gives the number of an empty group away again, within minutes on a busy machine: then a process has
        that number, and another test's group would be killed.
        """
        if Path(f"/proc/{self.group}").exists():
            return False
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return False
        return True
