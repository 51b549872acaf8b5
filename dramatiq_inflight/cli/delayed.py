# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``delayed``: what waits for its time, and why the last attempt failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from .dead import choice_of, choice_options
from .failures import Wrong
from .listing import limit_option, listing
from .output import Output, json_option
from .shapes import DELAYED, delayed_rows
from .source import Source

__all__ = ["delayed"]


@click.command(short_help="List the delayed messages, retries included.")
@choice_options
@click.option("--retries", is_flag=True, help="Only messages that have failed before.")
@limit_option
@json_option
@click.pass_obj
def delayed(source: Source, /, retries: bool, limit: int, as_json: bool, **filters: Any) -> None:
    """List what waits for its time in a RedisBroker's queues, with the attempt and why the last one failed.

    The message that is due soonest comes first.

    Exit code 0, whether there is anything or not.
    """
    out = Output(as_json=as_json)
    choice = choice_of(source, "delayed", **filters)
    found = source.inspector.delayed(choice)
    if found is None:
        raise Wrong(
            "delayed cannot ask this broker; it can ask a RedisBroker. RabbitMQ shows nobody what workers hold."
        )
    found = [view for view in found if view.attempt > 1 or not retries]
    now = datetime.now(UTC)
    listing(out, "delayed", found, limit, (DELAYED, lambda shown: delayed_rows(shown, now)))
