# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Effects once: the table and its protocol, on real databases."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dramatiq_inflight import AlreadyDone, Busy, ConfigurationError, InFlightError, MessageLost, Overtaken, Unfenced
from dramatiq_inflight.delivery import Copy, Delivery
from dramatiq_inflight.effects import clean, create, ddl, fence, forget, once, statements
from dramatiq_inflight.effects import connecting as module
from dramatiq_inflight.message.in_flight import Entry, Numbers, Progress, current_entry
from tests.support.databases import Database, run
from tests.support.servers import wait_until

Connect = Callable[[], Any]


class Checkpoints:
    """In the place of a worker's: whether the message is lost."""

    ttl = 90.0

    def __init__(self) -> None:
        self.lost = False

    def is_lost(self, entry: Entry) -> bool:
        return self.lost


class Run:
    """A run of a message: within it, the message runs here."""

    def __init__(self, started: int, message_id: str = "m") -> None:
        copy = Copy(message_id, 1, "o", "o", False, "default", "work")
        self.checkpoints = Checkpoints()
        self.entry = Entry(
            Delivery(copy), numbers=Numbers(started_ms=started), progress=Progress(checkpoints=self.checkpoints)
        )
        self.entry.begin()

    def __enter__(self) -> Run:
        self.token = current_entry.set(self.entry)
        return self

    def __exit__(self, *_: object) -> None:
        current_entry.reset(self.token)


@pytest.fixture
def connect(database: Database) -> Iterator[Connect]:
    """Connections to the database, which are closed in the end."""
    database.write("CREATE TABLE ledger (n int)")
    made: list[Any] = []

    def make() -> Any:
        made.append(module.connect(database.url))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def add(connection: Any, n: int) -> None:
    run(connection, "INSERT INTO ledger VALUES (%s)", n)


def ledger(database: Database) -> list[int]:
    return sorted(n for (n,) in database.read("SELECT n FROM ledger"))


def rows(database: Database) -> list[tuple[Any, ...]]:
    key = "`key`" if database.kind == "mariadb" else "key"
    found = database.read(f"SELECT {key}, fence, done, result FROM inflight_effects ORDER BY {key}")
    return [(key, fence, bool(done), result) for key, fence, done, result in found]


# Once.


def test_the_first_commit_wins(database: Database, connect: Connect) -> None:
    with Run(1000), once(connection := connect()) as effect:
        add(connection, 1)
        effect.set_result({"id": 7})
    later = connect()
    with Run(2000), pytest.raises(AlreadyDone) as caught, once(later):
        add(later, 2)
    assert (caught.value.key, caught.value.result) == ("m", {"id": 7})
    assert ledger(database) == [1]
    assert rows(database) == [("m", 1000, True, b'{"id":7}')]


def test_the_connection_can_be_used_again_after_a_block(database: Database, connect: Connect) -> None:
    connection = connect()
    for key in "ab":
        with once(connection, key=key):
            add(connection, 1)
    with pytest.raises(AlreadyDone), once(connection, key="a"):
        pass
    with once(connection, key="c"):
        add(connection, 1)
    assert [row[0] for row in rows(database)] == ["a", "b", "c"]
    assert ledger(database) == [1, 1, 1]


def test_a_block_that_fails_leaves_nothing(database: Database, connect: Connect) -> None:
    connection = connect()
    with pytest.raises(ValueError, match="as asked for"), once(connection, key="k") as effect:
        add(connection, 1)
        effect.set_result(1)
        raise ValueError("as asked for")
    assert (ledger(database), rows(database)) == ([], [])
    with once(connection, key="k"):
        add(connection, 2)
    assert ledger(database) == [2]


def test_what_has_no_result_has_none(connect: Connect) -> None:
    with once(connect(), key="k"):
        pass
    with pytest.raises(AlreadyDone) as caught, once(connect(), key="k"):
        pass
    assert caught.value.result is None


def test_a_result_that_comes_behind_the_block_is_an_error(connect: Connect) -> None:
    with once(connect(), key="k") as effect:
        pass
    with pytest.raises(InFlightError, match="is over"):
        effect.set_result(1)


