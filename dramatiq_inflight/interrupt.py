# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Raises an exception in another thread, or greenlet, as Dramatiq's own ``ShutdownNotifications`` does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dramatiq.middleware.threading import Interrupt, is_gevent_active, raise_thread_exception

__all__ = ["Strand"]


class Strand:
    """What the thread, or greenlet, that made it does until it says that this is over."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()  # held for moments only: whoever waits for it may be about to be interrupted
        self._over = False
        self._thread = threading.get_ident()
        self._greenlet: Any = None
        self._hub: Any = None
        if is_gevent_active():
            import gevent  # type: ignore[import-untyped]  # noqa: PLC0415  it is there if it is active, and only then

            self._greenlet, self._hub = gevent.getcurrent(), gevent.get_hub()

    def end(self) -> None:
        """It is over: what comes next is not to be interrupted."""
        with self._mutex:
            self._over = True

    def interrupt(self, exception: type[Interrupt], before: Callable[[], object] = lambda: None) -> bool:
        """Raise it there, when that next runs Python code; a greenlet: has its turn.  False: it is over.

        Parameters:
          before: Called first, unless it is over.
        """
        with self._mutex:
            if self._over:
                return False
            before()
            if self._greenlet is None:
                raise_thread_exception(self._thread, exception)
            else:
                self._hub.loop.run_callback(self._throw, exception)
            return True

    def _throw(self, exception: type[Interrupt]) -> None:
        if not self._over:
            self._greenlet.throw(exception)
