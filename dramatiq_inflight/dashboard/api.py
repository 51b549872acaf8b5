# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The JSON interface: the address of a page, after ``/api``, with the same fields in its query.

`ROUTES` says all of it; ``python -m docs.openapi`` makes its description, ``openapi.json``, of that.
"""

from __future__ import annotations

import functools
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Conflict, Forbidden, NotFound, Unauthorized

from ..errors import ConfigurationError
from ..inspection.documents import (
    STATES,
    Cause,
    Details,
    DetailsWithPayload,
    Glance,
    causes,
    details,
    document,
    glance,
    time_of,
)
from ..inspection.history import Event, EventKind
from ..inspection.inspector import Aside, Choice, DeadLetterView, DelayedView, MessageView, QueueView, WorkerView
from ..operations import Bulk, Done
from . import choice
from .acts import Acts
from .background import InBackground
from .board import Board
from .errors import SAID, is_api
from .fields import Field, body, check_query, flag, number, one_of, span, text, texts, time
from .pages import LATEST
from .words import ANSWERS

__all__ = ["ROUTES", "Error", "Route", "install"]

#: A token: what RFC 6750 allows in the header, and not too few characters to be guessed.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")

#: For how long an answer waits for a look at dead letters or delayed messages, seconds.  A page shows what it has
#: after a moment, and is loaded again; a program that asks once is to get what is there now.
PATIENCE = 5.0

OPENAPI = Path(__file__).with_name("openapi.json")


@dataclass(frozen=True, kw_only=True)
class Paged:
    """A page of a list."""

    #: How many there are on all pages.
    total: int
    #: Which page this is, from 1.  A page after the last one is empty.
    page: int
    #: How many pages there are, 1 at least.  A page has 100 at the most.
    pages: int


@dataclass(frozen=True, kw_only=True)
class Workers(Paged):
    """Worker processes that live, or whose death is not recovered yet, by instance."""

    workers: list[WorkerView]


@dataclass(frozen=True, kw_only=True)
class Queues(Paged):
    """The queues of the application."""

    queues: list[QueueView]


@dataclass(frozen=True, kw_only=True)
class Messages(Paged):
    """Messages that run, or wait to be recovered."""

    messages: list[MessageView]


@dataclass(frozen=True, kw_only=True)
class AsideMessages(Paged):
    """Messages that cannot be read or decoded, and are kept whole."""

    aside: list[Aside]


@dataclass(frozen=True, kw_only=True)
class Events(Paged):
    """What happened, newest first."""

    events: list[Event]


@dataclass(frozen=True, kw_only=True)
class Read(Paged):
    """A page of a list that is read in the background."""

    #: False while there is more that is still being read: ask again.
    is_complete: bool


@dataclass(frozen=True, kw_only=True)
class Delayed(Read):
    """Messages that wait for their time, what is due soonest first if no other order is asked for."""

    delayed: list[DelayedView]


@dataclass(frozen=True, kw_only=True)
class DeadLetters(Read):
    """Dead letters, newest first if no other order is asked for."""

    dead_letters: list[DeadLetterView]


@dataclass(frozen=True, kw_only=True)
class Causes(Read):
    """Dead letters, counted by cause and actor, the commonest first."""

    causes: list[Cause]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was done to a message."""

    id: str
    done: Done
    text: str

    @property
    def status(self) -> int:
        """The status of the answer."""
        return 202 if self.done is Done.BEGUN else 200


@dataclass(frozen=True, kw_only=True)
class Error:
    """Why there is no answer, or nothing was done."""

    #: What is wrong, and what to do.
    error: str


@dataclass(frozen=True, kw_only=True)
class Refused(Error):
    """Why nothing was done to a message."""

    id: str
    done: Done

    @property
    def status(self) -> int:
        """The status of the answer."""
        return 404 if self.done is Done.UNKNOWN else 409


P = TypeVar("P", bound=Paged)


