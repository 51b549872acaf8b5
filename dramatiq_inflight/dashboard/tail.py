# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The history in memory: all pages choose from it, and only what is new is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ..inspection.history import Event, EventKind
from ..inspection.inspector import Inspector
from .shared import Shared

__all__ = ["TROUBLE", "Tail"]

#: About as many as the history has.
KEPT = 10_500

#: A message with one of these is lost to its application, until somebody does something about it.
TROUBLE = frozenset(kind for kind in EventKind if kind.mark == "poison")


class Tail:
    """The events, newest first, with the instances of all worker processes that are known."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector
        self._events: list[Event] = []
        #: Instance and process of each incarnation.
        self._instances: dict[str, tuple[str, str]] = {}
        self._shared = Shared(self.read)

    def events(self) -> list[Event]:
        """All that are known; not to be changed."""
        return self._shared.get()

    def refresh(self) -> None:
        """Read what is new at the next look."""
        self._shared.refresh()

    def of_message(self, message_id: str) -> list[Event]:
        """Return the events of one message."""
        return [event for event in self.events() if event.message_id == message_id]

    def troubled(self) -> list[Event]:
        """The last event of each message that ended in the dead-letter queue, or goes there."""
        seen: set[str] = set()
        found = []
        for event in self.events():
            if event.message_id and event.message_id not in seen:
                seen.add(event.message_id)
                if event.kind in TROUBLE:
                    found.append(event)
        return found

    def instance_of(self, worker: str) -> str:
        """The instance of an incarnation; empty: unknown."""
        return self._instances.get(worker, ("", ""))[0]

    def read(self) -> list[Event]:
        """Read the events that are new, and return all."""
        if self._events:
            fresh = self._inspector.history(after=self._events[0].id, limit=KEPT)
            if fresh:
                self._events = [*self._complete(fresh), *self._events][:KEPT]
                return self._events
            newest = self._inspector.history(limit=1)
            if newest and _order(newest[0]) >= _order(self._events[0]):
                return self._events
        # The first time, or somebody has deleted what was there.
        self._instances = {}
        self._events = self._complete(self._inspector.history(limit=KEPT))
        return self._events

    def _complete(self, events: Iterable[Event]) -> list[Event]:
        """With the instances of workers that Redis has forgotten by now."""
        events = list(events)
        self._instances.update(
            (event.worker, (event.instance, event.pid)) for event in events if event.worker and event.instance
        )
        return [
            dataclasses.replace(event, instance=known[0], pid=known[1])
            if not event.instance and (known := self._instances.get(event.worker))
            else event
            for event in events
        ]


def _order(event: Event) -> tuple[int, int]:
    milliseconds, _, number = event.id.partition("-")
    return int(milliseconds), int(number or 0)
