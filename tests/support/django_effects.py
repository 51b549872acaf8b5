# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Effects in Django, in a process of its own: ``python -m tests.support.django_effects URL``."""

from __future__ import annotations

import io
import sys
from typing import Any
from urllib.parse import urlsplit

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from dramatiq_inflight import AlreadyDone, ConfigurationError, InFlightError, effects

ENGINES = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite3"}


def configure(url: str) -> None:
    """Set Django up with one database."""
    parts = urlsplit(url)
    if parts.scheme == "mysql":
        import pymysql  # noqa: PLC0415  it stands in for mysqlclient here

        pymysql.version_info = (2, 2, 8, "final", 0)
        pymysql.install_as_MySQLdb()
    where = {"NAME": parts.path[1:], "HOST": parts.hostname or "", "PORT": parts.port or "", "USER": parts.username}
    database: dict[str, Any] = {"ENGINE": f"django.db.backends.{ENGINES[parts.scheme]}", **where}
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["dramatiq_inflight.effects.django"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()


def add(n: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO ledger VALUES (%s)", [n])


def ledger() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT n FROM ledger ORDER BY n")
        return [n for (n,) in cursor.fetchall()]


def check() -> None:
    """See that effects commit once, and leave the connection as it was."""
    from dramatiq_inflight.effects.django.models import Effect  # noqa: PLC0415  not before Django is set up

    call_command("migrate", verbosity=0)
    call_command("makemigrations", "--check", "--dry-run", stdout=io.StringIO())  # the model is as the migration says
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE ledger (n int)")

    committed: list[int] = []
    with effects.once(connection, key="a") as effect:
        add(1)
        effect.set_result([1])
        transaction.on_commit(lambda: committed.append(1))
        with transaction.atomic():  # a savepoint
            add(2)
        assert committed == []
    assert committed == [1]
    with pytest.raises(AlreadyDone) as done, effects.once(connection, key="a"):
        add(3)
    assert done.value.result == [1]
    with pytest.raises(ValueError, match="as asked for"), effects.once(connection, key="b"):  # noqa: PT012  a block
        add(4)
        raise ValueError("as asked for")
    outside = pytest.raises(ConfigurationError, match="outside of transaction")
    with outside, transaction.atomic(), effects.once(connection, key="b"):
        add(5)
    assert connection.get_autocommit()
    assert ledger() == [1, 2]
    effect = Effect.objects.get()
    assert (effect.key, effect.fence, effect.done, bytes(effect.result)) == ("a", 0, True, b"[1]")
    with effects.once(connection, key="A"):
        pass
    assert Effect.objects.count() == 2, "keys differ by case"
    assert effects.clean(connection) == 0
    assert effects.forget(connection, "a")
    assert Effect.objects.count() == 1


def check_what_is_rolled_back() -> None:
    """See that Django commits what is said to be done."""
    from dramatiq_inflight.effects.django.models import Effect  # noqa: PLC0415  not before Django is set up

    before = ledger()
    Effect.objects.all().delete()
    with effects.once(connection, key="a"):
        add(1)
    at = Effect.objects.get().at
    # Django remembers an error that was caught, and rolls back without a word.
    said = pytest.raises(InFlightError, match="has failed")
    with said, effects.once(connection, key="c"):
        add(6)
        with pytest.raises(IntegrityError):
            Effect(key="a", fence=0, at=at).save(force_insert=True)
    with pytest.raises(InFlightError, match="has failed"), effects.once(connection, key="c"):
        transaction.set_rollback(True)
    with effects.once(connection, key="c"):
        with pytest.raises(IntegrityError), transaction.atomic():
            Effect(key="a", fence=0, at=at).save(force_insert=True)
        add(7)
    assert ledger() == sorted([*before, 1, 7])
    # As within Django's TestCase.
    with pytest.raises(ValueError, match="as asked for"), transaction.atomic():  # noqa: PT012  a block
        connection.atomic_blocks[-1]._from_testcase = True
        with effects.once(connection, key="d"):
            add(8)
        with pytest.raises(AlreadyDone), effects.once(connection, key="d"):
            pass
        raise ValueError("as asked for")
    connection.set_autocommit(False)
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"), effects.once(connection, key="c"):
        pass
    connection.set_autocommit(True)
    assert ledger() == sorted([*before, 1, 7])


if __name__ == "__main__":
    configure(sys.argv[1])
    check()
    check_what_is_rolled_back()
    print("fine")
