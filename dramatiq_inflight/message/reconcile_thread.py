# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The thread that does after a heartbeat what may take long: mend records, tell Redis what it could not be told.

A payload of 50 MB on a slow network takes a while, and so does a lock that a worker thread holds meanwhile.  The
heartbeat waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import redis
from dramatiq.logging import get_logger

__all__ = ["Bookkeeping"]

#: How long to wait before what has failed is tried again, seconds.
RETRY = 1.0


class Bookkeeping(Thread):
    """Keeps the records in step after each heartbeat.

    Parameters:
      keep: Called in this thread.
    """

    def __init__(self, keep: Callable[[], None]) -> None:
        super().__init__(name="dramatiq_inflight-books", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.keep = keep
        self._due = Event()
        self._stopping = Event()

    def run(self) -> None:
        """Keep the books until `stop` is called; survive everything."""
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping.is_set():
                return
            if not self.once():
                self._stopping.wait(RETRY)
                self._due.set()

    def once(self) -> bool:
        """Keep the books now.  False if that is to be tried again."""
        try:
            self.keep()
        except redis.RedisError:
            return False  # said once, by Connectivity
        except Exception:
            self.logger.exception("The records could not be compared for an unexpected reason; it is tried again.")
            return False
        return True

    def due(self) -> None:
        """A heartbeat has arrived."""
        self._due.set()

    def stop(self) -> None:
        """Stop; returns when the thread has ended, or after a few seconds."""
        self._stopping.set()
        self._due.set()
        if self.is_alive():
            self.join(timeout=5)
