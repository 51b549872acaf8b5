# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""When to sweep: at boot, and then whenever something falls due."""

from __future__ import annotations

import random
import threading
import time

import redis
from dramatiq.logging import get_logger

from ..threads.bell import Bell
from .sweep import Recovery

__all__ = ["RecoveryThread"]


class RecoveryThread(threading.Thread):
    """Sweeps at boot, and then whenever something falls due; has a thread of its own, since an enqueue may hang.

    Parameters:
      interval: Longest pause between two sweeps, seconds; 0: only at boot.
      at_boot: How long boot lasts for that, seconds: whoever died before it is judged by then.
    """

    def __init__(self, recovery: Recovery, interval: float, at_boot: float = 0.0) -> None:
        super().__init__(name="dramatiq_inflight-recovery", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.recovery = recovery
        self.interval = interval
        self._boot_ends = time.monotonic() + at_boot
        self._stopping = threading.Event()
        self._wake = Bell()
        self._failures = 0
        #: How many sweeps have ended.
        self.sweeps = 0

    def run(self) -> None:
        """Sweep until `stop` is called; survive everything."""
        while not self._stopping.is_set():
            self._wake.clear()
            pause = self._sweep()
            self.sweeps += 1
            self._wake.wait(pause)

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """There is something to recover now."""
        self._wake.ring()

    def stop(self) -> None:
        """Stop after the present batch; returns when the thread has ended, or after a few seconds."""
        self._stopping.set()
        self._wake.ring()
        if self.is_alive():
            self.join(timeout=5)

    def _sweep(self) -> float | None:
        """Sweep, and return how long to pause; ``None``: for ever."""
        longest = self.interval or 30.0
        try:
            swept = self.recovery.sweep(self._stopping.is_set)
        except redis.RedisError:
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures - 1, 6))
        except Exception:
            self.logger.exception("Recovery failed for an unexpected reason; it will be tried again.")
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures, 6))
        if swept.failed or (swept.left and not swept.progress):
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures - 1, 6))
        self._failures = 0
        if not self.interval:
            longest = self._boot_ends - time.monotonic()
            if longest <= 0 and not swept.locked:
                return None
        if swept.locked:
            return min(longest, 1.0)
        # All workers wake at the same deadline: spread them, so that most find the work done.
        soon = longest if swept.next_in is None else swept.next_in + random.uniform(0.005, 0.1)
        return min(longest, max(soon, 0.02))
