# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The table and its protocol, in the words of each database.

A row is claimed first thing in a transaction, which locks it until that ends.  A claim is granted unless the key is
done, or a run with a higher fence has claimed it: two conditions, in one place for each database.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ..errors import ConfigurationError

__all__ = ["DIALECTS", "MYSQL", "NAMES", "POSTGRESQL", "SQLITE", "TABLE", "Claim", "Dialect", "Row", "is_conflict"]

TABLE: Final = "inflight_effects"

#: Runs a statement, with parameters by name, and returns the rows.
Execute = Callable[..., list[Any]]


@dataclass(frozen=True)
class Claim:
    """The claim of a transaction."""

    key: str
    #: The fence of the run; 0: it has none.
    fence: int
    #: True if the key is done when the transaction commits.
    done: bool
    #: How long to wait for a lock, and how long the transaction may stand idle, seconds.
    timeout: float


class Row(NamedTuple):
    """The row that a claim found."""

    granted: bool
    done: bool
    result: bytes | None


@dataclass(frozen=True)
class Dialect:
    """The statements of one database."""

    name: str
    ddl: str
    #: Claims a row.
    claim: Callable[[Execute, Claim], Row]
    #: Bounds what a transaction may wait; called when it has begun, and returns what undoes that.
    bound: Callable[[Execute, float], Callable[[], None]]
    #: Deletes some of the rows that are older than ``:age`` seconds.
    clean: str

    @property
    def key(self) -> str:
        """The column, quoted where its name is reserved."""
        return "`key`" if self.name == "mysql" else "key"


def _unbounded(execute: Execute, timeout: float) -> Callable[[], None]:
    return lambda: None


# PostgreSQL


def _shorter(setting: str) -> str:
    """Set the shorter of this time-out and the session's, for this transaction alone."""
    now = f"CAST(current_setting('{setting}') AS interval)"
    bound = "CAST(:bound AS text)"
    inside = f"{now} > interval '0' AND {now} < CAST({bound} AS interval)"
    return f"set_config('{setting}', CASE WHEN {inside} THEN current_setting('{setting}') ELSE {bound} END, true)"


# A frozen process would keep its transaction open, and the row locked, for ever.  The bounds are set before the row is
# waited for, in the same statement.
_POSTGRESQL_CLAIM = f"""
INSERT INTO {TABLE} AS e (key, fence, done, at)
SELECT CAST(:key AS varchar), CAST(:fence AS bigint), CAST(:done AS boolean), now()
FROM (SELECT {_shorter("lock_timeout")}, {_shorter("idle_in_transaction_session_timeout")}) AS bounds
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence, done = excluded.done, at = excluded.at
WHERE NOT e.done AND e.fence <= excluded.fence
RETURNING e.result
"""


def _claim_postgresql(execute: Execute, claim: Claim) -> Row:
    bound = f"{max(1, math.ceil(claim.timeout * 1000))}ms"
    return _claimed(execute, claim, execute(_POSTGRESQL_CLAIM, **_of(claim), bound=bound))


def _claimed(execute: Execute, claim: Claim, granted: list[Any]) -> Row:
    if granted:
        return Row(True, claim.done, _bytes(granted[0][0]))
    found = execute(f"SELECT done, result FROM {TABLE} WHERE key = :key", key=claim.key)
    return Row(False, bool(found[0][0]), _bytes(found[0][1])) if found else Row(False, False, None)


def _of(claim: Claim) -> dict[str, Any]:
    return {"key": claim.key, "fence": claim.fence, "done": claim.done}


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


POSTGRESQL = Dialect(
    name="postgresql",
    ddl=(
        f"CREATE TABLE IF NOT EXISTS {TABLE} (key varchar(255) PRIMARY KEY, fence bigint NOT NULL, "
        "done boolean NOT NULL DEFAULT false, result bytea, at timestamptz NOT NULL)"
    ),
    claim=_claim_postgresql,
    bound=_unbounded,
    clean=(
        f"DELETE FROM {TABLE} WHERE key IN (SELECT key FROM {TABLE} "
        "WHERE at < now() - CAST(:age AS double precision) * interval '1 second' LIMIT 10000)"
    ),
)


# SQLite

_SQLITE_CLAIM = f"""
INSERT INTO {TABLE} (key, fence, done, at) VALUES (:key, :fence, :done, CURRENT_TIMESTAMP)
ON CONFLICT (key) DO UPDATE SET fence = excluded.fence, done = excluded.done, at = excluded.at
WHERE NOT done AND fence <= excluded.fence
RETURNING result
"""


def _claim_sqlite(execute: Execute, claim: Claim) -> Row:
    return _claimed(execute, claim, execute(_SQLITE_CLAIM, **_of(claim)))


