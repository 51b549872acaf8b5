# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The pages, which only read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from dramatiq.errors import ConnectionClosed
from flask import Flask, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from ..inspection.dead_letters import DeadLetterView
from ..inspection.delayed import DelayedView
from ..inspection.history import Event, revivals
from ..inspection.inspector import MessageView, QueueView
from . import charts, choice, sheet, timeline
from .board import Board, Instance
from .headers import FRAGMENT
from .payload import CAP, pretty
from .words import ACTIONS, zone

__all__ = ["actions_for", "install", "show"]


#: How many worker processes are shown, by instance.
IN_FULL = 60

#: So few instances, and those with trouble, where there are more; the others as a name and a number.
FEW = 8

#: How many instances are shown at all.
AT_ALL = 2000

#: The last events on the overview.
LATEST = 8

#: How many causes of dead letters are shown.
CAUSES = 20

#: For how long the overview shows false alarms.
A_DAY = timedelta(days=1)


def show(template: str, **values: Any) -> Response:
    """A page, or its changing part alone, if that is asked for."""
    layout = "fragment.html" if FRAGMENT in request.headers else "page.html"
    return make_response(render_template(template, layout=layout, **values))


def show_list(template: str, view: type[Any], found: Sequence[Any], **values: Any) -> Response:
    """A page with a hundred of what was found; or all of that as comma-separated values, if they are asked for.

    Parameters:
      view: The class of what was found.
    """
    if sheet.is_wanted():
        return sheet.as_csv(request.endpoint or "", view, found)
    return show(template, **choice.paged(found), **values)


def actions_for(view: MessageView) -> list[str]:
    """Return the actions on a message in its state."""
    if view.state == "aside":
        return ["requeue", "discard"]
    if view.state == "dead_lettered":
        return ["requeue", "discard"]
    return list(ACTIONS) if view.state in choice.STATES else []


def in_full(instances: Sequence[Instance]) -> int:
    """Return how many instances are shown with all their processes; those with trouble come first."""
    if sum(len(one.workers) for one in instances) <= IN_FULL:
        return len(instances)
    shown = rows = 0
    for one in instances:
        rows += len(one.workers)
        if rows > IN_FULL or (shown >= FEW and not one.has_trouble):
            break
        shown += 1
    return max(1, shown)


def causes_of(causes: Iterable[str]) -> dict[str, Any]:
    """The commonest causes, as the templates know them."""
    counted = Counter(causes)
    return {"causes": counted.most_common(CAUSES), "more_causes": max(0, len(counted) - CAUSES)}


def _read_so_far(index: Any) -> tuple[bool, Any]:
    """Return whether all of an index is read, and what is; in this order, since that may come in between."""
    return (True, []) if index is None else (index.is_complete, index.found)


