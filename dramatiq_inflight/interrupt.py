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
    """The thread, or greenlet, that made it."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._greenlet: Any = None
        self._hub: Any = None
        if is_gevent_active():
            import gevent  # type: ignore[import-untyped]  # noqa: PLC0415  it is there if it is active, and only then

            self._greenlet, self._hub = gevent.getcurrent(), gevent.get_hub()

    def interrupt(self, exception: type[Interrupt], still: Callable[[], bool]) -> None:
        """Raise it there when it next runs Python code; a greenlet: when it next has its turn, if `still` then."""
        if self._greenlet is None:
            raise_thread_exception(self._thread, exception)
        else:
            self._hub.loop.run_callback(lambda: self._greenlet.throw(exception) if still() else None)
