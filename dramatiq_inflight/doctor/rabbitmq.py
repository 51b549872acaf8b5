# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ, where it is the broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from .case import Case, Check
from .findings import Finding, error, note, warning

__all__ = ["CHECKS"]

#: The heartbeat that the tracker's memory for what is complete is made for, seconds (ACK_TTL is three times as much).
HEARTBEAT = 60

#: RabbitMQ's default, seconds, and the share of it from which it is time to say so.
CONSUMER_TIMEOUT, SHARE = 1800.0, 0.8


def _is_rabbitmq(case: Case) -> bool:
    # Without importing it: that takes pika.
    module = sys.modules.get("dramatiq.brokers.rabbitmq")
    return module is not None and isinstance(case.broker, module.RabbitmqBroker)


def _confirms(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    if not broker.confirm_delivery:
        yield warning("confirm-delivery", "RabbitmqBroker was made without confirm_delivery.")


def _reachable(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    import pika  # noqa: PLC0415  an optional dependency of Dramatiq

    try:
        pika.BlockingConnection(broker.parameters).close()
    except Exception as failure:
        yield error("rabbitmq-unreachable", f"RabbitMQ cannot be used ({type(failure).__name__}).")


def _heartbeat(case: Case) -> Iterator[Finding]:
    broker: Any = case.broker
    parameters = broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
    longest = max((one.heartbeat for one in parameters if isinstance(one.heartbeat, int)), default=0)
    if longest > HEARTBEAT or any(one.heartbeat == 0 for one in parameters):
        yield warning("rabbitmq-heartbeat", f"The heartbeat of RabbitMQ's connections is {longest or 'off'}.")


def _consumer_timeout(case: Case) -> Iterator[Finding]:
    oldest = case.overview.oldest
    if oldest > SHARE * CONSUMER_TIMEOUT:
        yield warning("consumer-timeout", f"A message has been running for {oldest / 60:.0f} minutes.")
    else:
        yield note("consumer-timeout", "RabbitMQ has a consumer_timeout.")


CHECKS = (
    Check("rabbitmq-unreachable", "The way to RabbitMQ", "RabbitMQ can be reached.", _reachable, _is_rabbitmq),
    Check("confirm-delivery", "RabbitmqBroker's confirms", "What is enqueued is confirmed.", _confirms, _is_rabbitmq),
    Check("rabbitmq-heartbeat", "RabbitMQ's heartbeat", "RabbitMQ's heartbeat is short.", _heartbeat, _is_rabbitmq),
    Check("consumer-timeout", "RabbitMQ's consumer_timeout", "No message is near it.", _consumer_timeout, _is_rabbitmq),
)
