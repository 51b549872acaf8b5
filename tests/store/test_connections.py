# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tracker's connections on a hostile network: the wrong server, half-dead, slow, or bound by nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from redis.backoff import ConstantBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import NoPermissionError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import Sentinel

from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.errors import says_wrong_server
from dramatiq_inflight.store.pool import COMMAND_TIMEOUT
from dramatiq_inflight.store.ruled import CONNECT_TIMEOUT
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.network import FailoverPair
from tests.support.network_proxy import NetworkProxy
from tests.support.servers import RedisServer, wait_until
from tests.support.topologies import Sentinels

#: How long the patient wait for an answer, seconds: for longer than a machine is slow.
PATIENCE = 60.0

#: Sooner than this a command of the patient is done, if it waits for no dead socket, seconds.
SOON = PATIENCE / 2

#: How long a command with a new connection may take at the most, on such a machine, seconds.
BOUND = 3 * (CONNECT_TIMEOUT + COMMAND_TIMEOUT)


class Tracked:
    """An incarnation that reaches a server through a proxy."""

    def __init__(
        self, proxy: NetworkProxy, namespace: str, *, timeout: float = COMMAND_TIMEOUT, **options: Any
    ) -> None:
        self.failures: list[redis.RedisError] = []
        self.resent: list[int] = []
        self.client: Any = bounded_client(redis.Redis(port=proxy.port, **options), timeout)
        self.store = Store(
            Scripts(
                self.client,
                namespace,
                "me",
                heartbeat_ttl=60,
                fence_ttl=60,
                contact=Contact(failed=self.failures.append, answer_lost=lambda: self.resent.append(1)),
            )
        )

    def beat(self) -> float:
        """Beat; returns how long that took, seconds."""
        begun = time.monotonic()
        self.store.workers.heartbeat()
        return time.monotonic() - begun


@pytest.fixture
def proxy_to() -> Iterator[Callable[[RedisServer], NetworkProxy]]:
    made: list[NetworkProxy] = []

    def make(server: RedisServer) -> NetworkProxy:
        made.append(NetworkProxy(server.port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def proxy(own_server: RedisServer, proxy_to: Callable[[RedisServer], NetworkProxy]) -> NetworkProxy:
    return proxy_to(own_server)


@pytest.fixture
def tracked(proxy: NetworkProxy, namespace: str) -> Iterator[Tracked]:
    tracked = Tracked(proxy, namespace)
    tracked.store.workers.register({"instance": "me"})
    yield tracked
    tracked.store.scripts.close()


@pytest.fixture
def patient(
    proxy: NetworkProxy, namespace: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Tracked]:
    """A tracker that waits longer than this machine is slow; the parameter says when an answer is late, seconds."""
    monkeypatch.setattr("dramatiq_inflight.store.ruled.LATE", getattr(request, "param", 2.0))
    tracked = Tracked(proxy, namespace, timeout=PATIENCE)
    tracked.store.workers.register({"instance": "me"})
    yield tracked
    tracked.store.scripts.close()


@pytest.fixture
def pair(server_binary: str, tmp_path: Path) -> Iterator[FailoverPair]:
    """A primary and its replica, behind one address."""
    pair = FailoverPair(server_binary, tmp_path).start()
    pair.proxy()
    yield pair
    pair.kill()


# The wrong server.


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("NOAUTH Authentication required.", True),
        ("NOPERM this user has no permissions to run the 'evalsha' command", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", True),
        ("BUSY Redis is busy running a script.", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("ERR unknown command", False),
    ],
)
def test_an_answer_says_whether_the_server_is_wrong(text: str, wrong: bool) -> None:
    """As every version of Redis words it, directly or in a script's error."""
    assert says_wrong_server(redis.ResponseError(text)) is wrong


def test_a_demoted_server_is_left_at_its_first_answer(pair: FailoverPair, namespace: str) -> None:
    """By scripts, by plain commands, and by idle connections, which are not asked at all."""
    tracked = Tracked(pair.proxies[0], namespace, timeout=PATIENCE)
    tracked.store.workers.register({"instance": "me"})
    pool = tracked.client.connection_pool
    held = [pool.get_connection() for _ in range(3)]
    for connection in held:
        pool.release(connection)
    pair.fail_over()
    assert tracked.beat() < SOON
    assert [type(error) for error in tracked.failures] == [ReadOnlyError], "it is reported once, though it was brief"
    tracked.store.workers.wake(["me"], "a word")
    wait_until(
        lambda: {link.target for link in pair.proxies[0].open_links()} == {pair.primary.port}, what="all have moved"
    )


def test_a_pipeline_is_sent_again_after_a_demotion(pair: FailoverPair, namespace: str) -> None:
    """Though redis-py takes its errors for answers."""
    tracked = Tracked(pair.proxies[0], namespace)
    tracked.store.workers.register({"instance": "me"})
    pair.fail_over()
    pipeline = tracked.client.pipeline(transaction=False)
    pipeline.set("written", "1")
    pipeline.execute()
    admin: Any = pair.primary.client()
    assert admin.get("written") == b"1"


def test_a_rotated_password_is_used_at_once(own_server: RedisServer, namespace: str) -> None:
    """The server has closed the connections, and the provider knows the new one."""
    passwords = ["old"]

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return "worker", passwords[-1]

    admin: Any = own_server.client()
    admin.acl_setuser("worker", enabled=True, passwords=["+old"], keys="*", commands=["+@all"])
    client = bounded_client(redis.Redis(port=own_server.port, credential_provider=Provider()))
    store = Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60))
    store.workers.register({"instance": "me"})
    passwords.append("new")
    admin.acl_deluser("worker")
    admin.acl_setuser("worker", enabled=True, passwords=["+new"], keys="*", commands=["+@all"])
    assert store.workers.heartbeat()
    store.scripts.close()


