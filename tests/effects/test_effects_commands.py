# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``dramatiq-inflight effects``: the table, from the command line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result

from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.effects import ddl, once
from tests.effects.test_effects import rows
from tests.support.databases import Database


def call(*args: str, url: str = "") -> Result:
    return CliRunner(env={"PROCESSING_EFFECTS_DATABASE": url}).invoke(cli, ["effects", *args])


def test_the_table_is_created_cleaned_and_a_key_forgotten(database: Database) -> None:
    database.write("DROP TABLE inflight_effects")
    assert call("create", url=database.url).exit_code == 0
    assert call("create", "--database", database.url).exit_code == 0
    with database.connected() as connection:
        for key in ("old", "new", "third"):
            with once(connection, key=key):
                pass
    key = "`key`" if database.kind == "mariadb" else "key"
    database.write(f"UPDATE inflight_effects SET at = '2026-01-01 00:00:00' WHERE {key} = 'old'")
    assert call("clean", url=database.url).output == "Deleted 1 keys.\n"
    assert call("clean", "--days", "0.1", url=database.url).exit_code == 2
    assert call("forget", "third", url=database.url).output == "Forgotten.\n"
    assert call("forget", "third", url=database.url).exit_code == 1
    assert [row[0] for row in rows(database)] == ["new"]


@pytest.mark.parametrize("kind", ["postgresql", "mysql", "sqlite"])
def test_the_statement_is_printed_for_a_migration(kind: str) -> None:
    assert call("ddl", kind).output == f"{ddl(kind)};\n"


def test_a_database_that_is_away_or_unknown_is_named() -> None:
    away = call("create", url="postgresql://nobody@127.0.0.1:1/none")
    assert (away.exit_code, "The database cannot be used" in away.output) == (3, True)
    unknown = call("create", url="oracle://here")
    assert (unknown.exit_code, "begins with 'oracle'" in unknown.output) == (2, True)
    assert call("create").exit_code == 2
