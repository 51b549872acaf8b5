# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Deaths whose cause others can know: by want of memory, and while they look."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

__all__ = ["MemoryLimit", "is_watched"]

GROUPS = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A control group of its own, of the first version or of the second, as the system has it.

    Raises:
      OSError: There can be none here.
    """

    def __init__(self, megabytes: int) -> None:
        first = (GROUPS / "memory" / "memory.limit_in_bytes").exists()
        root, limits = (
            (GROUPS / "memory", {"memory.limit_in_bytes": megabytes, "memory.memsw.limit_in_bytes": megabytes})
            if first
            else (GROUPS, {"memory.max": megabytes, "memory.swap.max": 0})
        )
        self.path = root / f"dramatiq-inflight-{uuid.uuid4().hex[:8]}"
        self.path.mkdir()
        try:
            for name, limit in limits.items():
                if name in ("memory.limit_in_bytes", "memory.max") or (self.path / name).exists():
                    (self.path / name).write_text(str(limit * 2**20))
        except OSError:
            self.path.rmdir()
            raise

    @property
    def inside(self) -> list[str]:
        """What is put before a command to run it there."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def remove(self) -> None:
        """Remove it; its processes have ended."""
        with contextlib.suppress(OSError):  # they are not reaped yet: it is left behind, empty
            self.path.rmdir()


def is_watched(pid: int) -> bool:
    """Whether any process has a descriptor of this one."""
    for info in Path("/proc").glob("[0-9]*/fdinfo/*"):
        try:
            if f"\nPid:\t{pid}\n" in info.read_text():
                return True
        except OSError:
            pass  # it has ended, or closed it
    return False
