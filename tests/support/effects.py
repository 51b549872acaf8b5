# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Rounds of effects: messages add rows and move money, while their workers are frozen, killed and cut off.

``python -m tests.support.effects --messages 2000 --database postgresql`` runs them at length; with ``--control``
without the fence, which doubles some.  ``--overhead`` measures what a claim takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dramatiq import Message

from dramatiq_inflight import effects

from .cluster import Cluster, standalone
from .databases import KINDS, Database, run
from .mariadb import MariaDBServer, find_mariadb
from .network_proxy import NetworkProxy
from .postgres import PostgresServer, find_postgres

__all__ = ["Report", "is_frozen", "shake"]

APP = "tests.support.effects_app"

ACCOUNTS = 10

#: How long a worker stays frozen, in TTLs.
FROZEN = (1.2, 2.5)


@dataclass
class Report:
    """The ends of the messages."""

    sent: int = 0
    runs: int = 0
    frozen: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    #: Connections that were cut, to the database and to Redis.
    cut: int = 0
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    #: By how much the accounts differ from what the messages say, in all.
    wrong: int = 0
    dead_lettered: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.sent} messages, {self.runs} runs in {self.seconds:.0f} s; "
            f"frozen {dict(sorted(self.frozen.items()))}, killed {dict(sorted(self.killed.items()))}, "
            f"{self.cut} connections cut; lost {len(self.lost)}, doubled {len(self.doubled)}, "
            f"accounts wrong by {self.wrong}, dead-lettered {self.dead_lettered}"
        )


def shake(
    cluster: Cluster,
    database: Database,
    messages: int,
    seed: int,
    *,
    fenced: bool = True,
    freezes: int = 12,
    kills: int = 12,
    workers: int = 3,
) -> Report:
    """Send messages, and let their workers freeze and die; wake these, and replace those.

    Parameters:
      seed: The seed of the moments and the victims.
      fenced: False: without the effects.
      freezes, kills: How often in a thousand runs.
    """
    chance = random.Random(seed)
    report = Report(sent=messages)
    began = time.monotonic()
    database.write(
        "CREATE TABLE ledger (entry int)",
        "CREATE TABLE account (id int PRIMARY KEY, balance int)",
        *(f"INSERT INTO account VALUES ({number}, 0)" for number in range(ACCOUNTS)),
    )
    proxies = [NetworkProxy(urlsplit(cluster.env["TEST_BROKER_URL"]).port or 6379)]
    env = {"TEST_BROKER_URL": proxies[0].url, "TEST_DATABASE": database.url, "TEST_SEED": str(seed)}
    env |= {"TEST_FREEZES": str(freezes), "TEST_KILLS": str(kills)}
    if database.port:
        proxies.append(NetworkProxy(database.port))
        env["TEST_DATABASE"] = database.behind(proxies[1].port)
    ttl = float(cluster.env["HEARTBEAT_TTL"])
    owed: Counter[int] = Counter()
    try:
        living = [cluster.worker(app=APP, threads=4, env=env, wait=False) for _ in range(workers)]
        for key in range(messages):
            giver, taker = chance.sample(range(ACCOUNTS), 2)
            owed[giver] -= 1
            owed[taker] += 1
            args = (key, giver, taker, fenced)
            cluster.broker.enqueue(Message(cluster.app.QUEUE, "transfer", args, {}, {}))
        wakes: dict[int, float] = {}
        next_cut = time.monotonic() + 2

        def tend() -> bool:
            nonlocal next_cut
            for at, worker in enumerate(living):
                if worker.process.poll() is not None:
                    worker.kill()
                    living[at] = cluster.worker(app=APP, threads=4, env=env, wait=False)
            # One may freeze before it notes that it has booted; and its number may be another test's process by now.
            groups = {worker.group for worker in living}
            for pid in {event.pid for event in cluster.history.events("frozen")}:
                with contextlib.suppress(ProcessLookupError):
                    if is_frozen(pid) and os.getpgid(pid) in groups:
                        wakes.setdefault(pid, time.monotonic() + ttl * chance.uniform(*FROZEN))
            for pid, due in list(wakes.items()):
                if time.monotonic() >= due:
                    del wakes[pid]
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)
            if time.monotonic() >= next_cut:
                next_cut = time.monotonic() + chance.uniform(1, 4)
                links = [link for link in chance.choice(proxies).open_links() if chance.random() < 0.3]
                for link in links:
                    link.reset()
                report.cut += len(links)
            return not wakes and cluster.enqueued() == 0

        cluster.wait(tend, timeout=120 + messages, what="all messages are done")
        report.seconds = time.monotonic() - began
        _judge(cluster, database, messages, owed, report)
    finally:
        for proxy in proxies:
            proxy.close()
    return report