def page_of(kind: Callable[..., P], name: str, found: Sequence[Any], **more: Any) -> P:
    """Return the page of them that was asked for."""
    page = choice.page_asked()
    at = (page - 1) * choice.PER_PAGE
    shown = found[at : at + choice.PER_PAGE]
    return kind(total=len(found), page=page, pages=choice.pages_of(found), **{name: shown}, **more)


class Api:
    """What is answered, and done.

    Parameters:
      acts: None: nothing can be changed.
    """

    def __init__(self, board: Board, acts: Acts | None) -> None:
        self._board = board
        self._acts = acts

    def overview(self) -> Glance:
        """Show all at a glance, with the last events."""
        return glance(self._board.overview(), self._board.inspector.namespace, self._board.tail.events()[:LATEST])

    def workers(self) -> Workers:
        """List the worker processes that live, or whose death is not recovered yet."""
        instance, state = request.args.get("instance", ""), request.args.get("state", "")
        found = [
            view
            for view in self._board.overview().workers
            if instance in ("", view.instance) and state in ("", view.state)
        ]
        return page_of(Workers, "workers", found)

    def queues(self) -> Queues:
        """List the queues of a RedisBroker or RabbitMQ: how much each has, and how quickly that comes and goes."""
        found = self._board.queues()
        if found is None:
            raise NotFound(f"The queues {CANNOT} a RedisBroker or a RabbitMQ.")
        order = choice.Order.asked(request.args, choice.QUEUE_SORTS, tuple(choice.QUEUE_SORTS)[1:])
        name = request.args.get("queue", "")
        chosen = [queue for queue in found if name in ("", queue.name)]
        return page_of(Queues, "queues", choice.sorted_queues(chosen, order))

    def messages(self) -> Messages:
        """List the messages that run, or wait to be recovered."""
        return page_of(Messages, "messages", choice.MessageChoice.asked(request.args).of(self._board.messages()))

    def message(self) -> Details | DetailsWithPayload:
        """Show all that is known of one message; the message itself, with its arguments, if that is asked for."""
        board = self._board
        id = board.whole_id(request.args["id"])
        view, events = board.inspector.message(id), board.tail.of_message(id)
        dead = board.inspector.dead_letter(id) if view is not None and view.state == "dead_lettered" else None
        if view is None and not events:
            raise NotFound("Nothing is known of the message: it may be queued, or complete.")
        known = Details(message=view, dead_letter=dead, history=events)
        return details(known, board.inspector.payload(id)) if request.args.get("payload") == "1" else known

    def aside(self) -> AsideMessages:
        """List the messages that cannot be read or decoded, and are kept whole."""
        return page_of(AsideMessages, "aside", self._board.inspector.aside())

    def delayed(self) -> Delayed:
        """List what waits for its time in the queues of a RedisBroker: delayed messages, and retries."""
        found, is_complete = self._chosen(
            self._board.delayed, choice.DELAYED_SORTS, "What waits for its time", "a RedisBroker"
        )
        return page_of(Delayed, "delayed", found, is_complete=is_complete)

    def dead(self) -> DeadLetters:
        """List the dead letters of a RedisBroker or RabbitMQ, newest first if nothing else is asked for."""
        found, is_complete = self._letters()
        return page_of(DeadLetters, "dead_letters", found, is_complete=is_complete)

    def causes(self) -> Causes:
        """Count the dead letters by cause and actor, the commonest first."""
        found, is_complete = self._letters()
        return page_of(Causes, "causes", causes(found), is_complete=is_complete)

    def history(self) -> Events:
        """List what happened to workers and messages, newest first: the last 10,000 events or so."""
        return page_of(Events, "events", choice.EventChoice.asked(request.args).of(self._board.tail.events()))

    def openapi(self) -> dict[str, Any]:
        """Describe this interface, as OpenAPI."""
        return description()

    def requeue(self, id: str, force: bool = False) -> Result | Refused:
        """Enqueue another copy of a message, with a clean count of crashes; every earlier copy is void."""
        return self._act("requeue", id, force)

    def dead_letter(self, id: str, force: bool = False) -> Result | Refused:
        """Send a message to the dead-letter queue."""
        return self._act("dead-letter", id, force)

    def discard(self, id: str, force: bool = False) -> Result | Refused:
        """Give a message up: no copy of it runs any more.  What is set aside, or is a dead letter, is deleted."""
        return self._act("discard", id, force)

    def requeue_letters(self, **chosen: Any) -> Bulk:
        """Enqueue all dead letters that match again.  It stops after ten seconds, and says if some are left."""
        return self._act_on_letters("requeue", **chosen)

    def discard_letters(self, **chosen: Any) -> Bulk:
        """Delete all dead letters that match for good.  It stops after ten seconds, and says if some are left."""
        return self._act_on_letters("discard", **chosen)

    def _letters(self) -> tuple[Sequence[DeadLetterView], bool]:
        return self._chosen(
            self._board.letters,
            choice.LETTER_SORTS,
            "Dead letters",
            "a RedisBroker or a RabbitMQ other than 4.0 to 4.2",
        )

    @staticmethod
    def _chosen(
        background: InBackground[Any], sorts: Mapping[str, str], what: str, brokers: str
    ) -> tuple[Sequence[Any], bool]:
        index = background.get(PATIENCE)
        if index is None:
            raise NotFound(f"{what} {CANNOT} {brokers}.")
        is_complete = index.is_complete and not background.is_reading  # first, since that may come in between
        asked = choice.LetterChoice.asked(request.args, sorts)
        return choice.sorted_letters(asked.choice.of(index.found), asked.order), is_complete

    def _act(self, action: str, id: str, force: bool) -> Result | Refused:
        done = self._can_act().on_message(action, id, force=force)
        if done in (Done.DONE, Done.BEGUN):
            return Result(id=id, done=done, text=ANSWERS[done])
        return Refused(error=ANSWERS[done], id=id, done=done)

    def _act_on_letters(
        self, action: str, *, ids: Sequence[str] = (), until: str = "", all: bool = False, **chosen: str
    ) -> Bulk:
        acts = self._can_act()
        if all == bool(ids or chosen):
            raise BadRequest(
                "all is given beside a choice; leave one of them out."
                if all
                else 'Nothing is chosen; give queue, actor, cause, text or ids, or {"all": true} for all dead letters.'
            )
        letters = Choice(**chosen, ids=frozenset(ids) or None, until=time_of(until))
        bulk = acts.on_letters(action, letters)
        if bulk is None:
            raise Conflict(SAID[409])
        return bulk

    def _can_act(self) -> Acts:
        if self._acts is None:
            raise Forbidden("This page only reads: it was made without operations (--allow-actions).")
        return self._acts


