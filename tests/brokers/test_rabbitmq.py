# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RabbitMQ, which delivers again within milliseconds of a crash, and cannot be asked what it holds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pika
import pytest
from dramatiq import Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import dq_name, xq_name

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.brokers.rabbitmq import RabbitmqQueues
from dramatiq_inflight.config.policy import Policy
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.recovery.for_broker import recovery_of
from dramatiq_inflight.recovery.sweep import Recoverer
from dramatiq_inflight.store.cause import CONNECTION
from dramatiq_inflight.store.messages import ACK_TTL
from tests.support.brokers import quorum_arguments
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.lab import Lab, copy_of
from tests.support.rabbitmq import RabbitServer
from tests.support.rounds import judge, kill_rounds
from tests.support.servers import wait_until

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]

#: How many rounds of each kind; ``KILL_ROUNDS=200`` for the long run.
ROUNDS = int(os.environ.get("KILL_ROUNDS", "4"))

#: The default heartbeat: what comes within seconds was not waited for.
DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "90"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("by the heartbeat", {}),
        ("seen by others", {**DEFAULTS, "PROCESSING_WATCH_PROCESSES": "true"}),
        ("by their connections", {**DEFAULTS, "PROCESSING_CONNECTION_TIMEOUT": "2"}),
        pytest.param("on quorum queues", {"TEST_RABBITMQ_QUEUES": "quorum"}, marks=pytest.mark.once),
    ],
)
def test_workers_killed_again_and_again_lose_and_double_nothing(
    name: str, settings: dict[str, str], cluster: MakeCluster, rabbitmq_url: str
) -> None:
    """The promise, under load, however a death becomes known; RabbitMQ's redelivery is always in the race."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url, **settings)
    report = kill_rounds(made, ROUNDS, seed=11)
    print(name, report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * ROUNDS
    assert report.cut_off >= 7 * ROUNDS
    assert has_quorum_queues(made) == (name == "on quorum queues")


def has_quorum_queues(made: Cluster) -> bool:
    """RabbitMQ refuses to declare a queue once more as one of another type."""
    try:
        arguments = quorum_arguments(made.broker, made.app.QUEUE)
        made.broker.channel.queue_declare(made.app.QUEUE, durable=True, arguments=arguments)
    except pika.exceptions.ChannelClosedByBroker:
        del made.broker.channel
        return False
    return True


def test_a_lost_host_is_known_by_its_connections(
    cluster: MakeCluster, rabbitmq_url: str, history: History, tmp_path: Path
) -> None:
    """The owner is gone with its host, and its heartbeat is believed for another minute and a half."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url, PROCESSING_CONNECTION_TIMEOUT="2", **DEFAULTS)
    gate = tmp_path / "gate"
    made.app.gated.send("m", str(gate))
    owner = made.worker(threads=1)
    made.wait(lambda: history.count("start") == 1, what="it runs")
    other = made.worker(threads=1)
    owner.kill()
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    gate.touch()
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    wait_until(lambda: CONNECTION.why() in other.output(), what="said")
    assert history.count("end") == 1


@pytest.mark.parametrize(("server", "queues"), [("own_rabbitmq", "classic"), ("own_newer_rabbitmq", "quorum")])
def test_a_consumer_cut_off_for_long_runs_its_message_once(
    cluster: MakeCluster, request: pytest.FixtureRequest, history: History, server: str, queues: str
) -> None:
    """RabbitMQ takes a message that is held for too long, and delivers it again and again: plain Dramatiq loops.

    From 4.3 on it does so on quorum queues alone, and cancels the consumer instead of closing its channel.
    """
    rabbitmq: RabbitServer = request.getfixturevalue(server)
    rabbitmq.start()
    made = cluster(
        TEST_RABBITMQ_URL=rabbitmq.url, TEST_RABBITMQ_QUEUES=queues, HEARTBEAT_INTERVAL="5", HEARTBEAT_TTL="15"
    )
    tmp_path = made.folder
    gate = tmp_path / "gate"
    worker = made.worker(threads=2)
    other = made.worker(threads=2)
    made.app.gated.send("m", str(gate))
    made.wait(
        lambda: (worker.output() + other.output()).count("it is running already; this copy is put off") >= 2,
        what="it is delivered again, twice",
    )
    assert history.count("start") == 1
    gate.touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    made.wait(lambda: made.enqueued() == 0, what="its copies are gone")
    assert history.count("start") == 1