def is_frozen(pid: int) -> bool:
    """Return whether a process is stopped, with all of its threads: the kernel takes its time over that."""
    try:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return bool(states) and set(states) == {"T"}


def _judge(cluster: Cluster, database: Database, messages: int, owed: Counter[int], report: Report) -> None:
    entries = Counter(entry for (entry,) in database.read("SELECT entry FROM ledger"))
    report.lost = [key for key in range(messages) if not entries[key]]
    report.doubled = [key for key in range(messages) if entries[key] > 1]
    balances = dict(database.read("SELECT id, balance FROM account"))
    report.wrong = sum(abs(balances[number] - owed[number]) for number in range(ACCOUNTS))
    report.runs = len(cluster.history.events("start"))
    report.frozen = Counter(event.extra for event in cluster.history.events("frozen"))
    report.killed = Counter(event.extra for event in cluster.history.events("killed"))
    report.dead_lettered = len(cluster.dead_letters())


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[Database]:
    """A database with a server of its own."""
    if kind == "sqlite":
        yield Database(kind, f"sqlite:///{folder}/effects.sqlite")
        return
    if kind == "postgresql":
        programs = find_postgres()
        assert programs is not None, "no PostgreSQL here"
        server: PostgresServer | MariaDBServer = PostgresServer(programs)
    else:
        binary = find_mariadb()
        assert binary is not None, "no MariaDB here"
        server = MariaDBServer(binary)
    try:
        yield Database(kind, server.start().url).create()
    finally:
        server.kill()


def overhead(database: Database, number: int = 1500) -> str:
    """Measure a transaction of one INSERT, without and with the claim, in turns: the tenth percentile, microseconds.

    A commit waits for no disk, which would hide the rest.
    """
    times: dict[str, list[float]] = {"plain": [], "once": []}
    with database.connected() as connection:
        run(connection, "CREATE TABLE ledger (entry int)")
        connection.commit()
        if database.kind == "postgresql":
            run(connection, "SET synchronous_commit = off")
            connection.commit()
        elif database.kind == "sqlite":
            run(connection, "PRAGMA synchronous = OFF")
        for key in range(number):
            for how, seconds in times.items():
                began = time.perf_counter()
                with effects.once(connection, key=str(key)) if how == "once" else contextlib.nullcontext():
                    run(connection, "INSERT INTO ledger VALUES (%s)", key)
                connection.commit()
                seconds.append(time.perf_counter() - began)
    plain, once = (round(sorted(seconds)[number // 10] * 1e6) for seconds in times.values())
    return f"{database.kind}: {plain} us without, {once} us with the claim"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=KINDS, default="postgresql")
    parser.add_argument("--control", action="store_true", help="without the fence")
    parser.add_argument("--overhead", action="store_true", help="measure what a claim takes, and do no more")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = stack.enter_context(_database(options.database, folder))
        with database.connected() as connection:
            effects.create(connection)
        if options.overhead:
            print(overhead(database))
            return 0
        cluster = stack.enter_context(standalone(lambda url: {}))
        report = shake(cluster, database, options.messages, options.seed, fenced=not options.control)
    print(f"{options.database}, seed {options.seed}{', without the fence' if options.control else ''}: {report}")
    for name in ("lost", "doubled"):
        if found := getattr(report, name):
            print(f"{name}: {found[:10]}")
    wrong = bool(report.lost or report.doubled or report.wrong or report.dead_lettered)
    return 1 if wrong is not options.control else 0


if __name__ == "__main__":
    sys.exit(main())
