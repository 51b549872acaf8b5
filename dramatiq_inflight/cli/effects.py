# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``effects``: the table of what was done once, in a database of the user's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import click

from ..config.environment import EFFECTS_DATABASE
from ..effects import KEPT_FOR, clean, create, ddl, forget
from ..effects.connecting import connect
from .failures import Unreachable, not_done

__all__ = ["effects"]

F = TypeVar("F", bound=Callable[..., Any])


def database_option(command: F) -> F:
    """Where the table is."""
    option = click.option(
        "--database",
        metavar="URL",
        envvar=list(EFFECTS_DATABASE),
        required=True,
        help="The database: postgresql://, mysql:// or sqlite:///path. One with a password is better in the "
        "environment, as PROCESSING_EFFECTS_DATABASE.",
    )
    return option(command)


@contextlib.contextmanager
def _told(url: str) -> Iterator[Any]:
    """A connection; what a driver raises is told in a line."""
    try:
        with contextlib.closing(connect(url)) as connection:
            yield connection
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("psycopg", "sqlite3", "pymysql", "MySQLdb"):
            raise
        raise Unreachable(f"The database cannot be used: {error}") from error


@click.group(short_help="Look after the table of effects.")
def effects() -> None:
    """Create and clean up the table of effects in a database of yours, or forget a key."""


@effects.command("create", short_help="Create the table.")
@database_option
def _create(database: str) -> None:
    """Create the table, unless it is there.  Django has a migration for it."""
    with _told(database) as connection:
        create(connection)
    click.echo("The table inflight_effects is there.")


@effects.command("ddl", short_help="Print the statement that creates the table.")
@click.argument("kind", type=click.Choice(["postgresql", "mysql", "sqlite"]))
def _ddl(kind: str) -> None:
    """Print the statement that creates the table, for a migration of your own."""
    click.echo(f"{ddl(kind)};")


@effects.command("clean", short_help="Delete old keys.")
@database_option
@click.option(
    "--days",
    type=click.FloatRange(min=1),
    default=KEPT_FOR.days,
    show_default=True,
    help="How old: for longer than any redelivery, delay, dead letter and replay of their messages.",
)
def _clean(database: str, days: float) -> None:
    """Delete the keys that were claimed last so long ago.  A message that runs again after that does its work again."""
    with _told(database) as connection:
        deleted = clean(connection, older_than=timedelta(days=days))
    click.echo(f"Deleted {deleted} keys.")


@effects.command("forget", short_help="Forget a key.")
@database_option
@click.argument("key")
def _forget(database: str, key: str) -> None:
    """Forget a key, a message's id or your own, so that what was done under it can be done again.

    Exit code 1: there is no such key.
    """
    with _told(database) as connection:
        found = forget(connection, key)
    click.echo("Forgotten." if found else "There is no such key.")
    if not found:
        raise not_done()
