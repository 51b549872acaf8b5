# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ, where it is the broker."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from dramatiq.errors import ConnectionClosed

from ..brokers.rabbitmq import BY_LIMIT, LOOKS_COUNT, RabbitmqQueues
from .case import CannotTell, Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

Answer = TypeVar("Answer")

#: The heartbeat that the tracker's memory for what is complete is made for, seconds (ACK_TTL is three times as much).
HEARTBEAT = 60

#: RabbitMQ's default, seconds, and the share of it from which it is time to say so.
CONSUMER_TIMEOUT, SHARE = 1800.0, 0.8

#: How many dead letters of a queue are looked at.
MOST = 1000

CONFIRM_DELIVERY = Code(
    "confirm-delivery",
    ("warning",),
    "A message that RabbitMQ did not take is lost, and nobody notices; a lost copy of recovery is made again "
    "after its deadline.",
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
    "RabbitMQ takes a message back that a consumer holds for longer than consumer_timeout (30 minutes by default; "
    "from 4.3 on only on quorum queues), whether it runs or is delayed, and delivers it again: a copy of a "
    "running message is put off until the run ends.",
    "Set RabbitMQ's consumer_timeout above your longest run and delay; it cannot be asked from here.",
)

DELIVERY_LIMIT = Code(
    "delivery-limit",
    ("warning", "note"),
    "A quorum queue dead-letters a message that has come back 20 times, though it may never have run. A tracked "
    "message is enqueued anew before that, if its sender has the tracker, too; other messages are not.",
    "Set the policy delivery-limit=-1 for quorum queues, at least for those whose names end in .DQ.",
)

WORN_OUT = Code(
    "worn-out",
    ("warning",),
    "They came back with their workers' connections up to the delivery limit of a quorum queue. They may never have "
    "run, and nothing brings them back.",
    "dramatiq-inflight requeue ID for each of them, and set the policy delivery-limit=-1.",
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


def _delivery_limit(case: Case) -> Iterator[Finding]:
    major, minor = version = _answer(RabbitmqQueues(case.broker).version)
    if LOOKS_COUNT[0] <= version < LOOKS_COUNT[1]:
        yield DELIVERY_LIMIT.warning(f"Quorum queues of this RabbitMQ ({major}.{minor}) count every return.")
    elif version >= LOOKS_COUNT[1]:
        yield DELIVERY_LIMIT.note(f"Quorum queues of this RabbitMQ ({major}.{minor}) count lost connections.")


def _worn_out(case: Case) -> Iterator[Finding]:
    queues = RabbitmqQueues(case.broker)
    for queue in sorted(case.broker.get_declared_queues()):
        ids = _answer(functools.partial(_dead_by_limit, queues, queue))
        if ids:
            yield WORN_OUT.warning(
                f"Messages of queue {queue!r} that RabbitMQ has dead-lettered by itself: {len(ids)}, such as {ids[0]}.",
            )


def _dead_by_limit(queues: RabbitmqQueues, queue: str) -> list[str]:
    with queues.dead_letters(queue) as letters:
        if letters is None:
            raise CannotTell("this RabbitMQ counts a look at the messages of a quorum queue as a delivery")
        return [letter.id for letter in itertools.islice(letters, MOST) if letter.message and letter.reason == BY_LIMIT]


def _answer(ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except ConnectionClosed:
        raise CannotTell("RabbitMQ cannot be reached") from None


CHECKS = (
    Check(RABBITMQ_UNREACHABLE, "The way to RabbitMQ", "RabbitMQ can be reached.", _reachable, _is_rabbitmq),
    Check(CONFIRM_DELIVERY, "RabbitmqBroker's confirms", "What is enqueued is confirmed.", _confirms, _is_rabbitmq),
    Check(RABBITMQ_HEARTBEAT, "RabbitMQ's heartbeat", "RabbitMQ's heartbeat is short.", _heartbeat, _is_rabbitmq),
    Check(SLOW_CONSUMER, "RabbitMQ's consumer_timeout", "No message is near it.", _consumer_timeout, _is_rabbitmq),
    Check(DELIVERY_LIMIT, "RabbitMQ's delivery limit", "It has none by default.", _delivery_limit, _is_rabbitmq),
    Check(WORN_OUT, "RabbitMQ's dead letters", "RabbitMQ has made no dead letters.", _worn_out, _is_rabbitmq),
)
