# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A bell that wakes a thread, and that an interrupted thread cannot break."""

from __future__ import annotations

import queue

__all__ = ["Bell"]


class Bell:
    """Wakes the one thread that waits for it.

    ``threading.Event`` takes its lock in Python code: an interrupt (a time limit, an abort) that hits a worker thread
    there leaves the lock taken for ever, and the thread that waits never wakes.  To put something into a
    ``queue.SimpleQueue`` is one call in C, which an interrupt cannot divide, and which may be made in a signal handler.
    """

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ring(self) -> None:
        """Wake the thread that waits, or the next one that does."""
        if self._rings.empty():  # one is enough
            self._rings.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it rings.

        Parameters:
          timeout: Wait for so many seconds at most, or for ever with ``None``.

        Returns: True if it has rung since the last wait.
        """
        try:
            self._rings.get(timeout=None if timeout is None else max(timeout, 0.0))
        except queue.Empty:
            return False
        self.clear()
        return True

    def clear(self) -> None:
        """Forget that it has rung."""
        while True:
            try:
                self._rings.get_nowait()
            except queue.Empty:
                return
