# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A death is known by its connection: what the scripts note of those that are absent, and who is declared dead."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dramatiq_inflight.config.settings import Settings
from dramatiq_inflight.liveness import presence as presence_module
from dramatiq_inflight.liveness import sidecar_main as attendant
from dramatiq_inflight.liveness.lease import KnownBy, Lease
from dramatiq_inflight.liveness.presence import Presence
from dramatiq_inflight.liveness.subscription import CannotSubscribe, Subscription, Subscriptions
from dramatiq_inflight.liveness.suspicions import Suspicions
from dramatiq_inflight.store.cause import CONNECTION, EXPIRED, OUT_OF_MEMORY, PROCESS
from dramatiq_inflight.store.records import DeadIncarnation
from dramatiq_inflight.store.replies import Claim, Reasserted, Returned, Seen, Start, Suspicion
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.store.workers import BEAT, DIED, JOINED, Workers
from dramatiq_inflight.threads.bell import Bell
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import RedisServer, wait_until

PATIENCE = 20.0

#: Longer than an incarnation has to be connected before it judges others, milliseconds.
LONG_AGO = 60_000


class Person:
    """An incarnation with a subscription of its own, entered a minute ago."""

    def __init__(self, lab: Lab, name: str, instance: str = "") -> None:
        self.lab = lab
        self.store = Store(Scripts(lab.client, lab.namespace, name, heartbeat_ttl=60, fence_ttl=60))
        self.store.workers.register({"instance": instance or f"pod-{name}", "host": "h", "pid": "1"})
        self.key = f"{lab.prefix}incarnation:{name}"
        self._subscriptions = Subscriptions(self.store)
        self._probe: Subscription | None = None
        self.subscription = self._open()
        assert self.enter()
        self.was_here_before()

    def enter(self, *, anew: bool = True, patience: float = PATIENCE) -> bool:
        return self.store.workers.enter(patience=patience, anew=anew)

    def was_here_before(self) -> None:
        self.lab.client.hincrby(self.key, "seen", -LONG_AGO)

    def disappears(self) -> None:
        """Its process is killed, as far as Redis can tell."""
        self.subscription.close()
        wait_until(lambda: not self.store.workers.look([self.store.me])[self.store.me], what="Redis knows")

    def subscribes(self) -> None:
        self.subscription = self._open()

    def opens_a_probe(self) -> None:
        """A connection from scratch."""
        self._probe = self._subscriptions.open(self.store.keys.probe(self.store.me), 10)

    def suspects(self, other: Person) -> Suspicion:
        return self.store.workers.suspect(other.store.me)

    def judges(self, other: Person) -> Seen:
        """Look once more, after the patience of the other, with a connection from scratch."""
        since = self.suspects(other).since
        if since:
            since = self.patience_passes(other)
        if self._probe is None:
            self.opens_a_probe()
        return self.store.workers.suspect(other.store.me, since).seen

    def patience_passes(self, other: Person) -> int:
        """Its suspicion is older than its patience; returns since when it is."""
        key = f"{self.lab.prefix}suspects"
        since, _, rest = self.lab.client.hget(key, other.store.me).decode().partition(" ")
        earlier = int(since) - round(PATIENCE * 1000)
        self.lab.client.hset(key, other.store.me, f"{earlier} {rest}")
        return earlier

    def hears(self) -> str:
        return self.subscription.wait(0.1)

    def close(self) -> None:
        self.subscription.close()
        if self._probe is not None:
            self._probe.close()

    def _open(self) -> Subscription:
        return self._subscriptions.open(self.store.keys.channel(self.store.me), 10)


@pytest.fixture
def person(lab: Lab) -> Iterator[Callable[..., Person]]:
    made: list[Person] = []

    def make(name: str, instance: str = "") -> Person:
        made.append(Person(lab, name, instance))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def me(person: Callable[..., Person]) -> Person:
    return person("me")


@pytest.fixture
def other(person: Callable[..., Person]) -> Person:
    return person("other")


# Who is declared dead.


