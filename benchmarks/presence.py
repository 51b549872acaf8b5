# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What incarnations at rest cost Redis: each is subscribed, looks at others, beats, and looks for what is due."""

from __future__ import annotations

import random
import resource
import threading
import time

import redis

from dramatiq_inflight.config.settings import Settings
from dramatiq_inflight.liveness.lease import Contact, Lease
from dramatiq_inflight.liveness.presence import REFRESH, Presence
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.registry import Registry
from dramatiq_inflight.threads.bell import Bell

from .support import Result, server

__all__ = ["run"]


def run(*, quick: bool = False) -> Result:
    """Measure."""
    number, rest = (50, REFRESH) if quick else (500, 4 * REFRESH)
    result = Result(f"presence: {number} incarnations with the default settings, {rest:g} seconds at rest")
    with server() as redis_server:
        cpu, commands = _at_rest(redis_server.client(), number, rest)
    result.add("CPU of Redis for all of them", 100 * cpu / rest, unit="% of a core", at_most=1.0)
    result.add("commands a second", commands / rest)
    result.notes.append(
        "their threads are those of one process here, and share its connections but for the subscriptions"
    )
    return result


def _at_rest(plain: redis.Redis, number: int, rest: float) -> tuple[float, int]:
    """CPU seconds of the server, and how many commands it was sent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    client, over = bounded_client(plain), threading.Event()
    all_here = [_Incarnation(client, n, over) for n in range(number)]
    try:
        for one in all_here:
            one.start()
        while any(one.presence.lease.known_by is not Contact.ENTERED for one in all_here):
            time.sleep(0.1)
        time.sleep(REFRESH / 2)  # those that came last were greeted
        before = _used(plain)
        time.sleep(rest)
        cpu, commands = (now - then for now, then in zip(_used(plain), before, strict=True))
        return cpu, int(commands)
    finally:
        over.set()
        for one in all_here:
            one.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class _Incarnation(threading.Thread):
    """What a worker's threads do when there is nothing to do."""

    def __init__(self, client: redis.Redis, number: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.over = over
        lease = Lease(Settings.heartbeat_ttl, Settings.connection_timeout, Bell())
        self.registry = Registry(
            *(client, "bench", f"{random.getrandbits(64):016x}"),
            heartbeat_ttl=Settings.heartbeat_ttl,
            fence_ttl=60,
            on_contact=lease.contact,
        )
        self.registry.register({"instance": f"host-{number // 8}", "ttl": "90000"})
        lease.registered(lease.version)
        self.presence = Presence(
            self.registry,
            lease,
            connection_timeout=Settings.connection_timeout,
            longest=Settings.heartbeat_ttl / 2,
            on_word=lambda word: None,
            on_death=lambda: None,
        )

    def run(self) -> None:
        self.presence.start()
        while not self.over.wait(Settings.heartbeat_interval * random.uniform(0.9, 1.1)):
            self.registry.beat()
            self.registry.due()
        self.presence.stop()
        self.presence.close()


def _used(client: redis.Redis) -> tuple[float, float]:
    cpu, stats = client.info("cpu"), client.info("stats")
    seconds = float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])  # type: ignore[index]
    return seconds, float(stats["total_commands_processed"])  # type: ignore[index]
