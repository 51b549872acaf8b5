# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis is away, and nobody is judged for it, whatever the TTLs are of those that share a namespace."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed
from dramatiq.results import ResultMissing

from dramatiq_inflight import InFlightTracker, current
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.liveness.lease import JUST_NOW
from dramatiq_inflight.store.cause import PROCESS
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.moment import Moment
from dramatiq_inflight.worker import WorkerProcess
from tests.support.inprocess import App
from tests.support.inside import runtime_of
from tests.support.lab import Lab, copy_of
from tests.support.servers import RedisServer, another_database, wait_until
from tests.support.wire import note_scripts

TEN_YEARS = 10 * 365 * 24 * 3600.0
TTLS = (1.0, 15.0, 90.0, 900.0, 3600.0, TEN_YEARS)
PAIRS = list(itertools.product(TTLS, TTLS))


class Fleet:
    """Incarnations of one namespace, each with a TTL of its own."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.key = lab.prefix + "heartbeats"
        self.ttls: dict[str, float] = {}

    def joins(self, ttl: float, name: str = "") -> Store:
        """A worker that has just said who it is."""
        name = name or f"worker-{len(self.ttls)}"
        store = Store(Scripts(self.lab.client, self.lab.namespace, name, heartbeat_ttl=ttl, fence_ttl=60))
        store.workers.register({})
        self.ttls[name] = ttl
        return store

    def now(self) -> int:
        seconds, micro = self.lab.client.time()
        return int(seconds * 1000 + micro // 1000)

    def away(self, seconds: float) -> None:
        """Redis was away for so long: all had beaten just before."""
        now, scores = self.now(), {"*last": self.now() - seconds * 1000}
        scores |= {name: now + 1000 * (ttl - seconds) for name, ttl in self.ttls.items()}
        self.lab.client.zadd(self.key, scores)

    def scores(self) -> dict[str, float]:
        return {name.decode(): score for name, score in self.lab.client.zrange(self.key, 0, -1, withscores=True)}

    def has_ttl_of(self, store: Store) -> bool:
        return f"*ttl:{store.me}" in self.scores()

    def grace(self) -> float:
        """Return how long the grace lasts yet, seconds."""
        return (self.scores().get("*grace", 0) - self.now()) / 1000


@pytest.fixture
def fleet(lab: Lab) -> Fleet:
    return Fleet(lab)


@pytest.mark.parametrize("share", [0.5, 1.1, 4])
@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_nobody_is_judged_after_an_outage_of_any_length(fleet: Fleet, mine: float, other: float, share: float) -> None:
    """The first worker that is back judges nobody, whichever TTL it has, and by whichever script it looks."""
    me, them = fleet.joins(mine), fleet.joins(other)
    copy = copy_of()
    fleet.lab.runs(them, copy)
    fleet.away(share * min(mine, other) + 0.1)
    me.workers.heartbeat()
    assert me.recovery.find_due().dead == []
    assert me.recovery.return_to_broker(them.me, [(copy.message_id, True)]) is None
    assert me.workers.forget(them.me) is False
    assert fleet.lab.start(me, copy).answer.value == "duplicate"
    # Each has the time to report back that its own rhythm takes, if the outage has cost it its heartbeat.
    expired = [ttl for name, ttl in fleet.ttls.items() if fleet.scores()[name] < fleet.now()]
    assert fleet.grace() > max((min(ttl, TEN_YEARS) / 3 for ttl in expired), default=0) - 1


@pytest.mark.parametrize("ttl", [1200.0, 3600.0, TEN_YEARS])
def test_a_grace_lasts_whatever_the_ttl_is(fleet: Fleet, ttl: float) -> None:
    """Half of a long TTL lies far ahead, and is no sign of a wrong clock."""
    me, them = fleet.joins(ttl), fleet.joins(ttl)
    fleet.away(2 * ttl)
    for _ in range(3):
        me.workers.heartbeat()
        assert me.recovery.find_due().dead == []
    assert fleet.grace() > ttl / 3
    assert fleet.lab.claim_answer(me, copy_of(), them.me).value == "gone"


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_nobody_cuts_what_a_longer_ttl_explains(fleet: Fleet, mine: float, other: float) -> None:
    """A deployment changes the TTL: the new workers' sweeps leave the old ones' heartbeats as they are."""
    me, them = fleet.joins(mine), fleet.joins(other)
    before = fleet.scores()[them.me]
    for _ in range(3):
        me.recovery.find_due()
    assert fleet.scores()[them.me] == before


@pytest.mark.parametrize("by", ["heartbeat", "find_due"])
def test_a_clock_that_goes_back_leaves_each_its_own_ttl(fleet: Fleet, by: str) -> None:
    """A failover to a server whose clock is behind: the dead do not live for hours, beside a TTL of years either."""
    me, short, long = fleet.joins(90), fleet.joins(15), fleet.joins(TEN_YEARS)
    hour, now = 3_600_000, fleet.now()
    ahead = {name: now + hour + 1000 * ttl for name, ttl in fleet.ttls.items()}
    fleet.lab.client.zadd(fleet.key, {**ahead, "*last": now + hour, "*grace": now + hour})
    me.workers.heartbeat() if by == "heartbeat" else me.recovery.find_due()
    scores, now = fleet.scores(), fleet.now()
    assert scores["*last"] <= now
    for store in (me, short, long):
        assert now < scores[store.me] <= now + 1000 * fleet.ttls[store.me]
        assert scores[store.me] > now + 1000 * fleet.ttls[store.me] - 60_000


def test_slow_beaters_judge_one_that_beat_more_often(fleet: Fleet) -> None:
    """Their own rhythm is no outage: their looks count as use of Redis, and come often enough."""
    slow, quick = fleet.joins(3600), fleet.joins(3)
    began = time.monotonic()
    dead: list[str] = []
    while not dead and time.monotonic() - began < 60:
        due = slow.recovery.find_due()
        dead = due.dead
        assert due.next_in is not None
        if not dead:
            time.sleep(min(due.next_in + 0.01, 1))
    assert dead == [quick.me]
    assert fleet.grace() < 0
    assert not fleet.has_ttl_of(quick)
    assert slow.recovery.find_due().dead == [quick.me], (
        "its TTL is nobody's rhythm any more, though it is not recovered yet"
    )


def test_an_outage_costs_no_longer_grace_than_it_lasted(fleet: Fleet) -> None:
    """A TTL of years beside short ones does not keep the dead from being judged for years."""
    me = fleet.joins(15)
    fleet.joins(TEN_YEARS)
    begun = time.monotonic()
    fleet.away(40)
    me.workers.heartbeat()
    lasted = 40.001 + time.monotonic() - begun  # until the beat, by a clock of whole milliseconds
    assert 30 < fleet.grace() <= lasted


@pytest.mark.parametrize("how", ["leaves", "leaves with messages", "is reaped", "is proven dead", "is judged"])
def test_a_worker_that_is_gone_takes_its_ttl_along(fleet: Fleet, how: str) -> None:
    """Nothing of it lengthens the graces of those that stay."""
    me, gone = fleet.joins(15), fleet.joins(TEN_YEARS)
    assert fleet.has_ttl_of(gone)
    if how == "leaves with messages":
        fleet.lab.runs(gone, copy_of())
    if how.startswith("leaves"):
        gone.workers.deregister()
    elif how == "is proven dead":
        assert me.workers.mark_dead(me.workers.incarnation(gone.me), PROCESS)
    else:
        fleet.lab.kill(gone)
        assert me.recovery.find_due().dead == [gone.me]
        if how == "is reaped":
            assert me.workers.forget(gone.me)
            assert gone.me not in fleet.scores()
    assert not fleet.has_ttl_of(gone)
    fleet.ttls.pop(gone.me)
    fleet.away(200_000)
    me.workers.heartbeat()
    assert fleet.grace() <= 7.5


def test_one_that_was_judged_and_lives_has_its_ttl_again(fleet: Fleet) -> None:
    """Its next beat says that it was not known, so it says again who it is."""
    me, frozen = fleet.joins(15), fleet.joins(900)
    fleet.lab.kill(frozen)
    assert me.recovery.find_due().dead == [frozen.me]
    assert frozen.workers.heartbeat() is False
    frozen.workers.register({})
    assert fleet.has_ttl_of(frozen)


def test_ttls_leave_nothing_behind_when_all_have_left(fleet: Fleet) -> None:
    """The last one removes the set, also after a grace."""
    workers = [fleet.joins(ttl) for ttl in TTLS]
    fleet.away(TEN_YEARS)
    for worker in workers:
        worker.workers.heartbeat()
        worker.workers.deregister()
    assert fleet.lab.names() == set()


# A worker that was suspended.


class Frozen:
    """A message that a worker in this process runs, and that another one has taken meanwhile."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.go = threading.Event()
        app.start()
        self.runtime = app.runtime
        self.runtime.heartbeat.stop()
        self.runtime.recovery_thread.stop()

    def sleeps(self, message: Message[Any]) -> None:
        """Its clocks stand still; time passes in Redis only, and another worker takes what it runs."""
        assert self.runtime is not None
        self.runtime.heartbeat.run_once()  # it fetches nothing from a queue that it has not said
        wait_until(lambda: self.app.ran, what="it runs")
        copy = copy_of(message.message_id, origin=message.options["redis_message_id"])
        other = self.app.other()
        self.app.lab.return_to_broker(other, self.runtime.store, copy)
        self.app.lab.runs(other, copy)


