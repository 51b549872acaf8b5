# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Pods: worker processes that have a network, pids and, if so wished, a wall clock of their own."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.support.history import History
from tests.support.networks import ip

__all__ = ["BROKER", "REDIS", "Pod", "Supervisor", "build_skew", "make_bridges"]

ROOT = Path(__file__).parents[1]

#: Where the servers are: each in a network of its own, so that a pod can be cut off from one and not from the other.
REDIS, BROKER = "10.213.78.1", "10.213.79.1"

#: The networks, by what they lead to.
NETWORKS = {"redis": REDIS, "broker": BROKER}

#: How long a pod that has ended takes to be started again, seconds.
RESTART_DELAY = 0.3


def make_bridges() -> None:
    """The networks between the servers, which are here, and the pods to come."""
    ip("link", "set", "lo", "up")
    for number, (name, address) in enumerate(NETWORKS.items(), 1):
        # With an address of its own: else it has that of one of its ports, and when that port is cut the others would
        # go on sending to it.
        ip("link", "add", name, "address", f"02:00:00:00:00:{number:02x}", "type", "bridge")
        ip("addr", "add", f"{address}/24", "dev", name)
        ip("link", "set", name, "up")


def build_skew(folder: Path) -> Path | None:
    """Build the library that shifts a wall clock; ``None`` where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "skew.so"
    source = Path(__file__).with_name("skew.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


class Pod:
    """One pod over its many boots: a network namespace that stays, and a pid namespace for each boot.

    Parameters:
      env: The environment of its workers.
      processes: How many worker processes it has.
      skew: The library that shifts its clock.
    """

    def __init__(
        self,
        name: str,
        number: int,
        env: dict[str, str],
        history: History,
        folder: Path,
        *,
        processes: int,
        skew: Path | None,
    ) -> None:
        self.name = name
        self.env = env
        self.history = history
        self.log = folder / f"{name}.log"
        self.processes = processes
        self.skew = skew
        self.boots = 0
        #: By how many seconds the clock of the next boot is off.
        self.offset = 0
        #: Whether it is to be started again when it has ended.
        self.wanted = True
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_at = 0.0
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        for network, address in NETWORKS.items():
            ip("link", "add", self._port(network), "type", "veth", "peer", f"to-{network}", "netns", name)
            own = address.rpartition(".")[0] + f".{10 + number}"
            ip("-n", name, "addr", "add", f"{own}/24", "dev", f"to-{network}")
            ip("-n", name, "link", "set", f"to-{network}", "up")
            ip("link", "set", self._port(network), "up")
            self.mend(network)

    def _port(self, network: str) -> str:
        return f"{network}-{self.name}"

    def cut(self, network: str) -> None:
        """Nothing comes through, and nobody is told."""
        ip("link", "set", self._port(network), "nomaster")

    def mend(self, network: str) -> None:
        """It is as before."""
        ip("link", "set", self._port(network), "master", network)

    @property
    def boot_name(self) -> str:
        return f"{self.name}.{self.boots}"

    def boot(self) -> None:
        """Start it, in a pid namespace of its own."""
        self.boots += 1
        env = {**os.environ, **self.env, "CHAOS_POD": self.boot_name, "PROCESSING_INSTANCE_ID": self.name}
        if self.offset and self.skew is not None:
            env |= {"LD_PRELOAD": str(self.skew), "CHAOS_SKEW": str(self.offset)}
        command = [sys.executable, "-m", "dramatiq", "chaos.app", "-p", str(self.processes), "-t", "4"]
        self.history.write("pod", self.boot_name, extra={"skew": self.offset})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    self.name,
                    "unshare",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--kill-child",
                    *command,
                ],
                env={**env, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def init(self) -> int | None:
        """The first process in its pid namespace, as seen from here: Dramatiq's main process."""
        process = self.process
        children = _children(process.pid) if process is not None else []
        return children[0] if children else None

    def everything(self) -> list[int]:
        """All its processes, as seen from here."""
        init = self.init()
        found = [] if init is None else [init]
        for pid in found:
            found += _children(pid)
        return found

    def inside(self, pid: int) -> int | None:
        """The pid as seen from here of the process that has this pid in there."""
        return next((outside for outside in self.everything() if _pid_within(outside) == pid), None)

    def signal(self, number: int, pids: list[int] | None = None) -> bool:
        """Send a signal to some of its processes, or to the first one.  False: there was none."""
        if pids is None:
            init = self.init()
            pids = [] if init is None else [init]
        sent = False
        for pid in pids:
            try:
                os.kill(pid, number)
                sent = True
            except ProcessLookupError:
                pass
        return sent

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


class Supervisor(threading.Thread):
    """Starts pods again that have ended, and notes when each worker process died."""

    def __init__(self, pods: list[Pod], history: History) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.pods = pods
        self.history = history
        self._poll = select.poll()
        self._watched: dict[int, str] = {}  # by pidfd
        self._seen = 0
        self._stopping = threading.Event()
        self.error: BaseException | None = None
        #: The worker processes that live: who, and the pid as seen from here.
        self.workers: dict[str, int] = {}

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.look()
        except BaseException as error:
            self.error = error
            raise

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def look(self) -> None:
        """Once around."""
        for fd, _ in self._poll.poll(20):
            who = self._watched.pop(fd)
            self._poll.unregister(fd)
            os.close(fd)
            self.workers.pop(who, None)
            self.history.write("died", who)
        boots = self.history.events("boot")
        for event in boots[self._seen :]:
            self._watch(event.pid)
        self._seen = len(boots)
        for pod in self.pods:
            if pod.process is not None and pod.process.poll() is not None:
                self.history.write("ended", pod.boot_name)
                pod.process = None
                pod.ended_at = time.monotonic()
            elif pod.process is None and pod.wanted and time.monotonic() > pod.ended_at + RESTART_DELAY:
                pod.boot()

    def _watch(self, who: str) -> None:
        boot, _, pid = who.rpartition(":")
        pod = next(pod for pod in self.pods if boot.startswith(pod.name + "."))
        outside = pod.inside(int(pid)) if pod.boot_name == boot and pod.process is not None else None
        if outside is None:
            self.history.write("died", who)
            return
        try:
            fd = os.pidfd_open(outside)
        except ProcessLookupError:
            self.history.write("died", who)
            return
        self._watched[fd] = who
        self.workers[who] = outside
        self._poll.register(fd, select.POLLIN)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += map(int, (thread / "children").read_text().split())
        except OSError:
            pass  # it has just ended
    return found


def _pid_within(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:")), None)