def test_a_refused_user_is_replaced_by_the_next(own_server: RedisServer, namespace: str) -> None:
    """The old user loses a permission, and a new connection gets another user."""
    users = ["old"]

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return users[-1], "password"

    admin: Any = own_server.client()
    for user in ("old", "new"):
        admin.acl_setuser(user, enabled=True, passwords=["+password"], keys="*", commands=["+@all"])
    client = bounded_client(redis.Redis(port=own_server.port, credential_provider=Provider()))
    store = Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60))
    store.workers.register({"instance": "me"})
    users.append("new")
    admin.acl_setuser("old", enabled=True, passwords=["+password"], keys="*", commands=["+@all", "-evalsha"])
    with pytest.raises(NoPermissionError):
        store.workers.heartbeat()
    assert store.workers.heartbeat()
    store.scripts.close()


@pytest.mark.parametrize("where", ["same", "apart"])
def test_a_worker_tracks_again_after_a_failover(
    where: str, pair: FailoverPair, namespace: str, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fetches, acks and enqueues of a RedisBroker too, whose client was told nothing of failovers."""
    caplog.set_level(logging.INFO)
    lab = Lab(pair.primary.client(), namespace)
    options = {} if where == "same" else {"redis_url": pair.proxies[0].url}
    url = pair.proxies[0].url if where == "same" else server_url
    app = App(server_url, namespace, lab, broker_client=redis.Redis.from_url(url), heartbeat_ttl=6, **options)
    go, began = threading.Event(), threading.Event()

    def work(n: int) -> None:
        app.ran.append(n)
        if n == 0:
            began.set()
            go.wait(120)
        if n < 0:
            raise RuntimeError("as asked for")

    actor = app.actor(work, max_retries=0)
    try:
        app.start(threads=2)
        actor.send(0)
        assert began.wait(120)
        runtime = app.runtime
        pair.fail_over()
        for n in (1, 2, 3, -1):
            actor.send(n)
        wait_until(lambda: set(app.ran) == {0, 1, 2, 3, -1}, what="the others run")
        new = Lab(pair.primary.client(), namespace)
        wait_until(lambda: new.client.zscore(new.prefix + "heartbeats", app.store.me), what="it beats")
        go.set()
        wait_until(lambda: not runtime.table.entries(), what="all have ended")
        wait_until(lambda: not runtime.connectivity.away, what="it tracks")
        left: Any = pair.primary.client()
        if where == "same":
            wait_until(lambda: left.hlen(f"{namespace}-broker:default.msgs") == 0, what="all are acknowledged")
            assert left.zcard(f"{namespace}-broker:default.XQ") == 1, "and one is rejected"
        assert sorted(app.ran) == [-1, 0, 1, 2, 3]
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("dramatiq_inflight")]
        assert sum("Redis cannot be used" in line for line in ours) == 1
        assert sum("Redis is back" in line for line in ours) == 1
        assert not [line for line in ours if "dead" in line]
    finally:
        go.set()
        app.close()


def test_a_heartbeat_process_follows_a_failover(pair: FailoverPair, namespace: str, server_url: str) -> None:
    """By the same rules, in another process."""
    lab = Lab(pair.primary.client(), namespace)
    app = App(server_url, namespace, lab, redis_url=pair.proxies[0].url, heartbeat="process", heartbeat_interval=0.2)
    try:
        app.start()
        runtime = app.runtime
        me = runtime.store.me
        wait_until(lambda: runtime.store.workers.look([me])[me] == 2, what="its process is there")
        runtime.heartbeat.stop()
        runtime.recovery_thread.stop()
        pair.fail_over()
        new: Any = pair.primary.client()
        key = lab.prefix + "heartbeats"
        wait_until(lambda: new.zscore(key, me), what="it is there")
        before = new.zscore(key, me)
        wait_until(lambda: new.zscore(key, me) > before, what="it beats there")
    finally:
        app.close()


def test_the_broker_is_left_as_it_was(app: App) -> None:
    """A stopped worker's broker has its own commands."""
    plain = app.broker.scripts["dispatch"]
    app.actor(lambda: None)
    app.start()
    assert app.broker.scripts["dispatch"] is not plain
    app.stop()
    assert app.broker.scripts["dispatch"] is plain
    assert "do_ack" not in app.broker.__dict__


CLIENTS: dict[str, Callable[[str], redis.Redis]] = {
    "pool": lambda url: redis.Redis(connection_pool=redis.ConnectionPool.from_url(url)),
    "blocking pool": lambda url: redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url)),
    "single connection": lambda url: redis.Redis.from_url(url, single_connection_client=True),
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_brokers_own_client_is_led_to_the_right_server(kind: str, pair: FailoverPair, namespace: str) -> None:
    """A client of each kind is led there."""
    client = CLIENTS[kind](pair.proxies[0].url)
    broker = RedisBroker(client=client, namespace=namespace, maintenance_chance=0)
    queues = RedisQueues(broker, client)
    broker.do_enqueue("default", "1", b"a message")
    pair.fail_over()
    with pytest.raises(ReadOnlyError):
        broker.do_enqueue("default", "2", b"a message")
    queues.attach(lambda queue, copy_id, ack: None)
    broker.do_enqueue("default", "2", b"a message")
    assert pair.primary.client().hexists(f"{namespace}:default.msgs", "2")
    queues.detach()