@pytest.mark.parametrize("what", ["retry", "dead letter", "next stage", "callback", "result"])
def test_nothing_follows_from_what_was_taken_in_a_suspension(app: App, what: str) -> None:
    """Its own clocks say that Redis has answered a second ago: what has consequences is looked up all the same."""
    frozen = Frozen(app)
    seen: list[Any] = []
    after = app.actor(lambda *args: seen.append(args), actor_name="after", track_inflight=False)
    fails = what in ("retry", "dead letter")

    def work() -> str:
        app.ran.append("run")
        frozen.go.wait(120)
        if fails:
            raise ValueError("as asked for")
        return "result"

    options: dict[str, Any] = {"max_retries": 0 if what == "dead letter" else 3, "min_backoff": 10, "max_backoff": 20}
    if what == "callback":
        options["on_success"] = after
    if what == "result":
        options["store_results"] = True
    actor = app.actor(work, actor_name="work", **options)
    sent = actor.message()
    if what == "next stage":
        sent = (sent | after.message()).messages[0]
    message = app.broker.enqueue(sent)
    frozen.sleeps(message)
    assert frozen.runtime is not None
    wait_until(lambda: frozen.runtime.lease.last_contact.age > JUST_NOW, what="it was not just now")
    assert not frozen.runtime.lease.silent
    frozen.go.set()
    wait_until(lambda: not frozen.runtime.table.entries(), what="it has ended")
    frozen.runtime.heartbeat.run_once()  # its consumers fetch nothing before it is registered
    app.join()  # else what follows may be on its way yet
    assert (app.ran, seen, app.dead_letters()) == (["run"], [], [])
    assert not app.client.hlen(f"{app.broker.namespace}:default.DQ.msgs")
    with pytest.raises(ResultMissing):
        app.backend.get_result(message)


