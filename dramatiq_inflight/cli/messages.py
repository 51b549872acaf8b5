# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``list`` and ``show``: the messages in flight, and all that is known of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from ..inspection.documents import Details, details, document
from ..inspection.inspector import Aside, DeadLetterView, Inspector, MessageView
from ..inspection.views import IN_FLIGHT
from .failures import not_done
from .listing import limit_option, listing, note_rest
from .output import Output, json_option
from .shapes import ASIDES, EVENTS, MESSAGES, aside_rows, event_rows, message_rows, process, state_of
from .source import Source
from .table import Cell
from .text import age, duration, when

__all__ = ["list_messages", "show"]

ASIDE = "aside"

#: By what messages can be sorted; the first is the one that is oldest, or worst.
ORDERS: dict[str, Callable[[MessageView], Any]] = {
    "age": lambda view: -view.age,
    "crashes": lambda view: -view.crashes,
    "run": lambda view: -view.run,
    "queue": lambda view: (view.queue, view.actor),
    "actor": lambda view: (view.actor, view.queue),
    "instance": lambda view: (view.instance, view.worker),
    "state": lambda view: view.state,
    "id": lambda view: view.id,
}

#: How many events ``show`` tells of one message.
EVENTS_SHOWN = 100


@click.command("list", short_help="List the messages that run, or wait.")
@click.option("--instance", metavar="NAME", help="Only messages on this instance (pod, container or host).")
@click.option("--worker", metavar="ID", help="Only messages of this worker process.")
@click.option("--queue", metavar="NAME", help="Only messages of this queue.")
@click.option("--actor", metavar="NAME", help="Only messages of this actor.")
@click.option("--state", type=click.Choice([*sorted(IN_FLIGHT), ASIDE]), help="Only messages in this state.")
@click.option("--older-than", type=duration, help="Only messages that started so long ago, or earlier: 90, 10m, 2h.")
@click.option("--sort", type=click.Choice(list(ORDERS)), default="age", show_default=True, help="The order.")
@limit_option
@json_option
@click.pass_obj
def list_messages(source: Source, /, sort: str, limit: int, as_json: bool, **filters: Any) -> None:
    """List the messages that run, or wait to be recovered; oldest first.

    "--state aside" lists those that could not be read or decoded, and are kept whole.

    Exit code 0, whether there are any or not.
    """
    out = Output(as_json=as_json)
    inspector = source.inspector
    if filters["state"] == ASIDE:
        _list_aside(out, inspector, limit, **filters)
        return
    found = inspector.messages(**filters)
    found.sort(key=lambda view: (ORDERS[sort](view), -view.age, view.id))
    listing(out, "messages", found, limit, (MESSAGES, message_rows))


@click.command(short_help="Show all that is known of one message.")
@click.argument("id")
@click.option("--payload", is_flag=True, help="Also the message itself, with its arguments: your users' data.")
@json_option
@click.pass_obj
def show(source: Source, id: str, payload: bool, as_json: bool) -> None:
    """Show all that is known of one message, and its history.

    Nothing is known of a message that is queued, or is complete and was run but once.

    Exit code 1: nothing is known of it.
    """
    out = Output(as_json=as_json)
    inspector = source.inspector
    id = source.message_id(id)
    view = inspector.message(id)
    aside = next((one for one in inspector.aside() if one.id == id), None)
    events = inspector.history(message_id=id, limit=EVENTS_SHOWN)
    data = inspector.payload(id) if payload else None
    dead = inspector.dead_letter(id) if view is not None and view.state == "dead_lettered" else None
    if as_json:
        known = Details(message=view, dead_letter=dead, history=events)
        out.json(document(details(known, data) if payload else known))
    elif view is None:
        out.note("Nothing is known of it now: it may be queued, or complete.")
    else:
        out.fields(_fields(view, dead, aside))
    if not as_json:
        if events:
            out.line("")
            out.table(EVENTS, event_rows(events, short=out.terminal))
        if dead is not None and dead.traceback:
            out.line("")
            for line in dead.traceback.splitlines():
                out.line(line)
        if payload:
            out.line("")
            out.line(Cell("payload", "bold"))
            for line in _payload_lines(data):
                out.line(line)
    if view is None:
        raise not_done()


