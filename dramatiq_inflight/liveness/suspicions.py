# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Incarnations whose connections are gone: they are back within their patience, or declared dead."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import NamedTuple

import redis

from ..store.replies import Seen, Suspicion
from ..store.store import Store
from ..threads.service import Service
from .subscription import Subscription, Subscriptions

__all__ = ["Suspicions"]

#: How long a connection from scratch may take, seconds: if one takes longer, others may be as slow to come back.
PROBE = 1.0

#: The pause after one that took longer, seconds.
AGAIN = 0.5


class _Noted(NamedTuple):
    #: As suspect.lua has it.
    since: int
    #: When that was noted, and when the patience is over (``time.monotonic``).
    at: float
    due: float

    @classmethod
    def of(cls, suspicion: Suspicion) -> _Noted:
        now = time.monotonic()
        return cls(suspicion.since, now, now + suspicion.patience)


class Suspicions(Service):
    """Notes who is absent, and waits until the patience of each is over: by Redis's clock, and by this process's.

    Parameters:
      on_death: Called after each death that was recorded here, or by another one while it was waited for here.
      on_lost: Called when the server does not see this incarnation either.
      on_unseeable: Called with an incarnation whose heartbeat alone decides.
    """

    def __init__(
        self,
        store: Store,
        subscriptions: Subscriptions,
        *,
        on_death: Callable[[], None],
        on_lost: Callable[[], None],
        on_unseeable: Callable[[str], None],
    ) -> None:
        super().__init__("suspicions", "The look at other workers")
        self.store = store
        self.on_death = on_death
        self.on_lost = on_lost
        self.on_unseeable = on_unseeable
        self._subscriptions = subscriptions
        self._absent: queue.SimpleQueue[str] = queue.SimpleQueue()  # no lock: worker threads may be interrupted
        self._noted: dict[str, _Noted] = {}
        self._probe: Subscription | None = None

    def add(self, id: str) -> None:
        """No connection of an incarnation was seen, or a message that it runs was delivered again: look at it."""
        self._absent.put(id)

    def run_once(self) -> float:
        """Wait for one that is absent, or for the end of the next one's patience; judge those that are due.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        if not self._noted:
            self._close()
        due = min((noted.due for noted in self._noted.values()), default=None)
        try:
            id = self._absent.get(timeout=None if due is None else max(due - time.monotonic(), 0.0))
        except queue.Empty:
            id = ""
        if id and id not in self._noted:
            self._note(id, self.store.workers.suspect(id))
        if not self._noted or not self._absent.empty():
            return 0.0  # note all that are absent first: one connection from scratch is enough for them
        if not self._has_probe(max(noted.at for noted in self._noted.values())):
            return AGAIN
        now = time.monotonic()
        for id in [id for id, noted in self._noted.items() if noted.due <= now]:
            if noted := self._noted.pop(id, None):
                self._judge(id, noted)
        return 0.0

    def failed(self, error: Exception) -> float:
        """As `Service.failed`; the next look begins anew."""
        super().failed(error)
        self._noted.clear()
        return 0.0

    def wake(self) -> None:
        """End the present wait."""
        super().wake()
        self._absent.put("")

    def stop(self, within: float = 5.0) -> None:
        """Judge nobody any more; as `Service.stop`."""
        super().stop(within)
        self._close()

    def _note(self, id: str, suspicion: Suspicion) -> None:
        if suspicion.seen is Seen.ABSENT:
            self._noted[id] = _Noted.of(suspicion)
        elif suspicion.seen is Seen.LOST:
            self.on_lost()
        elif suspicion.seen is Seen.UNSEEABLE:
            self.on_unseeable(id)

    def _judge(self, id: str, noted: _Noted) -> None:
        suspicion = self.store.workers.suspect(id, noted.since)
        if suspicion.seen in (Seen.GONE, Seen.UNSEEABLE):
            self.on_death()  # by another one's look, perhaps, who cannot recover all that it ran
        elif suspicion.since == noted.since:
            self._noted.clear()  # it may be the network, or the probe is lost: the next look begins anew with all
        else:
            self._note(id, suspicion)  # if it is absent, it has shown itself meanwhile

    def _has_probe(self, since: float) -> bool:
        """Return whether a connection was opened from scratch since then, as a worker that comes back would."""
        if self._probe is not None and self._probe.begun >= since:
            return True
        self._close()
        try:
            self._probe = self._subscriptions.open(self.store.keys.probe(self.store.me), PROBE)
        except redis.RedisError:
            pass
        else:
            if time.monotonic() - self._probe.begun > PROBE:
                self._close()
        return self._probe is not None

    def _close(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.close()