def test_the_statement_is_there_for_each_database_by_its_name() -> None:
    assert ddl("mariadb") == ddl("mysql")
    with pytest.raises(ConfigurationError, match="'oracle'; it must be"):
        ddl("oracle")


def test_keys_differ_by_case_and_accent(database: Database, connect: Connect) -> None:
    keys = ("invoice:a", "invoice:A", "invoice:ä", "invoice:a\u0308", "a b", "a  b", "\U0001f980" * 127 + "x")
    for key in keys:
        with once(connect(), key=key):
            pass
    assert len(rows(database)) == len(keys)


def test_a_key_has_255_characters_whatever_bytes_they_take(database: Database, connect: Connect) -> None:
    for key in ("\U0001f980" * 255, "\U0001f980" * 254):
        with once(connect(), key=key):
            pass
        with pytest.raises(AlreadyDone), once(connect(), key=key):
            pass
    assert len(rows(database)) == 2


@pytest.mark.parametrize("key", ["", " k", "k ", "k" * 256, "a\0b", 42, b"k"])
def test_a_key_that_a_database_would_change_is_refused(connect: Connect, key: Any) -> None:
    with pytest.raises(ConfigurationError, match="The key is"), once(connect(), key=key):
        pass


def test_a_second_effect_of_a_run_needs_a_key_of_its_own(database: Database, connect: Connect) -> None:
    """Else it would be taken for done, and never happen."""
    with Run(1000):
        with once(connect()):
            pass
        with pytest.raises(ConfigurationError, match="a key of its own"), once(connect()):
            pass
        with once(connect(), key="m:mail"):
            pass
    assert len(rows(database)) == 2


def test_a_block_within_a_block_of_its_key_is_refused(database: Database, connect: Connect) -> None:
    """On another connection it would wait for the first, in vain, and run again and again."""
    first, second = connect(), connect()
    with Run(1000):
        with fence(first):
            for block in (once, fence):
                with pytest.raises(ConfigurationError, match="is open in this run"), block(second):
                    pass
            add(first, 1)
        with once(second):
            pass
    assert ledger(database) == [1]


def test_a_block_entered_twice_is_refused_and_still_commits(database: Database, connect: Connect) -> None:
    connection = connect()
    block = once(connection, key="k")
    with block:
        with pytest.raises(ConfigurationError, match="in a transaction already"), block:
            pass
        add(connection, 1)
    assert ledger(database) == [1]


def test_outside_of_a_message_there_is_a_key(connect: Connect) -> None:
    with pytest.raises(ConfigurationError, match="name one"), once(connect()):
        pass
    with pytest.raises(ConfigurationError, match="whose run has a fence"), fence(connect(), key="k"):
        pass


def test_a_run_that_is_lost_begins_nothing(database: Database, connect: Connect) -> None:
    with Run(1000) as lost:
        lost.entry.lose()
        with pytest.raises(MessageLost), once(connect()):
            pass
    assert rows(database) == []


# Fences.


def test_a_later_run_shuts_an_earlier_one_out(database: Database, connect: Connect) -> None:
    old, new = Run(1000), Run(2000)
    with old, fence(first := connect()):
        add(first, 1)
    with new, fence(second := connect()):
        add(second, 2)
    with old, pytest.raises(Overtaken), fence(first):
        add(first, 3)
    old.checkpoints.lost = True
    with old, pytest.raises(MessageLost), fence(first):
        add(first, 4)
    with old, pytest.raises(MessageLost), once(first):
        add(first, 5)
    with new, once(second):
        add(second, 6)
    with old, pytest.raises(AlreadyDone), fence(first):
        add(first, 7)
    assert ledger(database) == [1, 2, 6]