def test_whoever_is_absent_for_its_patience_is_declared_dead(lab: Lab, me: Person, other: Person) -> None:
    """Its heartbeat is fresh; recovery finds it at once, and knows why."""
    other.disappears()
    suspicion = me.suspects(other)
    assert (suspicion.seen, suspicion.patience) == (Seen.ABSENT, PATIENCE)
    assert me.suspects(other).since == suspicion.since, "it is absent since it was first seen to be"
    assert me.judges(other) is Seen.GONE
    assert me.store.recovery.find_due().dead == ["other"]
    dead = me.store.workers.incarnation("other")
    assert (dead.cause, dead.dead_since_ms > suspicion.since - 1) == (CONNECTION, True)
    assert not lab.client.exists(lab.prefix + "suspects")


def test_one_that_is_subscribed_is_present(me: Person, other: Person) -> None:
    assert me.suspects(other).seen is Seen.PRESENT


def test_nobody_is_gone_before_its_patience_is_over(me: Person, other: Person) -> None:
    other.disappears()
    me.opens_a_probe()
    since = me.suspects(other).since
    assert me.store.workers.suspect("other", since).seen is Seen.ABSENT
    assert me.store.recovery.find_due().dead == []


def test_nobody_is_gone_without_a_connection_from_scratch(me: Person, other: Person) -> None:
    """A reconnect of the other one may be as impossible."""
    other.disappears()
    me.suspects(other)
    since = me.patience_passes(other)
    assert me.store.workers.suspect("other", since).seen is Seen.ABSENT
    me.opens_a_probe()
    assert me.store.workers.suspect("other", since).seen is Seen.GONE


def beats(other: Person) -> None:
    other.store.workers.heartbeat()


def runs_a_script(other: Person) -> None:
    other.store.messages.clear_alone("m", 1)


def is_beaten_for(other: Person) -> None:
    assert other.store.workers.heartbeat_on_behalf()


def enters_and_is_lost_again(other: Person) -> None:
    other.subscribes()
    other.enter()
    other.disappears()


@pytest.mark.parametrize("shows_itself", [beats, runs_a_script, is_beaten_for, enters_and_is_lost_again])
def test_any_sign_of_life_begins_the_wait_anew(
    me: Person, other: Person, shows_itself: Callable[[Person], None]
) -> None:
    """Whatever reached the server since it was first absent."""
    other.disappears()
    me.opens_a_probe()
    first = me.suspects(other).since
    since = me.patience_passes(other)
    wait_until(lambda: _now(me) > first + 1, what="it is later")  # a heartbeat in the same millisecond is the same
    shows_itself(other)
    suspicion = me.store.workers.suspect("other", since)
    assert (suspicion.seen, suspicion.since > since) == (Seen.ABSENT, True)
    assert me.store.recovery.find_due().dead == []


def test_one_that_is_back_is_suspected_no_more(lab: Lab, me: Person, other: Person) -> None:
    other.disappears()
    me.suspects(other)
    other.subscribes()
    assert me.suspects(other).seen is Seen.PRESENT
    assert not lab.client.exists(lab.prefix + "suspects")


def test_what_another_server_has_seen_says_nothing(lab: Lab, me: Person, other: Person) -> None:
    """After a failover, or a restart, until it has entered there."""
    other.disappears()
    lab.client.hset(other.key, "life", "0123 4567")
    assert me.judges(other) is Seen.UNSEEABLE


@pytest.mark.parametrize(
    ("changes", "seen"), [("a replica attaches", Seen.ABSENT), ("it was a replica for a while", Seen.LOST)]
)
def test_what_makes_a_server_another_one(
    server_binary: str, tmp_path: Path, namespace: str, changes: str, seen: Seen
) -> None:
    """Its replication id is a new one in both cases."""
    server, replica = [RedisServer(server_binary, tmp_path / name).start() for name in ("a", "b")]
    lab = Lab(server.client(), namespace)
    me, other = Person(lab, "me"), Person(lab, "other")
    before = lab.client.info("replication")["master_replid"]
    if changes == "a replica attaches":
        follows(replica, server)
    else:
        follows(server, replica)  # and loses its data
        server.client().replicaof("NO", "ONE")
        for one in (me, other):
            one.store.workers.register({"instance": one.store.me})
            lab.client.hset(one.key, mapping={"life": one.store.workers.server + " " + "0" * 40, "seen": 1})
    other.disappears()
    assert lab.client.info("replication")["master_replid"] != before
    assert me.suspects(other).seen is seen
    for one in (me, other):
        one.close()
    for each in (server, replica):
        each.kill()


