# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The memory of Redis for a message that runs, beyond the message itself.

Messages start under incarnations of eight each, as workers with eight threads would have it; ``used_memory`` before
and after, divided by their number, less the size of the payload.  It includes everything: the records, the sets, what
the incarnations say of themselves, Redis's own tables, and what the allocator rounds up.
"""

from __future__ import annotations

import json
import random
import secrets
import uuid
from typing import Any

import dramatiq

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.servers import RedisServer, wait_until

from .support import Result, server, server_binaries, version

__all__ = ["incarnation", "run", "start"]

NAMESPACE = "dramatiq_processing"
THREADS = 8


def run(size: str) -> Result:
    """Measure.

    Parameters:
      size: ``quick``, ``normal`` or ``full``.
    """
    messages, rounds = {"quick": (2000, 1), "normal": (4000, 3), "full": (10_000, 3)}[size]
    result = Result(f"memory: what Redis keeps for one of {messages:,} running messages beyond its payload")
    for binary in server_binaries():
        with server(binary) as redis_server:
            for name, low, high in (("short", 0, 0), ("0 to 1 kB", 0, 1000), ("0 to 4 kB", 0, 4000)):
                got = [_round(redis_server, messages, low, high, seed) for seed in range(rounds)]
                payload = sum(size for _, size in got) / rounds
                result.add(
                    f"{version(binary)}, arguments {name}, payload {payload:,.0f} bytes",
                    *(extra for extra, _ in got),
                    unit="bytes/message",
                    at_most=400,
                )
    result.notes.append("arguments: the length of the message's one argument, evenly spread")
    return result


def _round(redis_server: RedisServer, messages: int, low: int, high: int, seed: int) -> tuple[float, float]:
    """Bytes beyond the payload, and the payload's size, of one message in the mean."""
    random_ = random.Random(seed)
    client: Any = redis_server.client()
    _empty(client)
    warm = incarnation(client)  # loads the scripts
    warm.workers.heartbeat()
    start(warm, 0)
    warm.scripts.close()
    _empty(client)
    wait_until(lambda: client.info("clients")["connected_clients"] == 1, what="the connections are closed")
    before = client.info("memory")["used_memory"]
    payloads = 0
    for number in range(messages):
        if number % THREADS == 0:
            worker = incarnation(client)
        payloads += start(worker, random_.randint(low, high))
        if number % THREADS == THREADS - 1:
            worker.scripts.close()  # what is left is the same connection as before
    wait_until(lambda: client.info("clients")["connected_clients"] == 1, what="the connections are closed")
    after = client.info("memory")["used_memory"]
    extra = (after - before - payloads) / messages
    if extra <= 0:
        raise RuntimeError(f"{extra:.0f} bytes for a message: the server freed something else meanwhile")
    return extra, payloads / messages


def _empty(client: Any) -> None:
    """Free everything, now: without SYNC some servers do it in the background, and it would count as ours."""
    client.execute_command("FLUSHALL", "SYNC")


def incarnation(client: Any) -> Store:
    """As a worker with a RedisBroker on the same Redis would register."""
    made = Store(Scripts(client, NAMESPACE, secrets.token_hex(8), heartbeat_ttl=3600, fence_ttl=7 * 24 * 3600))
    made.workers.register(
        {
            **{"instance": f"worker-{secrets.token_hex(5)}-{secrets.token_hex(3)}", "host": "worker", "pid": "1"},
            **{"broker_namespace": "dramatiq", "broker_id": str(uuid.uuid4())},
            "queues": json.dumps(["default", "default.DQ"]),
        }
    )
    return made


def start(worker: Store, argument: int) -> int:
    """Start a message; returns the size of its payload."""
    copy_id = str(uuid.uuid4())
    message = dramatiq.Message[None]("default", "send_invoice", ("x" * argument,), {}, {"redis_message_id": copy_id})
    payload = message.encode()
    copy = Copy(message.message_id, 1, copy_id, copy_id, False, message.queue_name, message.actor_name)
    worker.messages.start(copy, payload, limit=3, here="no")
    return len(payload)