def install(app: Flask, board: Board) -> None:
    """Add them to an application."""
    tail = board.tail

    @app.get("/")
    def overview() -> ResponseReturnValue:
        seen = board.overview()
        events = tail.events()
        instances = board.instances(seen)
        full = in_full(instances)
        return show(
            "overview.html",
            seen=seen,
            dead=len(seen.workers) - seen.alive,
            in_full=instances[:full],
            compact=instances[full:AT_ALL],
            left_out=max(0, len(instances) - AT_ALL),
            instances=len(instances),
            board=board,
            timeline=timeline.draw(events, seen.workers, seen.at, choice.hours()),
            hours=list(timeline.HOURS),
            charts=charts.draw(board.minutes(), events),
            latest=events[:LATEST],
            poison=len(tail.troubled()) if (letters := board.count_dead_letters()) is None else letters,
            revivals=[one for one in revivals(events) if one.at > seen.at - A_DAY],
            tail=tail,
        )

    @app.get("/queues")
    def queues() -> ResponseReturnValue:
        order = choice.Order.asked(request.args, choice.QUEUE_SORTS, tuple(choice.QUEUE_SORTS)[1:])
        found = board.queues()
        queues = None if found is None else choice.sorted_queues(found, order)
        chosen = next((queue.name for queue in queues or () if queue.name == request.args.get("queue")), None)
        return show_list(
            "queues.html",
            QueueView,
            queues or (),
            queues=queues,
            chosen=chosen,
            charts=charts.draw(board.minutes(chosen), tail.events(), chosen) if chosen else [],
            order=order,
            sorts=choice.QUEUE_SORTS,
        )

    @app.get("/messages")
    def messages() -> ResponseReturnValue:
        views = board.messages()
        chosen = choice.MessageChoice.asked(request.args)
        return show_list(
            "messages.html",
            MessageView,
            chosen.of(views),
            chosen=chosen,
            everything=len(views),
            sorts=choice.SORTS,
            states=choice.STATES,
            queues=sorted({view.queue for view in views}),
            actors=sorted({view.actor for view in views}),
            names=sorted({view.instance for view in views if view.instance})[:AT_ALL],
        )

    @app.get("/message")
    def message() -> ResponseReturnValue:
        id = request.args.get("id", "")
        if not id:
            raise NotFound
        if (whole := board.whole_id(id)) != id:
            return redirect(url_for("message", id=whole))
        view = board.inspector.message(id)
        events = tail.of_message(id)
        raw = None
        wanted = request.args.get("payload") == "1" and FRAGMENT not in request.headers
        if wanted:
            raw = board.inspector.payload(id)
        # Only that it was done: a link cannot make the page say anything else.
        said = ACTIONS.get(request.args.get("done", ""))
        if view is None and not events and not raw and not said:
            raise NotFound
        text, cut = pretty(raw) if raw else ("", False)
        dead = board.inspector.dead_letter(id) if view is not None and view.state == "dead_lettered" else None
        return show(
            "message.html",
            id=id,
            view=view,
            dead=dead,
            events=events,
            wanted=wanted,
            payload=text,
            size=len(raw or b""),
            cap=CAP if cut else 0,
            actions={name: ACTIONS[name] for name in (actions_for(view) if view else [])},
            said=said,
            tail=tail,
        )

    @app.get("/delayed")
    def delayed() -> ResponseReturnValue:
        index = board.delayed.get()
        chosen = choice.LetterChoice.asked(request.args, choice.DELAYED_SORTS)
        is_complete, everything = _read_so_far(index)
        found = choice.sorted_letters(chosen.choice.of(everything), chosen.order)
        return show_list(
            "delayed.html",
            DelayedView,
            found,
            sorts=choice.DELAYED_SORTS,
            chosen=chosen,
            **causes_of(view.cause for view in found if view.cause),
            everything=everything,
            can_see=index is not None,
            is_complete=is_complete,
            queues=sorted({view.queue for view in everything}),
            actors=sorted({view.actor for view in everything}),
            now=datetime.now(UTC),
        )

    @app.get("/dead")
    def dead() -> ResponseReturnValue:
        try:
            index = board.letters.get()
        except ConnectionClosed:
            index = None  # RabbitMQ is away: what the history knows is worth showing
        chosen = choice.LetterChoice.asked(request.args)
        is_complete, everything = _read_so_far(index)
        found = choice.sorted_letters(chosen.choice.of(everything), chosen.order)
        aside = board.inspector.aside()
        return show_list(
            "dead.html",
            DeadLetterView if index is not None else Event,
            found if index is not None else tail.troubled(),
            sorts=choice.LETTER_SORTS,
            chosen=chosen,
            everything=everything,
            is_complete=is_complete,
            expected=0 if is_complete else board.count_dead_letters() or 0,
            **causes_of(view.cause for view in found),
            queues=sorted({view.queue for view in everything}),
            actors=sorted({view.actor for view in everything}),
            now=datetime.now(UTC),
            from_history=index is None,
            aside=aside[: choice.PER_PAGE],
            aside_total=len(aside),
            aside_shown=choice.PER_PAGE,
        )

    @app.get("/history")
    def history() -> ResponseReturnValue:
        events = tail.events()
        chosen = choice.EventChoice.asked(request.args)
        found = chosen.of(events)
        return show_list(
            "history.html",
            Event,
            found,
            chosen=chosen,
            everything=len(events),
            groups=choice.GROUPS,
            kinds=chosen.kinds(),
            names=sorted({event.instance for event in events if event.instance})[:AT_ALL],
            tail=tail,
        )

    app.jinja_env.globals.update(
        message_url=lambda id, **more: url_for("message", id=id, **more),
        chart_height=charts.HEIGHT,
        csv_query=_csv_query,
        zone=zone,
    )


def _csv_query() -> str:
    """The query for all that the present list has, as comma-separated values."""
    asked = [(name, value) for name, value in request.args.items(multi=True) if name not in ("page", "format")]
    return "?" + urlencode([*asked, ("format", "csv")])