def test_rabbitmq_restarted_under_load(
    cluster: MakeCluster, own_rabbitmq: RabbitServer, history: History, tmp_path: Path
) -> None:
    """All connections are lost, and what was fetched is delivered again while it runs."""
    own_rabbitmq.consumer_timeout = None
    own_rabbitmq.start()
    made = cluster(TEST_RABBITMQ_URL=own_rabbitmq.url, **DEFAULTS)
    made.worker(threads=4), made.worker(threads=4)
    for key in range(60):
        made.app.work.send(key, 0.5)
    made.wait(lambda: history.count("end") >= 10, what="they run")
    own_rabbitmq.stop()
    own_rabbitmq.start()
    made.wait(lambda: len(history.keys("end")) == 60, what="all complete")
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    report = judge(history, list(range(60)), {})
    assert report.lost == report.doubled == report.repeated == []


def test_a_death_that_is_seen_is_not_waited_for(
    cluster: MakeCluster, rabbitmq_url: str, history: History, tmp_path: Path
) -> None:
    """By a sibling on the same host; RabbitMQ's own redelivery may be quicker, or come later."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url, PROCESSING_WATCH_PROCESSES="true", **DEFAULTS)
    gate = tmp_path / "gate"
    made.app.gated.send("m", str(gate))
    owner = made.worker(threads=1)
    made.wait(lambda: history.count("start") == 1, what="it runs")
    made.worker(threads=1)
    pid = owner.booted_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    print(f"again after {history.events('start')[1].at - killed:.3f} s")
    gate.touch()
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.count("start") == 2


def test_a_message_sent_again_under_its_id_is_no_redelivery(
    cluster: MakeCluster, rabbitmq_url: str, history: History, tmp_path: Path
) -> None:
    """RabbitMQ flags it as redelivered if a worker had fetched it and died; it has an origin of its own, and runs."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url)
    gate = tmp_path / "gate"
    message = made.app.gated.send("m", str(gate))
    first = made.worker(threads=2)
    made.wait(lambda: history.count("start") == 1, what="it runs")
    made.broker.channel.basic_publish("", made.app.QUEUE, message.encode())  # the very same: a duplicate
    made.wait(lambda: "it is running already" in first.output(), what="it is put off")
    gate.touch()
    made.wait(lambda: history.count("end") == 1 and made.enqueued() == 0, what="it is done, and remembered")
    first.stop()
    assert history.count("start") == 1
    made.broker.enqueue(message)
    fetched = made.broker.channel.basic_get(made.app.QUEUE)
    assert Message.decode(fetched[2]).message_id == message.message_id
    del made.broker.connection  # never acknowledged
    made.worker(threads=2)
    made.wait(lambda: history.count("end") == 2, what="it runs")


def test_what_was_finished_is_remembered_until_its_ack_was_sent(
    cluster: MakeCluster, rabbitmq_url: str, history: History
) -> None:
    """Dramatiq's consumer sends it later; then it is forgotten, as soon as RabbitMQ must have read it."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url)
    worker = made.worker(threads=2)
    for key in range(100):
        made.app.work.send(key, 0)
    made.wait(lambda: history.count("acked") == 100, what="all are done")
    records = [made.prefix + name for name in made.names() if name.startswith("record:")]
    assert len(records) == 100
    made.wait(lambda: all(made.client.ttl(key) <= ACK_TTL for key in records), what="none is remembered for long")
    worker.stop()
    assert all(name.startswith("record:") for name in made.names())


def test_a_frozen_worker_delays_a_message_by_a_heartbeat_at_most(
    cluster: MakeCluster, rabbitmq_url: str, history: History, tmp_path: Path
) -> None:
    """RabbitMQ itself would wait for minutes, and deliver the old copy then: it is stale."""
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url)
    gate = tmp_path / "gate"
    one, two = made.worker(threads=1), made.worker(threads=1)
    made.app.gated.send("m", str(gate))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    frozen = one if one.runs_the_first() else two
    frozen.pause()
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    gate.touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    frozen.resume()
    made.wait(lambda: history.count("end") == 2, what="the late one ends as well")
    made.wait(lambda: "another worker" in frozen.output() or "taken over" in frozen.output(), what="it is fenced")
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.count("start") == 2


@pytest.fixture
def rabbit(rabbitmq_url: str, namespace: str) -> Iterator[RabbitmqBroker]:
    """A broker of the test's own, with a queue that takes one message and rejects more, and one that takes all."""
    broker = RabbitmqBroker(url=rabbitmq_url, middleware=[], confirm_delivery=True)
    full, free = f"{namespace}-full", f"{namespace}-free"
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    build: Any = broker._build_queue_arguments
    made: Any = broker
    made._build_queue_arguments = lambda name: {**build(name), **(arguments if name == full else {})}
    for queue in (full, free):
        dramatiq.actor(broker=broker, actor_name=queue, queue_name=queue)(lambda: None)
    yield broker
    for name in (full, free):
        for queue in (name, dq_name(name), xq_name(name)):
            broker.channel.queue_delete(queue)
    broker.close()


