# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``queues``: how much each queue has, and how quickly that comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..inspection.documents import document
from ..inspection.inspector import QueueView
from .failures import Wrong
from .output import Output, json_option
from .shapes import QUEUES, queue_rows
from .source import Source

__all__ = ["queues"]

#: By what queues can be sorted; the first is the fullest, or the one that waits longest.
ORDERS: dict[str, Callable[[QueueView], Any]] = {
    "name": lambda queue: queue.name,
    "depth": lambda queue: -queue.depth,
    "oldest": lambda queue: -(queue.oldest or 0.0),
    "dead": lambda queue: -queue.dead_letters,
}


@click.command(short_help="Show the queues.")
@click.option("--sort", type=click.Choice(list(ORDERS)), default="name", show_default=True, help="The order.")
@json_option
@click.pass_obj
def queues(source: Source, sort: str, as_json: bool) -> None:
    """Show the queues of a RedisBroker or RabbitMQ: how much each has, and how quickly that comes and goes.

    IN and OUT are messages a second over the last one or two minutes, as the workers have reported.

    Exit code 0, whatever there is to see.
    """
    out = Output(as_json=as_json)
    if source.broker is None:
        raise Wrong("queues asks the application's broker, which a Redis URL does not tell; give --broker MODULE.")
    found = source.inspector.queues()
    if found is None:
        raise Wrong("queues cannot ask this broker; it can ask a RedisBroker and RabbitMQ.")
    found.sort(key=lambda queue: (ORDERS[sort](queue), queue.name))
    if as_json:
        out.json({"queues": document(found)})
    elif found:
        out.table(QUEUES, queue_rows(found))
    else:
        out.note("There are none.")
