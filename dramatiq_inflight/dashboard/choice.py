# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A visitor's choice, as far as it makes sense: all of it comes from the address."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from flask import request
from werkzeug.datastructures import MultiDict

from ..inspection.history import Event, EventKind, Group
from ..inspection.inspector import Choice, MessageView, QueueView
from ..store.records import moment
from .timeline import HOURS

__all__ = [
    "GROUPS",
    "PER_PAGE",
    "QUEUE_SORTS",
    "SORTS",
    "STATES",
    "EventChoice",
    "LetterChoice",
    "MessageChoice",
    "Order",
    "hours",
    "page_of",
    "paged",
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

#: The keys by which the greatest come first.
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

#: Kinds of events that belong together: the name of each group, and the names of its events.
GROUPS = {
    group.name.lower(): (group.value, {kind.value for kind in EventKind if group in kind.groups}) for group in Group
}

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def hours() -> int:
    """The stretch of the timeline."""
    text = request.args.get("hours", "")
    return {str(hours): hours for hours in HOURS}.get(text, min(HOURS))


def page_of(total: int) -> int:
    """The page that was asked for, of so many; pages count from 1."""
    text = request.args.get("page", "1")
    asked = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 1
    return min(max(1, -(-total // PER_PAGE)), max(1, asked))


def paged(found: Sequence[Any], total: int | None = None) -> dict[str, Any]:
    """The page of them that was asked for, as the templates know it.

    Parameters:
      found: All of them, or those up to the end of that page.
      total: How many there are; None: as many as were found.
    """
    total = len(found) if total is None else total
    page = page_of(total)
    at = (page - 1) * PER_PAGE
    pages = max(1, -(-total // PER_PAGE))
    return {"found": found[at : at + PER_PAGE], "first": at + 1, "total": total, "page": page, "pages": pages}


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(s|min|m|h|d|)\s*", text)
    return float(found[1]) * UNITS[found[2]] if found else None


@dataclass(frozen=True)
class Order:
    """By which column a table is sorted, and in which direction."""

    sort: str
    descending: bool
    #: The columns of which the greatest come first if nothing else is said.
    falling: Collection[str]

    @classmethod
    def asked(cls, args: MultiDict[str, str], sorts: Mapping[str, str], falling: Collection[str]) -> Order:
        """As the address says; else by the first column that there is."""
        said = args.get("sort", "").strip()
        sort = said if said in sorts else next(iter(sorts))
        direction = args.get("dir", "").strip()
        return cls(sort, direction == "desc" if direction in ("asc", "desc") else sort in falling, falling)

    @property
    def query(self) -> dict[str, str]:
        """The part of the address that says so."""
        return {"sort": self.sort, "dir": "desc" if self.descending else "asc"}

    def by(self, sort: str) -> Order:
        """By another column; the other way round if it is by that already."""
        return Order(sort, not self.descending if sort == self.sort else sort in self.falling, self.falling)


def sorted_queues(queues: Sequence[QueueView], order: Order) -> list[QueueView]:
    """The queues in an order; those of which the broker does not say the value come as if it were the smallest."""

    def place(queue: QueueView) -> tuple[bool, Any, str]:
        value = getattr(queue, order.sort)
        return value is not None, value or 0 if order.sort != "name" else value, queue.name

    return sorted(queues, key=place, reverse=order.descending)


@dataclass(frozen=True)
class MessageChoice:
    """Which messages, in which order."""

    queue: str
    actor: str
    instance: str
    state: str
    older: str
    order: Order

    @classmethod
    def asked(cls, args: MultiDict[str, str]) -> MessageChoice:
        """As the address says."""
        said = {name: args.get(name, "").strip() for name in ("queue", "actor", "instance", "state", "older")}
        return cls(**said, order=Order.asked(args, SORTS, FALLING))

    @property
    def wrong(self) -> bool:
        """True if the age makes no sense; it is left out then."""
        return bool(self.older) and _seconds(self.older) is None

    def of(self, messages: list[MessageView]) -> list[MessageView]:
        """The chosen ones, sorted."""
        older = _seconds(self.older) or 0.0
        found = [
            view
            for view in messages
            if self.queue in ("", view.queue)
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
        kept = {name: getattr(self, name) for name in ("queue", "actor", "instance", "state", "older")}
        return "?" + urlencode({name: value for name, value in {**kept, **more}.items() if value})


@dataclass(frozen=True)
class LetterChoice:
    """Which dead letters; an empty text: all."""

    queue: str
    actor: str
    cause: str
    text: str
    ids: tuple[str, ...] = ()
    #: Milliseconds since 1970, as digits.
    until: str = ""

    @classmethod
    def asked(cls, args: MultiDict[str, str]) -> LetterChoice:
        """As the address or a form says."""
        # Causes and ids are anybody's texts, in which blanks count.
        said = {name: args.get(name, "") for name in ("queue", "actor", "cause")}
        until = args.get("until", "")
        until = until if until.isascii() and until.isdigit() and len(until) < 15 else ""
        return cls(**said, text=args.get("text", "").strip(), ids=tuple(args.getlist("id")), until=until)

    @property
    def choice(self) -> Choice:
        """As the inspector and the operations take it."""
        return Choice(
            queue=self.queue or None,
            actor=self.actor or None,
            cause=self.cause or None,
            text=self.text,
            ids=frozenset(self.ids) if self.ids else None,
            until=moment(int(self.until)) if self.until else None,
        )

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The names and values of a form or an address that says the same."""
        pairs = [(name, getattr(self, name)) for name in ("queue", "actor", "cause", "text", "until")]
        return [(name, value) for name, value in pairs if value] + [("id", id) for id in self.ids]

    def with_cause(self, cause: str) -> str:
        """The query for the letters of one cause; an empty text: of all."""
        return "?" + urlencode(replace(self, cause=cause).fields)

    def to(self, action: str) -> str:
        """The query for an action on all of them."""
        return "?" + urlencode([*self.fields, ("action", action)])

    def on_page(self, page: int) -> str:
        """The query for another page."""
        return "?" + urlencode([*self.fields, ("page", str(page))])


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
            and self.message in ("", event.message_id)
        ]

    def on_page(self, page: int) -> str:
        """The query for another page."""
        kept = {"kind": self.kind, "instance": self.instance, "message": self.message, "page": str(page)}
        return "?" + urlencode({name: value for name, value in kept.items() if value})

    @staticmethod
    def kinds() -> list[str]:
        """All kinds of events."""
        return [kind.value for kind in EventKind]
