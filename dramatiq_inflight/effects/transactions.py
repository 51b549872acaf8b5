# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A transaction on a connection of the user's: of a driver, of SQLAlchemy, or of Django."""

from __future__ import annotations

import functools
import re
from typing import Any, Final, Protocol

from ..errors import ConfigurationError
from .statements import DIALECTS, TABLE, Dialect

__all__ = [
    "Plain",
    "Transaction",
    "commits_by_itself",
    "expect_none",
    "is_committable",
    "pyformat",
    "transaction_on",
]

#: The drivers, by the package of their connections.
DRIVERS: Final = {"psycopg": "postgresql", "sqlite3": "sqlite", "pymysql": "mysql", "MySQLdb": "mysql"}


class Transaction(Protocol):
    """A transaction that is to begin on a connection."""

    dialect: Dialect

    def begin(self) -> None:
        """Begin the outermost transaction.

        Raises:
          ConfigurationError: There is one already, or the connection is set up to commit by itself, or not at all.
        """

    def execute(self, sql: str, /, **params: Any) -> list[Any]:
        """Run a statement, also outside of the transaction, and return its rows."""

    def change(self, sql: str, /, **params: Any) -> int:
        """Run a statement, and return how many rows it has changed."""

    def is_whole(self) -> bool:
        """Return whether what was written since it began can be committed, all of it and at once; asked at its end."""

    def commit(self) -> None:
        """End it."""

    def rollback(self, error: BaseException) -> None:
        """Undo it."""


def transaction_on(connection: Any) -> Transaction:
    """Return what begins a transaction there.

    Raises:
      ConfigurationError: It is no connection that is known here.
    """
    package = _package_of(connection)
    if package in DRIVERS:
        return Plain(connection, DIALECTS[DRIVERS[package]])
    if package == "sqlalchemy":
        from .sqlalchemy import Alchemy  # noqa: PLC0415  it is there where its connections are

        return Alchemy(connection)
    if package == "django":
        from .django.transactions import Atomic  # noqa: PLC0415

        return Atomic(connection)
    raise ConfigurationError(
        f"The connection is a {type(connection).__module__}.{type(connection).__qualname__}; it must be one of "
        "psycopg 3, sqlite3, PyMySQL or mysqlclient, a Connection or Session of SQLAlchemy 2, or one of Django."
    )


def _package_of(connection: Any) -> str:
    """The package of its class, or of one that this derives from."""
    packages = [kind.__module__.partition(".")[0] for kind in type(connection).__mro__]
    known = (*DRIVERS, "sqlalchemy", "django", "psycopg2", "aiosqlite", "asyncpg")
    return next((package for package in packages if package in known), "")


def expect_none(open_already: bool | None) -> None:
    """Refuse to begin within a transaction.

    Raises:
      ConfigurationError: There is one.
    """
    if open_already:
        raise ConfigurationError(
            "The connection is in a transaction already, and an effect needs the outermost one: commit or roll back "
            "first, or use a connection of its own. A SELECT begins a transaction, too, unless it is committed."
        )


def is_open(driver: Any) -> bool | None:
    """Return whether the connection of a driver is in a transaction that can be committed; None if it does not say."""
    package = _package_of(driver)
    if package in ("psycopg", "psycopg2"):
        return bool(driver.info.transaction_status == 2)  # INTRANS: neither idle nor failed
    if package in ("sqlite3", "aiosqlite"):
        return bool(driver.in_transaction)
    if package == "pymysql":
        return bool(driver.server_status & 1)  # SERVER_STATUS_IN_TRANS
    if package == "asyncpg":
        return None if driver.is_in_transaction() else False  # it may have failed
    return None


def is_committable(transaction: Transaction, driver: Any) -> bool:
    """The same, by a statement where the driver does not say it: PostgreSQL answers with the failure."""
    state = is_open(driver)
    if state is None and transaction.dialect.name == "postgresql":
        transaction.execute("SELECT 1")
    return state is not False


def commits_by_itself(driver: Any) -> bool:
    """Return whether the connection of a driver commits each statement (autocommit), and is in no transaction."""
    if _package_of(driver) in ("sqlite3", "aiosqlite"):
        alone = driver.isolation_level is None or getattr(driver, "autocommit", None) is True
        return alone and not driver.in_transaction
    if hasattr(driver, "get_autocommit"):
        return bool(driver.get_autocommit())
    return getattr(driver, "autocommit", None) is True


@functools.cache
def pyformat(sql: str) -> str:
    """``:name`` as most drivers take it."""
    return re.sub(r":([a-z]+)", r"%(\1)s", sql)


class Plain:
    """On a connection of a driver."""

    def __init__(self, connection: Any, dialect: Dialect) -> None:
        if not hasattr(connection, "cursor") or hasattr(connection, "__aenter__"):
            raise ConfigurationError(
                f"The connection is a {type(connection).__qualname__} of {type(connection).__module__}; it must be a "
                "plain connection, not an async one: only those of SQLAlchemy may be."
            )
        self.driver = connection
        self.dialect = dialect
        self._block: Any = None

    def begin(self) -> None:
        if self.dialect.name == "postgresql":
            if self.driver.pgconn.pipeline_status:
                raise ConfigurationError(
                    "The connection is in pipeline mode, in which a claim has no answer: begin the pipeline within the "
                    "block."
                )
            expect_none(self.driver.info.transaction_status != 0)
            block = self.driver.transaction()
            block.__enter__()
            self._block = block
        elif self.dialect.name == "sqlite":
            if getattr(self.driver, "autocommit", None) is False:  # of Python 3.12
                raise ConfigurationError(
                    "The connection of sqlite3 has autocommit=False, so that it is always in a transaction: open it "
                    "without."
                )
            expect_none(self.driver.in_transaction)
            self.execute("BEGIN IMMEDIATE")
        else:
            try:
                self.execute("SET TRANSACTION READ WRITE")  # an error within a transaction, which START would commit
            except Exception as error:
                expect_none(error.args[:1] == (1568,))
                raise
            self.execute("START TRANSACTION")
        if self.dialect.name != "postgresql":  # psycopg sees to it that nobody ends the transaction
            self.execute(f"SAVEPOINT {TABLE}")

    def execute(self, sql: str, /, **params: Any) -> list[Any]:
        return self._run(sql, params)[0]

    def change(self, sql: str, /, **params: Any) -> int:
        return self._run(sql, params)[1]

    def _run(self, sql: str, params: dict[str, Any]) -> tuple[list[Any], int]:
        cursor = self.driver.cursor()
        try:
            cursor.execute(sql if self.dialect.name == "sqlite" else pyformat(sql), params)
            return list(cursor.fetchall()) if cursor.description else [], int(cursor.rowcount)
        finally:
            cursor.close()

    def is_whole(self) -> bool:
        if self._block is not None:
            return is_committable(self, self.driver)
        try:
            self.execute(f"RELEASE SAVEPOINT {TABLE}")
        except Exception as error:
            # Ended within the block, also where another transaction has begun since.
            if str(error.args[0]).startswith("no such savepoint") or error.args[0] == 1305:
                return False
            raise
        return True

    def commit(self) -> None:
        if self._block is not None:
            block, self._block = self._block, None
            block.__exit__(None, None, None)
        else:
            self.execute("COMMIT")  # a commit() of sqlite3 may do nothing: with autocommit=True of Python 3.12

    def rollback(self, error: BaseException) -> None:
        if self._block is not None:
            block, self._block = self._block, None
            block.__exit__(type(error), error, error.__traceback__)
        elif self.dialect.name != "postgresql" and is_open(self.driver) is not False:
            self.execute("ROLLBACK")
