# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The dead letters of a broker, and why each of them is one."""

from __future__ import annotations

import functools
import itertools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from dramatiq import Broker
from dramatiq.middleware import AgeLimit

from ..brokers.dead_letters import DeadLetter, DeadLetters
from ..brokers.queues import BrokerQueues
from ..delivery import mark_of
from ..store.errors import encodable, masked
from ..store.records import moment
from .history import Event

__all__ = ["Choice", "DeadLetterView", "Index", "Letters", "cause_of", "newest_first", "shown_traceback"]

#: RabbitMQ's reasons that say more than that a worker has rejected the message.
BROKERS = {
    "delivery_limit": "RabbitMQ's delivery limit: it came back too often",
    "expired": "it has expired in its queue",
    "maxlen": "its queue was full",
}


#: The most characters of a traceback that are kept: its end.
TRACEBACK = 4000

#: The parts that differ between letters of one cause: texts in quotes, and numbers, also hexadecimal ones.
VARIES = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|\b(?=\w*\d)[0-9a-fA-F][0-9a-fA-F-]*\b|\d+""")

#: The texts of Dramatiq and this package before the error itself.
BEFORE = re.compile(r"^failed \d+ times(?:: (?:at last but one )?|$)")

#: The longest cause, characters.
CAUSE = 160

#: How many letters an index has at the most.
MOST = 100_000

#: A queue is read again after so many seconds, though it looks the same.
ANEW = 60.0

#: While an index is read for the first time, how often it shows what it has, seconds.
PUBLISHED = 0.5

#: A letter that is younger than this may still be given a reason.
RECENT = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True, slots=True)
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
    #: The reason without what differs from letter to letter, such as numbers and texts in quotes.
    cause: str
    #: The traceback of its last failure, the end of it if it is long; empty if that is not known.
    traceback: str
    #: How often it was retried.
    retries: int
    #: When it was enqueued first; None if the message cannot be decoded.
    enqueued: datetime | None
    #: The size of the encoded message, bytes.
    size: int


class Chosen(Protocol):
    """A dead letter, or a message that waits for its time."""

    @property
    def id(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def at(self) -> datetime | None: ...
    @property
    def reason(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def traceback(self) -> str: ...


V = TypeVar("V", bound=Chosen)


@dataclass(frozen=True)
class Choice:
    """Which dead letters, or which messages that wait for their time.

    Parameters:
      queue, actor, cause: Only those; None: all.
      text: Only those with this in their reason or traceback, in upper or lower case.
      ids: Only these messages; None: all.
      until: Only those that were dead-lettered by then, or are due by then, or of which nobody knows when; None: all.
    """

    queue: str | None = None
    actor: str | None = None
    cause: str | None = None
    text: str = ""
    ids: frozenset[str] | None = None
    until: datetime | None = None

    def has(self, view: Chosen) -> bool:
        """Return True for one that is chosen."""
        return (
            self.queue in (None, view.queue)
            and self.actor in (None, view.actor)
            and self.cause in (None, view.cause)
            and (self.ids is None or view.id in self.ids)
            and (self.until is None or view.at is None or view.at <= self.until)
            and (not self.text or self.text.lower() in f"{view.reason}\n{view.traceback}".lower())
        )

    def of(self, views: Iterable[V]) -> list[V]:
        """Return those that are chosen, in their order.  A text is looked for once in all that have died alike."""
        if not self.text:
            return [view for view in views if self.has(view)]
        rest = replace(self, text="")
        alike: dict[tuple[str, str], bool] = {}
        found = []
        for view in views:
            has_text = alike.get((view.reason, view.traceback))
            if has_text is None:
                has_text = alike[view.reason, view.traceback] = Choice(text=self.text).has(view)
            if has_text and rest.has(view):
                found.append(view)
        return found


class Letters:
    """All dead letters of an application's queues.

    Parameters:
      broker: The application's.
      queues: Its queues.
    """

    def __init__(self, broker: Broker, queues: BrokerQueues) -> None:
        self._broker = broker
        self._queues = queues
        #: All of them in memory, where a program has asked for that.
        self.index: Index | None = None

    def versions(self, queues: list[str]) -> dict[str, object] | None:
        """As `BrokerQueues.versions`."""
        return self._queues.versions(queues)

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
        for queue in self.where(message_id):
            with self.of(queue) as letters:
                for letter in self.some(queue, letters, Choice(ids=frozenset([message_id]))):
                    if letter.is_of(message_id):
                        return letter
        return None

    def where(self, message_id: str) -> list[str]:
        """Return the queues that may have a message's dead letter."""
        if self.index is None or not self.index.has_ids:
            return self.names()
        self.index.refresh()
        queue = self.index.queue_of(message_id)
        return [] if queue is None else [queue]

    def known(self) -> Set[str] | None:
        """Return the ids of all messages that have a letter; None if that takes to read all letters."""
        if self.index is None or not self.index.has_ids:
            return None
        self.index.refresh()
        return self.index.message_ids

    def some(self, queue: str, letters: DeadLetters | None, choice: Choice) -> Iterable[DeadLetter]:
        """Return the letters of a queue that may be chosen; without an index all of them.

        Parameters:
          letters: As `of` gives them.
        """
        if letters is None or self.index is None or not self.index.has_ids:
            return letters or ()
        return letters.some(self.index.ids(queue, choice))

    def view(self, letter: DeadLetter, event: Event | None) -> DeadLetterView:
        """Return a letter with its reason.

        Parameters:
          event: The last ``dead_lettered`` of the message; None if the history has none.
        """
        message = letter.message
        options = message.options if message is not None else {}
        retries = options.get("retries", 0)
        reason = encodable(masked(self._reason(letter, message, event)))
        traceback = (event.traceback if event is not None else "") or str(options.get("traceback") or "")
        # There may be very many of the same.
        return DeadLetterView(
            id=letter.id,
            queue=letter.queue,
            actor=sys.intern(str(message.actor_name)) if message is not None else "",
            at=moment(letter.at_ms),
            reason=sys.intern(reason),
            cause=sys.intern(cause_of(reason)),
            traceback=shown_traceback(traceback[-2 * TRACEBACK :]),
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


@functools.lru_cache(maxsize=500)
def shown_traceback(text: str) -> str:
    """Return the end of a traceback without credentials; of many letters it is the same."""
    return sys.intern(encodable(masked(text)[-TRACEBACK:]))


def cause_of(reason: str) -> str:
    """Return a reason without what differs from letter to letter."""
    return VARIES.sub("#", BEFORE.sub("", reason.partition("\n")[0]) or reason)[:CAUSE]


class Index:
    """All dead letters of an application, kept in memory: for a program that asks again and again.

    `refresh` reads only what is new.  It may run in one thread while others look.

    Parameters:
      reasons: Returns the last ``dead_lettered`` of each message.
    """

    def __init__(self, letters: Letters, reasons: Callable[[], Mapping[str, Event]]) -> None:
        self._letters = letters
        self._reasons = reasons
        self._lock = threading.Lock()
        #: By queue and by the broker's id, or a number where the broker has no ids.
        self._views: dict[str, dict[str | int, DeadLetterView]] = {}
        self._versions: dict[str, object] = {}
        self._read_at: dict[str, float] = {}
        self._queues: dict[str, str] = {}
        #: The letters, newest first; not to be changed.
        self.found: list[DeadLetterView] = []
        #: True if all of them have been read at least once.
        self.is_complete = False
        self._has_ids = False

    def refresh(self) -> bool:
        """Read what is new.

        Returns: False if the broker cannot be asked.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        with self._lock:
            names = self._letters.names()
            versions = self._letters.versions(names)
            if versions is None:
                return False
            now = time.monotonic()
            changed = [
                name for name in names if versions[name] != self._versions.get(name) or now - self._read_at[name] > ANEW
            ]
            reasons = self._reasons() if changed else {}
            published = now
            for name in changed:
                if not self._read(name, reasons):
                    return False
                self._versions[name], self._read_at[name] = versions[name], now
                if not self.is_complete and time.monotonic() - published > PUBLISHED:
                    self._publish()
                    published = time.monotonic()
            if changed or not self.is_complete:
                self._publish()
            self.is_complete = True
            return True

    def _read(self, queue: str, reasons: Mapping[str, Event]) -> bool:
        before = self._views.get(queue, {})
        room = MOST - sum(len(views) for name, views in self._views.items() if name != queue)
        # The event comes a moment after the letter.
        recent = datetime.now(UTC) - RECENT
        known = [
            id
            for id, view in before.items()
            if isinstance(id, str) and (view.at is None or view.at < recent or view.id in reasons)
        ]
        views: dict[str | int, DeadLetterView] = {}
        with self._letters.of(queue) as letters:
            if letters is None:
                return False
            for letter in itertools.islice(letters.read(frozenset(known)), max(0, room)):
                kept = before.get(letter.copy_id) if not letter.data else None
                id = letter.copy_id or len(views)
                views[id] = kept or self._letters.view(letter, reasons.get(letter.id))
        self._views[queue] = views
        return True

    def _publish(self) -> None:
        queues = {view.id: queue for queue, views in self._views.items() for view in views.values()}
        found = [view for views in self._views.values() for view in views.values()]
        found.sort(key=newest_first)
        self._queues, self.found = queues, found
        numbered = any(isinstance(id, int) for views in self._views.values() for id in itertools.islice(views, 1))
        self._has_ids = not numbered and len(found) < MOST

    @property
    def has_ids(self) -> bool:
        """True if each letter can be read by the broker's id: it has ids, and all letters are here."""
        return self.is_complete and self._has_ids

    @property
    def message_ids(self) -> Set[str]:
        """The ids of the messages that have a letter here."""
        return self._queues.keys()

    def queue_of(self, message_id: str) -> str | None:
        """Return the queue from which a message was dead-lettered; None if it has no letter."""
        return self._queues.get(message_id)

    def ids(self, queue: str, choice: Choice) -> list[str]:
        """Return the broker's ids of the letters of a queue that are chosen."""
        return [str(id) for id, view in self._views.get(queue, {}).items() if choice.has(view)]


def newest_first(view: DeadLetterView) -> tuple[float, str]:
    """The key of the usual order."""
    return -view.at.timestamp() if view.at is not None else 0.0, view.id
