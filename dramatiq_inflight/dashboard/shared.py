# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A reading that many may share: however many look at the page, Redis is asked once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Shared"]

T = TypeVar("T")


class Shared(Generic[T]):
    """What a function returns, kept for a moment.

    Who asks while it is being read waits, and gets the same.  An error is not kept.
    """

    def __init__(self, read: Callable[[], T], *, seconds: float = 0.5) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """The last reading, or a new one."""
        with self._lock:
            if self._kept is not None and time.monotonic() < self._kept[0]:
                return self._kept[1]
            value = self._read()
            self._kept = (time.monotonic() + self._seconds, value)
            return value