# Half-dead.


def test_a_forgotten_idle_connection_costs_no_time_out(proxy: NetworkProxy, patient: Tracked) -> None:
    """And fails nothing; nor is a script sent that might run twice."""
    pool = patient.client.connection_pool
    held = [pool.get_connection() for _ in range(4)]
    for connection in held:
        pool.release(connection)
        connection.sent_at -= 10  # as if it had been idle for so long
    assert proxy.swallow() >= 4
    assert patient.beat() < SOON
    assert patient.beat() < SOON, "the other idle ones are not tried one by one"
    assert (patient.failures, patient.resent) == ([], [])


def test_a_connection_swallowed_in_use_costs_no_time_out(proxy: NetworkProxy, patient: Tracked) -> None:
    """A new connection is answered, so it is the old one that is dead."""
    patient.beat()
    assert proxy.swallow()
    assert patient.beat() < SOON
    proxy.swallow()
    begun = time.monotonic()
    assert list(patient.store.workers.deadlines()) == ["me"]
    assert time.monotonic() - begun < SOON
    assert patient.failures == []


@pytest.mark.parametrize("patient", [0.2], indirect=True)
def test_a_slow_server_is_sent_a_script_once(
    own_server: RedisServer, patient: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the old connection as soon as the new one."""
    monkeypatch.setattr("dramatiq_inflight.store.ruled.AFTER_ANOTHER", PATIENCE)
    patient.beat()
    admin: Any = own_server.client()
    calls = admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    own_server.pause()
    threading.Timer(0.9, own_server.resume).start()
    patient.beat()
    assert admin.info("commandstats")["cmdstat_evalsha"]["calls"] == calls + 1
    assert (patient.failures, patient.resent) == ([], [])


@pytest.mark.parametrize("patient", [0.2], indirect=True)
def test_a_server_whose_writes_are_paused_is_waited_for(own_server: RedisServer, patient: Tracked) -> None:
    """As a planned failover pauses them: a PING is answered at once, and a script as soon as the pause is over."""
    patient.beat()
    own_server.client().client_pause(1500, all=False)
    patient.beat()
    assert patient.failures == []


def test_a_stopped_server_is_noticed_in_time(own_server: RedisServer, tracked: Tracked) -> None:
    """By a connection that is open, and when it is dropped."""
    tracked.beat()
    own_server.pause()
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(redis.RedisError):
            tracked.store.workers.heartbeat()
    assert time.monotonic() - begun < 2 * BOUND
    assert len(tracked.failures) == 2
    own_server.resume()
    tracked.beat()


def test_a_reset_connection_is_opened_anew(proxy: NetworkProxy, patient: Tracked) -> None:
    """At once, and all idle ones with it."""
    patient.beat()
    assert proxy.reset()
    assert patient.beat() < SOON
    assert patient.failures == []


def test_an_answer_that_nobody_read_is_nobodys(tracked: Tracked) -> None:
    """A thread was interrupted between the command and its answer."""
    pool = tracked.client.connection_pool
    connection = pool.get_connection()
    connection.send_command("ECHO", "of another command")
    pool.release(connection)
    assert not connection.ready
    assert tracked.client.echo("mine") == b"mine"


# Slow.


def test_a_large_payload_may_take_longer_than_an_answer(proxy: NetworkProxy, tracked: Tracked) -> None:
    """It goes on as long as it moves, and nobody takes Redis for away meanwhile."""
    proxy.bandwidth = 6_000_000
    copy = copy_of()
    begun = time.monotonic()
    started = tracked.store.messages.start(copy, b"x" * 24_000_000, limit=3, here="no")
    assert started.run == 1
    assert time.monotonic() - begun > COMMAND_TIMEOUT
    assert (tracked.failures, tracked.resent) == ([], [])


def test_a_large_payload_on_a_dead_connection_is_given_up(proxy: NetworkProxy, tracked: Tracked) -> None:
    """In the time of an answer, once nothing moves any more."""
    proxy.stall()
    begun = time.monotonic()
    with pytest.raises(redis.RedisError):
        tracked.store.messages.start(copy_of(), b"x" * 40_000_000, limit=3, here="no")
    assert time.monotonic() - begun < 2 * BOUND


def test_the_heartbeat_waits_for_no_mend(proxy: NetworkProxy, own_server: RedisServer, namespace: str) -> None:
    """A record with a large payload is written again over a slow network."""
    lab = Lab(own_server.client(), namespace)
    app = App(own_server.url, namespace, lab, redis_url=proxy.url, heartbeat_ttl=60)
    go, began = threading.Event(), threading.Event()

    def work(data: str) -> None:
        began.set()
        go.wait(120)
        app.ran.append(len(data))

    actor = app.actor(work, max_retries=0)
    try:
        app.start(threads=2)
        message = actor.send("x" * 12_000_000)
        assert began.wait(120)
        runtime = app.runtime
        failures = runtime.connectivity.failures
        proxy.bandwidth = 3_000_000
        record = f"{lab.prefix}record:{message.message_id}"
        lab.client.delete(record, f"{lab.prefix}running:{app.store.me}")
        contacts = [runtime.lease.last_contact]

        def is_mended() -> bool:
            if runtime.lease.last_contact != contacts[-1]:
                contacts.append(runtime.lease.last_contact)
            return bool(lab.client.exists(record))

        wait_until(is_mended, what="it is mended")
        assert len(contacts) > 3, "it has beaten meanwhile"
        assert runtime.connectivity.failures == failures
        go.set()
        app.join()
        assert app.ran == [12_000_000]
    finally:
        proxy.bandwidth = None
        go.set()
        app.close()


def test_a_busy_server_gets_its_acks_afterwards(server_binary: str, tmp_path: Path, namespace: str) -> None:
    """A long script of somebody's makes it refuse everything, just when a message ends."""
    server = RedisServer(server_binary, tmp_path / "busy", args=["--lua-time-limit", "100"]).start()
    lab = Lab(server.client(), namespace)
    app = App(server.url, namespace, lab)
    go, began = threading.Event(), threading.Event()

    def work() -> None:
        app.ran.append(1)
        began.set()
        go.wait(120)

    actor = app.actor(work, max_retries=0)
    script = "local t = redis.call('TIME')[1] * 1 while redis.call('TIME')[1] * 1 < t + 4 do end return 1"
    try:
        app.start(threads=2)
        actor.send()
        assert began.wait(120)
        busy = threading.Thread(target=lambda: server.client().eval(script, 0))
        busy.start()
        runtime = app.runtime
        wait_until(lambda: runtime.connectivity.failures > 0, what="it is busy")
        go.set()
        busy.join()
        app.join()
        wait_until(lambda: not app.unsettled(), what="its record is settled")
        assert app.ran == [1]
    finally:
        go.set()
        app.close()
        server.kill()


# Bound by nothing.


class Hangs:
    """Something that does not return until it is let go."""

    def __init__(self, then: Callable[..., Any]) -> None:
        self.then = then
        self.let_go = threading.Event()
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        self.let_go.wait(120)
        return self.then(*args, **options)


def assert_bounded(store: Store, hangs: Hangs) -> None:
    """Every command ends in time, attempts go on, their number is bounded, and all is well once it is let go."""
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(redis.RedisError):
            store.workers.heartbeat()
        assert time.monotonic() - begun < BOUND
    assert 1 <= hangs.calls <= 4
    hangs.let_go.set()
    wait_until(lambda: _beats(store), what="it is reached again")
    store.scripts.close()


def _beats(store: Store) -> bool:
    try:
        store.workers.heartbeat()
    except redis.RedisError:
        return False
    return True


def test_a_resolver_that_hangs_is_not_waited_for(
    own_server: RedisServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No time-out of a socket bounds the look-up of a name."""
    client = bounded_client(redis.Redis(host="localhost", port=own_server.port))
    store = Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60))
    hangs = Hangs(lambda *args, **options: resolve("127.0.0.1", *args[1:], **options))
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    assert_bounded(store, hangs)


@pytest.fixture
def swallowing(own_server: RedisServer) -> Iterator[list[str]]:
    """Addresses that answer nothing to whoever connects to the server's port."""
    addresses, sockets = ["127.0.0.2", "127.0.0.3"], list[socket.socket]()
    for address in addresses:
        listener = socket.create_server((address, own_server.port), backlog=0)
        sockets.append(listener)
        for _ in range(3):
            sockets.append(socket.socket())
            sockets[-1].setblocking(False)
            sockets[-1].connect_ex((address, own_server.port))
    yield addresses
    for one in sockets:
        one.close()


def test_a_name_whose_first_addresses_swallow_is_reached(
    own_server: RedisServer, monkeypatch: pytest.MonkeyPatch, swallowing: list[str]
) -> None:
    """They take longer than a connection may; the address that has answered is tried first from then on."""
    resolve, asked = socket.getaddrinfo, list[str]()

    def resolving(host: str, *args: Any, **options: Any) -> Any:
        asked.append(host)
        addresses = [*swallowing, "127.0.0.1"] if host == "redis.test" else [host]
        return [info for address in addresses for info in resolve(address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    client: Any = bounded_client(redis.Redis(host="redis.test", port=own_server.port))

    def pings() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    wait_until(pings, what="it is reached")
    client.connection_pool.disconnect()
    asked.clear()
    assert client.ping()
    assert [host for host in asked if host != "redis.test"] == ["127.0.0.1"]
    client.connection_pool.close()


def test_the_address_of_a_wrong_server_is_not_tried_first(pair: FailoverPair) -> None:
    """A name may have the addresses of a primary and of its replicas."""
    client: Any = bounded_client(redis.Redis(port=pair.proxies[0].port))
    pool, first = client.connection_pool, list[str]()
    pool.on_wrong_server = lambda error: first.append(pool.address)
    assert client.ping()
    assert pool.address in ("127.0.0.1", "::1")
    pair.fail_over()
    assert client.set("a", "write")
    assert first == [""]
    pool.close()


def test_credentials_that_hang_are_not_waited_for(own_server: RedisServer, namespace: str) -> None:
    """A provider asks somebody else over a network of its own."""
    hangs = Hangs(lambda: ("default", ""))
    own_server.client().acl_setuser("default", enabled=True, nopass=True, keys="*", commands=["+@all"])

    class Provider(CredentialProvider):
        def get_credentials(self) -> Any:
            return hangs()

    client = bounded_client(redis.Redis(port=own_server.port, credential_provider=Provider()))
    assert_bounded(Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60)), hangs)


def test_credentials_that_fail_are_redis_away(own_server: RedisServer, namespace: str) -> None:
    """Whatever the provider raises."""

    class Provider(CredentialProvider):
        def get_credentials(self) -> Any:
            raise LookupError("as asked for")

    client = bounded_client(redis.Redis(port=own_server.port, credential_provider=Provider()))
    with pytest.raises(redis.ConnectionError, match="LookupError: as asked for"):
        Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60)).workers.heartbeat()


