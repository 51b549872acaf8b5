# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Two applications on one Redis, two brokers in one process; and what is said when they get into each other's way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from dramatiq_inflight import ConfigurationError
from dramatiq_inflight.brokers.rabbitmq import RabbitmqQueues
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import another_database, wait_until

MakeApp = Callable[..., App]


@pytest.fixture
def make(server_url: str, namespace: str, client: redis.Redis) -> Iterator[MakeApp]:
    """Makes applications: each has the queue and the actor that the others have, and a broker of its own."""
    made: list[App] = []

    def make_app(name: str, **settings: Any) -> App:
        made.append(App(server_url, namespace + name, Lab(client, namespace + name), **settings))
        made[-1].actor(lambda: made_app.ran.append(name), actor_name="work")
        made_app = made[-1]
        return made_app

    yield make_app
    for app in made:
        app.close()


def test_two_brokers_in_one_process_keep_to_their_own(make: MakeApp) -> None:
    """Each has a tracker, a namespace and a worker; each recovers its own orphans, by the same names."""
    first, second = make("a"), make("b")
    for app in (first, second):
        app.send_orphan(app.broker.actors["work"])
    first.start()
    second.start()
    first.join()
    second.join()
    assert (first.ran, second.ran) == (["a"], ["b"])
    first.broker.actors["work"].send()
    first.stop()
    second.broker.actors["work"].send()
    second.join()
    assert (first.ran[:1], second.ran) == (["a"], ["b", "b"])
    assert first.unsettled() == second.unsettled() == set()


def test_a_tracker_serves_one_worker_at_a_time(make: MakeApp) -> None:
    """Added to two brokers, it would forget the first: it says so, and the second worker does not start."""
    first, second = make("a"), make("b")
    second.broker.middleware[second.broker.middleware.index(second.tracker)] = first.tracker
    first.start()
    with pytest.raises(ConfigurationError, match="a tracker of its own"):
        second.start()
    second.worker = None
    first.broker.actors["work"].send()
    first.join()
    assert first.ran == ["a"]
    first.stop()
    second.start()  # one after the other is well
    second.broker.actors["work"].send()
    wait_until(lambda: second.ran == ["b"], what="the other broker's message runs")


def test_applications_that_share_a_namespace_keep_to_their_own(
    make: MakeApp, server_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The trackers' Redis is not the brokers', so the broker's namespace alone tells the two apart."""
    with redis.Redis.from_url(another_database(server_url)) as apart:
        first, second = make("a", client=apart), make("b", client=apart)
        for app in (first, second):
            app.tracker.policies.settings = dataclasses.replace(app.tracker.settings, namespace=namespace)
            app.lab = Lab(apart, namespace)
        message = first.broker.actors["work"].message()
        owner = Store(Scripts(apart, namespace, "dead", heartbeat_ttl=20, fence_ttl=60))
        owner.workers.register({"instance": "dead", "custody": RedisQueues(first.broker, apart).custody})
        copy = Copy(message.message_id, 1, "r1", "r1", False, message.queue_name, message.actor_name)
        first.lab.start(owner, copy, payload=message.encode())
        first.lab.kill(owner)
        second.start()
        wait_until(lambda: "is not this worker's" in caplog.text, what="the mistake is noticed")
        assert f"namespace '{first.broker.namespace}'" in caplog.text
        assert "PROCESSING_NS" in caplog.text
        first.start()
        wait_until(lambda: first.ran == ["a"], what="its own application recovers it")
        assert second.ran == []
        assert caplog.text.count("is not this worker's") == 1
        for app in (first, second):
            app.stop()
        apart.delete(*(apart.keys(f"{{{namespace}}}:*") or ["-"]))


def test_what_another_broker_has_is_not_asked_of_ours(make: MakeApp, client: redis.Redis, namespace: str) -> None:
    """A message waits in the long queue of one application; the other's broker does not have it, which says nothing."""
    first, second = make("a"), make("b")
    for app in (first, second):
        app.tracker.policies.settings = dataclasses.replace(app.tracker.settings, namespace=namespace)
        app.lab = Lab(client, namespace)
    message = first.broker.actors["work"].send()
    copy = Copy.of(message)
    owner, by = (Store(Scripts(client, namespace, name, heartbeat_ttl=20, fence_ttl=60)) for name in ("dead", "by"))
    owner.workers.register({"instance": "dead"})
    queues = RedisQueues(first.broker, client)
    client.sadd(queues.keys("default")[0], copy.broker_copy_id)
    first.lab.start(owner, copy, payload=b"", broker_keys=queues.keys("default"))
    first.lab.return_to_broker(by, owner, copy)
    queues.give_back(first.broker.broker_id, ["default"])
    first.lab.overdue(copy)
    second.start()
    second.runtime.recovery.sweep()
    second.stop()
    assert second.ran == []
    first.start()
    first.join()
    assert first.ran == ["a"]
    first.stop()


def test_a_broker_is_named_without_addresses_or_passwords() -> None:
    """Workers may reach one broker by several addresses."""
    rabbitmq = pytest.importorskip("dramatiq.brokers.rabbitmq")
    made = rabbitmq.RabbitmqBroker(url="amqp://user:secret@somewhere:5672/orders")
    assert RabbitmqQueues(made).custody == "RabbitMQ, virtual host 'orders'"
    several = rabbitmq.RabbitmqBroker(url=["amqp://user:secret@one/orders", "amqp://user:secret@two/orders"])
    assert RabbitmqQueues(several).custody == RabbitmqQueues(made).custody
