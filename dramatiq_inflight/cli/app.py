# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The command line as a whole: the options before the command, and the commands."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..version import __version__
from .act import dead_letter, discard, requeue
from .dead import dead
from .delayed import delayed
from .doctor import doctor
from .effects import effects
from .failures import Group
from .healthcheck import healthcheck
from .history import history
from .messages import list_messages, show
from .queues import queues
from .recover import recover
from .serve import dashboard, exporter
from .source import Source
from .status import status
from .watch import watch
from .workers import workers

__all__ = ["cli"]

EPILOG = """\b
Exit codes: 0 fine; 1 not found, nothing done, or something to see to (see each command); 2 called or configured
wrongly; 3 Redis cannot be reached.
"""


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--broker",
    metavar="MODULE[:VARIABLE]",
    help="The application's broker, as dramatiq takes it: app.tasks, app.tasks:broker, or app:setup.",
)
@click.option(
    "--redis-url",
    metavar="URL",
    help="The Redis of the tracker, instead of a broker; enough to look, not to act. Others on this host can see it "
    "among the arguments: a URL with a password is better in the environment, as PROCESSING_REDIS_URL.",
)
@click.option(
    "--namespace",
    metavar="NS",
    help="The tracker's namespace, with --redis-url; else PROCESSING_NS in the environment, else dramatiq_processing.",
)
@click.option(
    "--path",
    "-P",
    "paths",
    metavar="DIR",
    multiple=True,
    default=(".",),
    show_default=True,
    help="Where modules are looked for first, as dramatiq takes it; can be given several times.",
)
@click.version_option(__version__, prog_name="dramatiq-inflight")
@click.pass_context
def cli(
    ctx: click.Context, broker: str | None, redis_url: str | None, namespace: str | None, paths: Sequence[str]
) -> None:
    """See what Dramatiq's workers run, what became of it, and act on it.

    Where to look is said by --broker MODULE, or by --redis-url URL.  Commands that change something need --broker.
    """
    ctx.obj = Source(broker, redis_url, namespace, paths)


for command in (
    status, list_messages, queues, delayed, dead, show, watch, history, workers,
    recover, requeue, dead_letter, discard,
    doctor, healthcheck, dashboard, exporter, effects,
):  # fmt: skip
    cli.add_command(command)