def test_many_that_hang_are_tried_less_and_less(own_server: RedisServer) -> None:
    """Each of them is a thread."""
    client: Any = bounded_client(redis.Redis(port=own_server.port))
    pool = client.connection_pool
    hangs = Hangs(lambda: None)

    class Opened:
        given_up = False

        def disconnect(self) -> None:
            pass

    for _ in range(20):
        with pytest.raises(redis.TimeoutError):
            pool.in_time(hangs, Opened(), 0.01)
    assert hangs.calls == 4
    hangs.let_go.set()
    wait_until(lambda: not pool.hanging, what="they end")
    assert client.ping()


def test_a_sentinel_that_is_silent_is_passed_over(
    server_binary: str, tmp_path: Path, namespace: str, proxy_to: Callable[[RedisServer], NetworkProxy]
) -> None:
    """Though the user's own sentinels are asked without bounds."""
    sentinels = Sentinels(server_binary, tmp_path).start()
    silent = proxy_to(sentinels.servers[0])
    silent.ignores = True
    try:
        addresses = [("127.0.0.1", silent.port), *(("127.0.0.1", port) for port in sentinels.ports)]
        client = bounded_client(Sentinel(addresses).master_for(Sentinels.NAME))
        store = Store(Scripts(client, namespace, "me", heartbeat_ttl=60, fence_ttl=60))
        begun = time.monotonic()
        wait_until(lambda: _beats(store), what="it is reached")
        assert time.monotonic() - begun < 2 * BOUND
        store.scripts.close()
    finally:
        sentinels.kill()