SQLITE = Dialect(
    name="sqlite",
    ddl=(
        f"CREATE TABLE IF NOT EXISTS {TABLE} (key varchar(255) NOT NULL PRIMARY KEY, fence bigint NOT NULL, "
        "done bool NOT NULL DEFAULT false, result BLOB, at datetime NOT NULL)"
    ),
    claim=_claim_sqlite,
    bound=_unbounded,
    clean=(
        f"DELETE FROM {TABLE} WHERE key IN (SELECT key FROM {TABLE} "
        "WHERE at < datetime('now', '-' || :age || ' seconds') LIMIT 10000)"
    ),
)


# MySQL and MariaDB


def _claim_mysql(execute: Execute, claim: Claim) -> Row:
    """Insert the row or lock the existing one, read its committed values, and update it if the claim allows that."""
    execute(
        f"INSERT INTO {TABLE} (`key`, fence, done, at) VALUES (:key, :fence, FALSE, UTC_TIMESTAMP(6)) "
        "ON DUPLICATE KEY UPDATE `key` = `key`",
        key=claim.key,
        fence=claim.fence,
    )
    sql = f"SELECT fence, done, result, DATABASE() FROM {TABLE} WHERE `key` = :key FOR UPDATE"
    ((fence, done, result, database),) = execute(sql, key=claim.key)
    if database not in seen:
        _expect_innodb(execute)
        seen.add(database)
    if done or fence > claim.fence:
        return Row(False, bool(done), _bytes(result))
    execute(f"UPDATE {TABLE} SET fence = :fence, done = :done, at = UTC_TIMESTAMP(6) WHERE `key` = :key", **_of(claim))
    return Row(True, claim.done, _bytes(result))


#: The databases whose table was seen to be of InnoDB.
seen: set[str] = set()

_BOUNDS = ("wait_timeout", "innodb_lock_wait_timeout")


def _bound_mysql(execute: Execute, timeout: float) -> Callable[[], None]:
    bound = max(1, math.ceil(timeout))
    (before,) = execute("SELECT @@wait_timeout, @@innodb_lock_wait_timeout")
    changed = {name: int(old) for name, old in zip(_BOUNDS, before, strict=True) if int(old) > bound}

    def set_to(values: dict[str, int]) -> None:
        if values:
            execute("SET SESSION " + ", SESSION ".join(f"{name} = {value}" for name, value in values.items()))

    set_to(dict.fromkeys(changed, bound))
    return lambda: set_to(changed)


def _expect_innodb(execute: Execute) -> None:
    found = execute(
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = :name",
        name=TABLE,
    )
    if found and found[0][0] != "InnoDB":
        raise ConfigurationError(
            f"The table {TABLE} is of the engine {found[0][0]}, which has no transactions: "
            f"ALTER TABLE {TABLE} ENGINE=InnoDB."
        )


MYSQL = Dialect(
    name="mysql",
    # Keys that differ by case or by an accent are different keys.
    ddl=(
        f"CREATE TABLE IF NOT EXISTS {TABLE} (`key` varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin "
        "PRIMARY KEY, fence bigint NOT NULL, done bool NOT NULL DEFAULT false, result longblob, "
        "at datetime(6) NOT NULL) ENGINE=InnoDB"
    ),
    claim=_claim_mysql,
    bound=_bound_mysql,
    clean=f"DELETE FROM {TABLE} WHERE at < UTC_TIMESTAMP(6) - INTERVAL :age SECOND LIMIT 10000",
)

DIALECTS: Final = {dialect.name: dialect for dialect in (POSTGRESQL, SQLITE, MYSQL)}

#: As others call them.
NAMES: Final = {"mariadb": "mysql"}

#: Serialization failure, deadlock, and a lock that was not to be had in time.
_SQLSTATES: Final = frozenset({"40001", "40P01", "55P03"})
_MYSQL_ERRORS: Final = frozenset({1020, 1205, 1213})  # 1020: of MariaDB, whose snapshots are serializable
_SQLITE_TEXTS: Final = ("database is locked", "database table is locked", "database schema is locked")


def is_conflict(error: BaseException) -> bool:
    """Return True if a database has refused a transaction for another one, and would take it now or soon.

    SQLAlchemy and Django wrap the errors of drivers.
    """
    for one in (error, getattr(error, "orig", None), error.__cause__):
        if one is None:
            continue
        if (getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)) in _SQLSTATES:
            return True
        first = one.args[0] if one.args else None
        if type(one).__module__.partition(".")[0] in ("pymysql", "MySQLdb") and first in _MYSQL_ERRORS:
            return True
        if type(one).__module__ == "sqlite3" and str(first).startswith(_SQLITE_TEXTS):
            return True
    return False