def test_a_success_of_which_nothing_follows_is_not_looked_up(app: App) -> None:
    """One round trip at its end, however long ago the last contact was."""
    frozen = Frozen(app)

    def work() -> None:
        app.ran.append("run")
        frozen.go.wait(120)

    app.actor(work).send()
    frozen.runtime.heartbeat.run_once()
    wait_until(lambda: app.ran, what="it runs")
    sent = note_scripts(frozen.runtime.store)
    wait_until(lambda: frozen.runtime.lease.last_contact.age > JUST_NOW, what="it was not just now")
    frozen.go.set()
    app.join()
    assert "reassert" not in dict(sent)


def test_a_moment_ages_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock that goes on, whichever that is."""
    then = Moment.now()
    assert Moment(then.since_boot + 90, then.wall + 90).until(then) == -90
    assert then.until(Moment(then.since_boot + 90, then.wall - 3600)) == 90
    assert then.until(Moment(then.since_boot, then.wall + 90)) == 90
    monkeypatch.setattr("dramatiq_inflight.threads.moment.BOOT_TIME", None)
    assert Moment.now().age < 60


# The tracker's Redis, apart from the broker's, is away.


class Apart:
    """A worker whose broker is in this process, and whose tracker has a Redis of its own that the test takes away."""

    def __init__(self, server: RedisServer, namespace: str) -> None:
        self.broker = StubBroker()
        self.tracker = InFlightTracker(
            namespace=namespace, redis_url=server.url, heartbeat_interval=1, heartbeat_ttl=20, watch_processes=False
        )
        self.broker.add_middleware(self.tracker)
        self.server = server
        self.ran: list[int] = []

    def start(self) -> None:
        self.worker = dramatiq.Worker(self.broker, worker_threads=1, worker_timeout=20)
        self.worker.start()

    @property
    def runtime(self) -> WorkerProcess:
        return runtime_of(self.tracker)

    def take_away(self, how: str) -> None:
        """Redis is frozen, or refuses connections; and the worker has found out."""
        self.server.pause() if how == "frozen" else self.server.kill()
        wait_until(lambda: self.runtime.connectivity.away, what="the heartbeat has found out")

    def commands(self) -> list[str]:
        """Return the commands that other threads than the heartbeat's and recovery's send from now on."""
        sent, call = list[str](), self.runtime.store.scripts.wire.call

        def noting(script: Any, *args: Any) -> Any:
            if not threading.current_thread().name.startswith("dramatiq_inflight"):
                sent.append(threading.current_thread().name)
            return call(script, *args)

        self.runtime.store.scripts.wire.call = noting  # type: ignore[method-assign,assignment]
        return sent


@pytest.fixture
def apart(own_server: RedisServer, namespace: str) -> Iterator[Apart]:
    apart = Apart(own_server, namespace)
    yield apart
    apart.server.resume()
    apart.worker.stop()


@pytest.mark.parametrize("how", ["frozen", "refused"])
@pytest.mark.parametrize("what", ["success", "failure", "pipeline", "checkpoint"])
def test_no_message_waits_for_redis_while_it_is_away(apart: Apart, how: str, what: str) -> None:
    """Neither at its start nor at its end; and of those that Redis never heard of none is kept."""

    failed: set[int] = set()

    def work(n: int) -> None:
        apart.ran.append(n)
        if what == "checkpoint":
            handle = current()
            assert handle is not None
            handle.checkpoint("here")
        if what == "failure" and n and n not in failed:
            failed.add(n)
            raise ValueError("as asked for")

    actor = dramatiq.actor(broker=apart.broker, track_inflight=True, min_backoff=1, max_backoff=2)(work)
    apart.start()
    actor.send(0)
    wait_until(lambda: apart.ran and not apart.runtime.table.entries(), what="it has run, and is settled")
    apart.ran.clear()
    apart.take_away(how)
    sent = apart.commands()
    for n in range(1, 21):
        stages = [actor.message(n), actor.message_with_options(args=(n,), pipe_ignore=True)]
        if what == "pipeline":
            dramatiq.pipeline(stages, broker=apart.broker).run()
        else:
            actor.send(n)
    expected = 20 if what in ("success", "checkpoint") else 40
    wait_until(lambda: len(apart.ran) == expected, what="all have run")
    wait_until(lambda: not apart.runtime.table.entries(), what="nothing of them is kept")
    assert sent == []
    assert apart.runtime.connectivity.away


def test_what_ran_when_redis_went_away_is_told_when_it_is_back(apart: Apart) -> None:
    """Its record is there: it is kept in mind until it is settled."""
    go = threading.Event()

    def work() -> None:
        apart.ran.append(1)
        go.wait(120)

    actor = dramatiq.actor(broker=apart.broker, track_inflight=True)(work)
    apart.start()
    message = actor.send()
    wait_until(lambda: apart.ran, what="it runs")
    apart.take_away("frozen")
    go.set()
    wait_until(lambda: [e.state.phase.value for e in apart.runtime.table.entries()] == ["untold"], what="it is over")
    apart.server.resume()
    wait_until(lambda: not apart.runtime.table.entries(), what="Redis was told")
    client: Any = apart.server.client()
    assert client.ttl(f"{{{apart.runtime.settings.namespace}}}:record:{message.message_id}") > 0
    client.close()


# The messages of a RedisBroker that a living worker holds.


class Held:
    """A worker in this process, whose ack sets the test looks at."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.prefix = f"{app.broker.namespace}:__acks__.{app.broker.broker_id}."

    def fetched(self, queue: str = "default") -> int:
        return int(self.app.client.scard(self.prefix + queue))

    def consumer(self, queue: str = "default") -> Any:
        assert self.app.worker is not None
        return self.app.worker.consumers[queue].consumer

    def fails(self, queue: str, error: Exception) -> None:
        """The next fetch from a queue fails, though the server has executed it."""
        broker: Any = self.app.broker
        fetch = broker.do_fetch

        def failing(name: str, *args: Any) -> Any:
            found = fetch(name, *args)
            if name == queue:
                del broker.do_fetch
                raise error
            return found

        self.consumer(queue).message_cache.clear()
        broker.do_fetch = failing