def follows(replica: RedisServer, primary: RedisServer) -> None:
    client: Any = replica.client()
    client.replicaof("127.0.0.1", primary.port)
    wait_until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica follows")


def test_one_that_never_entered_is_judged_by_its_heartbeat(lab: Lab, me: Person) -> None:
    lab.incarnation("b")
    assert me.store.workers.suspect("b").seen is Seen.UNSEEABLE


def test_one_whose_heartbeat_has_expired_is_judged_by_that(lab: Lab, me: Person, other: Person) -> None:
    other.disappears()
    lab.kill(other.store)
    assert me.judges(other) is Seen.UNSEEABLE


def test_nobody_judges_who_has_just_entered(me: Person, other: Person) -> None:
    """After an outage the others have that time to come back."""
    other.disappears()
    me.enter()
    assert me.judges(other) is Seen.UNQUALIFIED
    me.enter(anew=False)
    me.was_here_before()
    me.enter(anew=False)
    assert me.judges(other) is Seen.GONE, "to say again that it is there is no new entry"


def test_whoever_entered_by_a_clock_that_was_ahead_enters_anew(lab: Lab, me: Person, other: Person) -> None:
    """Or nobody would be judged until the clock is there again."""
    lab.client.hset(me.key, "seen", _now(me) + LONG_AGO)
    me.enter(anew=False)
    assert int(lab.client.hget(me.key, "seen")) <= _now(me)


def test_nobody_judges_whom_the_server_does_not_see(lab: Lab, me: Person, other: Person) -> None:
    other.disappears()
    lab.client.hset(me.key, "life", "0123 4567")
    assert me.judges(other) is Seen.LOST
    me.enter(anew=False)
    me.was_here_before()
    assert me.suspects(other).seen is Seen.ABSENT
    me.disappears()
    assert me.judges(other) is Seen.LOST


def test_many_of_several_instances_are_not_declared_dead(me: Person, person: Callable[..., Person]) -> None:
    """It may be the network: two of three, and then one of four with one that has beaten since."""
    one, two = person("one"), person("two")
    for other in (one, two):
        other.disappears()
        me.suspects(other)
    assert me.judges(one) is Seen.ABSENT
    two.store.workers.heartbeat()
    assert me.judges(one) is Seen.GONE


def test_a_third_of_all_may_be_declared_dead(me: Person, person: Callable[..., Person]) -> None:
    people = [person(f"p{number}") for number in range(5)]
    for other in people[:2]:
        other.disappears()
        me.suspects(other)
    assert [me.judges(other) for other in people[:2]] == [Seen.GONE, Seen.GONE]


def test_all_of_one_instance_may_be_declared_dead(me: Person, person: Callable[..., Person]) -> None:
    """A container with four processes, beside one with one."""
    people = [person(f"p{number}", "pod") for number in range(4)]
    for other in people:
        other.disappears()
        me.suspects(other)
    assert [me.judges(other) for other in people] == [Seen.GONE] * 4


def test_one_that_leaves_in_order_is_not_suspected(lab: Lab, me: Person, other: Person) -> None:
    """It says so before it closes its connection; and nothing of it is left."""
    lab.runs(other.store, copy_of())
    assert other.store.workers.deregister() == 1
    other.disappears()
    assert me.judges(other) is Seen.UNSEEABLE
    me.store.workers.deregister()
    assert lab.names() & {"suspects", "incarnation:me"} == set()


def test_a_shutdown_is_not_forgotten(me: Person, other: Person) -> None:
    other.store.workers.drain()
    other.store.workers.heartbeat()
    other.disappears()
    assert me.judges(other) is Seen.GONE
    dead = me.store.workers.incarnation("other")
    assert (dead.draining, dead.why) == (True, "its connections to Redis are closed while it was shutting down")


# Who enters.


def test_one_that_the_server_does_not_see_has_not_entered(lab: Lab, me: Person, other: Person) -> None:
    """A proxy that keeps subscriptions to itself; its heartbeat decides then, whatever was before."""
    other.disappears()
    assert not other.enter()
    assert me.judges(other) is Seen.UNSEEABLE