def test_a_run_has_as_many_transactions_as_it_likes(database: Database, connect: Connect) -> None:
    connection = connect()
    with Run(1000):
        for n in range(3):
            with fence(connection) as step:
                assert step.last_checkpoint == (n - 1 if n else None)
                step.checkpoint(n)
                add(connection, n)
    with Run(2000):
        with fence(connection) as step:
            assert step.last_checkpoint == 2
        with once(connection) as last:
            assert last.last_checkpoint == 2
            last.set_result("whole")
    assert ledger(database) == [0, 1, 2]
    assert rows(database) == [("m", 2000, True, b'"whole"')]


def test_a_checkpoint_is_not_kept_if_its_transaction_is_not(connect: Connect) -> None:
    connection = connect()
    with Run(1000):
        with fence(connection) as step:
            step.checkpoint(1)
        with pytest.raises(ValueError, match="as asked for"), fence(connection) as step:
            step.checkpoint(2)
            raise ValueError("as asked for")
        with fence(connection) as step:
            assert step.last_checkpoint == 1


def test_the_last_checkpoint_is_no_result(database: Database, connect: Connect) -> None:
    """A later run would store it as the message's result, and hand it to the next stage of the pipeline."""
    connection = connect()
    with Run(1000):
        with fence(connection) as step:
            step.checkpoint(5)
        with once(connection) as last:
            assert last.last_checkpoint == 5
    with Run(2000), pytest.raises(AlreadyDone) as done, once(connection):
        pass
    assert done.value.result is None
    assert rows(database) == [("m", 1000, True, None)]


def test_a_run_that_redis_does_not_know_has_no_fence(database: Database, connect: Connect) -> None:
    """Where only `once` is used, it needs none."""
    with Run(0), pytest.raises(Unfenced), fence(connect()):
        pass
    with Run(1000), fence(connect()):
        pass
    with Run(0), pytest.raises(Unfenced), once(connect()):
        pass
    with Run(0, "another"), once(connect()):
        pass
    assert rows(database) == [("another", 0, True, None), ("m", 1000, False, None)]


# Transactions.


def test_a_transaction_that_is_open_is_refused_and_left_alone(database: Database, connect: Connect) -> None:
    connection = connect()
    if database.kind == "mariadb":
        run(connection, "START TRANSACTION")
    add(connection, 1)
    with pytest.raises(ConfigurationError, match="in a transaction already"), once(connection, key="k"):
        add(connection, 2)
    connection.commit()
    assert ledger(database) == [1]


def test_a_connection_that_commits_by_itself_is_no_harm(database: Database, connect: Connect) -> None:
    connection = connect()
    if database.kind == "sqlite":
        connection.isolation_level = None
    elif database.kind == "mariadb":
        connection.autocommit(True)
    else:
        connection.autocommit = True
    with pytest.raises(ValueError, match="as asked for"), once(connection, key="k"):
        add(connection, 1)
        raise ValueError("as asked for")
    with once(connection, key="k"):
        add(connection, 2)
    assert ledger(database) == [2]


def test_a_block_that_ends_its_transaction_is_an_error(database: Database, connect: Connect) -> None:
    said = "forbidden" if database.kind == "postgresql" else "was ended within it"  # psycopg forbids it itself
    for key, ends in (("a", "commit"), ("b", "rollback")):
        connection = connect()
        with pytest.raises(Exception, match=said), once(connection, key=key):
            getattr(connection, ends)()


def test_a_block_that_ends_its_transaction_and_goes_on_fails(database: Database, connect: Connect) -> None:
    """By another transaction, as of ``with connection:`` of sqlite3, which commits at its end."""
    for key, ends in (("a", "commit"), ("b", "rollback")):
        connection = connect()
        with pytest.raises(Exception, match=r"forbidden|was ended within it"), once(connection, key=key):
            add(connection, 1)
            getattr(connection, ends)()
            add(connection, 2)
    assert 2 not in ledger(database)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 of Python 3.12 brings it")
def test_sqlite_commits_also_where_its_commit_does_nothing(tmp_path: Path) -> None:
    database = Database("sqlite", f"sqlite:///{tmp_path}/effects.sqlite")
    connection: Any = sqlite3.connect(tmp_path / "effects.sqlite", autocommit=True)  # type: ignore[call-overload]
    create(connection)
    with once(connection, key="k"):
        pass
    with pytest.raises(ValueError, match="as asked for"), once(connection, key="l"):
        raise ValueError("as asked for")
    assert [row[0] for row in rows(database)] == ["k"]
    connection.close()


