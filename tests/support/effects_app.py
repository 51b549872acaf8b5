# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application that the rounds of effects run: each message adds a row, and moves money between two accounts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from typing import Any

from dramatiq_inflight import current
from dramatiq_inflight.effects import once
from dramatiq_inflight.effects.connecting import connect
from tests.support.app import actor, broker, history
from tests.support.databases import run

__all__ = ["broker", "paused", "transfer"]

DATABASE = os.environ.get("TEST_DATABASE", "")

#: How often in a thousand runs this process freezes, and how often it is killed.
FREEZES, KILLS = (int(os.environ.get(f"TEST_{name}", "0")) for name in ("FREEZES", "KILLS"))

chance = random.Random(f"{os.environ.get('TEST_SEED', '0')}:{os.getpid()}")

#: The moments of a run.
BEFORE, WITHIN, COMMIT, AFTER = "before", "within", "commit", "after"


def strike(key: Any, now: str, freeze_at: str, kill_at: str) -> None:
    """Freeze, or die, if this is the moment."""
    if now == freeze_at:
        history.write("frozen", key, extra=now)
        os.kill(os.getpid(), signal.SIGSTOP)  # until somebody wakes it
    if now == kill_at:
        history.write("killed", key, extra=now)
        os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def plain(connection: Any) -> Any:
    """A transaction without a fence, as the control has it."""
    if DATABASE.startswith("sqlite"):
        connection.execute("BEGIN IMMEDIATE")
    yield
    connection.commit()


@actor(track_inflight=True, max_recoveries=None, max_retries=1000, min_backoff=50, max_backoff=500)
def transfer(key: int, giver: int, taker: int, fenced: bool) -> None:
    """Add a row, and move one unit of money."""
    job = current()
    moments = (BEFORE, WITHIN, AFTER)
    freeze_at = chance.choice(moments) if chance.randrange(1000) < FREEZES else ""
    kill_at = chance.choice((WITHIN, COMMIT, AFTER)) if chance.randrange(1000) < KILLS else ""
    history.write("start", key, extra=job and job.fence)
    connection = connect(DATABASE)
    try:
        strike(key, BEFORE, freeze_at, "")
        with once(connection) if fenced else plain(connection):
            run(connection, "INSERT INTO ledger (entry) VALUES (%s)", key)
            run(connection, "UPDATE account SET balance = balance - 1 WHERE id = %s", giver)
            strike(key, WITHIN, freeze_at, kill_at)
            run(connection, "UPDATE account SET balance = balance + 1 WHERE id = %s", taker)
            time.sleep(chance.uniform(0, 0.01))
            if kill_at == COMMIT:  # while the commit is on its way, or was answered
                history.write("killed", key, extra=COMMIT)
                threading.Timer(chance.uniform(0, 0.003), lambda: os.killpg(0, signal.SIGKILL)).start()
        strike(key, AFTER, freeze_at, kill_at)
    finally:
        connection.close()
    history.write("end", key)


@actor(track_inflight=True, max_recoveries=None, max_retries=0)
def paused(key: int, gate: str, moment: str) -> None:
    """Add a row; the first run waits at a gate, before its transaction or within."""
    job = current()
    assert job is not None

    def wait_at(now: str) -> None:
        if now == moment and not job.recovered:
            history.write("at the gate", key, job.message_id)
            while not os.path.exists(gate):
                time.sleep(0.01)

    connection = connect(DATABASE)
    try:
        wait_at(BEFORE)
        with once(connection):
            run(connection, "INSERT INTO ledger (entry) VALUES (%s)", key)
            wait_at(WITHIN)
            run(connection, "UPDATE ledger SET entry = entry WHERE entry = %s", key)
    except BaseException as error:  # MessageLost is no Exception
        history.write("refused", key, job.message_id, f"{type(error).__name__}: {error}")
        raise
    finally:
        connection.close()
    history.write("done", key, job.message_id, job.fence)
