# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The gate between the worker processes of one container, for where the kernel kills them all together.

Since Kubernetes 1.28 a container on cgroup v2 that runs out of memory is killed as a whole (``memory.oom.group``,
https://github.com/kubernetes/kubernetes/pull/117793): a message is then alone only if no process of the container runs
anything else.  The processes see each other by two locks on one file.  They are POSIX record locks, which the kernel
gives back when their process is gone, and which a forked child does not inherit.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from dramatiq.logging import get_logger

try:
    import fcntl
except ImportError:  # Windows, where no container is killed as a group
    fcntl = None  # type: ignore[assignment]

__all__ = ["Siblings", "die_together"]

#: Held exclusively by who is, or waits to be, alone: nobody else goes in.
TURNSTILE = 0

#: Shared by the processes that run something; held exclusively by who is alone.
INSIDE = 1


def die_together(root: Path = Path("/sys/fs/cgroup"), cgroup: Path = Path("/proc/self/cgroup")) -> bool:
    """Return whether the kernel kills all processes of this container when it runs out of memory."""
    try:
        lines = cgroup.read_text("utf-8").splitlines()
    except OSError:
        return False
    paths = [line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")]
    for path in paths:
        here = root / path
        for folder in (here, *here.parents):
            if not folder.is_relative_to(root):
                break
            try:
                if (folder / "memory.oom.group").read_text("utf-8").strip() == "1":
                    return True
            except OSError:
                continue  # the root of all has no such file
    return False


class Siblings:
    """This process among those that have the same namespace and instance on this host.

    No call waits; none is made by two threads at once.
    """

    def __init__(self, namespace: str, instance: str, folder: str | None = None) -> None:
        self.name = hashlib.sha256(f"{namespace}\n{instance}".encode()).hexdigest()[:16]
        path = Path(folder or tempfile.gettempdir(), f"dramatiq_inflight-{os.getuid()}-{self.name}.lock")
        self._said = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @classmethod
    def of(cls, namespace: str, instance: str) -> Siblings | None:
        """``None`` where there can be none: on Windows, or without a folder for temporary files."""
        if fcntl is None:
            return None
        try:
            return cls(namespace, instance)
        except OSError as error:
            get_logger(__name__, cls).warning(
                "The worker processes of this container cannot see each other (%s). A message on its last chance "
                "runs alone in its process only. Make the folder for temporary files writable, or run one "
                "process.",
                error,
            )
            return None

    def go_in(self) -> bool:
        """Go in, because this process is about to run something; return False if another is alone, or waits to be."""
        if not self._lock(TURNSTILE, fcntl.LOCK_SH):
            return False
        inside = self._lock(INSIDE, fcntl.LOCK_SH)
        self._unlock(TURNSTILE)
        return inside

    def go_out(self) -> None:
        """This process runs nothing any more."""
        self._unlock(INSIDE)

    def be_alone(self) -> bool:
        """Keep the others from beginning anything; return False if they still run something, or one is alone.

        To be called again until it is true, or `give_up`.
        """
        return self._lock(TURNSTILE, fcntl.LOCK_EX) and self._lock(INSIDE, fcntl.LOCK_EX)

    def give_up(self, *, inside: bool) -> None:
        """Let the others in again; `inside`: this process still runs something."""
        if inside:
            self._lock(INSIDE, fcntl.LOCK_SH)
        else:
            self._unlock(INSIDE)
        self._unlock(TURNSTILE)

    def close(self) -> None:
        """Go out, for good."""
        os.close(self._fd)

    def _lock(self, what: int, how: int) -> bool:
        try:
            fcntl.lockf(self._fd, how | fcntl.LOCK_NB, 1, what)
        except BlockingIOError:
            return False
        except PermissionError:  # POSIX allows either
            return False
        except OSError as error:  # no locks here at all: better no gate than no work
            if not self._said:
                self._said = True
                get_logger(__name__, type(self)).error(
                    "The worker processes of this container cannot see each other (%s). A message on its last "
                    "chance runs alone in its process only.",
                    error,
                )
        return True

    def _unlock(self, what: int) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, what)