@pytest.mark.parametrize("rule", ["-info", "-pubsub"])
def test_one_that_may_not_ask_has_not_entered(lab: Lab, namespace: str, server_url: str, rule: str) -> None:
    """Neither which server it is nor who is subscribed: its heartbeat decides."""
    lab.client.acl_setuser(namespace, enabled=True, passwords=["+x"], keys="*", channels="*", commands=["+@all", rule])
    limited = Lab(_as(server_url, namespace), namespace)
    store = limited.incarnation("limited")
    subscription = Subscriptions(store).open(store.keys.channel("limited"), 10)
    assert store.workers.enter(patience=2, anew=True) is False
    assert store.workers.heartbeat()
    subscription.close()
    lab.client.acl_deluser(namespace)


def test_one_that_may_not_subscribe_is_told_so(lab: Lab, namespace: str, server_url: str) -> None:
    lab.client.acl_setuser(namespace, enabled=True, passwords=["+x"], keys="*", commands=["+@all", "-subscribe"])
    store = Lab(_as(server_url, namespace), namespace).incarnation("limited")
    with pytest.raises(CannotSubscribe, match=r"NOPERM|no permissions"):
        Subscriptions(store).open(store.keys.channel("limited"), 10)
    lab.client.acl_deluser(namespace)


def test_the_rights_of_the_manual_are_enough(lab: Lab, namespace: str, server_url: str) -> None:
    """As docs/brokers.rst has them: before Redis 7 there are no sharded channels."""
    commands = ["+subscribe", "+unsubscribe", "+publish", "+pubsub", "+info"]
    if int(lab.client.info("server")["redis_version"].partition(".")[0]) >= 7:
        commands += ["+ssubscribe", "+sunsubscribe", "+spublish"]
    rest = ["+@read", "+@write", "+@scripting", "+@connection", "+time"]
    lab.client.acl_setuser(
        *(namespace,),
        enabled=True,
        passwords=["+x"],
        keys=[f"{{{namespace}}}:*"],
        reset_channels=True,
        channels=[f"{{{namespace}}}:*"],
        commands=[*rest, *commands],
    )
    store = Lab(_as(server_url, namespace), namespace).incarnation("limited")
    subscription = Subscriptions(store).open(store.keys.channel("limited"), 10)
    assert store.workers.enter(patience=2, anew=True) is True
    store.workers.wake(["limited"], DIED)
    assert subscription.wait(120) == DIED
    assert store.workers.look(["limited"]) == {"limited": 1}
    subscription.close()
    lab.client.acl_deluser(namespace)


def test_an_entry_on_its_behalf_brings_nobody_back(lab: Lab, other: Person) -> None:
    """The heartbeat's process comes too late: its worker has left."""
    other.store.workers.deregister()
    assert other.store.workers.enter(patience=2, anew=True, on_behalf=True) is False
    assert "incarnation:other" not in lab.names()
    assert "other" not in other.store.workers.deadlines()


def test_an_entry_on_its_behalf_leaves_its_patience(lab: Lab, other: Person) -> None:
    """The worker itself knows how slow Redis is."""
    other.enter(patience=7)
    assert other.store.workers.enter(patience=2, anew=True, on_behalf=True)
    assert lab.client.hget(other.key, "patience") == b"7000"