def _fields(view: MessageView, dead: DeadLetterView | None, aside: Aside | None) -> list[tuple[str, Cell]]:
    alive = "alive" if view.worker_alive else "not alive"
    limit = "no limit" if view.max_recoveries is None else str(view.max_recoveries)
    fields = [
        ("id", Cell(view.id)),
        ("state", state_of(view)),
        ("queue", Cell(view.queue or "?")),
        ("actor", Cell(view.actor or "?")),
    ]
    if dead is not None:
        fields += [
            ("dead-lettered", Cell(f"{when(dead.at)} UTC" if dead.at else "-")),
            ("reason", Cell(dead.reason, "red")),
        ]
    if aside is not None:
        where = "Redis keeps it whole: requeue it once it can be decoded, or discard it"
        if view.state != "aside":
            where = "an earlier record of it; the broker had the message as well, and that copy is the one above"
        fields += [
            ("set aside", Cell(f"{when(aside.at)} UTC; {where}" if aside.at else where)),
            ("reason", Cell(aside.reason or "not known any more", "red")),
        ]
    if not view.run:
        return fields  # there is no record of it
    fields += [
        ("instance", Cell(process(view.instance, view.pid) or "-")),
        ("worker", Cell(f"{view.worker} ({alive})" if view.worker else "-")),
        ("started", Cell(f"{when(view.started)} UTC, {age(view.age)} ago" if view.started else "-")),
        ("first started", Cell(f"{when(view.first_started)} UTC" if view.first_started else "-")),
        ("run", Cell(str(view.run))),
        ("generation", Cell(str(view.generation))),
        ("crashes", Cell(f"{view.crashes} (max_recoveries: {limit})", "red" if view.crashes else "")),
        ("shutdowns", Cell(str(view.drains))),
        ("alone", Cell("yes: one more crash dead-letters it" if view.alone else "no")),
    ]
    if view.checkpointed is not None:
        done = "" if view.progress is None else f", {view.progress:.0%} done"
        said = f": {view.note}" if view.note else ""
        fields.append(("checkpoint", Cell(f"{when(view.checkpointed)} UTC{done}{said}")))
    if view.due is not None:
        fields.append(("due", Cell(f"{when(view.due)} UTC: recovery sees to it, if it has not started by then")))
    return fields


def _list_aside(
    out: Output, inspector: Inspector, limit: int, *, queue: str | None, actor: str | None, **others: Any
) -> None:
    if any(others[name] is not None for name in ("instance", "worker", "older_than")):
        raise click.UsageError("--state aside goes with --queue and --actor only: what is set aside has no worker.")
    found = [one for one in inspector.aside() if queue in (None, one.queue) and actor in (None, one.actor)]
    shown = found[: limit or None]
    views = [inspector.message(one.id) for one in shown]
    states = [ASIDE if view is None else view.state for view in views]
    if out.as_json:
        said = [{**document(one), "state": state} for one, state in zip(shown, states, strict=True)]
        out.json({"total": len(found), "messages": said})
    elif shown:
        out.table(ASIDES, aside_rows(shown, states))
        if set(states) != {ASIDE}:
            out.note("Where another state is given, the broker had the message as well, and that copy runs or has run.")
    else:
        out.note("There are none.")
    if not out.as_json:
        note_rest(out, found, shown)


def _payload_lines(data: bytes | None) -> list[str]:
    if data is None:
        return ["There is none."]
    try:
        return json.dumps(json.loads(data), indent=2, ensure_ascii=False).splitlines()
    except ValueError:
        return [data.decode(errors="backslashreplace")]
