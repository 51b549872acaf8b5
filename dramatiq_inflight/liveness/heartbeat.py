# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The heartbeat thread: beat, and say who this incarnation is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ..errors import SchemaError
from ..store.store import Store
from ..threads.service import RETRY, Service
from .lease import Connectivity, KnownBy, Lease

__all__ = ["Heartbeat"]

#: How often to say again who this is, seconds: what the namespace says of its schema expires.
SAY_AGAIN = 24 * 3600.0


class Heartbeat(Service):
    """Keeps this incarnation alive in Redis.

    Parameters:
      interval: The pause between two beats, seconds.
      identity: The description of this incarnation.
      on_beat: Called after each beat that has arrived; it must not wait for anything.
      on_refused: Called once, when the namespace has become one that this version cannot share.
      health_file: The file that is touched at each beat that succeeds.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        connectivity: Connectivity,
        *,
        interval: float,
        identity: Callable[[], dict[str, str]],
        on_beat: Callable[[], None],
        on_refused: Callable[[SchemaError], None],
        health_file: Path | None,
    ) -> None:
        super().__init__("heartbeat", "The heartbeat", connectivity.wake)
        self.store = store
        self.lease = lease
        self.connectivity = connectivity
        self.interval = interval
        self.identity = identity
        self.on_beat = on_beat
        self.on_refused = on_refused
        self.health_file = health_file
        self._registered_at = time.monotonic()

    def run_once(self) -> float:
        """Beat once, and register where that is due.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        begun = time.monotonic()
        self.store.workers.heartbeat()
        if (self.lease.unregistered or begun - self._registered_at > SAY_AGAIN) and not self.lease.refused:
            try:
                self.register()
            except SchemaError as error:
                self.lease.refused = True  # what runs here goes on, and is kept from others by the beats
                self.on_refused(error)
        self.on_beat()
        if self.health_file is not None and not self.lease.refused:
            self.health_file.touch()
        self.logger.debug("Sent a heartbeat.")
        # Without a subscription the beats alone show that it lives.
        interval = min(self.interval, RETRY) if self.lease.known_by is KnownBy.LOST else self.interval
        return max(begun + interval - time.monotonic(), 0.01)

    def pause(self, seconds: float | None) -> None:
        """As `Service.pause`; a failed command ends it, and the next beat follows at once, but in no hot loop."""
        if self._bell.wait(seconds) and self.connectivity.away:
            time.sleep(0.05)

    def register(self) -> None:
        """Say who this incarnation is.

        Raises:
          redis.RedisError: Redis cannot be reached.
          SchemaError: The namespace has another schema.
        """
        forgotten = False
        if self.lease.was_lost():
            forgotten = self.store.workers.is_forgotten(self.store.workers.server)
            self.logger.warning(
                "Redis no longer had this worker or one of its messages: it was declared dead, an operator used "
                "force, or Redis lost its data. The worker continues; messages taken from it stay where they "
                "are. %s",
                self._why_silent(),
            )
        version = self.lease.version
        self._enter()
        self._registered_at = time.monotonic()
        self.lease.registered(version, forgotten=forgotten)

    def _enter(self) -> None:
        waiting = False
        while (refusal := self.store.workers.register(self.identity())) is not None:
            text = self.store.workers.explain(refusal)
            if not refusal.wait:
                raise SchemaError(text)
            if not waiting:
                self.logger.warning(
                    "%s They may be dead. This worker waits until they are back or declared dead.", text
                )
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