def test_a_pipeline_of_psycopg_is_within_the_block(postgres: Database) -> None:
    """Around it, a claim has no answer in time."""
    postgres.write("CREATE TABLE ledger (n int)")
    with postgres.connected() as connection:
        with connection.pipeline(), pytest.raises(ConfigurationError, match="pipeline mode"), once(connection, key="k"):
            pass
        with once(connection, key="k"), connection.pipeline():
            add(connection, 1)
        assert ledger(postgres) == [1]
        with pytest.raises(Exception, match="division"), once(connection, key="l"), connection.pipeline():
            connection.execute("INSERT INTO ledger VALUES (1/0)")
        assert [row[0] for row in rows(postgres)] == ["k"]


def test_an_async_connection_of_a_driver_is_refused() -> None:
    async def work() -> None:
        with pytest.raises(ConfigurationError, match="not an async one"), once(connection, key="k"):
            pass
        with pytest.raises(ConfigurationError, match="of SQLAlchemy alone"):
            async with once(connection, key="k"):
                pass

    psycopg = pytest.importorskip("psycopg")
    connection = psycopg.AsyncConnection.__new__(psycopg.AsyncConnection)
    asyncio.run(work())


def test_a_conflict_rolls_back_and_is_told_apart(database: Database, connect: Connect) -> None:
    """The second transaction waits for the first one, and not for ever."""
    first, second = connect(), connect()
    if database.kind == "sqlite":
        second.execute("PRAGMA busy_timeout = 100")
    with once(first, key="k"):
        add(first, 1)
        with pytest.raises(Busy), once(second, key="k", timeout=0.5):
            add(second, 2)
    with pytest.raises(AlreadyDone), once(second, key="k"):
        add(second, 2)
    assert ledger(database) == [1]


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)  # SQLite's stay in their threads
def test_a_second_run_waits_for_the_first_to_roll_back(database: Database, connect: Connect) -> None:
    """And then does the work."""
    first, second = connect(), connect()
    went_on = threading.Event()

    def run_second() -> None:
        with once(second, key="k"):
            add(second, 2)
        went_on.set()

    thread = threading.Thread(target=run_second)
    with pytest.raises(ValueError, match="as asked for"), once(first, key="k"):
        add(first, 1)
        thread.start()
        waiting = {
            "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
            "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
        }[database.kind]
        wait_until(lambda: database.read(waiting), what="the second one waits")
        assert not went_on.is_set()
        raise ValueError("as asked for")
    thread.join(120)
    assert went_on.is_set()
    assert ledger(database) == [2]


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)  # SQLite has none
def test_time_outs_are_as_they_were_afterwards(database: Database, connect: Connect) -> None:
    shown = {
        "postgresql": "SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')",
        "mariadb": "SELECT @@innodb_lock_wait_timeout, @@wait_timeout",
    }[database.kind]
    connection = connect()
    before = run(connection, shown)
    connection.rollback()
    with once(connection, key="k", timeout=3):
        assert {str(one) for one in run(connection, shown)[0]} == {"3s"} if database.kind == "postgresql" else {"3"}
    assert run(connection, shown) == before
    connection.rollback()
    with pytest.raises(AlreadyDone), once(connection, key="k", timeout=3):
        pass
    assert run(connection, shown) == before
    connection.rollback()
    with pytest.raises(Exception, match="nowhere"), once(connection, key="l", timeout=3):
        run(connection, "SELECT * FROM nowhere")
    assert run(connection, shown) == before
    connection.rollback()
    with once(other := connect(), key="l"):
        with pytest.raises(Busy), once(connection, key="l", timeout=1):
            pass
        add(other, 1)
    assert run(connection, shown) == before