def test_a_clients_own_retries_are_not_ours(own_server: RedisServer, namespace: str, proxy: NetworkProxy) -> None:
    """A client may wait a minute between two tries; a heartbeat does not."""
    retry = Retry(ConstantBackoff(60), 5)
    errors: list[Any] = [redis.TimeoutError, redis.ConnectionError, ReadOnlyError]
    tracked = Tracked(proxy, namespace, retry=retry, retry_on_error=errors, socket_timeout=None)
    tracked.store.workers.register({"instance": "me"})
    own_server.kill()
    begun = time.monotonic()
    with pytest.raises(redis.RedisError):
        tracked.store.workers.heartbeat()
    with pytest.raises(redis.RedisError):
        tracked.store.workers.deadlines()
    assert time.monotonic() - begun < 2 * BOUND


def test_a_cluster_client_is_bounded_and_answers_bytes(server_binary: str, tmp_path: Path, namespace: str) -> None:
    """Whatever the user's own does."""
    args = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
    server = RedisServer(server_binary, tmp_path / "node", args=args).start()
    admin: Any = server.client()
    admin.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: admin.execute_command("CLUSTER INFO")["cluster_state"] == "ok", what="it is whole")
    theirs: Any = redis.RedisCluster(host="127.0.0.1", port=server.port, decode_responses=True, socket_timeout=None)
    ours: Any = bounded_client(theirs)
    try:
        store = Store(Scripts(ours, namespace, "me", heartbeat_ttl=60, fence_ttl=60))
        store.workers.register({"instance": "me"})
        assert list(store.workers.deadlines()) == ["me"]
        assert store.workers.incarnation("me").instance == "me"
        server.pause()
        begun = time.monotonic()
        with pytest.raises(redis.RedisError):
            store.workers.heartbeat()
        assert time.monotonic() - begun < 3 * BOUND
    finally:
        server.resume()
        ours.close()
        theirs.close()
        server.kill()


def test_the_brokers_queues_are_asked_with_bounds(own_server: RedisServer, namespace: str) -> None:
    """Not by the broker's own client, which waits for ever, and gives texts."""
    theirs: Any = redis.Redis(port=own_server.port, socket_timeout=None, decode_responses=True)
    broker = RedisBroker(client=theirs, namespace=namespace, maintenance_chance=0)
    broker.do_enqueue("default", "1", b"a message")
    queues = RedisQueues(broker, bounded_client(theirs))
    assert queues.payload("default", "1") == b"a message"
    own_server.pause()
    begun = time.monotonic()
    for ask in (queues.payload, queues.has_delivery, queues.has_dead_letter):
        with pytest.raises(redis.RedisError):
            ask("default", "1")
    assert time.monotonic() - begun < 3 * BOUND
    own_server.resume()
    queues.close()
    theirs.close()
