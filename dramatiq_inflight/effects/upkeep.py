# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The table: made, cleaned up, and a key forgotten; each only when it is asked for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from ..errors import ConfigurationError
from .statements import DIALECTS, NAMES, TABLE
from .transactions import Transaction, transaction_on

__all__ = ["KEPT_FOR", "clean", "create", "ddl", "forget"]

#: How long a key is kept: for longer than any redelivery, delay, dead letter and replay of its message.
KEPT_FOR: Final = timedelta(days=90)


def ddl(database: str) -> str:
    """Return the statement that creates the table, for a migration of your own.

    Parameters:
      database: ``postgresql``, ``sqlite``, ``mysql`` or ``mariadb``.

    Raises:
      ConfigurationError: It is none of these.
    """
    dialect = DIALECTS.get(NAMES.get(database, database))
    if dialect is None:
        raise ConfigurationError(f"The database is {database!r}; it must be postgresql, sqlite, mysql or mariadb.")
    return dialect.ddl


def create(connection: Any) -> None:
    """Create the table, unless it is there.  Django has a migration for it, Alembic finds ``effects_table``.

    Parameters:
      connection: As for `once`; not in a transaction.
    """
    transaction = transaction_on(connection)
    _change(transaction, transaction.dialect.ddl)


def clean(connection: Any, *, older_than: timedelta = KEPT_FOR) -> int:
    """Delete the keys that were claimed last so long ago.  A message that runs again after that does its work again.

    Parameters:
      connection: As for `once`; not in a transaction.
      older_than: At least an hour.

    Returns: how many keys were deleted, ten thousand in a transaction.

    Raises:
      ConfigurationError: The time is too short.
    """
    if older_than < timedelta(hours=1):
        raise ConfigurationError(f"older_than is {older_than}; it must be an hour at the least.")
    deleted = 0
    while True:
        transaction = transaction_on(connection)
        changed = _change(transaction, transaction.dialect.clean, age=int(older_than.total_seconds()))
        if changed <= 0:
            return deleted
        deleted += changed


def forget(connection: Any, key: str) -> bool:
    """Forget a key, so that what was done under it can be done again.

    Parameters:
      connection: As for `once`; not in a transaction.

    Returns: False if there is no such key.
    """
    transaction = transaction_on(connection)
    return _change(transaction, f"DELETE FROM {TABLE} WHERE {transaction.dialect.key} = :key", key=key) > 0


def _change(transaction: Transaction, sql: str, **params: Any) -> int:
    transaction.begin()
    try:
        changed = transaction.change(sql, **params)
    except BaseException as error:
        transaction.rollback(error)
        raise
    transaction.commit()
    return changed
