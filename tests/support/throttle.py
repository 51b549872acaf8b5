# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Processes that get a tenth of a processor, by a quota of the kernel, or as they are stopped and continued."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from .servers import wait_until

__all__ = ["KINDS", "Throttle"]

#: How processes can be throttled.
KINDS = ("quota", "signals")

#: How long they run in each period, and how long that is, seconds.
RUNS, PERIOD = 0.01, 0.1

#: Where control groups are mounted, the file of the quota, and its text; version 1 has a period of 100 ms by itself.
MOUNTS = (
    (Path("/sys/fs/cgroup"), "cpu.max", "10000 100000"),
    (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", "10000"),
)


@dataclass(frozen=True)
class _Group:
    """A control group of our own.

    Attributes:
      file: The file in its folder that takes the quota.
    """

    folder: Path
    file: str
    quota: str

    @classmethod
    def make(cls) -> _Group | None:
        """Make one; return None if that is not possible here."""
        for mount, file, quota in MOUNTS:
            folder = mount / f"throttle-{uuid.uuid4().hex[:8]}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                if (folder / file).exists():
                    return cls(folder, file, quota)
                folder.rmdir()
        return None

    def remove(self) -> bool:
        """Move its processes to the group above, and remove it.  Return False if there were others meanwhile."""
        with contextlib.suppress(OSError):
            for pid in (self.folder / "cgroup.procs").read_text("ascii").split():
                (self.folder.parent / "cgroup.procs").write_text(pid)
            self.folder.rmdir()
        return not self.folder.exists()


class Throttle:
    """A tenth of a processor for one process group, from `begin` to `end`.

    Parameters:
      kind: One of `KINDS`.  Where no control group can be made, ``quota`` is ``signals``.
    """

    def __init__(self, kind: str) -> None:
        self._group = _Group.make() if kind == "quota" else None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before the command of a process, which put it into its control group."""
        if self._group is None:
            return ()
        return ("sh", "-c", f'echo $$ > {self._group.folder}/cgroup.procs && exec "$@"', "sh")

    def begin(self, group: int) -> None:
        """Throttle the process group of a process that was started `inside`."""
        if self._group is not None:
            (self._group.folder / self._group.file).write_text(self._group.quota)
            return
        self._thread = threading.Thread(target=self._stop_and_continue, args=(group,))
        self._thread.start()

    def end(self) -> None:
        """Let go of them."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._group is not None:
            wait_until(self._group.remove, what="the control group is empty")

    def _stop_and_continue(self, group: int) -> None:
        while not self._over.is_set():
            os.killpg(group, signal.SIGCONT)
            time.sleep(RUNS)
            os.killpg(group, signal.SIGSTOP)
            self._over.wait(PERIOD - RUNS)
        os.killpg(group, signal.SIGCONT)