def test_a_child_holds_no_connection_and_closes_none(app: App) -> None:
    """It closes the descriptor: the connection is its parent's, whose death would not be known else."""
    app.start()
    runtime = app.runtime
    me = runtime.incarnation.id
    wait_until(lambda: runtime.lease.known_by is KnownBy.ENTERED, what="it has entered")
    assert runtime.presence.subscription is not None
    inode = os.fstat(runtime.presence.subscription.connection._sock.fileno()).st_ino
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        wait_until(lambda: f"socket:[{inode}]" not in _descriptors(child), what="the child has closed it")
        assert f"socket:[{inode}]" in _descriptors(os.getpid())
        assert app.store.workers.look([me]) == {me: 1}
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _descriptors(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return found


def test_a_subscription_that_the_server_ends_is_over(own_server: RedisServer, namespace: str) -> None:
    store = Lab(own_server.client(), namespace).incarnation("a")
    subscription = Subscriptions(store).open(store.keys.channel("a"), 10)
    assert subscription.wait(0.01) == ""
    admin: Any = own_server.client()
    admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(Exception, match=r"(?i)closed|reset"):
        subscription.wait(120)


def test_a_server_that_is_busy_does_not_refuse_for_good(own_server: RedisServer, namespace: str) -> None:
    """Somebody's script runs for long; a subscription is possible when it has ended."""
    store = Lab(own_server.client(), namespace).incarnation("a")
    own_server.client().config_set("lua-time-limit", 1)
    runs_long: Any = redis.Redis(port=own_server.port)
    thread = threading.Thread(target=lambda: _fails(lambda: runs_long.eval("while true do end", 0)))
    thread.start()
    admin: Any = own_server.client()
    try:
        wait_until(lambda: _fails(admin.ping), what="it is busy")
        with pytest.raises(redis.ConnectionError, match="BUSY"):
            Subscriptions(store).open(store.keys.channel("a"), 10)
    finally:
        admin.script_kill()
        thread.join()


def _fails(command: Callable[[], object]) -> bool:
    try:
        command()
    except redis.RedisError:
        return True
    return False


# Who looks at whom.


class Opened(Subscriptions):
    """Counts the connections from scratch."""

    count = 0

    def open(self, channel: str, within: float) -> Subscription:
        self.count += 1
        return super().open(channel, within)


class Judge(Suspicions):
    """Judges others in its thread, and notes what it is told."""

    def __init__(self, person: Person) -> None:
        self.deaths: list[bool] = []
        super().__init__(
            person.store,
            Opened(person.store),
            on_death=lambda: self.deaths.append(True),
            on_lost=lambda: None,
            on_unseeable=lambda id: None,
        )

    @property
    def opened(self) -> int:
        assert isinstance(self._subscriptions, Opened)
        return self._subscriptions.count

    def has_noted(self, id: str) -> bool:
        return id in self._noted

    def hastens(self, id: str) -> None:
        """The patience with one is over, as far as this process knows."""
        self._noted[id] = self._noted[id]._replace(due=0.0)

    def is_done(self) -> bool:
        return self.opened > 0 and self._absent.empty() and not self._noted


def test_one_connection_from_scratch_is_enough_for_all(me: Person, person: Callable[..., Person]) -> None:
    """A network is down, and many are absent: the server is not asked for a connection for each, nor again for each."""
    judge = Judge(me)
    for number in range(12):
        other = person(f"p{number}")
        other.enter(patience=1)
        other.disappears()
        judge.add(other.store.me)
    judge.start()
    try:
        wait_until(judge.is_done, what="all were judged")
        assert judge.opened == 1
        assert me.store.recovery.find_due().dead == []
    finally:
        judge.stop()


def test_whoever_waited_for_a_death_recovers_too(me: Person, other: Person, person: Callable[..., Person]) -> None:
    """Another one was quicker to declare it dead, and cannot recover all that it ran, or dies itself."""
    quicker = person("quicker")
    other.disappears()
    judge = Judge(me)
    judge.add("other")
    judge.start()
    try:
        wait_until(lambda: judge.has_noted("other"), what="it is noted")
        assert quicker.judges(other) is Seen.GONE
        judge.hastens("other")
        judge.add("quicker")
        wait_until(lambda: bool(judge.deaths), what="it has heard of the death")
    finally:
        judge.stop()


def test_one_that_joins_is_looked_at_by_those_that_are_there(app: App, person: Callable[..., Person]) -> None:
    """The ones before it in the ring are dead, and not reaped yet: as in a crash loop."""
    people = [person(f"!{number}") for number in range(4)]  # before any id that is drawn
    for one in people[2:]:
        one.disappears()
    app.start()
    for one in people[:2]:
        wait_until(lambda one=one: one.hears() == JOINED, what="it is to look at the newcomer")  # type: ignore[misc]


@pytest.fixture
def people(person: Callable[..., Person]) -> dict[str, Person]:
    """Behind any id that is drawn."""
    return {name: person(name) for name in ("~a", "~b")}


@pytest.fixture
def at_rest(app: App, monkeypatch: pytest.MonkeyPatch, people: dict[str, Person]) -> Presence:
    """The next ones in the ring are these two; it reads who is there when it is told to, and not by itself."""
    monkeypatch.setattr(presence_module, "REFRESH", 1000)
    app.start()
    runtime = app.runtime
    presence = runtime.presence
    wait_until(lambda: set(presence.neighbours) == set(people), what="it looks at them")
    presence.look_at_all_at = float("inf")
    app.client.hincrby(f"{app.lab.prefix}incarnation:{app.store.me}", "seen", -LONG_AGO)
    return presence


def test_a_worker_whose_neighbour_has_left_looks_for_others(
    at_rest: Presence, people: dict[str, Person], person: Callable[..., Person]
) -> None:
    """The neighbour has looked at one that has joined since, and leaves."""
    person("~c")
    assert "~c" not in at_rest.everybody
    people["~b"].store.workers.deregister()
    people["~b"].disappears()
    wait_until(lambda: "~c" in at_rest.neighbours, what="it looks at the next one")


def test_those_that_look_at_nobody_do_not_hide_others(
    lab: Lab, at_rest: Presence, person: Callable[..., Person]
) -> None:
    """Their `connection_timeout` is 0: they are subscribed, for what they are told, and look at nobody."""
    for name in ("~a", "~b"):
        lab.client.hdel(f"{lab.prefix}incarnation:{name}", "life")
    other = person("~c")
    at_rest.refresh_at = 0.0
    wait_until(lambda: at_rest.neighbours == {"~a": False, "~b": False, "~c": True}, what="it looks at the third")
    other.disappears()
    wait_until(lambda: lab.client.hexists(lab.prefix + "suspects", "~c"), what="it is suspected")


def test_a_hint_that_cannot_be_followed_leaves_the_subscription(
    own_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is full, or slow: that is no time to connect again."""
    app = App(own_server.url, namespace, Lab(own_server.client(), namespace))
    try:
        app.start()
        runtime = app.runtime
        presence, heard = runtime.presence, list[str]()
        wait_until(lambda: runtime.lease.known_by is KnownBy.ENTERED, what="it has entered")
        subscription, follow = presence.subscription, presence.on_word

        def on_word(word: str) -> None:
            heard.append(word)
            follow(word)

        monkeypatch.setattr(presence, "on_word", on_word)
        own_server.client().config_set("maxmemory", 1)
        app.store.workers.wake([app.store.me], BEAT)
        wait_until(lambda: BEAT in heard and runtime.connectivity.away, what="it has heard, and its beat has failed")
        app.store.workers.wake([app.store.me], DIED)
        wait_until(lambda: DIED in heard, what="it hears")
        assert presence.subscription is subscription
        assert runtime.lease.known_by is KnownBy.ENTERED
    finally:
        own_server.client().config_set("maxmemory", 0)
        app.close()


def test_a_forgotten_worker_registers_and_keeps_its_subscription(app: App) -> None:
    """It cannot enter before that: what it says of itself may arrive when it has left."""
    app.start()
    runtime = app.runtime
    presence, lease, key = runtime.presence, runtime.lease, f"{app.lab.prefix}incarnation:{app.store.me}"
    wait_until(lambda: lease.known_by is KnownBy.ENTERED, what="it has entered")
    subscription = presence.subscription
    may_register, entered = threading.Event(), list[bool]()
    register, enter = runtime.heartbeat.register, app.store.workers.enter

    def register_late() -> None:
        may_register.wait(120)
        register()

    def noting(**how: Any) -> bool:
        entered.append(enter(**how))
        return entered[-1]

    runtime.heartbeat.register = register_late  # type: ignore[method-assign]
    app.store.workers.enter = noting  # type: ignore[method-assign]
    app.client.delete(key, app.lab.prefix + "heartbeats")
    presence.look_again()
    wait_until(lambda: len(entered) >= 3, what="it has tried to enter")
    assert not any(entered)
    assert app.client.hget(key, "life") is None
    may_register.set()
    wait_until(lambda: app.client.hget(key, "life") is not None, what="it has entered again")
    assert presence.subscription is subscription
    app.stop()
    assert app.lab.names() == set()


@pytest.mark.parametrize(("unseen", "then"), [(1000.0, KnownBy.LOST), (0.0, KnownBy.WITHOUT)])
def test_a_server_that_does_not_see_the_subscription_for_a_while(
    own_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch, unseen: float, then: KnownBy
) -> None:
    """During a failover the commands may go to another server than the subscription does."""
    monkeypatch.setattr(presence_module, "UNSEEN", unseen)
    monkeypatch.setattr(presence_module, "REFRESH", 0.1)
    client = own_server.client()
    client.execute_command("ACL", "SETUSER", "default", "-pubsub")
    app = App(own_server.url, namespace, Lab(client, namespace))
    try:
        enter, entered = Workers.enter, list[bool]()

        def noting(workers: Workers, **how: Any) -> bool:
            entered.append(enter(workers, **how))
            return entered[-1]

        monkeypatch.setattr(Workers, "enter", noting)
        app.start()
        runtime = app.runtime
        wait_until(lambda: len(entered) > 5, what="it has tried to enter again and again")
        assert not any(entered)
        assert runtime.lease.known_by is then
        client.execute_command("ACL", "SETUSER", "default", "+pubsub")
        wait_until(lambda: runtime.lease.known_by is KnownBy.ENTERED, what="it has entered")
    finally:
        app.close()


def test_patience_grows_with_the_number_of_incarnations(me: Person) -> None:
    """With many incarnations each looks more rarely, and a proxy may swallow the end of its connection."""
    presence = Presence(
        me.store,
        Lease(60, 2, Bell()),
        connection_timeout=2,
        longest=100,
        on_word=lambda word: None,
        on_death=lambda: None,
    )
    assert presence.patience == 2
    presence.everybody = [f"p{number}" for number in range(400)]
    assert presence.patience == 8


def test_a_heartbeat_process_beats_more_often_than_patience_ends() -> None:
    """Also while new connections are not answered."""
    assert 0.8 * Settings.connection_timeout > attendant.CONNECT + attendant.SUBSCRIBE_AGAIN


@pytest.mark.parametrize("draining", [False, True])
def test_a_beat_on_its_behalf_does_not_hide_a_loss(lab: Lab, a: Store, b: Store, draining: bool) -> None:
    """A beat of the heartbeat's process is no beat of the worker's own: an operator has taken its message."""
    copy = copy_of()
    lab.runs(a, copy)
    if draining:
        a.workers.drain()
        a.workers.heartbeat()
    assert not isinstance(b.operations.take(copy.message_id, hold=60, condemn=False, force=True), str)
    for _ in range(2):
        assert a.workers.heartbeat_on_behalf() is True
    assert b.workers.incarnation("a").draining is draining
    assert a.workers.heartbeat() is False
    assert a.workers.heartbeat() is True
    assert a.workers.heartbeat_on_behalf() is True
    assert a.workers.heartbeat() is True


def test_a_beat_on_its_behalf_revives_a_late_worker_if_known(lab: Lab, a: Store, b: Store) -> None:
    """It lives; that it had been declared dead it hears with its own next beat. A stranger has to say who it is."""
    lab.kill(a)
    assert a.workers.heartbeat_on_behalf() is True
    assert b.recovery.find_due().dead == []
    assert a.workers.heartbeat() is False
    a.workers.deregister()
    assert a.workers.heartbeat_on_behalf() is False
    assert "a" not in b.workers.deadlines()


# What follows from it.


@pytest.fixture
def gone(me: Person, other: Person) -> Callable[[], None]:
    def go() -> None:
        other.disappears()
        assert me.judges(other) is Seen.GONE

    return go


def test_its_messages_are_recovered_at_once(lab: Lab, me: Person, other: Person, gone: Callable[[], None]) -> None:
    copy = copy_of()
    lab.runs(other.store, copy)
    gone()
    assert lab.claim(me.store, copy, other.store).crashes == 1


#: What a death would convict: its last chance, alone; or what may run once only.
CONVICTS = [{"limit": 0, "alone": True}, {"limit": "once", "alone": False}]


def in_doubt(lab: Lab, other: Person) -> bool:
    return lab.client.zscore(lab.prefix + "heartbeats", f"*until:{other.store.me}") is not None


@pytest.mark.parametrize("kind", CONVICTS)
def test_nothing_is_convicted_as_long_as_it_may_be_back(
    lab: Lab, me: Person, other: Person, gone: Callable[[], None], kind: dict[str, Any]
) -> None:
    """Neither by a claim, nor by a hand back, nor by a start; nor is the incarnation forgotten."""
    copy = copy_of()
    lab.runs(other.store, copy, **kind)
    gone()
    assert lab.claim_answer(me.store, copy, "other") is Claim.ALIVE
    assert me.store.recovery.return_to_broker("other", [(copy.message_id, True)]) == [Returned.BUSY]
    started = lab.start(me.store, copy, limit=kind["limit"])
    assert (started.answer, started.wait_ms > 1000) == (Start.DUPLICATE, True)
    assert not me.store.workers.forget("other")
    assert 0 < (me.store.recovery.find_due().next_in or 0) <= 60
    _doubt_ends(lab, other)
    assert lab.claim_answer(me.store, copy, "other") is Claim.POISONED


@pytest.mark.parametrize("kind", CONVICTS)
def test_a_proof_ends_the_doubt(
    lab: Lab, me: Person, other: Person, gone: Callable[[], None], kind: dict[str, Any]
) -> None:
    """Somebody on its host has seen that its process is gone."""
    copy = copy_of()
    lab.runs(other.store, copy, **kind)
    gone()
    assert in_doubt(lab, other)
    assert me.store.workers.mark_dead(me.store.workers.incarnation("other"), PROCESS)
    assert not in_doubt(lab, other)
    assert not me.store.workers.mark_dead(me.store.workers.incarnation("other"), OUT_OF_MEMORY)
    assert lab.claim_answer(me.store, copy, "other") is Claim.POISONED
    assert me.store.workers.incarnation("other").cause == PROCESS


def test_a_shutdown_convicts_nobody_by_its_connections(
    lab: Lab, me: Person, other: Person, gone: Callable[[], None]
) -> None:
    """So that needs no certainty."""
    copy = copy_of()
    lab.runs(other.store, copy, limit=0)
    other.store.workers.drain()
    other.store.workers.heartbeat()
    gone()
    assert lab.claim_answer(me.store, copy, "other") is Claim.CLAIMED


def test_it_is_reaped_when_it_cannot_be_back(lab: Lab, me: Person, other: Person, gone: Callable[[], None]) -> None:
    gone()
    assert not me.store.workers.forget("other")
    _doubt_ends(lab, other)
    assert me.store.workers.forget("other")
    assert not in_doubt(lab, other)


def test_one_that_is_back_hears_of_it_and_takes_its_message_back(
    lab: Lab, me: Person, other: Person, gone: Callable[[], None]
) -> None:
    """As after any false alarm: its copy has not started."""
    copy = copy_of()
    lab.runs(other.store, copy)
    gone()
    orphan = lab.claim(me.store, copy, other.store)
    assert orphan.crashes == 1
    assert other.store.workers.heartbeat() is False
    assert me.store.recovery.find_due().dead == []
    mended = lab.reassert(other.store, copy)
    assert mended == (Reasserted.RETAKEN, 2, 2, 0, 0)
    other.store.workers.register({"instance": "pod-other"})
    assert not in_doubt(lab, other)
    assert other.store.workers.heartbeat() is True
    assert me.store.workers.incarnation("other").cause == EXPIRED


def test_one_that_may_be_back_keeps_its_place_in_the_namespace(
    lab: Lab, me: Person, other: Person, gone: Callable[[], None]
) -> None:
    """A newer version stays out, as if it lived."""
    gone()
    me.store.workers.deregister()
    lab.client.hset(f"{lab.prefix}schema", "schema", 0)
    newcomer = Store(Scripts(lab.client, lab.namespace, "new", heartbeat_ttl=60, fence_ttl=60))
    refusal = newcomer.workers.register({"instance": "new"})
    assert refusal is not None
    assert (refusal.blocker, refusal.wait > 0) == ("other", True)


def test_a_dead_incarnation_is_not_declared_dead_twice(me: Person, other: Person, gone: Callable[[], None]) -> None:
    gone()
    assert me.judges(other) is Seen.UNSEEABLE
    assert me.store.workers.mark_dead(_unknown(), PROCESS) is False


def _unknown() -> DeadIncarnation:
    return DeadIncarnation("unknown", "", "", "", "", "", [])


def _now(person: Person) -> int:
    seconds, micro = person.lab.client.time()
    return int(seconds * 1000 + micro // 1000)


def _doubt_ends(lab: Lab, other: Person) -> None:
    """Its heartbeat would have expired by now."""
    lab.client.zadd(lab.prefix + "heartbeats", {f"*until:{other.store.me}": -1.1e12})


def _as(server_url: str, user: str) -> Any:
    return redis.Redis.from_url(server_url, username=user, password="x")
