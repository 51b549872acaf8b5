# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The worker's side: ``dramatiq examples.fastapi.tasks``."""

from __future__ import annotations

import asyncio
import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from dramatiq_inflight import InFlightTracker, current

broker = RedisBroker(url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
broker.add_middleware(AsyncIO())
broker.add_middleware(Results(backend=RedisBackend(client=broker.client)))
broker.add_middleware(InFlightTracker())
dramatiq.set_broker(broker)


@dramatiq.actor(track_inflight=True, store_results=True)
async def charge(order_id: int) -> dict[str, object]:
    """Charge for an order.  If the worker dies meanwhile, another one runs the message."""
    job = current()  # None in unit tests, with a StubBroker
    recovered = job is not None and job.recovered
    charge.logger.info("Order %d: charging.", order_id)
    await asyncio.sleep(2)  # the payment provider; its idempotency key is the order: an earlier run may have got here
    charge.logger.info("Order %d: charged.", order_id)
    return {"order": order_id, "recovered": recovered}