#: A delay, milliseconds: what was sent with it is due once `an_hour_later` is the consumers' clock.
AN_HOUR = 3_600_000


def an_hour_later() -> int:
    return current_millis() + AN_HOUR


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues whose consumer has compared its ack set with what is held here."""
    found, compare = list[str](), RedisQueues.give_back_unheld

    def noting(queues: RedisQueues, queue: str, held: Any) -> int:
        given_back = compare(queues, queue, held)
        found.append(queue)
        return given_back

    monkeypatch.setattr(RedisQueues, "give_back_unheld", noting)
    return found


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)


@pytest.fixture(params=[False, True], ids=["together", "apart"])
def either_app(request: pytest.FixtureRequest, server_url: str, namespace: str, lab: Lab) -> Iterator[App]:
    """A worker whose tracker is on its RedisBroker's Redis, or on another one."""
    settings = {"redis_url": another_database(server_url)} if request.param else {}
    app = App(server_url, namespace, lab, **settings)
    yield app
    app.close()


LOST = [redis.ConnectionError("reset"), redis.TimeoutError("no answer")]


@pytest.mark.parametrize("error", LOST, ids=["reset", "timeout"])
@pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
@pytest.mark.usefixtures("quick_restarts")
def test_what_was_delayed_comes_back_after_a_lost_connection(
    either_app: App, error: Exception, tracked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dramatiq's consumer forgets it: it runs when it is due, once, on the worker that lives."""
    app = either_app
    actor = app.actor(app.ran.append, actor_name="work", track_inflight=tracked)
    app.start()
    held = Held(app)
    for n in range(5):
        actor.send_with_options(args=(n,), delay=AN_HOUR)
    wait_until(lambda: held.fetched("default.DQ") == 5, what="they are in memory")
    held.fails("default.DQ", error)
    wait_until(lambda: "do_fetch" not in vars(app.broker), what="its fetch has failed")
    monkeypatch.setattr(dramatiq.worker, "current_millis", an_hour_later)
    wait_until(lambda: len(app.ran) >= 5, what="they run")
    app.join()
    assert sorted(app.ran) == list(range(5))


@pytest.mark.parametrize("error", LOST, ids=["reset", "timeout"])
@pytest.mark.usefixtures("quick_restarts")
def test_a_fetch_whose_answer_was_lost_is_given_back(app: App, error: Exception) -> None:
    """The fetched messages are in no memory.  Messages that run meanwhile, or wait in memory, are not doubled."""
    go = threading.Event()

    def work(n: int) -> None:
        app.ran.append(n)
        go.wait(120)

    actor = app.actor(work, track_inflight=False)
    app.start(threads=2)
    held = Held(app)
    actor.send(0)
    wait_until(lambda: app.ran == [0], what="it runs")
    held.fails("default", error)
    for n in range(1, 4):
        actor.send(n)
    wait_until(lambda: 1 in app.ran or 2 in app.ran or 3 in app.ran, what="the consumer is a new one")
    go.set()
    app.join()
    assert sorted(app.ran) == [0, 1, 2, 3]


@pytest.mark.usefixtures("quick_restarts")
def test_what_is_being_acknowledged_is_not_given_back(app: App, compared: list[str]) -> None:
    """Its ack fails again and again, while its consumer is replaced."""
    failing = threading.Event()
    actor = app.actor(app.ran.append, actor_name="work", track_inflight=False)
    app.start(threads=1)
    held, ack = Held(app), app.broker.do_ack

    def refused(queue: str, copy_id: str) -> None:
        if failing.is_set():
            raise redis.ConnectionError("reset")
        ack(queue, copy_id)

    failing.set()
    app.broker.do_ack = refused  # type: ignore[attr-defined]
    actor.send(1)
    wait_until(lambda: app.ran == [1], what="it has run")
    held.fails("default", redis.ConnectionError("reset"))
    wait_until(lambda: compared.count("default") == 2, what="the next consumer has compared")
    assert held.fetched() == 1
    failing.clear()
    app.join()
    assert app.ran == [1]


def test_a_requeue_that_fails_does_not_end_the_consumer(app: App) -> None:
    """Dramatiq's own requeue ends its thread by any error but one of the broker's."""
    app.start()
    tagged: Any = app.broker.consume("default.DQ")

    def away(*args: Any) -> None:
        raise redis.ConnectionError("away")

    app.broker.do_requeue = away  # type: ignore[attr-defined]
    message: Any = Message("default.DQ", "work", (), {}, {"redis_message_id": "x"})
    with pytest.raises(ConnectionClosed):
        tagged.requeue([message])


@pytest.mark.usefixtures("quick_restarts")
def test_a_message_that_cannot_be_decoded_stays_fetched(
    app: App, compared: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It ends its consumer once; given back by the next one it would end that, too, and turn its queue over."""
    actor = app.actor(app.ran.append, actor_name="work")
    app.start()
    held = Held(app)
    first = held.consumer()
    wait_until(lambda: "default" in compared, what="its consumer has begun")
    app.client.hset(f"{app.broker.namespace}:default.msgs", "bad", b"\x80 no JSON")
    app.client.rpush(f"{app.broker.namespace}:default", "bad")
    wait_until(lambda: app.worker and app.worker.consumers["default"].consumer not in (first, None), what="a new one")
    for sent in ([0], [0, 1], [0, 1, 2]):
        actor.send(sent[-1])
        wait_until(partial(app.ran.__eq__, sent), what="it runs")
    assert caplog.text.count("Consumer encountered an unexpected error") == 1
    wait_until(lambda: app.client.smembers(held.prefix + "default") == {b"bad"}, what="the others are acknowledged")


def test_what_a_stopped_worker_held_comes_back_to_the_next_one(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be given back: Redis was away while the worker stopped."""
    actor = app.actor(app.ran.append, actor_name="work")
    app.start()
    held = Held(app)
    actor.send_with_options(args=(1,), delay=AN_HOUR)
    wait_until(lambda: held.fetched("default.DQ") == 1, what="it is in memory")

    def away(*args: Any) -> None:
        raise redis.ConnectionError("away")

    with monkeypatch.context() as patch:
        patch.setattr(app.broker, "do_requeue", away)
        patch.setattr(RedisQueues, "give_back", away)
        app.stop()
    assert held.fetched("default.DQ") == 1
    monkeypatch.setattr(dramatiq.worker, "current_millis", an_hour_later)
    app.start()
    wait_until(lambda: app.ran == [1], what="it runs")
    app.join()


class Another:
    """Another worker of the broker, to which the broker gives what the app's worker holds."""

    def __init__(self, held: Held) -> None:
        self.client: Any = held.app.client
        self.own = held.prefix
        self.other = f"{held.app.broker.namespace}:__acks__.another."

    def gets(self, queue: str) -> None:
        """The command that gave the worker's messages back arrives once more, and the other one fetches first."""
        (copy_id,) = self.client.smembers(self.own + queue)
        assert self.client.smove(self.own + queue, self.other + queue, copy_id)

    def gives_back(self, app: App, queue: str) -> None:
        (copy_id,) = self.client.smembers(self.other + queue)
        self.client.srem(self.other + queue, copy_id)
        self.client.rpush(f"{app.broker.namespace}:{queue}", copy_id)


@pytest.mark.parametrize("by", ["dramatiq", "the tracker"])
@pytest.mark.usefixtures("quick_restarts")
def test_what_was_given_back_twice_runs_once(
    either_app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The worker holds its delayed message again when the command that gave it back arrives once more."""
    app = either_app
    actor = app.actor(app.ran.append, actor_name="work", track_inflight=False)
    app.start()
    held = Held(app)
    actor.send_with_options(args=(1,), delay=AN_HOUR)
    wait_until(lambda: held.fetched("default.DQ") == 1, what="it is in memory")
    consumer = held.consumer("default.DQ")
    held.fails("default.DQ", redis.ConnectionError("reset") if by == "the tracker" else RuntimeError("as asked for"))
    wait_until(lambda: held.consumer("default.DQ") not in (None, consumer), what="its consumer is a new one")
    assert app.worker is not None
    delayed = app.worker.consumers["default.DQ"]
    wait_until(lambda: held.fetched("default.DQ") == 1 and delayed.delay_queue.qsize() == 1, what="it is held again")
    another = Another(held)
    another.gets("default.DQ")
    monkeypatch.setattr(dramatiq.worker, "current_millis", an_hour_later)
    wait_until(lambda: "was given to another worker" in caplog.text, what="its time comes")
    another.gives_back(app, "default.DQ")
    wait_until(lambda: app.ran, what="it runs")
    app.join()
    assert app.ran == [1]