#: Why something cannot be seen; then comes from which brokers it can.
CANNOT = "cannot be seen from here: that takes the application's broker (--broker), and it must be"

QUEUE = text("queue", "Only those of this queue.")
ACTOR = text("actor", "Only those of this actor.")
INSTANCE = text("instance", "Only those on this instance (pod, container or host).")
DIRECTION = one_of("dir", "Which way; else as the page sorts that column.", ("asc", "desc"))
PAGE = number("page", "Which page, of 100 each.")
LETTERS = (
    QUEUE,
    ACTOR,
    text("cause", "Only those of this cause, as /dead/causes has it."),
    text("text", "Only those with this in their reason or traceback, in upper or lower case."),
    time("until", "Only those that were dead-lettered, or are due, by then."),
)
MESSAGE = (
    text("id", "The whole id of the message.", is_required=True),
    flag("force", "Also if it runs on a living worker: its run goes on, and changes nothing any more."),
)
CHOSEN = (
    *LETTERS,
    texts("ids", "Only these messages."),
    flag("all", "All dead letters; needed where nothing else chooses, but for until."),
)


def sort_of(sorts: Mapping[str, str]) -> Field:
    """Make the field for the order of a list."""
    return one_of("sort", f"By what; else {next(iter(sorts))}.", tuple(sorts))


