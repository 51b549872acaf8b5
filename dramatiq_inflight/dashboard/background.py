# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dead letters and delayed messages for the pages: read in the background, for there may be very many."""

from __future__ import annotations

import threading
import time
from typing import Generic, Protocol, TypeVar

__all__ = ["InBackground"]

#: For how long a page waits for what is new, seconds: a page that shows what is known is better than none.
PATIENCE = 0.1

#: The shortest time between two looks, seconds; and how many times as long as it took.
SHORTEST, REST = 1.0, 5


class Index(Protocol):
    """Something that can be refreshed; see `inspection.dead_letters.Index`."""

    def refresh(self) -> bool:
        """Read what is new; False if the broker cannot be asked."""


T = TypeVar("T", bound=Index)


class InBackground(Generic[T]):
    """An index that is refreshed while anybody looks at it.

    Parameters:
      index: None if there is nothing to see from here.
    """

    def __init__(self, index: T | None) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._over.set()
        self._next = 0.0
        self._can_be_asked = True
        self._failed: Exception | None = None

    def get(self, patience: float = PATIENCE) -> T | None:
        """Return the index as it is now; None if there is nothing to see from here.

        Parameters:
          patience: For how long to wait for what is new, seconds.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        if self._index is None:
            return None
        with self._lock:
            if self._over.is_set() and time.monotonic() >= self._next:
                self._over.clear()
                threading.Thread(target=self._refresh, name="dramatiq_inflight-letters", daemon=True).start()
        self._over.wait(patience)
        if self._failed is not None:
            raise self._failed.with_traceback(None)
        return self._index if self._can_be_asked else None

    @property
    def is_reading(self) -> bool:
        """Whether what is new is being read."""
        return not self._over.is_set()

    def refresh(self) -> None:
        """See what was done just now at the next look."""
        self._next = 0.0

    def _refresh(self) -> None:
        began = time.monotonic()
        try:
            self._can_be_asked = self._index is not None and self._index.refresh()
            self._failed = None
        except Exception as error:
            self._failed = error
        finally:
            now = time.monotonic()
            self._next = now + max(SHORTEST, REST * (now - began))
            self._over.set()
