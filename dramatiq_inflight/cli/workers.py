# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The command ``workers``, which lists the worker processes."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from ..inspection.documents import STATES, document
from .output import Output, json_option
from .shapes import WORKERS, worker_rows
from .source import Source

__all__ = ["workers"]


@click.command(short_help="Show the worker processes.")
@click.option("--instance", metavar="NAME", help="Only those of this instance (pod, container or host).")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@json_option
@click.pass_obj
def workers(source: Source, instance: str | None, state: str | None, as_json: bool) -> None:
    """Show the worker processes that live, or whose death is not recovered yet.

    Exit code 0, whether there are any or not.
    """
    out = Output(as_json=as_json)
    views = [
        view for view in source.inspector.workers() if instance in (None, view.instance) and state in (None, view.state)
    ]
    if as_json:
        out.json({"workers": document(views)})
    elif views:
        out.table(WORKERS, worker_rows(views, datetime.now(UTC)))
    else:
        out.note("There are none.")
