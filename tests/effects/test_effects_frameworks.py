# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Effects once with SQLAlchemy and Django."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, MetaData, create_engine, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from dramatiq_inflight import AlreadyDone, ConfigurationError, InFlightError
from dramatiq_inflight.effects import clean, create, fence, forget, once
from dramatiq_inflight.effects.sqlalchemy import effects_table
from tests.effects.test_effects import Run, ledger, rows
from tests.support.databases import Database

ROOT = Path(__file__).parents[2]

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": "pysqlite"}
ADD = text("INSERT INTO ledger VALUES (:n)")


def named(url: str, driver: str) -> str:
    """The URL as SQLAlchemy takes it."""
    kind, _, rest = url.partition("://")
    return f"{kind}+{driver}://{rest}"


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    database.write("CREATE TABLE ledger (n int)")
    engine = create_engine(named(database.url, DRIVERS[database.url.partition("://")[0]]))
    yield engine
    engine.dispose()


def test_a_connection_of_sqlalchemy_commits_once(database: Database, engine: Engine) -> None:
    with engine.connect() as connection:
        with Run(1000), once(connection) as effect:
            connection.execute(ADD, {"n": 1})
            effect.set_result(1)
        with Run(2000), pytest.raises(AlreadyDone) as caught, once(connection):
            connection.execute(ADD, {"n": 2})
        assert caught.value.result == 1
        with pytest.raises(ValueError, match="as asked for"), once(connection, key="k"):
            connection.execute(ADD, {"n": 3})
            raise ValueError("as asked for")
        assert not connection.in_transaction()
        assert clean(connection) == 0
        assert not forget(connection, "k")
    assert ledger(database) == [1]
    assert rows(database) == [("m", 1000, True, b"1")]


def test_a_session_of_sqlalchemy_commits_once(database: Database, engine: Engine) -> None:
    with Session(engine) as session:
        with Run(1000), fence(session) as step:
            session.execute(ADD, {"n": 1})
            step.checkpoint("first")
        with Run(1000), once(session) as last:
            assert last.last_checkpoint == "first"
            session.execute(ADD, {"n": 2})
        with Run(2000), pytest.raises(AlreadyDone), once(session):
            session.execute(ADD, {"n": 3})
    assert ledger(database) == [1, 2]


def test_a_transaction_of_sqlalchemy_that_has_begun_is_refused(engine: Engine) -> None:
    """A SELECT begins one."""
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        with pytest.raises(ConfigurationError, match="in a transaction already"), once(connection, key="k"):
            pass


def test_a_connection_of_sqlalchemy_with_autocommit_is_refused(database: Database, engine: Engine) -> None:
    """Before it claims anything: that would be committed, and what is done with it left undone for ever."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(ConfigurationError, match="autocommit"), once(connection, key="k"):
            pass
        assert not connection.in_transaction()
    other = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with Session(other) as session:
        with pytest.raises(ConfigurationError, match="autocommit"), once(session, key="k"):
            pass
        assert not session.in_transaction()
    other.dispose()
    assert rows(database) == []


@pytest.mark.parametrize(
    ("database", "argument"), [("postgresql", "autocommit"), ("mariadb", "autocommit")], indirect=["database"]
)
def test_a_driver_that_commits_by_itself_is_refused(database: Database, engine: Engine, argument: str) -> None:
    """SQLAlchemy does not know of it."""
    other = create_engine(engine.url, connect_args={argument: True})
    with other.connect() as connection, pytest.raises(ConfigurationError, match="autocommit"):
        with once(connection, key="k"):
            pass
    other.dispose()
    assert rows(database) == []


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_block_that_ends_sqlalchemys_transaction_fails(database: Database, engine: Engine, kind: str) -> None:
    """As a helper does that commits its session: what comes next is another transaction."""
    for key, ends in (("a", "commit"), ("b", "rollback")):
        with engine.connect() if kind == "connection" else Session(engine) as given:
            with pytest.raises(InFlightError, match="was ended within it"), once(given, key=key):
                given.execute(ADD, {"n": 1})
                getattr(given, ends)()
                given.execute(ADD, {"n": 2})
    assert ledger(database) == [1]


def test_the_table_of_sqlalchemy_is_the_same(database: Database, engine: Engine) -> None:
    """As Alembic makes it, and as `create` does."""
    database.write("DROP TABLE inflight_effects")
    effects_table(metadata := MetaData())
    metadata.create_all(engine)
    made = inspect(engine).get_columns("inflight_effects")
    with engine.connect() as connection, once(connection, key="k"):
        pass
    database.write("DROP TABLE inflight_effects")
    with engine.connect() as connection:
        create(connection)
    by_hand = inspect(engine).get_columns("inflight_effects")

    def shape(columns: list[object]) -> list[tuple[str, str, bool]]:
        return [(c["name"], str(c["type"]).upper().partition("(")[0], c["nullable"]) for c in columns]  # type: ignore[index]

    assert shape(list(made)) == shape(list(by_hand))


ASYNC = [("postgresql", "psycopg"), ("postgresql", "asyncpg"), ("sqlite", "aiosqlite")]


@pytest.mark.parametrize(("database", "driver"), ASYNC, indirect=["database"])
def test_an_async_connection_and_session_commit_once(database: Database, driver: str) -> None:
    database.write("CREATE TABLE ledger (n int)")

    async def work(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            with Run(1000):
                async with once(connection) as effect:
                    await connection.execute(ADD, {"n": 1})
                    effect.set_result(1)
            with Run(2000), pytest.raises(AlreadyDone) as caught:
                async with once(connection):
                    await connection.execute(ADD, {"n": 2})
            assert caught.value.result == 1
        async with AsyncSession(engine) as session:
            with pytest.raises(ValueError, match="as asked for"):
                async with once(session, key="k"):
                    await session.execute(ADD, {"n": 3})
                    raise ValueError("as asked for")
            async with once(session, key="k"):
                await session.execute(ADD, {"n": 4})
        await engine.dispose()

    asyncio.run(work(create_async_engine(named(database.url, driver))))
    assert ledger(database) == [1, 4]


def test_a_failure_that_asyncpg_does_not_show_is_no_success(postgres: Database) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            with pytest.raises(Exception, match="current transaction is aborted"):
                async with once(connection, key="k"):
                    with pytest.raises(Exception, match="division"):
                        await connection.execute(text("SELECT 1/0"))
        await engine.dispose()

    asyncio.run(work(create_async_engine(named(postgres.url, "asyncpg"))))
    assert rows(postgres) == []


def test_django_commits_once(database: Database) -> None:
    database.write("DROP TABLE inflight_effects")
    args = [sys.executable, "-m", "tests.support.django_effects", database.url]
    done = subprocess.run(args, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("fine\n")
