# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Which versions can share a namespace, on a real server, and what the others do instead."""

from __future__ import annotations

import itertools
import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import pytest
import redis
from click.testing import CliRunner
from dramatiq.asyncio import get_event_loop_thread
from prometheus_client import CollectorRegistry, generate_latest

import dramatiq_inflight
from dramatiq_inflight import InFlightTracker, Inspector, Operations, SchemaError, __version__
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.dashboard import create_app
from dramatiq_inflight.metrics import InFlightCollector
from dramatiq_inflight.store.records import TYPES, Enqueued
from dramatiq_inflight.store.replies import Claim, Start
from dramatiq_inflight.store.schema import SCHEMA, Refusal
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.cluster import Cluster
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import RedisServer, wait_until
from tests.support.wire import note_scripts


class Namespace:
    """Incarnations of several versions."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._numbers = itertools.count()

    def of(self, schema: int, name: str = "") -> Store:
        """One that has not said yet who it is."""
        name = name or f"{schema}-{next(self._numbers)}"
        return Store(Scripts(self.lab.client, self.lab.namespace, name, heartbeat_ttl=60, fence_ttl=60, schema=schema))

    def enters(self, schema: int, name: str = "") -> Store:
        store = self.of(schema, name)
        assert enter(store) is None
        return store

    @property
    def in_use(self) -> int:
        return int(self.lab.client.hget(self.lab.prefix + "schema", "schema") or 0)

    def state(self) -> dict[bytes, Any]:
        """All that there is, but for when it expires."""
        keys = sorted(self.lab.client.keys(self.lab.prefix + "*"))
        return {key: self.lab.client.dump(key) for key in keys}


def enter(store: Store) -> Refusal | None:
    said = {"instance": f"pod-{store.me}", "version": f"0.{store.scripts.schema}"}
    return store.workers.register(said)


@pytest.fixture
def there(lab: Lab) -> Namespace:
    return Namespace(lab)


def lead_on(lab: Lab, schema: int) -> None:
    """A namespace of a later version."""
    lab.client.hset(lab.prefix + "schema", mapping={"schema": schema, "version": "9.8.7", "since": 1_700_000_000_000})


def test_the_first_to_come_says_what_is_in_use_and_that_expires(there: Namespace) -> None:
    there.enters(1)
    assert there.in_use == 1
    assert there.lab.client.hget(there.lab.prefix + "schema", "version") == b"0.1"
    assert 29 * 24 * 3600 < there.lab.client.ttl(there.lab.prefix + "schema") <= 30 * 24 * 3600


def test_a_newer_version_waits_until_nobody_lives_of_the_older(there: Namespace) -> None:
    old = there.enters(1)
    before = there.state()
    new = there.of(2)
    assert enter(new) == Refusal(1, old.me)
    assert there.state() == before, "a refusal changes nothing"
    assert f"pod-{old.me}" in new.workers.explain(Refusal(1, old.me))
    old.workers.deregister()
    assert enter(new) is None
    assert there.in_use == 2
    assert there.lab.client.hget(there.lab.prefix + "schema", "version") == b"0.2"


def test_an_older_version_is_refused_once_a_newer_one_wrote(there: Namespace) -> None:
    there.enters(2)
    before = there.state()
    assert enter(there.of(1)) == Refusal(2)
    assert there.state() == before


def test_that_is_so_when_all_of_the_newer_version_are_gone_too(there: Namespace) -> None:
    """The records that they have left there are theirs."""
    there.enters(2).workers.deregister()
    assert enter(there.of(1)) == Refusal(2)
    there.enters(3)
    assert there.in_use == 3


def test_the_dead_do_not_stand_in_the_way_of_who_recovers_them(there: Namespace) -> None:
    lab, copy = there.lab, copy_of()
    old = there.enters(1)
    lab.runs(old, copy)
    lab.kill(old)
    lab.client.zadd(lab.prefix + "heartbeats", {"*last": 4e12})  # and this is no outage
    new = there.enters(2)
    assert there.in_use == 2
    assert lab.claim_answer(new, copy, old.me) is Claim.CLAIMED
    assert old.workers.heartbeat() is False, "it was only frozen"
    assert enter(old) == Refusal(2)


def test_of_those_in_the_way_one_that_lives_is_named(there: Namespace) -> None:
    frozen, living, also_frozen = there.enters(1), there.enters(1), there.enters(1)
    for one in (frozen, also_frozen):
        there.lab.kill(one)
    there.lab.client.zadd(there.lab.prefix + "heartbeats", {"*last": 1})
    assert enter(there.of(2)) == Refusal(1, living.me)


def test_nobody_is_judged_dead_after_an_outage_here_either(there: Namespace) -> None:
    old = there.enters(1)
    there.lab.kill(old)
    there.lab.client.zadd(there.lab.prefix + "heartbeats", {"*last": 1})
    new = there.of(2)
    for _ in range(2):
        refusal = enter(new)
        assert refusal is not None
        assert 25 < refusal.wait <= 30, "the grace has begun"
    there.lab.client.zadd(there.lab.prefix + "heartbeats", {"*grace": 1})
    assert enter(new) is None, "it is heard of: all others had their time to report back"
    assert enter(old) == Refusal(2)


def test_who_was_in_comes_back_in_when_redis_has_lost_its_data(there: Namespace) -> None:
    registries = [there.enters(2) for _ in range(3)]
    there.lab.client.delete(*there.lab.client.keys(there.lab.prefix + "*"))
    for store in registries:
        store.workers.heartbeat()  # they are there, and nothing is known of them
    for store in registries:
        assert enter(store) is None
    assert there.in_use == 2


def test_an_operator_changes_nothing_in_another_schema(there: Namespace) -> None:
    assert there.of(1).workers.refusal() is None
    assert there.state() == {}, "it has only asked"
    first = there.enters(1)
    assert there.of(1).workers.refusal() is None
    assert there.of(2).workers.refusal() == Refusal(1)
    first.workers.deregister()
    assert there.of(2).workers.refusal() == Refusal(1), "whoever is no worker does not raise it"
    there.enters(2)
    assert there.of(1).workers.refusal() == Refusal(2)
    assert there.of(2).workers.refusal() is None


@pytest.mark.parametrize("seed", range(8))
def test_whoever_lives_writes_what_is_in_use(there: Namespace, seed: int) -> None:
    """Comings, goings, deaths and returns, in any order."""
    rng = random.Random(seed)
    living: list[Store] = []
    frozen: list[Store] = []
    recovered: list[Store] = []
    refused = 0
    there.enters(1).workers.deregister()
    for _ in range(120):
        there.lab.client.zadd(there.lab.prefix + "heartbeats", {"*last": 4e12}, xx=True)
        before = there.in_use
        step = rng.choice(["enter", "leave", "leave", "freeze", "return", "recover"])
        if step == "enter":
            one = there.of(rng.randint(1, 3))
            if enter(one) is None:
                living.append(one)
            else:
                refused += 1
        elif step == "leave" and living:
            living.pop(rng.randrange(len(living))).workers.deregister()
        elif step == "freeze" and living:
            frozen.append(living.pop(rng.randrange(len(living))))
            there.lab.kill(frozen[-1])
        elif step == "return" and frozen + recovered:
            one = rng.choice(frozen + recovered)
            (frozen if one in frozen else recovered).remove(one)
            if enter(one) is None:
                living.append(one)
            else:
                refused += 1
        elif step == "recover" and frozen:
            recovered.append(frozen.pop())
            assert there.of(1).workers.forget(recovered[-1].me)
        assert there.in_use >= before
        assert all(one.scripts.schema == there.in_use for one in living)
    assert refused > 5
    assert there.in_use > 1


def test_of_two_that_cannot_share_and_come_at_once_one_comes_in(there: Namespace) -> None:
    for _ in range(25):
        both = [there.of(schema, name) for name, schema in (("old", 1), ("new", 2))]
        barrier = threading.Barrier(2)
        answers: dict[str, Refusal | None] = {}

        def boot(store: Store) -> None:
            barrier.wait()  # noqa: B023  both are of this round
            answers[store.me] = enter(store)  # noqa: B023

        threads = [threading.Thread(target=boot, args=(store,)) for store in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer is None for answer in answers.values()) == [False, True], answers
        there.lab.client.delete(*there.lab.client.keys(there.lab.prefix + "*"))


def test_the_check_costs_one_script_and_nothing_for_a_message(lab: Lab, a: Store) -> None:
    """At boot, among any number of the same version."""
    for n in range(5):
        lab.incarnation(f"n{n}")
    newcomer = Store(Scripts(lab.client, lab.namespace, "newcomer", heartbeat_ttl=60, fence_ttl=60))
    sent = note_scripts(newcomer)
    assert newcomer.workers.register({"instance": "pod"}) is None
    copy = copy_of()
    assert lab.start(newcomer, copy).answer is Start.RUN
    newcomer.messages.complete(copy, 1, again=False, contended=False)
    newcomer.workers.heartbeat()
    assert [script for script, _ in sent] == ["register", "start", "complete", "heartbeat"]
    assert [script for script, keys in sent if f"{lab.prefix}schema" in keys] == ["register"]


# A worker that is refused.


def test_a_worker_refuses_to_boot_into_another_schema(app: App) -> None:
    ran: list[int] = []
    actor = app.actor(ran.append, actor_name="work")
    actor.send(1)
    lead_on(app.lab, 2)
    before = Namespace(app.lab).state()
    threads = set(threading.enumerate())
    stored = app.client.hgetall(f"{app.broker.namespace}:default.msgs")
    with pytest.raises(SchemaError) as refusal:
        app.start()
    text = str(refusal.value)
    for said in (f"dramatiq_inflight {__version__} writes schema 1", "has schema 2", "9.8.7"):
        assert said in text
    assert repr(app.namespace) in text
    assert "Finish the rollout" in text
    assert Namespace(app.lab).state() == before
    assert app.client.hgetall(f"{app.broker.namespace}:default.msgs") == stored
    assert not app.tracker.healthy()
    assert get_event_loop_thread() is None, "it would keep the process"
    started = set(threading.enumerate()) - threads
    assert not [thread.name for thread in started if thread.name.startswith("dramatiq_inflight")]
    app.worker = None
    app.client.delete(app.lab.prefix + "schema")
    app.start()
    app.join()
    assert ran == [1]


@pytest.fixture
def apart(server_url: str, namespace: str, lab: Lab, own_server: RedisServer) -> Iterator[App]:
    """A worker whose tracker has a Redis of its own, which is away, and has a namespace of a later version."""
    lead_on(Lab(own_server_client(own_server), namespace), 2)
    own_server.kill()  # and keeps that
    made = App(server_url, namespace, lab, redis_url=own_server.url)
    yield made
    made.close()


def test_a_worker_that_could_not_ask_at_boot_stops_when_it_hears(
    apart: App, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It boots all the same, and works; it starts no more messages once it knows, and running ones go on."""
    gate, ran = threading.Event(), []
    begun = threading.Event()

    def work(key: int) -> None:
        begun.set()
        gate.wait(120)
        ran.append(key)

    actor = apart.actor(work)
    actor.send(1)
    apart.start(threads=1)
    assert begun.wait(120)
    there = Lab(own_server_client(own_server), apart.namespace)
    own_server.start()
    with caplog.at_level(logging.CRITICAL):
        wait_until(lambda: apart.runtime.lease.refused, what="it has heard")
        wait_until(lambda: "starts no more messages" in caplog.text, what="it has said so")
    actor.send(2)
    gate.set()
    wait_until(lambda: ran == [1], what="what ran has ended")
    queue = f"{apart.broker.namespace}:default"
    wait_until(lambda: apart.client.hlen(f"{queue}.msgs") == 1, what="that is acknowledged")
    assert not apart.tracker.healthy()
    assert not there.client.keys(f"{there.prefix}incarnation:*")
    apart.stop()
    assert ran == [1]
    assert apart.client.hlen(f"{queue}.msgs") == 1
    assert apart.client.llen(queue) == 1, "the other is back in its queue"
    assert int(there.client.hget(there.prefix + "schema", "schema")) == 2


