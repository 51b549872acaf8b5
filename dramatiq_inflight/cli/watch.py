# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``watch``: the overview, live, on the whole screen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..inspection.inspector import Inspector
from .failures import AWAY, Wrong, away
from .output import block, console_of
from .screen import Seen, draw
from .source import Source
from .status import notable
from .text import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["watch"]

#: The keys that end it; the last is Ctrl-D, which some try.
ENDS = ("q", "Q", "\x04")


@click.command(short_help="Watch it all live.")
@click.option("--interval", type=duration, default="1", show_default=True, help="How often to look, seconds.")
@click.pass_obj
def watch(source: Source, interval: float) -> None:
    """Watch it all live, on the whole screen.  q or Ctrl-C ends it; any other key looks at once.

    An outage of Redis is shown, and waited for.

    Exit code 2: there is no terminal here.
    """
    if not sys.stdout.isatty():
        raise Wrong('watch draws on a terminal, and there is none here; "status" prints the same once.')
    if interval < 0.1:
        raise Wrong(f"--interval is {interval:g}; it must be at least 0.1 seconds.")
    inspector = source.inspector
    console = console_of(sys.stdout)
    if console.is_dumb_terminal:
        raise Wrong('watch cannot draw on this terminal (TERM is dumb); "status" prints the same once.')
    seen = _look(inspector, console.height)
    try:
        _show(inspector, console, seen, interval)
    except KeyboardInterrupt:
        pass  # that is how it ends


def _look(inspector: Inspector, height: int) -> Seen:
    return Seen(
        inspector.namespace,
        inspector.overview(),
        inspector.messages(state="running", limit=height),
        notable(inspector, height),
    )


def _show(inspector: Inspector, console: Console, seen: Seen, interval: float) -> None:
    from rich.live import Live  # noqa: PLC0415 - the other commands do without

    from .keyboard import Keyboard  # noqa: PLC0415 - needs a terminal

    help = f"q ends    every {interval:g} s"
    trouble = ""

    def picture() -> RenderableType:
        drawn = draw(seen, console.width, console.height, help=help, trouble=trouble)
        return block(drawn)

    live = Live(picture(), console=console, screen=True, auto_refresh=False)
    with Keyboard() as keyboard:
        try:
            live.start(refresh=True)
            while keyboard.wait(interval) not in ENDS:
                try:
                    seen = _look(inspector, console.height)
                    trouble = ""
                except AWAY as error:
                    trouble = f"{away(error)}; trying again"
                live.update(picture(), refresh=True)
        finally:
            live.stop()  # also where Ctrl-C came while it began
