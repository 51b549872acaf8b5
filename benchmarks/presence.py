# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The cost of incarnations at rest in Redis: each is subscribed, looks at others, beats, and sweeps."""

from __future__ import annotations

import random
import resource
import threading
import time
from typing import Any, NamedTuple

import redis

from dramatiq_inflight.config.settings import Settings
from dramatiq_inflight.liveness.lease import KnownBy, Lease
from dramatiq_inflight.liveness.presence import REFRESH, Presence
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.bell import Bell

from .support import Result, server, server_cpu

__all__ = ["run"]


def run(*, quick: bool = False) -> Result:
    """Measure."""
    number, rest = (50, REFRESH) if quick else (500, 4 * REFRESH)
    result = Result(f"presence: {number} incarnations with the default settings, {rest:g} seconds at rest")
    with server() as redis_server:
        plain = redis_server.client()
        used = _at_rest(plain, number, rest)
        round_trips = used.reads / rest
        idle, pings = (_pings(plain, rate, rest / 4) for rate in (0.0, round_trips))
    result.add("CPU of Redis for all of them", 100 * used.cpu / rest, unit="% of a core", at_most=1.0)
    result.add("CPU of Redis with nobody there", 100 * idle.cpu / (rest / 4), unit="% of a core")
    result.add("CPU of Redis for as many PINGs", 100 * pings.cpu / (rest / 4), unit="% of a core")
    result.add("round trips a second", round_trips)
    result.add("commands a second, those within scripts too", used.commands / rest)
    result.notes.append(
        "their threads are those of one process here, and share its connections but for the subscriptions"
    )
    return result


class _Used(NamedTuple):
    """The server's CPU seconds, the commands that it ran, and how often it read from a client."""

    cpu: float
    commands: float
    reads: float

    @classmethod
    def now(cls, client: redis.Redis) -> _Used:
        stats: Any = client.info("stats")
        return cls(server_cpu(client), float(stats["total_commands_processed"]), float(stats["total_reads_processed"]))

    def since(self, before: _Used) -> _Used:
        return _Used(*(now - then for now, then in zip(self, before, strict=True)))


def _pings(client: redis.Redis, rate: float, seconds: float) -> _Used:
    """Send so many PINGs a second, evenly."""
    before, ends = _Used.now(client), time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        time.sleep(min(left, 1 / rate if rate else left))
        if rate:
            client.ping()
    return _Used.now(client).since(before)


def _at_rest(plain: redis.Redis, number: int, rest: float) -> _Used:
    """Have so many incarnations at rest for so many seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    client, over = bounded_client(plain), threading.Event()
    all_here = [_Incarnation(client, n, over) for n in range(number)]
    try:
        for one in all_here:
            one.start()
        while any(one.presence.lease.known_by is not KnownBy.ENTERED for one in all_here):
            time.sleep(0.1)
        time.sleep(REFRESH / 2)  # those that came last were greeted
        before = _Used.now(plain)
        time.sleep(rest)
        return _Used.now(plain).since(before)
    finally:
        over.set()
        for one in all_here:
            one.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Incarnation(threading.Thread):
    """The threads of an idle worker."""

    def __init__(self, client: redis.Redis, number: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.over = over
        lease = Lease(Settings.heartbeat_ttl, Settings.connection_timeout, Bell())
        self.store = Store(
            Scripts(
                *(client, "bench", f"{random.getrandbits(64):016x}"),
                heartbeat_ttl=Settings.heartbeat_ttl,
                fence_ttl=60,
                contact=Contact(renewed=lease.contact),
            )
        )
        self.store.workers.register({"instance": f"host-{number // 8}", "ttl": "90000"})
        lease.registered(lease.version)
        self.presence = Presence(
            self.store,
            lease,
            connection_timeout=Settings.connection_timeout,
            longest=Settings.heartbeat_ttl / 2,
            on_word=lambda word: None,
            on_death=lambda: None,
        )

    def run(self) -> None:
        self.presence.start()
        while not self.over.wait(Settings.heartbeat_interval * random.uniform(0.9, 1.1)):
            self.store.workers.heartbeat()
            self.store.recovery.find_due()
        self.presence.stop()
        self.presence.close()
