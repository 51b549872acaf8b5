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
import struct
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROC", "Process", "Watched"]

PROC = Path("/proc")

#: The request PIDFD_GET_INFO, with the oldest size of its structure; the mask that asks for the exit status of one
#: that was reaped, from Linux 6.15 on; and where that is.
GET_INFO, INFO_SIZE, INFO_EXIT, STATUS_AT = 0xC040FF0B, 64, 1 << 3, 60


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
      process: The process.
      proc: Where its /proc is.
      fd: Readable as soon as the process is gone (a pidfd); ``None``: it is gone already, or nothing can be said.
      gone: True if it was gone when it was looked for.
    """

    def __init__(self, process: Process, proc: Path = PROC) -> None:
        self.process = process
        self.proc = proc
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

    def status(self) -> int | None:
        """How the process ended, as `os.waitpid` has it; None if that cannot be read, or it lives.

        Before its parent reaps it, /proc says so to whoever may trace it.  After that the kernel keeps it with the
        descriptor, from Linux 6.15 on.
        """
        if self.fd is None:
            return None
        fields = _stat(self.process.pid, self.proc)
        is_it = len(fields) > STATUS and fields[STARTED] == self.process.started
        if is_it and fields[0] == "Z" and fields[STATUS].isdigit() and fields[STATUS] != "0":
            return int(fields[STATUS])  # 0 is also what others are told who may not know
        info = bytearray(INFO_SIZE)
        struct.pack_into("=Q", info, 0, INFO_EXIT)
        from fcntl import ioctl  # noqa: PLC0415  other systems have none, and no descriptor of a process either

        try:
            ioctl(self.fd, GET_INFO, info)
        except OSError:
            return None  # an older kernel
        (given,) = struct.unpack_from("=Q", info, 0)
        (status,) = struct.unpack_from("=i", info, STATUS_AT)
        return int(status) if given & INFO_EXIT else None

    def close(self) -> None:
        """Watch no more."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def start_time(pid: int, proc: Path) -> str | None:
    """When a process started, as the kernel has it; None if that cannot be read."""
    fields = _stat(pid, proc)
    return fields[STARTED] if len(fields) > STARTED and fields[STARTED].isdigit() else None


#: Where the start and the exit status are in what `_stat` returns: fields 22 and 52 of the file.
STARTED, STATUS = 19, 49


def _stat(pid: int, proc: Path) -> list[str]:
    """Fields 3 and later of ``/proc/<pid>/stat``; field 2, the name of the program, may hold blanks and parentheses."""
    try:
        text = (proc / str(pid) / "stat").read_text("utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
