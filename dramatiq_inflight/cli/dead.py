# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``dead``: the dead letters, whatever made them so."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from dramatiq import Broker

from ..inspection.documents import causes as causes_of
from ..inspection.documents import document
from ..inspection.inspector import Choice, DeadLetterView
from ..operations import Bulk, Done
from .act import SENTENCES
from .failures import Wrong, not_done
from .listing import limit_option, listing
from .output import Output, json_option
from .shapes import CAUSES, DEAD_LETTERS, cause_rows, dead_letter_rows
from .source import Source

__all__ = ["choice_of", "choice_options", "dead"]

#: How many queues and actors, and how many causes, are named before it is asked.
NAMED = 20


def choice_options(run: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose dead letters, or delayed messages."""
    options: list[Callable[[Any], Any]] = [
        click.option("--queue", metavar="NAME", help="Only dead letters of this queue."),
        click.option("--actor", metavar="NAME", help="Only dead letters of this actor."),
        click.option("--cause", metavar="CAUSE", help='Only dead letters of this cause, as "dead causes" has it.'),
        click.option(
            "--text", default="", metavar="TEXT", help="Only dead letters with this text in their reason or traceback."
        ),
    ]
    return functools.reduce(lambda made, option: option(made), reversed(options), run)


def _confirmed(run: Callable[..., None]) -> Callable[..., None]:
    """Add the options of what changes something."""
    return choice_options(
        click.option("--yes", "-y", is_flag=True, help="Do not ask.")(json_option(click.pass_obj(run)))
    )


@click.group(short_help="List the dead letters, requeue or purge them.", invoke_without_command=True)
@choice_options
@limit_option
@json_option
@click.pass_context
def dead(ctx: click.Context, /, limit: int, as_json: bool, **filters: Any) -> None:
    """List the dead letters of a RedisBroker or RabbitMQ, newest first, with the reason of each.

    "show ID" has the traceback, "dead causes" counts them; "requeue ID" and "discard ID" act on one.

    Exit code 0, whether there are any or not.
    """
    if ctx.invoked_subcommand is not None:
        if any(filters.values()):
            raise click.UsageError(f"Options that choose come after {ctx.invoked_subcommand}.")
        return
    out = Output(as_json=as_json)
    found = _found(ctx.obj, choice_of(ctx.obj, "dead", **filters), "dead")
    now = datetime.now(UTC)
    listing(out, "dead_letters", found, limit, (DEAD_LETTERS, lambda shown: dead_letter_rows(shown, now)))


@dead.command(short_help="Count the dead letters by cause.")
@choice_options
@json_option
@click.pass_obj
def causes(source: Source, /, as_json: bool, **filters: Any) -> None:
    """Count the dead letters by cause: the reason without numbers and quoted texts.  The commonest comes first.

    Exit code 0, whether there are any or not.
    """
    out = Output(as_json=as_json)
    found = _found(source, choice_of(source, "dead causes", **filters), "dead causes")
    counted = causes_of(found)
    if as_json:
        out.json({"causes": document(counted)})
    elif counted:
        out.table(CAUSES, cause_rows(counted))
    else:
        out.note("There are none.")


@dead.command(short_help="Enqueue dead letters again.")
@_confirmed
def requeue(source: Source, /, yes: bool, as_json: bool, **filters: Any) -> None:
    """Enqueue all dead letters that match again, after it has said how many there are.

    Each begins with no retries.  A message that fails again meanwhile is not taken twice.

    Exit code 1: that was not done for each of them, or it was not confirmed.
    """
    _act(source, "requeue", "enqueued again", Choice(**filters), yes=yes, as_json=as_json)


@dead.command(short_help="Delete dead letters.")
@_confirmed
def purge(source: Source, /, yes: bool, as_json: bool, **filters: Any) -> None:
    """Delete all dead letters that match for good, after it has said how many there are.

    Exit code 1: it was not confirmed.
    """
    _act(source, "purge", "deleted", Choice(**filters), yes=yes, as_json=as_json)


def _act(source: Source, verb: str, past: str, choice: Choice, *, yes: bool, as_json: bool) -> None:
    out = Output(as_json=as_json)
    operations = source.operations(f"dead {verb}")
    _check(operations.broker, choice)
    # Letters that come after this moment were not asked about.
    choice = replace(choice, until=datetime.now(UTC))
    if not yes and not _ask(out, _found(source, choice, f"dead {verb}"), verb):
        return
    act = operations.purge if verb == "purge" else operations.requeue_dead_letters
    bulk = act(choice)
    if bulk is None:
        raise _cannot(f"dead {verb}")
    if as_json:
        out.json(document(bulk))
    else:
        out.line(f"{_letters(bulk.number)} {past}")
        for done, number in bulk.done.items():
            if done is not Done.DONE:
                out.line(f"{_letters(number)}: {SENTENCES[done]}")
    if not _is_done(bulk):
        raise not_done()


def _ask(out: Output, found: list[DeadLetterView], verb: str) -> bool:
    if not sys.stdin.isatty():
        raise Wrong(f"dead {verb} asks first, and there is no terminal to ask at; give --yes.")
    if not found:
        out.note("There are none.")
        return False
    for (queue, actor), number in Counter((view.queue, view.actor) for view in found).most_common(NAMED):
        out.note(f"  {number:6}  queue {queue}, actor {actor or '?'}")
    for cause, number in Counter(view.cause for view in found).most_common(NAMED):
        out.note(f"  {number:6}  {cause}")
    what = f"{verb} {_letters(len(found))}{' for good' * (verb == 'purge')}?"
    if not click.confirm(what, err=True):
        raise not_done()
    return True


def _is_done(bulk: Bulk) -> bool:
    return bulk.is_complete and set(bulk.done) <= {Done.DONE}


def _letters(number: int) -> str:
    return f"{number} dead letter{'s' * (number != 1)}"


def choice_of(source: Source, what: str, **filters: Any) -> Choice:
    """Return what was chosen, if the application is there and has such a queue."""
    if source.broker is None:
        raise Wrong(f"{what} looks into the broker's queues, which a Redis URL does not tell; give --broker MODULE.")
    choice = Choice(**filters)
    _check(source.broker, choice)
    return choice


def _found(source: Source, choice: Choice, what: str) -> list[DeadLetterView]:
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
        "except 4.0 to 4.2, which count each look. Or somebody else acts on them just now."
    )
