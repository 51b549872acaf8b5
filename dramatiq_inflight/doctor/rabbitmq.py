# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ, where it is the broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from .case import Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

#: The heartbeat that the tracker's memory for what is complete is made for, seconds (ACK_TTL is three times as much).
HEARTBEAT = 60

#: RabbitMQ's default, seconds, and the share of it from which it is time to say so.
CONSUMER_TIMEOUT, SHARE = 1800.0, 0.8

CONFIRM_DELIVERY = Code(
    "confirm-delivery",
    ("warning",),
    "A message that RabbitMQ did not take is lost without anybody knowing; of recovery's copies another is "
    "made when their deadline has passed.",
    "RabbitmqBroker(..., confirm_delivery=True).",
)

RABBITMQ_UNREACHABLE = Code(
    "rabbitmq-unreachable",
    ("error",),
    "Nothing is fetched, and recovery cannot enqueue.",
    "Check the address, the network, the user and the password.",
)

RABBITMQ_HEARTBEAT = Code(
    "rabbitmq-heartbeat",
    ("warning",),
    "RabbitMQ may notice a lost connection, and deliver again, after the tracker has forgotten that a message "
    "is complete (three minutes): it runs again.",
    "Use a heartbeat of 60 seconds or less in the broker's URL.",
)

SLOW_CONSUMER = Code(
    "consumer-timeout",
    ("warning", "note"),
    "RabbitMQ cuts off a consumer that holds a message for longer than consumer_timeout (30 minutes by "
    "default), and delivers it again and again: each copy is put off until the run ends.",
    "Set RabbitMQ's consumer_timeout above your longest run; it cannot be asked from here.",
)


def _is_rabbitmq(case: Case) -> bool:
    # Without importing it: that takes pika.
    module = sys.modules.get("dramatiq.brokers.rabbitmq")
    return module is not None and isinstance(case.broker, module.RabbitmqBroker)


def _confirms(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    if not broker.confirm_delivery:
        yield CONFIRM_DELIVERY.warning("RabbitmqBroker was made without confirm_delivery.")


def _reachable(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    import pika  # noqa: PLC0415  an optional dependency of Dramatiq

    try:
        pika.BlockingConnection(broker.parameters).close()
    except Exception as failure:
        yield RABBITMQ_UNREACHABLE.error(f"RabbitMQ cannot be used ({type(failure).__name__}).")


def _heartbeat(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    parameters = broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
    longest = max((one.heartbeat for one in parameters if isinstance(one.heartbeat, int)), default=0)
    if longest > HEARTBEAT or any(one.heartbeat == 0 for one in parameters):
        yield RABBITMQ_HEARTBEAT.warning(f"The heartbeat of RabbitMQ's connections is {longest or 'off'}.")


def _consumer_timeout(case: Case) -> Iterator[Finding]:
    oldest = case.overview.oldest
    if oldest > SHARE * CONSUMER_TIMEOUT:
        yield SLOW_CONSUMER.warning(f"A message has been running for {oldest / 60:.0f} minutes.")
    else:
        yield SLOW_CONSUMER.note("RabbitMQ has a consumer_timeout.")


CHECKS = (
    Check(RABBITMQ_UNREACHABLE, "The way to RabbitMQ", "RabbitMQ can be reached.", _reachable, _is_rabbitmq),
    Check(CONFIRM_DELIVERY, "RabbitmqBroker's confirms", "What is enqueued is confirmed.", _confirms, _is_rabbitmq),
    Check(RABBITMQ_HEARTBEAT, "RabbitMQ's heartbeat", "RabbitMQ's heartbeat is short.", _heartbeat, _is_rabbitmq),
    Check(SLOW_CONSUMER, "RabbitMQ's consumer_timeout", "No message is near it.", _consumer_timeout, _is_rabbitmq),
)