def test_a_paused_thread_about_to_take_a_message_starts_none(app: App) -> None:
    """It may be waiting for one when it is told to pause."""
    ran: list[int] = []
    actor = app.actor(ran.append, actor_name="work")
    app.start(threads=1)
    worker, runtime = app.worker, app.runtime
    assert worker is not None
    for thread in worker.workers:
        thread.pause = lambda: None  # type: ignore[method-assign]  # it has not noticed yet
    lead_on(app.lab, 2)
    runtime.lease.register_again()  # as one that was taken for dead
    wait_until(lambda: runtime.lease.refused, what="it has heard")
    actor.send(1)
    delayed = f"{app.broker.namespace}:default.DQ.msgs"
    wait_until(lambda: app.client.hlen(delayed) == 1, what="it is left to others")
    assert app.records() == set()
    app.stop()
    assert ran == []


def test_the_word_of_a_namespace_outlasts_the_longest_lives(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It expires, and would be gone where no worker has booted for as long as that, however many there are."""
    monkeypatch.setattr("dramatiq_inflight.liveness.heartbeat.SAY_AGAIN", 0.5)
    app.start()
    key = app.lab.prefix + "schema"
    app.client.delete(key)
    wait_until(lambda: app.client.ttl(key) > 0, what="it is said again")
    assert Namespace(app.lab).in_use == SCHEMA


def own_server_client(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url)


def test_a_process_of_dramatiq_refuses_or_ends_and_loses_nothing(
    cluster: Callable[..., Cluster], own_server: RedisServer, namespace: str
) -> None:
    """Refused at boot; and, where Redis was away then, as soon as it knows: by Dramatiq's own shutdown."""
    cluster_ = cluster(PROCESSING_REDIS_URL=own_server.url, HEARTBEAT_INTERVAL="0.2")
    there = Lab(own_server_client(own_server), namespace)
    lead_on(there, 2)
    refused = cluster_.worker(wait=False)
    assert refused.process.wait(120) != 0
    assert "dramatiq_inflight.errors.SchemaError" in refused.output()
    assert f"namespace {namespace!r} has schema 2, first by dramatiq_inflight 9.8.7" in refused.output()
    own_server.kill()
    worker = cluster_.worker(threads=2)
    for key in range(6):
        cluster_.app.work.send(key, 1.0)
    cluster_.wait(lambda: cluster_.history.count("start") == 2, what="two run")
    own_server.start()
    assert worker.process.wait(120) == 0
    assert "This worker starts no more messages" in worker.output()
    assert cluster_.history.count("start") == cluster_.history.count("end") < 6
    there.client.delete(there.prefix + "schema")
    cluster_.worker()
    cluster_.wait(lambda: cluster_.history.keys("end") == set(range(6)), what="all complete")
    cluster_.wait(lambda: cluster_.enqueued() == 0, what="all are acknowledged")
    assert cluster_.history.count("end") == 6


# People and programs that look.


@pytest.fixture
def foreign(lab: Lab, server_url: str, namespace: str) -> Iterator[Any]:
    """An application in a namespace of a later version."""
    broker = dramatiq.brokers.redis.RedisBroker(url=server_url, namespace=f"{namespace}-broker")
    broker.add_middleware(InFlightTracker(namespace=namespace))
    lab.incarnation("a")
    lead_on(lab, 2)
    yield broker
    broker.client.close()


CALLS: dict[str, Callable[[Inspector], object]] = {
    "overview": Inspector.overview,
    "workers": Inspector.workers,
    "messages": Inspector.messages,
    "message": lambda inspector: inspector.message("x"),
    "payload": lambda inspector: inspector.payload("x"),
    "aside": Inspector.aside,
    "overdue": Inspector.overdue,
    "history": Inspector.history,
    "counts": Inspector.counts,
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_inspector_says_that_it_cannot_read_this(foreign: Any, name: str) -> None:
    inspector = Inspector.of(foreign)
    with pytest.raises(SchemaError, match=r"writes schema 1, and namespace .* has schema 2, first by .* 9\.8\.7"):
        CALLS[name](inspector)
    assert inspector.schema() == 2


def test_operations_leave_alone_what_they_do_not_know(foreign: Any, lab: Lab) -> None:
    operations = Operations(foreign)
    before = Namespace(lab).state()
    for call in (operations.requeue, operations.dead_letter, operations.discard):
        with pytest.raises(SchemaError, match="Finish the rollout"):
            call("x")
    for act in (operations.recover, operations.left_to_recover):
        with pytest.raises(SchemaError):
            act()
    assert Namespace(lab).state() == before


@pytest.mark.parametrize("command", ["status", "list", "show x", "history", "workers", "status --json"])
def test_the_command_line_says_so_in_one_line(foreign: Any, namespace: str, server_url: str, command: str) -> None:
    env = {"PROCESSING_REDIS_URL": server_url, "PROCESSING_NS": namespace}
    result = CliRunner(env=env).invoke(cli, command.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: dramatiq_inflight {__version__} writes schema 1")
    assert result.stderr.count("\n") == 1


def test_the_web_page_and_the_exporter_say_so(foreign: Any, caplog: pytest.LogCaptureFixture) -> None:
    inspector = Inspector.of(foreign)
    answer = create_app(inspector).test_client().get("/")
    assert answer.status_code == 503
    assert "has schema 2" in answer.get_data(as_text=True)
    store = CollectorRegistry(auto_describe=False)
    store.register(InFlightCollector(inspector))
    assert b"dramatiq_inflight_up 0.0" in generate_latest(store)
    assert "has schema 2" in caplog.text


# Additions of a later version without another schema: this version reads all of its data with more in it.


MORE = ["of a later version", None, {"a": [1]}]


def add_to_record(lab: Lab, copy: Any) -> None:
    """A later version has written the record."""
    key = f"{lab.prefix}record:{copy.message_id}"
    raw: bytes = lab.client.get(key)
    head, _, payload = raw.partition(b"\n")
    fields = json.loads(head)
    fields += [""] * (len(TYPES) - len(fields))  # those that need not be there
    lab.client.set(key, json.dumps([*fields, *MORE]).encode() + b"\n" + payload)


def added_to(lab: Lab, copy: Any) -> list[Any]:
    raw: bytes = lab.client.get(f"{lab.prefix}record:{copy.message_id}")
    return list(json.loads(raw.partition(b"\n")[0])[len(TYPES) :])


def test_more_in_a_record_is_passed_over_and_kept(lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    add_to_record(lab, copy)
    inspector = Inspector(lab.client, lab.namespace)
    view = inspector.message(copy.message_id)
    assert view is not None
    assert view.state == "running"
    assert a.messages.peek([copy.message_id])[0] == lab.head(copy)
    assert lab.start(b, copy).answer is Start.DUPLICATE
    assert added_to(lab, copy) == MORE, "it was marked as contended"
    lab.return_to_broker(b, a, copy)
    assert added_to(lab, copy) == MORE
    assert lab.payload(copy)
    lab.overdue(copy)
    (orphan,) = b.recovery.claim([copy.message_id], dead="", hold=60)
    assert added_to(lab, copy) == MORE
    assert not isinstance(orphan, Claim)
    recovered = lab.recovered(copy, orphan)
    b.recovery.confirm_copies([Enqueued(orphan, recovered.broker_copy_id, "default", 0.0)], dead="")
    assert added_to(lab, copy) == MORE
    started = lab.start(b, recovered)
    assert (started.answer, started.run) == (Start.RUN, 2)
    b.messages.complete(recovered, started.run, again=False, contended=False)
    assert lab.state(copy) == "completed"


def test_more_in_what_a_worker_says_is_passed_over(lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.hset(lab.prefix + "incarnation:a", mapping={"of": "a later version", "queues_too": "{"})
    lab.client.hset(lab.prefix + "schema", "of", "a later version")
    inspector = Inspector(lab.client, lab.namespace)
    assert [worker.instance for worker in inspector.workers()] == ["pod-a", "pod-b"]
    assert lab.incarnation("c").workers.refusal() is None
    lab.kill(a)
    assert b.workers.incarnation("a").instance == "pod-a"
    b.recovery.confirm_copies([Enqueued(lab.claim(b, copy, a), "r2", "default", 0.0)], dead="a")
    assert b.workers.forget("a")


def test_other_events_and_counts_are_told_as_they_are(lab: Lab, a: Store) -> None:
    lab.client.xadd(lab.prefix + "history", {"event": "teleported", "message": "m", "run": "x", "of": "later"})
    lab.client.xadd(lab.prefix + "history", {"event": "left", "worker": "a", "of": "later"})
    lab.client.hset(lab.prefix + "counts", '["teleported","q","a","more"]', 3)
    lab.client.hset(lab.prefix + "counts", "teleported", 4)
    inspector = Inspector(lab.client, lab.namespace)
    left, teleported = inspector.history(limit=2)
    assert (left.text, teleported.kind, teleported.text) == ("left", None, "teleported")
    assert [(c.kind, c.queue, c.number) for c in inspector.counts() if c.kind == "teleported"] == [
        ("teleported", "", 4),
        ("teleported", "q", 3),
    ]
    store = CollectorRegistry(auto_describe=False)
    store.register(InFlightCollector(inspector))
    assert b'dramatiq_inflight_all_events_total{event="teleported"} 7.0' in generate_latest(store)


def test_more_in_a_checkpoint_is_passed_over(app: App) -> None:
    seen: list[Any] = []

    def work() -> None:
        current = dramatiq_inflight.current()
        assert current is not None
        seen.append(current.last_checkpoint)

    actor = app.actor(work)
    message = actor.message()
    key = app.lab.prefix + "checkpoint:" + message.message_id
    value = {"at": "1700000000000", "value": '{"page":3}', "of": "a later version"}
    app.client.hset(key, mapping=value)
    app.broker.enqueue(message)
    app.start()
    app.join()
    assert len(seen) == 1


def test_more_in_the_mark_of_a_message_makes_no_copy_of_it(app: App) -> None:
    """Neither a redelivery nor a copy of recovery: it runs as any other, and twice if it is sent twice."""
    ran: list[int] = []
    actor = app.actor(ran.append, actor_name="work")
    app.start()
    for key in (1, 2):
        actor.send_with_options(args=(key,), inflight={"of": "a later version"})
    app.join()
    assert sorted(ran) == [1, 2]
    assert not app.unsettled()