@dataclass(frozen=True)
class Route:
    """An address after ``/api``, and what is asked of it.

    Parameters:
      run: Returns the answer; its text and its type are in the description.
      fields: Of the query; of the body if it changes something.
    """

    path: str
    run: Callable[..., Any]
    fields: tuple[Field, ...] = ()
    changes: bool = False


ROUTES = (
    Route("/overview", Api.overview),
    Route("/workers", Api.workers, (INSTANCE, one_of("state", "Only those in this state.", STATES), PAGE)),
    Route("/queues", Api.queues, (QUEUE, sort_of(choice.QUEUE_SORTS), DIRECTION, PAGE)),
    Route(
        "/messages",
        Api.messages,
        (
            text("text", "Only those with this in their id, names or note, in upper or lower case."),
            QUEUE,
            ACTOR,
            INSTANCE,
            one_of("state", "Only those in this state.", choice.STATES),
            span("older", "Only those that were started so long ago, or earlier: 90, 10m, 2h."),
            sort_of(choice.SORTS),
            DIRECTION,
            PAGE,
        ),
    ),
    Route(
        "/message",
        Api.message,
        (
            text("id", "The id of the message, or its beginning if that is of no other.", is_required=True),
            one_of("payload", "1: also the message itself, with its arguments.", ("0", "1")),
        ),
    ),
    Route("/aside", Api.aside, (PAGE,)),
    Route("/delayed", Api.delayed, (*LETTERS, sort_of(choice.DELAYED_SORTS), DIRECTION, PAGE)),
    Route("/dead", Api.dead, (*LETTERS, sort_of(choice.LETTER_SORTS), DIRECTION, PAGE)),
    Route("/dead/causes", Api.causes, (*LETTERS, PAGE)),
    Route(
        "/history",
        Api.history,
        (
            one_of(
                "kind",
                "Only events of this kind, or of this group.",
                (*choice.GROUPS, *(kind.value for kind in EventKind)),
            ),
            INSTANCE,
            text("message", "Only those of messages whose id is this, or begins so."),
            PAGE,
        ),
    ),
    Route("/openapi.json", Api.openapi),
    Route("/message/requeue", Api.requeue, MESSAGE, changes=True),
    Route("/message/dead-letter", Api.dead_letter, MESSAGE, changes=True),
    Route("/message/discard", Api.discard, MESSAGE, changes=True),
    Route("/dead/requeue", Api.requeue_letters, CHOSEN, changes=True),
    Route("/dead/discard", Api.discard_letters, CHOSEN, changes=True),
)


def install(app: Flask, board: Board, acts: Acts | None, token: str | None) -> None:
    """Add it to an application.

    Raises:
      ConfigurationError: The token is too short, or cannot be sent.
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise ConfigurationError(
            "api_token (PROCESSING_API_TOKEN) is too short, or has other characters than letters, digits and -._~+/; "
            "it must have 16 of these at least. openssl rand -hex 32 makes one."
        )
    api = Api(board, acts)

    @app.before_request
    def check_token() -> None:
        if not is_api():
            return
        if token is None:
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                raise Forbidden("No token is configured, so the JSON interface only reads. Nothing was done.")
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise Unauthorized(
                "The token is missing or wrong; send it as the header Authorization: Bearer TOKEN. Nothing was done.",
                www_authenticate=WWWAuthenticate("bearer"),
            )

    for route in ROUTES:
        app.add_url_rule(
            f"/api{route.path}",
            f"api{route.path}",
            functools.partial(_answer, api, route),
            methods=["POST" if route.changes else "GET"],
        )


def _answer(api: Api, route: Route) -> Response:
    check_query(() if route.changes else route.fields)
    said = route.run(api, **(body(route.fields) if route.changes else {}))
    status = said.status if isinstance(said, (Result, Refused)) else 200
    return Response(json.dumps(document(said)) + "\n", status, content_type="application/json")


@functools.cache
def description() -> dict[str, Any]:
    """Return the description of the interface."""
    found: dict[str, Any] = json.loads(OPENAPI.read_text("utf-8"))
    return found
