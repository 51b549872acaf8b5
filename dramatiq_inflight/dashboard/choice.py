# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A visitor's choice, as far as it makes sense: all of it comes from the address."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import request
from werkzeug.datastructures import MultiDict

from ..inspection.dead_letters import Chosen
from ..inspection.documents import time_of
from ..inspection.history import Event, EventKind, Group
from ..inspection.inspector import Choice, MessageView, QueueView
from .timeline import HOURS

__all__ = [
    "DELAYED_SORTS",
    "DURATION",
    "GROUPS",
    "LETTER_SORTS",
    "PER_PAGE",
    "QUEUE_SORTS",
    "SORTS",
    "STATES",
    "EventChoice",
    "LetterChoice",
    "MessageChoice",
    "Order",
    "hours",
    "page_asked",
    "paged",
    "pages_of",
    "sorted_letters",
    "sorted_queues",
]

#: How many are on one page.
PER_PAGE = 100

#: The states of messages in flight.
STATES = ("running", "recovering", "requeued")

#: The keys by which messages are sorted, and their names.
SORTS = {
    "age": "Age",
    "actor": "Actor",
    "queue": "Queue",
    "instance": "Instance",
    "state": "State",
    "crashes": "Crashes",
}

#: What messages can be chosen by.
MESSAGE_FILTERS = ("text", "queue", "actor", "instance", "state", "older")

#: Those of which the greatest come first.
FALLING = ("age", "crashes")

#: The keys by which queues are sorted, and their names; the greatest come first, except for the names.
QUEUE_SORTS = {
    "name": "Queue",
    "depth": "Depth",
    "delayed": "Delayed",
    "unacked": "Unacked",
    "in_flight": "In flight",
    "dead_letters": "Dead letters",
    "oldest": "Oldest",
    "rate_in": "In",
    "rate_out": "Out",
}

#: What dead letters and delayed messages can be sorted by, and the name of it; the youngest letter comes first.
LETTER_SORTS = {"at": "Age", "actor": "Actor", "queue": "Queue", "reason": "Reason"}
DELAYED_SORTS = {"at": "Due", "actor": "Actor", "queue": "Queue", "attempt": "Attempt", "reason": "Reason"}

#: Kinds of events that belong together: the name of each group, and the names of its events.
GROUPS = {
    group.name.lower(): (group.value, {kind.value for kind in EventKind if group in kind.groups}) for group in Group
}

V = TypeVar("V", bound=Chosen)

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}

#: A duration, as a regular expression: a number, and its unit.
DURATION = r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)(?:\s*(s|min|m|h|d))?\s*"


def hours() -> int:
    """The stretch of the timeline."""
    text = request.args.get("hours", "")
    return {str(hours): hours for hours in HOURS}.get(text, min(HOURS))


def page_asked() -> int:
    """Return the page that was asked for; pages count from 1."""
    text = request.args.get("page", "1")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 9 else 1


