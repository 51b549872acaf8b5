# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The heartbeat thread: beat, and say who this incarnation is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import redis
from dramatiq.logging import get_logger

from ..errors import SchemaError
from ..store.registry import Registry
from .lease import Connectivity, Contact, Lease

__all__ = ["Heartbeat"]

#: How long to wait before a beat that failed is tried again, or while there is no subscription, seconds.
RETRY = 1.0


#: How often to say again who this is, seconds: what the namespace says of its schema expires.
SAY_AGAIN = 24 * 3600.0


class Heartbeat(Thread):
    """Keeps this incarnation alive in Redis.

    Parameters:
      interval: The pause between two beats, seconds.
      identity: What to say of this incarnation.
      on_beat: Called after each beat that has arrived; it must not wait for anything.
      on_refused: Called once, when the namespace has become one that this version cannot share.
      health_file: What is touched at each beat that succeeds.
    """

    def __init__(
        self,
        registry: Registry,
        lease: Lease,
        connectivity: Connectivity,
        *,
        interval: float,
        identity: Callable[[], dict[str, str]],
        on_beat: Callable[[], None],
        on_refused: Callable[[SchemaError], None],
        health_file: Path | None,
    ) -> None:
        super().__init__(name="dramatiq_inflight-heartbeat", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.registry = registry
        self.lease = lease
        self.connectivity = connectivity
        self.interval = interval
        self.identity = identity
        self.on_beat = on_beat
        self.on_refused = on_refused
        self.health_file = health_file
        #: Whether the namespace has become one that this version cannot share.
        self.refused = False
        self._stopping = Event()
        self._registered_at = time.monotonic()

    def run(self) -> None:
        """Beat until `stop` is called; survive everything."""
        wake = self.connectivity.wake
        while not self._stopping.is_set():
            wake.clear()
            begun = time.monotonic()
            # Without a subscription the beats alone show that it lives.
            pause = min(self.interval, RETRY) if self.lease.known_by is Contact.LOST else self.interval
            again = begun + pause if self.beat() else time.monotonic() + RETRY
            if wake.wait(max(again - time.monotonic(), 0.01)) and self.connectivity.away:
                self._stopping.wait(0.05)  # woken by a failure: try at once, but not in a hot loop

    def stop(self) -> None:
        """Stop beating; returns when the thread has ended, or after a few seconds."""
        self._stopping.set()
        self.connectivity.wake.ring()
        if self.is_alive():
            self.join(timeout=5)

    def beat(self) -> bool:
        """One beat.  False: Redis cannot be reached; it is to be tried again soon."""
        try:
            self.registry.beat()
            due = self.lease.unregistered or time.monotonic() - self._registered_at > SAY_AGAIN
            if due and not self.refused:
                self.register()
            self.on_beat()
            if self.health_file is not None and not self.refused:
                self.health_file.touch()
            self.logger.debug("Heartbeat sent.")
            return True
        except redis.RedisError:
            return False  # said once, by Connectivity
        except SchemaError as error:
            self.refused = True  # what runs here goes on, and is kept from others by the beats
            self.on_refused(error)
            return True
        except Exception:
            self.logger.exception("The heartbeat failed for an unexpected reason; it will be tried again.")
            return False

    def register(self) -> None:
        """Say who this incarnation is.

        Raises:
          redis.RedisError: Redis cannot be reached.
          SchemaError: The namespace has another schema.
        """
        forgotten = False
        if self.lease.was_lost():
            forgotten = self.registry.is_forgotten(self.registry.server)
            self.logger.warning(
                "This worker was taken for dead, or an operator has taken a message from it by force, or Redis has "
                "lost its data. It goes on; what was taken from it stays where it is. %s",
                self._why_silent(),
            )
        version = self.lease.version
        self._enter()
        self._registered_at = time.monotonic()
        self.lease.registered(version, forgotten=forgotten)

    def _enter(self) -> None:
        waiting = False
        while (refusal := self.registry.register(self.identity())) is not None:
            text = self.registry.explain(refusal)
            if not refusal.wait:
                raise SchemaError(text)
            if not waiting:
                self.logger.warning("%s They may be dead: this worker waits until that is known.", text)
            waiting = True
            time.sleep(min(refusal.wait, self.interval))  # that we are heard of is what it takes

    def _why_silent(self) -> str:
        silence = self.lease.silence
        if not silence:
            return "Its heartbeat has not expired."
        said = f"It had not been heard of for {silence:.1f} seconds"
        if self.connectivity.failed_within(silence):
            return said + ": it could not reach Redis."
        return (
            f"{said}. If it was not frozen, and Redis has lost nothing, then its heartbeat thread had no turn, because "
            'code that it runs holds the GIL for long (C extensions may): set heartbeat="process" '
            "(PROCESSING_HEARTBEAT=process), or longer times (heartbeat_ttl, connection_timeout)."
        )