def recover_from(lab: Lab, broker: RabbitmqBroker, name: str, actors: list[str]) -> tuple[Recoverer, list[str]]:
    """A recoverer, and what a worker ran that has died: a message of each of these actors."""
    dead, me = (lab.incarnation(id) for id in (f"dead-{name}", name))
    ids: list[str] = []
    for actor in actors:
        message: Message[None] = Message(actor, actor, (), {}, {"inflight": {"origin": f"o{len(ids)}"}})
        lab.start(dead, Copy.of(message), payload=message.encode())
        ids.append(message.message_id)
    lab.kill(dead)
    settings = InFlightTracker(namespace=lab.namespace, redis_url="redis://unused").settings
    return recovery_of(me, broker, settings, lambda message: Policy(), RabbitmqQueues(broker)), ids


def test_a_queue_that_is_full_holds_up_no_other(lab: Lab, rabbit: RabbitmqBroker) -> None:
    """It rejects what is published (reject-publish); what waits for it is enqueued once there is room."""
    full, free = sorted(rabbit.queues, key=lambda name: name.endswith("free"))
    rabbit.enqueue(Message(full, full, (), {}, {}))
    recovery, ids = recover_from(lab, rabbit, "r", [full] * 4 + [free] * 2)
    swept = recovery.sweep()
    assert (swept.copied, swept.refused, swept.failed) == (2, 4, False)
    assert rabbit.get_queue_message_counts(free)[0] == 2
    rabbit.channel.queue_purge(full)
    lab.overdue(copy_of(ids[0]))
    assert recovery.sweep().copied == 1
    assert rabbit.get_queue_message_counts(full)[0] == 1


def test_a_copy_is_not_made_again_while_messages_are_ready(lab: Lab, rabbit: RabbitmqBroker) -> None:
    """RabbitMQ does not tell which: the copy may be among them.  Once none is, another one is made at once."""
    _, free = sorted(rabbit.queues, key=lambda name: name.endswith("free"))
    recovery, (id,) = recover_from(lab, rabbit, "r", [free])
    assert recovery.sweep().copied == 1
    for _ in range(3):
        lab.overdue(copy_of(id))
        assert recovery.sweep().copied == 0
    assert (lab.deadline(copy_of(id)) or 0) / 1000 > float(lab.client.time()[0]) + 4000
    rabbit.channel.queue_purge(free)
    lab.overdue(copy_of(id))
    assert recovery.sweep().copied == 1
    assert rabbit.get_queue_message_counts(free)[0] == 1
    del rabbit.connection  # of this thread: a recoverer's may have been idle for too long
    lab.overdue(copy_of(id))
    assert recovery.sweep().copied == 0


def test_a_queue_that_does_not_exist_has_no_messages(rabbit: RabbitmqBroker) -> None:
    """RabbitMQ closes the channel for the question; the next one finds another."""
    queues = RabbitmqQueues(rabbit)
    assert not queues.may_have("nobody-has-declared-it")
    assert not queues.may_have("nobody-has-declared-it")
