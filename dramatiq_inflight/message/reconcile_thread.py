# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The thread that does after a heartbeat what may take long: mend records, tell Redis what it could not be told.

A payload of 50 MB on a slow network takes a while, and so does a lock that a worker thread holds meanwhile.  The
heartbeat waits for neither.
"""

from __future__ import annotations

from collections.abc import Callable

from ..threads.service import Service

__all__ = ["Bookkeeping"]


class Bookkeeping(Service):
    """Keeps the records in step after each heartbeat.

    Parameters:
      keep: Called in this thread.
    """

    def __init__(self, keep: Callable[[], None]) -> None:
        super().__init__("books", "The comparison of records")
        self._keep = keep

    def run(self) -> None:
        """Keep the books after each heartbeat: nothing is compared before the first one."""
        self.pause(None)
        super().run()

    def run_once(self) -> None:
        """Keep the books now, and pause until the next heartbeat.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        self._keep()
