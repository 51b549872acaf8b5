# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The proof on the same host that a worker process is gone.  Where nothing does, nothing is said.

A process is known by its *place* (the boot of the host, its pid namespace, and what else a pid and a start time depend
on), its pid and the time of its start.  Only somebody in the same place can say that it is gone.
"""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GONE", "Process", "Watched"]

#: Why an incarnation is dead that was watched.
GONE = "its process is gone, seen from the same host"

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process that can be told from every other one in the same place."""

    place: str
    pid: int
    #: In the kernel's ticks since the boot.
    started: str

    @classmethod
    def here(cls, proc: Path = PROC) -> Process | None:
        """This process; ``None`` where that cannot be known: not Linux, an old kernel, a ``/proc`` that is not ours."""
        if not hasattr(os, "pidfd_open"):
            return None
        try:
            boot = (proc / "sys/kernel/random/boot_id").read_text("ascii").strip()
            # Start times are shifted in a time namespace; clones of a virtual machine share a boot id, not a name.
            namespaces = [str((proc / "self/ns" / name).stat().st_ino) for name in ("pid", "time")]
            pid = os.getpid()
            if os.readlink(proc / "self") != str(pid):
                return None  # the /proc of another pid namespace
            os.close(os.pidfd_open(pid))
        except OSError:
            return None
        started = start_time(pid, proc)
        if started is None or not boot:
            return None
        return cls(" ".join([boot, *namespaces, socket.gethostname()]), pid, started)

    @classmethod
    def of(cls, place: str, pid: str, started: str) -> Process | None:
        """As an incarnation said it of itself; ``None`` if it did not."""
        return cls(place, int(pid), started) if place and pid.isdigit() and started else None


class Watched:
    """Another process in the same place.

    Attributes:
      fd: Readable as soon as the process is gone (a pidfd); ``None``: it is gone already, or nothing can be said.
      gone: True if it was gone when it was looked for.
    """

    def __init__(self, process: Process, proc: Path = PROC) -> None:
        self.fd: int | None = None
        self.gone = False
        try:
            self.fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            self.gone = True
            return
        except OSError:
            return  # not allowed, or out of descriptors: no evidence
        # Read after the descriptor was opened: if this is the process, the descriptor is of it, whatever happens next.
        started = start_time(process.pid, proc)
        # Whichever process had the pid and is gone: this one is, too.  Its start cannot be read any more then.
        self.gone = self.is_gone()
        if started != process.started and not self.gone:
            self.close()
            # Its pid is another process's now; or its /proc is hidden from us, and nothing is known.
            self.gone = started is not None

    def is_gone(self) -> bool:
        """Return whether the process is gone: all its threads are, though its parent may not have asked yet."""
        if self.fd is None:
            return self.gone
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Watch no more."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def start_time(pid: int, proc: Path) -> str | None:
    """Field 22 of ``/proc/<pid>/stat``; the name of the program, field 2, may hold blanks and parentheses."""
    try:
        text = (proc / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[19].isdigit() else None
