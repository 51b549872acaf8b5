# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Delayed messages: those that were sent with a delay, and retries, with the reason why the last attempt failed."""

from __future__ import annotations

import itertools
import sys
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dramatiq import Broker

from ..brokers.dead_letters import decoded
from ..brokers.queues import BrokerQueues
from ..store.records import moment
from .dead_letters import MOST, TRACEBACK, cause_of, shown_traceback

__all__ = ["DelayedIndex", "DelayedView"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DelayedView:
    """A message that waits for its time."""

    #: The message's; of one that cannot be decoded the broker's own.
    id: str
    queue: str
    #: Empty if the message cannot be decoded.
    actor: str
    #: When it is to run; None if the message does not say.
    at: datetime | None
    #: Which attempt that is; 1: it has not failed yet.
    attempt: int
    #: Why the last attempt failed, in one line; empty if none did, or that is not known.
    reason: str
    #: The reason without what differs from message to message, such as numbers and texts in quotes.
    cause: str
    #: The traceback of the last attempt, the end of it if it is long.
    traceback: str
    #: When it was enqueued first; None if the message cannot be decoded.
    enqueued: datetime | None


class DelayedIndex:
    """All that waits for its time in an application's queues, kept in memory; `refresh` reads only what is new."""

    def __init__(self, broker: Broker, queues: BrokerQueues) -> None:
        self._broker = broker
        self._queues = queues
        self._lock = threading.Lock()
        self._views: dict[str, dict[str, DelayedView]] = {}
        #: The messages, what is due soonest first; not to be changed.
        self.found: list[DelayedView] = []
        #: True if all of them have been read at least once.
        self.is_complete = False

    def refresh(self) -> bool:
        """Read what is new.

        Returns: False if the broker cannot be asked.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with self._lock:
            for queue in sorted(self._broker.get_declared_queues()):
                pages = self._queues.delayed(queue)
                if pages is None:
                    return False
                before = self._views.get(queue, {})
                room = max(0, MOST - sum(len(views) for name, views in self._views.items() if name != queue))
                ids = dict.fromkeys(itertools.islice(itertools.chain.from_iterable(pages), room))
                views = {id: before[id] for id in ids if id in before}
                new = self._queues.delayed_messages(queue, [id for id in ids if id not in before])
                views.update((id, delayed_view(queue, id, data)) for id, data in new.items())
                self._views[queue] = views
            found = [view for views in self._views.values() for view in views.values()]
            found.sort(key=lambda view: (view.at.timestamp() if view.at is not None else 0.0, view.id))
            self.found, self.is_complete = found, True
            return True


def delayed_view(queue: str, copy_id: str, data: bytes) -> DelayedView:
    """Return a message as it is shown.  Anybody can enqueue anything."""
    message = decoded(data)
    options: dict[str, Any] = message.options if message is not None else {}
    eta, retries = options.get("eta"), options.get("retries", 0)
    traceback = shown_traceback(str(options.get("traceback") or "")[-2 * TRACEBACK :]).strip()
    reason = traceback.rpartition("\n")[2].strip()
    return DelayedView(
        id=str(message.message_id) if message is not None else copy_id,
        queue=queue,
        actor=sys.intern(str(message.actor_name)) if message is not None else "",
        at=moment(int(eta)) if isinstance(eta, (int, float)) and abs(eta) < 1e15 else None,
        attempt=retries + 1 if isinstance(retries, int) else 1,
        reason=sys.intern(reason),
        cause=sys.intern(cause_of(reason)),
        traceback=sys.intern(traceback),
        enqueued=moment(int(message.message_timestamp)) if message is not None else None,
    )
