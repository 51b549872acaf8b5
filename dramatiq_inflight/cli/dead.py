# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``dead`` and ``purge``: the dead letters, whatever made them so."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from dramatiq import Broker

from ..inspection.inspector import Choice, DeadLetterView
from . import documents
from .failures import Wrong, not_done
from .output import Output, json_option
from .shapes import DEAD_LETTERS, dead_letter_rows
from .source import Source

__all__ = ["dead", "purge"]

#: How many queues and actors are named before it is asked.
NAMED = 20


def _choice(run: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose dead letters."""
    options: list[Callable[[Any], Any]] = [
        click.option("--queue", metavar="NAME", help="Only those of this queue."),
        click.option("--actor", metavar="NAME", help="Only those of this actor."),
        click.option("--text", default="", metavar="TEXT", help="Only those with this in their reason or traceback."),
    ]
    return functools.reduce(lambda made, option: option(made), reversed(options), run)


@click.command(short_help="List the dead letters.")
@_choice
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="So many at the most; 0: all."
)
@json_option
@click.pass_obj
def dead(source: Source, *, queue: str | None, actor: str | None, text: str, limit: int, as_json: bool) -> None:
    """List the dead letters of a RedisBroker or RabbitMQ, newest first, with the reason of each.

    "show ID" has the traceback; "requeue ID" enqueues one again; "discard ID" and "purge" delete.

    Exit code 0, whether there are any or not.
    """
    out = Output(as_json=as_json)
    found = _found(source, Choice(queue, actor, text), "dead")
    shown = found[: limit or None]
    if as_json:
        out.json({"total": len(found), "dead_letters": [documents.view(view) for view in shown]})
        return
    if shown:
        out.table(DEAD_LETTERS, dead_letter_rows(shown, datetime.now(UTC)))
    else:
        out.note("There are none.")
    if len(shown) < len(found):
        out.note(f"... and {len(found) - len(shown)} more; --limit 0 shows all")


@click.command(short_help="Delete dead letters.")
@_choice
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def purge(source: Source, *, queue: str | None, actor: str | None, text: str, yes: bool, as_json: bool) -> None:
    """Delete all dead letters that match, after it has said how many there are.

    They are gone for good.

    Exit code 1: it was not confirmed.
    """
    out = Output(as_json=as_json)
    operations = source.operations("purge")
    choice = Choice(queue, actor, text)
    _check(operations.broker, choice)
    if not yes:
        if not sys.stdin.isatty():
            raise Wrong("purge asks first, and there is no terminal to ask at; give --yes.")
        found = _found(source, choice, "purge")
        for (of_queue, of_actor), number in Counter((view.queue, view.actor) for view in found).most_common(NAMED):
            out.note(f"  {number:6}  queue {of_queue}, actor {of_actor or '?'}")
        if not found:
            out.note("There are none.")
            return
        if not click.confirm(f"delete {len(found)} dead letter{'s' * (len(found) != 1)} for good?", err=True):
            raise not_done()
    purged = operations.purge(choice)
    if purged is None:
        raise _cannot("purge")
    if as_json:
        out.json({"purged": purged})
    else:
        out.line(f"{purged} dead letter{'s' * (purged != 1)} deleted")


def _found(source: Source, choice: Choice, what: str) -> list[DeadLetterView]:
    if source.broker is None:
        raise Wrong(
            f"{what} looks into the broker's dead-letter queues, which a Redis URL does not tell; "
            "give --broker MODULE, as to dramatiq."
        )
    _check(source.broker, choice)
    found = source.inspector.dead_letters(choice)
    if found is None:
        raise _cannot(what)
    return found


def _check(broker: Broker, choice: Choice) -> None:
    known = broker.get_declared_queues()
    if choice.queue is not None and choice.queue not in known:
        raise Wrong(f"There is no queue {choice.queue!r}; the application has {', '.join(sorted(known)) or 'none'}.")


def _cannot(what: str) -> Wrong:
    return Wrong(
        f"{what} cannot look into this broker's dead-letter queues; it can with a RedisBroker, and with RabbitMQ "
        "except 4.0 to 4.2, which count each look."
    )
