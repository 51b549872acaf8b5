# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The actors: ``manage.py rundramatiq`` finds them by the name of this file."""

import time

import dramatiq
from django.db import connection
from django.utils import timezone

from dramatiq_inflight import current
from dramatiq_inflight.effects import once

from .models import Order


@dramatiq.actor(track_inflight=True)
def charge(order_id: int) -> None:
    """Charge for an order.  If the worker dies meanwhile, another one runs the message."""
    job = current()  # None in unit tests, with a StubBroker
    recovered = job is not None and job.recovered
    if not Order.objects.filter(pk=order_id, charged_at=None).exists():
        return  # it was sent twice
    charge.logger.info("Order %d: charging.", order_id)
    time.sleep(2)  # the payment provider; its idempotency key is the order, for an earlier run may have got this far
    with once(connection):  # a transaction: a run that was frozen meanwhile, and wakes up, is refused here
        Order.objects.filter(pk=order_id).update(charged_at=timezone.now(), recovered=recovered)
    charge.logger.info("Order %d: charged.", order_id)
