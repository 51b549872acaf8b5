# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A database for the tests of effects: one of three kinds, by its URL."""

from __future__ import annotations

import contextlib
import uuid
from typing import Any
from urllib.parse import urlsplit

from dramatiq_inflight.effects.connecting import connect

__all__ = ["KINDS", "Database", "run"]

KINDS = ("postgresql", "sqlite", "mariadb")


class Database:
    """One database.

    Parameters:
      url: The address of the database, or of any of its server.
    """

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url

    def create(self) -> Database:
        """Make a new one there; of SQLite, it is the file."""
        if self.kind == "sqlite":
            return self
        name = f"t{uuid.uuid4().hex[:12]}"
        connection = connect(self.url)
        if self.kind == "postgresql":
            connection.autocommit = True
        run(connection, f"CREATE DATABASE {name}")
        connection.close()
        self.url = urlsplit(self.url)._replace(path=f"/{name}").geturl()
        return self

    def behind(self, port: int) -> str:
        """Its URL, behind a proxy on another port."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def connected(self) -> contextlib.closing[Any]:
        """A connection, which is closed at the end of the block."""
        return contextlib.closing(connect(self.url))

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows that a new connection sees."""
        with self.connected() as connection:
            return run(connection, sql)

    def write(self, *statements: str) -> None:
        with self.connected() as connection:
            for sql in statements:
                run(connection, sql)
            connection.commit()


def run(connection: Any, sql: str, *params: Any) -> list[tuple[Any, ...]]:
    """Run a statement on a connection of a driver; parameters are ``%s``."""
    cursor = connection.cursor()
    try:
        mark = "?" if type(connection).__module__ == "sqlite3" else "%s"
        cursor.execute(sql.replace("%s", mark), params)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        cursor.close()
