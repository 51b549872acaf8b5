# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""On a connection of Django, by ``transaction.atomic``."""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction

from ...errors import ConfigurationError
from ..statements import DIALECTS, Dialect
from ..transactions import is_committable, pyformat

__all__ = ["Atomic"]


class Atomic:
    """On a connection of Django."""

    def __init__(self, connection: Any) -> None:
        self._connection = connections[connection.alias]  # also of the proxy, ``django.db.connection``
        if self._connection.vendor not in DIALECTS:
            raise ConfigurationError(
                f"The database {connection.alias!r} is of {self._connection.vendor}; effects need PostgreSQL, SQLite "
                "or MySQL."
            )
        self.dialect: Dialect = DIALECTS[self._connection.vendor]
        self._atomic: Any = None

    def begin(self) -> None:
        if not (self._connection.in_atomic_block or self._connection.get_autocommit()):
            raise ConfigurationError(
                f"The database {self._connection.alias!r} has AUTOCOMMIT off, so that Django's atomic blocks do not "
                "commit: turn it on."
            )
        atomic = transaction.atomic(using=self._connection.alias, durable=True)
        try:
            atomic.__enter__()
        except RuntimeError as error:
            raise ConfigurationError(
                "An effect needs the outermost transaction, and there is an atomic block already: use once() and "
                "fence() outside of transaction.atomic."
            ) from error
        self._atomic = atomic

    def execute(self, sql: str, /, **params: Any) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(pyformat(sql), params)
            return list(cursor.fetchall()) if cursor.description else []

    def change(self, sql: str, /, **params: Any) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(pyformat(sql), params)
            return int(cursor.rowcount)

    def is_whole(self) -> bool:
        # An error of the database that was caught in the block has Django roll back, and say nothing.
        return not self._connection.needs_rollback and is_committable(self, self._connection.connection)

    def commit(self) -> None:
        atomic, self._atomic = self._atomic, None
        atomic.__exit__(None, None, None)

    def rollback(self, error: BaseException) -> None:
        if self._atomic is not None:
            atomic, self._atomic = self._atomic, None
            atomic.__exit__(type(error), error, error.__traceback__)
