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
    """The result of a function, kept for a moment.

    A caller that asks while it is being read waits, and gets the same, be it an error: if Redis hangs, all callers get
    the error at once, not one after the other.  A later caller gets no old error; it is tried again.
    """

    def __init__(self, read: Callable[[], T], *, seconds: float = 0.5) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None
        self._failed: tuple[float, Exception] | None = None

    def refresh(self) -> None:
        """Read anew at the next look."""
        with self._lock:
            self._kept = None

    def get(self) -> T:
        """The last reading, or a new one."""
        asked = time.monotonic()
        with self._lock:
            if self._failed is not None and asked < self._failed[0]:
                raise self._failed[1].with_traceback(None)
            if self._kept is not None and time.monotonic() < self._kept[0]:
                return self._kept[1]
            try:
                value = self._read()
            except Exception as error:
                self._failed = (time.monotonic(), error)
                raise
            self._failed = None
            self._kept = (time.monotonic() + self._seconds, value)
            return value
