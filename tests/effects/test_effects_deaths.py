# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Effects once, though workers are frozen and killed: real processes, real databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Message

from tests.support.cluster import Cluster
from tests.support.databases import Database
from tests.support.effects import is_frozen, shake
from tests.support.servers import wait_until
from tests.support.workers import WorkerProcess

#: How a zombie is refused: by the row, by what it has heard of its loss before, or by the server that has ended its
#: transaction.
REFUSALS = {
    "before": {"AlreadyDone", "MessageLost"},
    "within": {"OperationalError", "IdleInTransactionSessionTimeout", "MessageLost", "InterfaceError"},
}

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def shelf(database: Database) -> Database:
    database.write("CREATE TABLE ledger (entry int)")
    return database


def send(made: Cluster, actor: str, *args: Any) -> None:
    made.broker.enqueue(Message(made.app.QUEUE, actor, args, {}, {}))


def freeze(worker: WorkerProcess) -> None:
    worker.pause()
    wait_until(lambda: is_frozen(worker.booted_pid() or 0), what="it is frozen")


def entries(database: Database) -> list[int]:
    return [entry for (entry,) in database.read("SELECT entry FROM ledger")]


def worker_of(made: Cluster, database: Database) -> WorkerProcess:
    env = {"TEST_DATABASE": database.url}
    return made.worker(app="tests.support.effects_app", threads=1, env=env)


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_zombie_that_wakes_up_is_refused(cluster: MakeCluster, shelf: Database, tmp_path: Path, moment: str) -> None:
    """Frozen before its transaction, or in the middle of it, for longer than the TTL: another worker does the work."""
    made = cluster(HEARTBEAT_INTERVAL="0.5", HEARTBEAT_TTL="3")
    zombie = worker_of(made, shelf)
    gate = tmp_path / "gate"
    send(made, "paused", 7, str(gate), moment)
    made.wait(lambda: made.history.events("at the gate"), what="it is at its gate")
    freeze(zombie)
    gate.touch()
    worker_of(made, shelf)
    made.wait(lambda: made.history.events("done"), what="another worker has done it")
    assert entries(shelf) == [7]
    by = made.history.events("done")[0].pid
    zombie.resume()
    made.wait(lambda: made.history.events("refused"), what="the zombie is refused")
    refused = made.history.events("refused")[0]
    assert refused.pid == zombie.booted_pid() != by
    assert refused.extra.partition(":")[0] in REFUSALS[moment], refused.extra
    wait_until(lambda: made.enqueued() == 0, what="nothing is left")
    assert entries(shelf) == [7]
    assert len(made.history.events("done")) == 1


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_frozen_transaction_does_not_block_for_ever(cluster: MakeCluster, shelf: Database, tmp_path: Path) -> None:
    """The server ends it: PostgreSQL has no transaction of the zombie's any more while that is still frozen."""
    made = cluster(HEARTBEAT_INTERVAL="0.5", HEARTBEAT_TTL="3")
    zombie = worker_of(made, shelf)
    gate = tmp_path / "gate"
    send(made, "paused", 7, str(gate), "within")
    made.wait(lambda: made.history.events("at the gate"), what="it is at its gate")
    idle = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
    assert shelf.read(idle) == [(1,)]
    freeze(zombie)
    wait_until(lambda: shelf.read(idle) == [(0,)], what="the server has ended it")
    gate.touch()


@pytest.mark.long
@pytest.mark.parametrize(
    ("database", "messages"), [("postgresql", 150), ("mariadb", 100), ("sqlite", 60)], indirect=["database"]
)
def test_nothing_is_lost_or_doubled_whatever_happens(cluster: MakeCluster, database: Database, messages: int) -> None:
    """A short version of ``python -m tests.support.effects``."""
    often = 6000 // messages  # of a thousand runs, so that some are frozen or killed however few they are
    report = shake(cluster(), database, messages, seed=1, freezes=often, kills=often)
    print(report)
    assert (report.lost, report.doubled, report.wrong, report.dead_lettered) == ([], [], 0, 0)
    assert sum(report.frozen.values()) + sum(report.killed.values()) > 0
