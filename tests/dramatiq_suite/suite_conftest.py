# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The fixtures of Dramatiq's own tests, which its source distribution leaves out; with the tracker, if asked for.

Put beside those tests as ``conftest.py``; see ``python -m tests.dramatiq_suite``.
"""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dramatiq
import pika
import pytest
import redis
from dramatiq import Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.rate_limits import backends as rate_limiter_backends
from dramatiq.results import backends as result_backends

from dramatiq_inflight import InFlightTracker

from .common import RABBITMQ_PASSWORD, RABBITMQ_USERNAME  # type: ignore[import-not-found]

TRACKED = os.environ.get("SUITE_TRACKED") == "1"


def boot(broker: Any) -> Any:
    """As the command line does it, with every actor tracked."""
    if TRACKED:
        broker.add_middleware(InFlightTracker(track_by_default=True, redis_url="redis://127.0.0.1/5"))
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    return broker


@pytest.fixture
def stub_broker() -> Iterator[Any]:
    broker = boot(StubBroker())
    yield broker
    broker.flush_all()
    broker.close()


@pytest.fixture
def rabbitmq_broker() -> Iterator[Any]:
    broker = RabbitmqBroker(
        host="127.0.0.1",
        max_priority=10,
        credentials=pika.credentials.PlainCredentials(RABBITMQ_USERNAME, RABBITMQ_PASSWORD),
    )
    boot(broker)
    yield broker
    broker.flush_all()
    broker.emit_before("process_stop")
    broker.close()


@pytest.fixture
def redis_broker() -> Iterator[Any]:
    broker = RedisBroker()
    broker.client.flushall()
    boot(broker)
    yield broker
    broker.client.flushall()
    broker.close()


def working(broker: Any) -> Iterator[Worker]:
    worker = Worker(broker, worker_timeout=100, worker_threads=32)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def stub_worker(stub_broker: Any) -> Iterator[Worker]:
    yield from working(stub_broker)


@pytest.fixture
def rabbitmq_worker(rabbitmq_broker: Any) -> Iterator[Worker]:
    yield from working(rabbitmq_broker)


@pytest.fixture
def redis_worker(redis_broker: Any) -> Iterator[Worker]:
    yield from working(redis_broker)


@pytest.fixture
def info_logging() -> Iterator[None]:
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture
def start_cli() -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def run(broker_module: str, *, extra_args: Any = (), **kwargs: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dramatiq", "--processes", "1", "--threads", "1", *extra_args, broker_module]
        started.append(subprocess.Popen(command, **kwargs))
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        process.wait()


@pytest.fixture
def redis_rate_limiter_backend() -> Iterator[Any]:
    backend = rate_limiter_backends.RedisBackend()
    yield backend
    backend.client.flushall()


@pytest.fixture
def stub_rate_limiter_backend() -> Any:
    return rate_limiter_backends.StubBackend()


@pytest.fixture(params=["redis", "stub"])
def rate_limiter_backend(request: Any) -> Any:
    return request.getfixturevalue(f"{request.param}_rate_limiter_backend")


@pytest.fixture
def redis_result_backend() -> Iterator[Any]:
    backend = result_backends.RedisBackend()
    yield backend
    backend.client.flushall()


@pytest.fixture
def stub_result_backend() -> Any:
    return result_backends.StubBackend()


@pytest.fixture(params=["redis", "stub"])
def result_backend(request: Any) -> Any:
    return request.getfixturevalue(f"{request.param}_result_backend")


@pytest.fixture(autouse=True)
def fresh() -> None:
    """No test finds another one's records."""
    random.seed(1337)
    redis.Redis(db=5).flushdb()
