# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The dead letters of a broker, and why each of them is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dramatiq import Broker
from dramatiq.middleware import AgeLimit

from ..brokers.dead_letters import DeadLetter, DeadLetters
from ..brokers.queues import BrokerQueues
from ..delivery import mark_of
from ..store.errors import masked
from ..store.records import moment
from .history import Event

__all__ = ["Choice", "DeadLetterView", "Letters"]

#: RabbitMQ's reasons that say more than that a worker has rejected the message.
BROKERS = {
    "delivery_limit": "RabbitMQ's delivery limit: it came back too often",
    "expired": "it has expired in its queue",
    "maxlen": "its queue was full",
}


@dataclass(frozen=True, kw_only=True)
class DeadLetterView:
    """A message in a dead-letter queue."""

    #: The message's; of one that cannot be decoded the broker's own, or empty.
    id: str
    #: The queue from which it was dead-lettered.
    queue: str
    #: Empty if the message cannot be decoded.
    actor: str
    #: When it was dead-lettered; None if the broker does not say.
    at: datetime | None
    #: Why, in one line.
    reason: str
    #: The traceback of its last failure; empty if that is not known.
    traceback: str
    #: How often it was retried.
    retries: int
    #: When it was enqueued first; None if the message cannot be decoded.
    enqueued: datetime | None
    #: The size of the encoded message, bytes.
    size: int


@dataclass(frozen=True)
class Choice:
    """Which dead letters.

    Parameters:
      queue, actor: Only those; None: all.
      text: Only those with this in their reason or traceback, in upper or lower case.
    """

    queue: str | None = None
    actor: str | None = None
    text: str = ""

    def has(self, view: DeadLetterView) -> bool:
        """Return True for a dead letter that is chosen."""
        return self.actor in (None, view.actor) and self.text.lower() in f"{view.reason}\n{view.traceback}".lower()


class Letters:
    """All dead letters of an application's queues.

    Parameters:
      broker: The application's.
      queues: Its queues.
    """

    def __init__(self, broker: Broker, queues: BrokerQueues) -> None:
        self._broker = broker
        self._queues = queues

    @contextmanager
    def of(self, queue: str) -> Iterator[DeadLetters | None]:
        """As `BrokerQueues.dead_letters`."""
        with self._queues.dead_letters(queue) as letters:
            yield letters

    def names(self, queue: str | None = None) -> list[str]:
        """Return the queues to look at: all that are declared, or the one that is named."""
        return sorted(self._broker.get_declared_queues()) if queue is None else [queue]

    def find(self, message_id: str) -> DeadLetter | None:
        """Return the dead letter of a message; None if there is none, or the broker cannot be asked."""
        for queue in self.names():
            with self._queues.dead_letters(queue) as letters:
                for letter in letters or ():
                    if letter.is_of(message_id):
                        return letter
        return None

    def view(self, letter: DeadLetter, event: Event | None) -> DeadLetterView:
        """Return a letter with its reason.

        Parameters:
          event: The last ``dead_lettered`` of the message; None if the history has none.
        """
        message = letter.message
        options = message.options if message is not None else {}
        retries = options.get("retries", 0)
        return DeadLetterView(
            id=letter.id,
            queue=letter.queue,
            actor=message.actor_name if message is not None else "",
            at=moment(letter.at_ms),
            reason=masked(self._reason(letter, message, event)),
            traceback=masked((event.traceback if event is not None else "") or str(options.get("traceback") or "")),
            retries=retries if isinstance(retries, int) else 0,
            enqueued=moment(int(message.message_timestamp)) if message is not None else None,
            size=len(letter.data),
        )

    def _reason(self, letter: DeadLetter, message: Any, event: Event | None) -> str:
        if message is None:
            return "it cannot be decoded here"
        if verdict := mark_of(message).get("reason"):
            return str(verdict)
        retries = message.options.get("retries", 0)
        times = f"failed {retries + 1} times: " if isinstance(retries, int) and retries else ""
        if event is not None and event.why:
            return times + event.why
        if letter.reason in BROKERS:
            return BROKERS[letter.reason]
        if message.actor_name not in self._broker.get_declared_actors():
            return f"there is no actor {message.actor_name!r}"
        max_age = self._max_age(message)
        if max_age and letter.at_ms and letter.at_ms - message.message_timestamp >= max_age:
            return f"it was older than its max_age ({max_age / 1000:g} s)"
        if times:
            lines = str(message.options.get("traceback") or "").strip().splitlines()
            return f"{times}at last but one {lines[-1].strip()}" if lines else f"failed {retries + 1} times"
        return "it has failed, and was not to be retried"

    def _max_age(self, message: Any) -> int:
        of_actor = self._broker.get_actor(message.actor_name).options.get("max_age")
        of_all = next((one.max_age for one in self._broker.middleware if isinstance(one, AgeLimit)), None)
        of_message = message.options.get("max_age")
        return int((of_message if isinstance(of_message, int) else 0) or of_actor or of_all or 0)
