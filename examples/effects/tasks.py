# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A transfer between two accounts in PostgreSQL, that is made once whatever becomes of its worker."""

from __future__ import annotations

import os
import time

import dramatiq
import psycopg
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.effects import create, once

DATABASE = os.environ.get("DATABASE_URL", "postgresql://localhost/postgres")

broker = RedisBroker(url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
broker.add_middleware(InFlightTracker())
dramatiq.set_broker(broker)


@dramatiq.actor(track_inflight=True)
def transfer(giver: str, taker: str, amount: int) -> None:
    """Move money.  Slow work is done outside of the transaction, which is short."""
    transfer.logger.info("Transfer: asking the bank.")
    time.sleep(2)
    with psycopg.connect(DATABASE) as database, once(database):
        move = "UPDATE account SET balance = balance + %s WHERE name = %s"
        database.execute(move, (-amount, giver))
        database.execute(move, (amount, taker))
    transfer.logger.info("Transfer: done.")


def main() -> None:
    """Make the tables, and send a transfer."""
    with psycopg.connect(DATABASE) as database:
        create(database)
        database.execute("CREATE TABLE IF NOT EXISTS account (name text PRIMARY KEY, balance int)")
        database.execute("INSERT INTO account VALUES ('ann', 100), ('bob', 0) ON CONFLICT DO NOTHING")
    transfer.send("ann", "bob", 10)


if __name__ == "__main__":
    main()
