# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Hears what others say to this incarnation."""

from __future__ import annotations

import threading
from collections.abc import Callable

import redis
from dramatiq.logging import get_logger

from .connection import close_client
from .registry import Registry
from .words import listening_times

__all__ = ["Listener"]

#: How long to wait before it listens again, when it could not, or may not, seconds.
LISTEN_AGAIN, ASK_AGAIN = 0.2, 2.0


class Listener(threading.Thread):
    """A thread that waits for the next word.

    Parameters:
      connect: Makes a client, given how long a command may take, seconds.
      patience: How long others wait for an answer, seconds: no question to Redis takes longer.
      on_word: Called with what was said.
      on_change: Called when it begins to hear, and when it does not any more.

    Attributes:
      hears: Whether it does: it may be that others can, and this command alone is not allowed.
    """

    def __init__(
        self,
        registry: Registry,
        connect: Callable[[float], redis.Redis],
        patience: float,
        on_word: Callable[[str], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="dramatiq_inflight-listener", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.registry = registry
        self._wait, bound = listening_times(patience)
        self._patient = connect(bound)
        self.on_word = on_word
        self.on_change = on_change
        self.hears = False
        self._warned = False
        self._pause = LISTEN_AGAIN
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen from now on."""
        if self._interrupt():  # so that it is known at once whether it hears
            self._listen()
        super().start()

    def run(self) -> None:
        """Listen until `stop` is called; survive everything."""
        while not self._stopping.is_set():
            if not self._listen():
                self._stopping.wait(self._pause)

    def stop(self) -> None:
        """Listen no more."""
        self._stopping.set()
        self._interrupt()
        if self.is_alive():
            self.join(timeout=5)

    def close(self) -> None:
        """Close its connection."""
        close_client(self._patient)

    def _listen(self) -> bool:
        try:
            word = self.registry.heard(self._patient, self._wait)
            self._set(True)
            if word:
                self.on_word(word)
        except redis.RedisError as error:
            self._pause = ASK_AGAIN if isinstance(error, redis.ResponseError) else LISTEN_AGAIN
            if isinstance(error, redis.ResponseError) and not self._warned:
                self._warned = True
                self.logger.warning(
                    "Redis does not let this worker wait for a word (BLPOP: %s): what others say and ask is not heard, "
                    "and deaths are known later.",
                    error,
                )
            self._set(False)
            return False
        except Exception:
            self.logger.exception("Listening failed for an unexpected reason; it will be tried again.")
            return False
        return True

    def _set(self, hears: bool) -> None:
        if hears != self.hears:
            self.hears = hears
            self.on_change()

    def _interrupt(self) -> bool:
        try:
            self.registry.wake([self.registry.me], "")
        except redis.RedisError:
            return False  # what it waits for has an end
        return True
