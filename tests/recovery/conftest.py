# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shared fixtures of the tests of recovery in one process."""

from __future__ import annotations

from collections.abc import Iterator

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker

from tests.support.fleet import Fleet
from tests.support.lab import Lab


@pytest.fixture
def broker(server_url: str, namespace: str) -> Iterator[RedisBroker]:
    """A broker with an actor, whose messages nobody consumes."""
    broker = RedisBroker(url=server_url, namespace=f"{namespace}-broker", middleware=[], maintenance_chance=0)
    dramatiq.actor(broker=broker, actor_name="work")(lambda: None)
    yield broker
    broker.client.close()


@pytest.fixture
def fleet(lab: Lab, broker: RedisBroker) -> Fleet:
    return Fleet(lab, broker)
