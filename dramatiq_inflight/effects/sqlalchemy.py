# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""On a connection or a session of SQLAlchemy 2; and the table, for its metadata and for Alembic."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    LargeBinary,
    MetaData,
    String,
    Table,
    false,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Session

from ..errors import ConfigurationError
from .statements import DIALECTS, NAMES, TABLE, Dialect
from .transactions import commits_by_itself, expect_none, is_committable

__all__ = ["Alchemy", "effects_table"]


def effects_table(metadata: MetaData) -> Table:
    """Return the table, which Alembic then finds among those of your metadata."""
    key = String(255).with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb")
    return Table(
        TABLE,
        metadata,
        Column("key", key, primary_key=True),
        Column("fence", BigInteger, nullable=False),
        Column("done", Boolean, nullable=False, server_default=false()),
        Column("result", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
        Column("at", DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"), nullable=False),
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )


class Alchemy:
    """On a ``Connection`` or a ``Session``."""

    def __init__(self, connection: Any) -> None:
        if not isinstance(connection, Connection | Session):
            raise ConfigurationError(
                f"The connection is a {type(connection).__qualname__} of SQLAlchemy; it must be a Connection or a "
                "Session, with `async with` an AsyncConnection or an AsyncSession."
            )
        self._given: Connection | Session = connection
        self._begun: Any = None
        bind = connection.get_bind() if isinstance(connection, Session) else connection
        name = bind.dialect.name
        self.dialect: Dialect = DIALECTS[NAMES.get(name, name)]

    @property
    def _connection(self) -> Connection:
        return self._given.connection() if isinstance(self._given, Session) else self._given

    @property
    def _driver(self) -> Any:
        return self._connection.connection.driver_connection

    def begin(self) -> None:
        expect_none(self._given.in_transaction())
        self._begun = self._given.begin()
        if self._is_autocommit() or commits_by_itself(self._driver):
            self._given.rollback()
            raise ConfigurationError(
                "The connection commits each statement by itself (autocommit): an effect and its completion would not "
                "commit together. Use one of another isolation level."
            )

    def _is_autocommit(self) -> bool:
        connection = self._connection
        default = getattr(connection.dialect, "_on_connect_isolation_level", None)  # of create_engine
        return connection.get_execution_options().get("isolation_level", default) == "AUTOCOMMIT"

    def execute(self, sql: str, /, **params: Any) -> list[Any]:
        result = self._connection.execute(text(sql), params)
        return [tuple(row) for row in result] if result.returns_rows else []

    def change(self, sql: str, /, **params: Any) -> int:
        return int(self._connection.execute(text(sql), params).rowcount)

    def is_whole(self) -> bool:
        return self._given.get_transaction() is self._begun and is_committable(self, self._driver)

    def commit(self) -> None:
        if isinstance(self._given, Session):
            self._given.flush()
        self._given.commit()

    def rollback(self, error: BaseException) -> None:
        self._given.rollback()
