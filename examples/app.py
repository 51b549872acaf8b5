# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A small application whose messages survive the death of their worker.

Run a worker:         dramatiq examples.app
Send it some orders:  python -m examples.app
"""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker, current

broker = RedisBroker(url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
broker.add_middleware(InFlightTracker())
dramatiq.set_broker(broker)


@dramatiq.actor(track_inflight=True)
def charge(order_id: int) -> None:
    """Charge for an order.  If the worker dies meanwhile, the message is put back, and another worker runs it."""
    handle = current()
    if handle is not None and handle.recovered:
        print(f"Order {order_id}: an earlier run was cut off, so look first whether it has charged already.")
    time.sleep(1)  # the payment
    print(f"Order {order_id}: charged.")
    print_invoice.send(order_id)


@dramatiq.actor(track_inflight=True, max_recoveries=1)
def print_invoice(order_id: int) -> None:
    """Print an invoice.  One that kills its worker twice goes to the dead-letter queue instead of killing a third."""
    time.sleep(1)  # the rendering
    print(f"Order {order_id}: invoice printed.")


if __name__ == "__main__":
    for order in range(1, 21):
        charge.send(order)
