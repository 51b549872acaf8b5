# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The lock of all threads that may be interrupted: by a time limit, an abort, a shutdown, a loss."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

__all__ = ["Mutex"]

if TYPE_CHECKING:

    class _RLock:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
        def release(self) -> None: ...
        def _is_owned(self) -> bool: ...
        def __exit__(self, *raised: object) -> None: ...

else:
    _RLock = type(threading.RLock())  # gevent's own, where it has patched `threading`


class Mutex(_RLock):
    """A lock for ``with``, which no interrupt leaves taken.

    From Python 3.14 on an interrupt that hits a thread as it takes a lock may leave that taken: on 3.14 while the
    thread waits, by whatever way it takes the lock (https://github.com/python/cpython/issues/148874), on 3.15 right
    behind the ``with`` of a lock in C.  An ``RLock`` knows whose it is, and can be given back.  To leave it is one call
    in C, which nothing can divide.
    """

    if TYPE_CHECKING or sys.version_info >= (3, 14):  # before, it is one call in C, too, and takes a quarter

        def __enter__(self) -> None:
            try:
                self.acquire()
            except BaseException:
                if self._is_owned():
                    self.release()
                raise
