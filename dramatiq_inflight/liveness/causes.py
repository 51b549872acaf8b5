# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Find out why a watched process died: its exit status, and if memory ran out.

The kernel counts the processes of each control group that it has killed because memory ran out, and counts each one
before it kills it.  So an end by SIGKILL is attributed to memory if that number has grown since.
"""

from __future__ import annotations

import re
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..store.cause import OUT_OF_MEMORY, PROCESS, Cause
from .pidfd import Watched

__all__ = ["Causes", "oom_counter"]

CGROUPS = Path("/sys/fs/cgroup")

OOM_KILL = re.compile(rb"^oom_kill ([0-9]{1,18})$", re.MULTILINE)

#: For how long what the kernel has killed may be a process that is watched, and has not ended yet, seconds.
#: After twice that at the latest it was another one, a child of a worker, say.
RECENT = 30.0


class Causes:
    """Finds the cause of each death, and keeps the counters that it takes."""

    def __init__(self, groups: Path = CGROUPS) -> None:
        self._groups = groups
        self._counters: dict[Path, _Counter] = {}
        self._files: dict[Watched, Path | None] = {}

    def keep(self, watched: Iterable[Watched]) -> None:
        """Read the counters for those that are watched now, which live, and forget all others.

        To be called whenever somebody else is watched, and every 30 seconds or so.
        """
        self._files = {
            one: self._files[one] if one in self._files else oom_counter(one, self._groups) for one in watched
        }
        files = {file for file in self._files.values() if file is not None}
        self._counters = {file: self._counters.get(file) or _Counter(file) for file in files}
        for counter in self._counters.values():
            counter.look()

    def of(self, dead: Sequence[Watched]) -> list[Cause]:
        """Find out why these have died, which were found dead at once.  To be asked once."""
        statuses = [one.status() for one in dead]
        causes = [PROCESS if status is None else Cause.of_status(status) for status in statuses]
        killed: dict[Path, list[int]] = defaultdict(list)
        for at, (one, status) in enumerate(zip(dead, statuses, strict=True)):
            file = self._files.get(one)
            if file is not None and status is not None and status & 0x7F == signal.SIGKILL:
                killed[file].append(at)
        for file, those in killed.items():
            if self._counters[file].explains(len(those)):
                for at in those:
                    causes[at] = OUT_OF_MEMORY
        return causes


class _Counter:
    """How many processes of a control group the kernel has killed because memory ran out."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before = self._last = self._read()
        self._looked = time.monotonic()

    def look(self) -> None:
        """Forget what is no longer recent."""
        if time.monotonic() - self._looked >= RECENT:
            self._before, self._last, self._looked = self._last, self._read(), time.monotonic()

    def explains(self, number: int) -> bool:
        """Whether so many processes that died at once were all killed for that, and by whom nobody else was explained.

        If fewer were, nobody can say which.
        """
        now = self._read()
        enough = now - self._before >= number
        self._before = self._before + number if enough else now
        self._last = max(self._last, self._before)
        return enough

    def _read(self) -> int:
        try:
            found = OOM_KILL.search(self._file.read_bytes())
        except OSError:
            return 0
        return int(found[1]) if found else 0


def oom_counter(watched: Watched, groups: Path = CGROUPS) -> Path | None:
    """Where the kernel counts for the control group of a living process; None if that cannot be told."""
    try:
        lines = (watched.proc / str(watched.process.pid) / "cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return None
    root, group, name = groups, "", ""
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if "memory" in controllers.split(","):
            root, group, name = groups / "memory", path, "memory.oom_control"
            break
        if not controllers:
            group, name = path, "memory.events"
    if not name or ".." in group:  # it is not among the groups that are seen from here
        return None
    # A container may have its own group only, as the root, and be told the name that the group has on the host.
    files = (root / group.strip("/") / name, root / name)
    return next((file for file in files if file.exists()), None)
