# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``healthcheck``: whether a worker of this container is alive, for probes in images that have no shell."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..config.settings import load_settings
from .failures import Wrong, not_done
from .output import Output, json_option
from .text import age, duration

__all__ = ["healthcheck"]


@click.command(short_help="Tell if a worker of this container is alive.")
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The file that workers touch; else the setting health_file of this environment (PROCESSING_HEALTH_FILE).",
)
@click.option("--max-age", type=duration, default="5m", show_default=True, help="How old it may be: 90, 5m.")
@json_option
def healthcheck(file: Path | None, max_age: float, as_json: bool) -> None:
    """Tell if a worker of this container is alive: it touches a file at each heartbeat that has reached Redis.

    It asks neither Redis nor the application, so no probe fails because Redis is away for less than --max-age.

    Exit code 1: the file is too old, or is not there.
    """
    out = Output(as_json=as_json)
    file = file or load_settings({}).health_file
    if file is None:
        raise Wrong(
            "Nothing says which file to look at; set PROCESSING_HEALTH_FILE, as for the worker, or give --file."
        )
    try:
        seconds = max(0.0, time.time() - file.stat().st_mtime)
    except OSError:
        seconds = None
    healthy = seconds is not None and seconds <= max_age
    if as_json:
        out.json({"healthy": healthy, "file": str(file), "age": seconds})
    elif seconds is None:
        out.line(f"not healthy: {file} is not there")
    else:
        out.line(f"{'healthy' if healthy else 'not healthy'}: the last heartbeat was {age(seconds)} ago")
    if not healthy:
        raise not_done()