def test_a_shorter_time_out_of_the_session_stays(postgres: Database) -> None:
    with postgres.connected() as connection:
        connection.execute("SET lock_timeout = '250ms'")
        connection.execute("SET idle_in_transaction_session_timeout = '1h'")
        connection.commit()
        with once(connection, key="k", timeout=3):
            assert run(connection, "SHOW lock_timeout") == [("250ms",)]
            assert run(connection, "SHOW idle_in_transaction_session_timeout") == [("3s",)]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stricter_isolation_level_makes_a_conflict_of_a_race(postgres: Database, level: str) -> None:
    """The second transaction cannot see the row that it waits for: it is refused, and sees it when it runs again."""
    with postgres.connected() as first, postgres.connected() as second:
        second.execute(f"SET default_transaction_isolation = '{level.lower()}'")
        second.commit()
        outcome: list[BaseException] = []

        def run_second() -> None:
            try:
                with once(second, key="k"):
                    pass
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=run_second)
        with once(first, key="k"):
            thread.start()
            blocked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: postgres.read(blocked), what="the second one waits")
        thread.join(120)
        assert [type(error) for error in outcome] == [Busy]
        with pytest.raises(AlreadyDone), once(second, key="k"):
            pass


def test_a_transaction_whose_failure_was_swallowed_is_no_success(postgres: Database) -> None:
    """PostgreSQL answers such a commit with a rollback, and reports no error."""
    with postgres.connected() as connection:
        with pytest.raises(InFlightError, match="has failed"), once(connection, key="k"):
            with pytest.raises(Exception, match="division"):
                connection.execute("SELECT 1/0")
        assert rows(postgres) == []


def test_savepoints_within_a_block_are_its_own_affair(postgres: Database) -> None:
    postgres.write("CREATE TABLE ledger (n int)")
    with postgres.connected() as connection:
        with once(connection, key="k"):
            with pytest.raises(Exception, match="division"), connection.transaction():
                connection.execute("SELECT 1/0")
            add(connection, 1)
        assert ledger(postgres) == [1]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_snapshot_that_is_out_of_date_is_a_conflict(database: Database, connect: Connect) -> None:
    """MariaDB says that the record has changed since it was read, by default from 11.6 on."""
    first, second = connect(), connect()
    add(first, 1)
    first.commit()
    if not run(first, "SHOW VARIABLES LIKE 'innodb_snapshot_isolation'"):
        pytest.skip("this MariaDB is older")
    first.commit()
    run(first, "SET innodb_snapshot_isolation = ON")
    first.commit()
    with pytest.raises(Busy), once(first, key="k"):
        run(first, "SELECT n FROM ledger")
        run(second, "UPDATE ledger SET n = 2")
        second.commit()
        run(first, "UPDATE ledger SET n = 3")
    assert ledger(database) == [2]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_a_table_without_transactions_is_refused(
    database: Database, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "seen", set())
    database.write("ALTER TABLE inflight_effects ENGINE=Aria")
    with pytest.raises(ConfigurationError, match="Aria"), once(connect(), key="k"):
        pass


def test_what_is_no_connection_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"builtins\.int; it must be one of psycopg 3"), once(7, key="k"):
        pass


# The table.


def test_the_table_is_made_once(database: Database, connect: Connect) -> None:
    create(connect())
    assert rows(database) == []


def test_keys_are_deleted_when_they_are_old_and_not_before(database: Database, connect: Connect) -> None:
    for key in ("old", "new"):
        with once(connect(), key=key):
            pass
    key = "`key`" if database.kind == "mariadb" else "key"
    database.write(f"UPDATE inflight_effects SET at = '2026-01-01 00:00:00' WHERE {key} = 'old'")
    assert clean(connect()) == 1
    assert [row[0] for row in rows(database)] == ["new"]
    with pytest.raises(ConfigurationError, match="an hour"):
        clean(connect(), older_than=timedelta(minutes=5))


def test_a_key_that_is_forgotten_can_be_done_again(database: Database, connect: Connect) -> None:
    with once(connect(), key="k"):
        pass
    assert forget(connect(), "k")
    assert not forget(connect(), "k")
    with once(connection := connect(), key="k"):
        add(connection, 1)
    assert ledger(database) == [1]
