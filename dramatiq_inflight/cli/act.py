# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``requeue``, ``dead-letter`` and ``discard``: what an operator does about messages."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..inspection.inspector import Inspector
from ..operations import Done, Operations
from .failures import Wrong, not_done
from .output import Output, json_option
from .shapes import process
from .source import Source
from .table import Cell
from .text import age, clean

__all__ = ["SENTENCES", "dead_letter", "discard", "requeue"]

#: The result in words; that of `DONE` depends on the command.
SENTENCES = {
    Done.DONE: "done",
    Done.ALIVE: "not changed: it runs on a living worker; with --force the result of that run is ignored",
    Done.BUSY: "left alone: somebody recovers it just now; try again",
    Done.SETTLED: "nothing to do: it is complete, or its retry or its dead letter is with the broker",
    Done.QUEUED: "nothing to do: it was requeued before, and that copy waits in its queue",
    Done.REQUEUED: "nothing to do: it was requeued before, and that copy has run, or is with its broker",
    Done.UNKNOWN: "nothing is known of it: it may be queued, or complete",
    Done.UNREADABLE: "its payload cannot be decoded: it is set aside whole; see list --state aside",
    Done.BEGUN: "begun: it is taken, and its copy is enqueued by the workers' recovery once the broker can be reached",
    Done.ELSEWHERE: "it is in a dead-letter queue that cannot be reached from here; use the broker's own means",
    Done.STRANGE: "left alone: the application at --broker does not declare its queue or its actor",
}

#: How many messages are shown before it is asked.
ASKED_ABOUT = 20


def _command(run: Callable[..., None]) -> Callable[..., None]:
    """The options that all three have."""
    options: list[Callable[[Any], Any]] = [
        click.argument("ids", metavar="ID...", nargs=-1, required=True),
        click.option("--yes", "-y", is_flag=True, help="Do not ask."),
        click.option(
            "--force",
            is_flag=True,
            help="Also take a message that runs on a living worker: its run goes on, and changes nothing.",
        ),
        json_option,
        click.pass_obj,
    ]
    return functools.reduce(lambda made, option: option(made), reversed(options), run)


@click.command(short_help="Enqueue messages again.")
@_command
def requeue(source: Source, ids: Sequence[str], **options: Any) -> None:
    """Enqueue messages again, with a clean count of crashes; every earlier copy is void.

    Also those that were set aside, if they can be decoded by now, and, with a RedisBroker or RabbitMQ, those that were
    dead-lettered.

    Exit code 1: that was not done for each of them.
    """
    _act(source, ids, Operations.requeue, "requeue", "enqueued again", **options)


@click.command("dead-letter", short_help="Send messages to the dead-letter queue.")
@_command
def dead_letter(source: Source, ids: Sequence[str], **options: Any) -> None:
    """Send messages to the dead-letter queue.

    Exit code 1: that was not done for each of them.
    """
    _act(source, ids, Operations.dead_letter, "dead-letter", "on its way to the dead-letter queue", **options)


@click.command(short_help="Give messages up.")
@_command
def discard(source: Source, ids: Sequence[str], **options: Any) -> None:
    """Give messages up: no copy of them runs any more.  A message that was set aside is deleted.

    Exit code 1: that was not done for each of them.
    """
    _act(source, ids, Operations.discard, "discard", "given up: no copy of it runs any more", **options)


def _act(
    source: Source,
    ids: Sequence[str],
    action: Callable[..., Done],
    verb: str,
    success: str,
    *,
    yes: bool,
    force: bool,
    as_json: bool,
) -> None:
    operations = source.operations(verb)
    out = Output(as_json=as_json)
    ids = list(dict.fromkeys(source.message_id(id, to_change=True) for id in ids))
    if not yes:
        _ask(out, operations.inspector, ids, verb, force=force)
    results: list[dict[str, str]] = []
    try:
        for id in ids:
            done = action(operations, id, force=force)
            text = success if done is Done.DONE else SENTENCES[done]
            results.append({"id": id, "done": done.value, "text": text})
            if not as_json:
                out.line(f"{id}: ", Cell(text, "green" if done is Done.DONE else "yellow"))
    finally:
        if as_json:  # also if Redis is away in the middle: what was done is done
            out.json({"results": results})
    if any(result["done"] != Done.DONE.value for result in results):
        raise not_done()


def _ask(out: Output, inspector: Inspector, ids: Sequence[str], verb: str, *, force: bool) -> None:
    if not sys.stdin.isatty():
        raise Wrong(f"{verb} asks first, and there is no terminal to ask at; give --yes.")
    for id in ids[:ASKED_ABOUT]:
        view = inspector.message(id)
        if view is None:
            out.note(f"  {id}  nothing is known of it")
            continue
        what = f"  {id}  {view.state}, actor {view.actor or '?'}, queue {view.queue or '?'}"
        if view.started:
            what += f", started {age(view.age)} ago"
        if view.state == "running" and view.worker_alive:
            what += f", on {process(view.instance, view.pid)}, which lives{': its run will be void' if force else ''}"
        out.note(what)
    if len(ids) > ASKED_ABOUT:
        out.note(f"  ... and {len(ids) - ASKED_ABOUT} more")
    what = f"message {clean(ids[0])}" if len(ids) == 1 else f"these {len(ids)} messages"
    if not click.confirm(f"{verb} {what}?", err=True):
        raise not_done()