def pages_of(found: Sequence[Any]) -> int:
    """Return how many pages they fill, 1 at least."""
    return max(1, -(-len(found) // PER_PAGE))


def paged(found: Sequence[Any]) -> dict[str, Any]:
    """Return the page of them that was asked for, as the templates know it; the last one if there are fewer."""
    pages = pages_of(found)
    page = min(pages, page_asked())
    at = (page - 1) * PER_PAGE
    shown = found[at : at + PER_PAGE]
    return {"found": shown, "first": at + 1, "total": len(found), "page": page, "pages": pages}


def _seconds(text: str) -> float | None:
    found = re.fullmatch(DURATION, text)
    return float(found[1]) * UNITS[found[2] or "s"] if found else None


@dataclass(frozen=True)
class Order:
    """By which column a table is sorted, and in which direction."""

    sort: str
    descending: bool
    #: The columns of which the greatest come first if nothing else is said.
    falling: Collection[str]
    #: The column if nothing else is said.
    usual: str

    @classmethod
    def asked(cls, args: MultiDict[str, str], sorts: Mapping[str, str], falling: Collection[str]) -> Order:
        """As the address says; else by the first column that there is."""
        said, usual = args.get("sort", "").strip(), next(iter(sorts))
        sort = said if said in sorts else usual
        direction = args.get("dir", "").strip()
        return cls(sort, direction == "desc" if direction in ("asc", "desc") else sort in falling, falling, usual)

    @property
    def query(self) -> dict[str, str]:
        """The part of the address that says so; empty for the usual order."""
        if self.sort == self.usual and self.descending == (self.usual in self.falling):
            return {}
        return {"sort": self.sort, "dir": "desc" if self.descending else "asc"}

    @property
    def aria(self) -> str:
        """The direction in words."""
        return "descending" if self.descending else "ascending"

    def by(self, sort: str) -> Order:
        """By another column; the other way round if it is by that already."""
        descending = not self.descending if sort == self.sort else sort in self.falling
        return replace(self, sort=sort, descending=descending)


def sorted_queues(queues: Sequence[QueueView], order: Order) -> list[QueueView]:
    """The queues in an order; those of which the broker does not say the value come as if it were the smallest."""

    def place(queue: QueueView) -> tuple[bool, Any, str]:
        value = getattr(queue, order.sort)
        return value is not None, value or 0 if order.sort != "name" else value, queue.name

    return sorted(queues, key=place, reverse=order.descending)


def sorted_letters(letters: Sequence[V], order: Order) -> Sequence[V]:
    """Dead letters or delayed messages in an order; those of which nobody knows the time come as if it were the first.

    Parameters:
      letters: By their times, in the usual direction.
    """
    if order.sort == "at":
        return letters if order.descending == ("at" in order.falling) else letters[::-1]
    return sorted(letters, key=lambda view: getattr(view, order.sort), reverse=order.descending)


@dataclass(frozen=True)
class MessageChoice:
    """Which messages, in which order."""

    text: str
    queue: str
    actor: str
    instance: str
    state: str
    older: str
    order: Order

    @classmethod
    def asked(cls, args: MultiDict[str, str]) -> MessageChoice:
        """As the address says."""
        said = {name: args.get(name, "").strip() for name in MESSAGE_FILTERS}
        return cls(**said, order=Order.asked(args, SORTS, FALLING))

    @property
    def filters(self) -> dict[str, str]:
        """What is asked for, but for the order."""
        return {name: value for name in MESSAGE_FILTERS if (value := getattr(self, name))}

    @property
    def wrong(self) -> bool:
        """True if the age makes no sense; it is left out then."""
        return bool(self.older) and _seconds(self.older) is None

    def of(self, messages: list[MessageView]) -> list[MessageView]:
        """The chosen ones, sorted."""
        older, text = _seconds(self.older) or 0.0, self.text.lower()
        found = [
            view
            for view in messages
            if text in f"{view.id}\n{view.actor}\n{view.queue}\n{view.instance}\n{view.note}".lower()
            and self.queue in ("", view.queue)
            and self.actor in ("", view.actor)
            and self.instance in ("", view.instance)
            and self.state in ("", view.state)
            and view.age >= older
        ]
        found.sort(key=lambda view: (getattr(view, self.order.sort), view.id), reverse=self.order.descending)
        return found

    def sorted_by(self, sort: str) -> str:
        """The query for another order; the other way round if it is by that already."""
        return self._query(**self.order.by(sort).query)

    def on_page(self, page: int) -> str:
        """The query for another page."""
        return self._query(**self.order.query, page=str(page))

    def _query(self, **more: str) -> str:
        return "?" + urlencode({**self.filters, **more})


@dataclass(frozen=True)
class LetterChoice:
    """Which dead letters or delayed messages, in which order; an empty text: all."""

    queue: str
    actor: str
    cause: str
    text: str
    order: Order
    ids: tuple[str, ...] = ()
    #: A time in ISO 8601; see `time_of`.
    until: str = ""

    @classmethod
    def asked(cls, args: MultiDict[str, str], sorts: Mapping[str, str] = LETTER_SORTS) -> LetterChoice:
        """As the address or a form says."""
        # Causes and ids are anybody's texts, in which blanks count.
        said = {name: args.get(name, "") for name in ("queue", "actor", "cause")}
        until = args.get("until", "")
        order = Order.asked(args, sorts, ("at",) if sorts is LETTER_SORTS else ("attempt",))
        return cls(
            **said,
            text=args.get("text", "").strip(),
            order=order,
            ids=tuple(args.getlist("id")),
            until=until if time_of(until) else "",
        )

    @property
    def choice(self) -> Choice:
        """As the inspector and the operations take it."""
        return Choice(
            queue=self.queue or None,
            actor=self.actor or None,
            cause=self.cause or None,
            text=self.text,
            ids=frozenset(self.ids) if self.ids else None,
            until=time_of(self.until),
        )

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The names and values of a form or an address that says the same."""
        pairs = [(name, getattr(self, name)) for name in ("queue", "actor", "cause", "text", "until")]
        return [(name, value) for name, value in pairs if value] + [("id", id) for id in self.ids]

    def with_cause(self, cause: str) -> str:
        """The query for the letters of one cause; an empty text: of all."""
        return "?" + urlencode([*replace(self, cause=cause).fields, *self.order.query.items()])

    def sorted_by(self, sort: str) -> str:
        """The query for another order; the other way round if it is by that already."""
        return "?" + urlencode([*self.fields, *self.order.by(sort).query.items()])

    def to(self, action: str) -> str:
        """The query for an action on all of them."""
        return "?" + urlencode([*self.fields, ("action", action)])

    def on_page(self, page: int) -> str:
        """The query for another page."""
        return "?" + urlencode([*self.fields, *self.order.query.items(), ("page", str(page))])


@dataclass(frozen=True)
class EventChoice:
    """Which events."""

    kind: str
    instance: str
    message: str

    @classmethod
    def asked(cls, args: MultiDict[str, str]) -> EventChoice:
        """As the address says."""
        return cls(*(args.get(name, "").strip() for name in ("kind", "instance", "message")))

    def of(self, events: list[Event]) -> list[Event]:
        """The chosen ones."""
        kinds = GROUPS[self.kind][1] if self.kind in GROUPS else {self.kind}
        return [
            event
            for event in events
            if (not self.kind or event.name in kinds)
            and self.instance in ("", event.instance)
            and event.message_id.startswith(self.message)
        ]

    @property
    def filters(self) -> dict[str, str]:
        """What is asked for."""
        return {name: value for name, value in vars(self).items() if value}

    def on_page(self, page: int) -> str:
        """The query for another page."""
        return "?" + urlencode({**self.filters, "page": str(page)})

    @staticmethod
    def kinds() -> list[str]:
        """All kinds of events."""
        return [kind.value for kind in EventKind]
