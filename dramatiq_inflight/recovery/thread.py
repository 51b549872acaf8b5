# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""When to sweep: at boot, and then whenever something falls due."""

from __future__ import annotations

import random
import time

from ..threads.service import Service
from .sweep import Recoverer

__all__ = ["RecoveryThread"]


class RecoveryThread(Service):
    """Sweeps at boot, and then whenever something falls due; has a thread of its own, since an enqueue may hang.

    Parameters:
      interval: Longest pause between two sweeps, seconds; 0: only at boot.
      at_boot: How long boot lasts for that, seconds: whoever died before it is judged by then.
    """

    def __init__(self, recovery: Recoverer, interval: float, at_boot: float = 0.0) -> None:
        super().__init__("recovery", "Recovery")
        self.recovery = recovery
        self._only_at_boot = not interval
        self._longest = interval or 30.0
        self._boot_ends = time.monotonic() + at_boot
        self._failures = 0
        #: How many sweeps have ended.
        self.sweeps = 0

    def run_once(self) -> float | None:
        """Sweep.

        Returns: how long to pause, seconds; None to pause until `wake`.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        longest = self._longest
        try:
            swept = self.recovery.sweep(lambda: self.stopping)
        finally:
            self.sweeps += 1
        if swept.failed or (swept.left and not swept.progress):
            return self._back_off()
        self._failures = 0
        if self._only_at_boot:
            longest = self._boot_ends - time.monotonic()
            if longest <= 0 and not swept.locked:
                return None
        if swept.locked:
            return min(longest, 1.0)
        # All workers wake at the same deadline: spread them, so that most find the work done.
        soon = longest if swept.next_in is None else swept.next_in + random.uniform(0.005, 0.1)
        return min(longest, max(soon, 0.02))

    def failed(self, error: Exception) -> float:
        """As `Service.failed`; pause for longer with each time."""
        super().failed(error)
        return self._back_off()

    def _back_off(self) -> float:
        self._failures += 1
        return min(self._longest, 2.0 ** min(self._failures - 1, 6))
