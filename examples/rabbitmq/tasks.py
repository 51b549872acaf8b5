# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ keeps the messages, and Redis beside it what is in flight.

Run a worker:       dramatiq examples.rabbitmq.tasks
Send it an order:   python -m examples.rabbitmq.tasks
"""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from dramatiq_inflight import InFlightTracker, current

broker = RabbitmqBroker(
    url=os.environ.get("RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/"),
    confirm_delivery=True,  # or nobody notices that RabbitMQ did not take a message
)
# After all other middleware.  Those who only send have it, too: it gives each enqueue an id, as RabbitMQ does not.
broker.add_middleware(InFlightTracker(redis_url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="charges", track_inflight=True)
def charge(order_id: int) -> None:
    """Charge for an order.  If the worker dies meanwhile, another one runs the message."""
    job = current()  # None in unit tests, with a StubBroker
    again = " again" if job is not None and job.recovered else ""
    charge.logger.info("Order %d: charging%s.", order_id, again)
    time.sleep(2)  # the payment provider; its idempotency key is the order, for an earlier run may have got this far
    charge.logger.info("Order %d: charged.", order_id)


if __name__ == "__main__":
    charge.send(1)
