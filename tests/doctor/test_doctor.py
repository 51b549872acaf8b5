# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The doctor's findings, each brought about on a real server; and no finding where all is well."""

from __future__ import annotations

import functools
import inspect
import re
import shutil
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Retries
from dramatiq.results import Results, ResultTimeout
from dramatiq.results.backends import RedisBackend

import dramatiq_inflight
from dramatiq_inflight import EventKind, InFlightTracker, Inspector
from dramatiq_inflight.doctor import CODES, Finding, examine
from dramatiq_inflight.doctor import examination as examination_module
from dramatiq_inflight.doctor import server as server_module
from dramatiq_inflight.doctor.case import Check
from dramatiq_inflight.doctor.rights import PROBES
from dramatiq_inflight.store.records import Orphan
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import RedisServer, connect, free_port, wait_until
from tests.support.topologies import Nodes

Serve = Callable[..., RedisServer]

DOCS = Path(__file__).parents[2] / "docs"
BROKERS = DOCS / "brokers.rst"


class Seen:
    """The findings of the doctor."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        for finding in findings:
            assert finding.title.endswith(".")
            assert bool(finding.consequence) == bool(finding.remedy) == (finding.severity != "ok")

    def wrong(self) -> dict[str, str]:
        """The codes of all that is not right, with their severities."""
        return {finding.code: finding.severity for finding in self.findings if finding.severity in ("error", "warning")}

    def of(self, code: str) -> Finding:
        """The finding with a code that is not that all is well."""
        (found,) = (finding for finding in self.findings if finding.code == code and finding.severity != "ok")
        return found

    def codes(self, severity: str) -> set[str]:
        return {finding.code for finding in self.findings if finding.severity == severity}

    def text(self) -> str:
        return repr(self.findings)


def look(broker: Any = None, inspector: Inspector | None = None) -> Seen:
    return Seen(examine(broker, inspector))


def at(server: RedisServer, namespace: str = "n") -> Seen:
    """Return the findings on a server."""
    return look(None, Inspector(server.client(), namespace))


@pytest.fixture
def serve(server_binary: str, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers with whatever arguments."""
    servers: list[RedisServer] = []

    def start(*args: str) -> RedisServer:
        servers.append(RedisServer(server_binary, tmp_path / f"redis-{len(servers)}", args=args))
        return servers[-1].start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def inspector(lab: Lab) -> Inspector:
    return Inspector(lab.client, lab.namespace)


def broker_of(url: str, *middleware: Any, **options: Any) -> RedisBroker:
    client = redis.Redis.from_url(url, socket_timeout=10)
    broker = RedisBroker(client=client, **{"middleware": [Retries()], **options})
    for one in middleware:
        broker.add_middleware(one)
    return broker


def test_nothing_is_found_where_all_is_well(own_server: RedisServer, namespace: str) -> None:
    """A real worker on a real server, both as they should be."""
    client = redis.Redis.from_url(own_server.url, socket_timeout=10)
    app = App(own_server.url, namespace, Lab(own_server.client(), namespace), broker_client=client)
    app.actor(lambda: None, actor_name="work").send()
    try:
        app.start()
        app.join()
        own_server.client().slowlog_reset()  # a busy machine is slow at times
        seen = look(app.broker)
        (worker,) = Inspector.of(app.broker).workers()
    finally:
        app.close()
    assert seen.wrong() == {}, seen.findings
    assert seen.codes("note") <= {"slow-scripts"}
    assert len(seen.codes("ok")) > 20
    assert (worker.version, worker.heartbeat_ttl, worker.heartbeat_interval) == (dramatiq_inflight.__version__, 20, 0.2)
    assert not worker.instance_exclusive


# Redis.


class Proxy:
    """Passes bytes between clients and a server, and does something to what the server says."""

    def __init__(self, port: int, change: Callable[[bytes], bytes]) -> None:
        self._to, self._change = port, change
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            for source, target, change in ((client, server, bytes), (server, client, self._change)):
                threading.Thread(target=self._pass, args=(source, target, change), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := source.recv(1 << 20):
                target.sendall(change(data))
        except OSError:
            pass
        target.close()

    def seen(self) -> Seen:
        try:
            return look(None, Inspector(redis.Redis(port=self.port), "n"))
        finally:
            self._listener.close()


def test_an_old_redis(serve: Serve) -> None:
    def old(reply: bytes) -> bytes:
        return re.sub(rb"redis_version:\d", b"redis_version:5", reply).replace(b"valkey_version", b"server_version")

    assert Proxy(serve().port, old).seen().wrong()["redis-version"] == "error"


def test_a_redis_that_is_too_old_to_greet(serve: Serve) -> None:
    """The answer of Redis 5 to a client that begins with HELLO; it repeats the command."""

    def unknown(reply: bytes) -> bytes:
        return b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `app`, `secret`, \r\n"

    seen = Proxy(serve().port, unknown).seen()
    assert seen.wrong() == {"redis-version": "error"}
    assert "secret" not in seen.text()


def test_a_redis_that_is_far_away(serve: Serve) -> None:
    def slow(reply: bytes) -> bytes:
        time.sleep(0.06)
        return reply

    assert Proxy(serve().port, slow).seen().wrong()["latency"] == "warning"


def test_a_redis_that_evicts(serve: Serve) -> None:
    server = serve("--maxmemory-policy", "allkeys-lru")
    admin: Any = server.client()
    assert at(server).wrong()["eviction"] == "warning"
    admin.config_set("maxmemory", admin.info()["used_memory"] + 2_000_000)
    seen = at(server)
    assert seen.wrong()["eviction"] == "error"
    assert "evicted" not in seen.wrong()
    for n in range(60):
        admin.set(f"cache:{n}", b"x" * 100_000)
    assert at(server).wrong()["evicted"] == "warning"


def test_a_redis_whose_memory_is_nearly_full(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    admin.setrange("much", 30_000_000, b"x")  # not by what a buffer has to hold, which is soon given up
    used = admin.info()["used_memory"]
    admin.config_set("maxmemory", round(used / 0.87))
    assert at(server).wrong()["memory-full"] == "warning"
    admin.config_set("maxmemory", round(used / 0.98))
    assert at(server).wrong()["memory-full"] == "error"


def test_what_redis_keeps(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    assert at(server).wrong()["persistence"] == "warning"
    admin.config_set("save", "900 1")
    assert at(server).wrong()["persistence-snapshots"] == "warning"
    admin.config_set("appendonly", "yes")
    assert {"persistence", "persistence-snapshots", "fsync"}.isdisjoint(at(server).wrong())
    admin.config_set("appendfsync", "no")
    assert at(server).wrong()["fsync"] == "warning"


def test_a_redis_that_cannot_write_to_its_disk(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    shutil.rmtree(server.folder)
    admin.bgsave()
    wait_until(lambda: admin.info()["rdb_last_bgsave_status"] == "err", what="the snapshot fails")
    assert at(server).wrong()["persistence-failing"] == "error"


def test_a_primary_and_its_replica(serve: Serve) -> None:
    primary = serve("--repl-diskless-sync-delay", "0")
    replica = serve("--replicaof", "127.0.0.1", str(primary.port))
    admin: Any = replica.client()
    wait_until(lambda: admin.info()["master_link_status"] == "up", what="the replica follows")
    assert at(replica).wrong()["read-only-replica"] == "error"
    assert at(primary).wrong()["min-replicas"] == "warning"
    primary.client().config_set("min-replicas-to-write", 1)
    assert "min-replicas" not in at(primary).wrong()


def test_a_client_that_does_not_know_that_it_speaks_to_a_cluster(serve: Serve) -> None:
    seen = at(serve("--cluster-enabled", "yes"))
    assert seen.wrong()["cluster-client"] == "error"
    assert seen.of("cluster-client").remedy


def test_a_cluster(server_binary: str, tmp_path: Path, namespace: str) -> None:
    nodes = Nodes(server_binary, tmp_path / "n")
    try:
        try:
            nodes.start()
        except redis.ResponseError:
            pytest.skip("this server is too old for the tests' way to make a cluster")
        client = connect(nodes.url)
        lab = Lab(client, namespace)
        lab.runs(lab.incarnation("a"), copy_of())
        inspector = Inspector(client, namespace)
        seen = look(None, inspector)
        assert inspector.overview().running == len(inspector.messages()) == 1
        assert len(inspector.history(since=timedelta(hours=1))) == 1
        client.close()
    finally:
        nodes.kill()
    assert seen.of("cluster").severity == "note"
    assert {"rights", "history", "eviction", "not-recovered"} <= seen.codes("ok")
    assert seen.codes("error") == set()
    assert [f for f in seen.findings if f.code == "unchecked"] == []


def test_clocks(lab: Lab, inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.client.zadd(lab.prefix + "heartbeats", {"*last": (time.time() + 3600) * 1000})
    monkeypatch.setattr(server_module, "time", types.SimpleNamespace(time=lambda: time.time() - 100))
    seen = look(None, inspector)
    assert seen.of("clock").severity == seen.of("clock-back").severity == "note"
    assert "100 seconds ahead" in seen.of("clock").title


def test_a_redis_that_is_away_or_refuses(serve: Serve) -> None:
    server = serve()
    server.client().config_set("requirepass", "secret")
    seen = look(None, Inspector(redis.Redis(port=server.port, password="wrong-secret"), "n"))
    assert seen.wrong() == {"redis-unreachable": "error"}
    server.kill()
    assert at(server).wrong() == {"redis-unreachable": "error"}
    assert "secret" not in seen.text()


def test_a_redis_that_loads_its_data(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    if not admin.config_get("loading-process-events-interval-bytes"):
        pytest.skip("this server cannot be told to load slowly")
    admin.mset({f"key:{n}": "x" * 100 for n in range(3000)})
    admin.save()
    server.kill()
    # Slow enough to be seen.
    server.args = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]
    starter = threading.Thread(target=server.start)
    starter.start()
    wait_until(lambda: at(server).wrong() == {"redis-loading": "error"}, what="it is loading")
    starter.join()
    assert "redis-loading" not in at(server).wrong()


def test_scripts_that_were_slow(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    loop = "local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end return n"
    admin.eval(loop, 1, "another:key", 30_000_000)
    assert "slow-scripts" not in at(server).wrong()
    admin.eval(loop, 1, "{n}:record:x", 30_000_000)
    assert at(server).wrong()["slow-scripts"] == "warning"


def test_connections_that_were_rejected(serve: Serve) -> None:
    server = serve()
    admin: Any = server.client()
    admin.config_set("maxclients", 3)
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
    wait_until(lambda: admin.info()["rejected_connections"] > 0, what="some are rejected")
    for one in sockets:
        one.close()
    admin.config_set("maxclients", 100)
    assert at(server).wrong()["rejected-connections"] == "warning"


# The rights of the user.


@pytest.mark.parametrize("asks", [True, False], ids=["asked", "tried out"])
def test_a_user_who_may_not_do_all(serve: Serve, asks: bool) -> None:
    server = serve()
    admin: Any = server.client()
    rules = ["+@all", "-xadd", "-hincrby", *([] if asks else ["-acl"])]
    admin.execute_command("ACL", "SETUSER", "app", "on", ">pass", "~*", *rules)
    client = redis.Redis(port=server.port, username="app", password="pass")
    inspector = Inspector(client, "n")
    seen = look(None, inspector)
    assert seen.wrong()["rights"] == "error"
    assert "may not use HINCRBY, XADD in" in seen.of("rights").title
    assert admin.keys("*") == []
    # The consequence: the workers work, and leave no history.
    store = Store(Scripts(client, "n", "a", heartbeat_ttl=60, fence_ttl=60))
    store.workers.register({"instance": "a"})
    assert look(None, inspector).wrong()["history"] == "warning"


@pytest.mark.parametrize("asks", [True, False], ids=["asked", "tried out"])
def test_a_user_who_may_not_use_the_namespace(serve: Serve, asks: bool) -> None:
    server = serve()
    rules = ["~another:*", "+@all", *([] if asks else ["-acl"])]
    server.client().execute_command("ACL", "SETUSER", "app", "on", ">pass", *rules)
    seen = look(None, Inspector(redis.Redis(port=server.port, username="app", password="pass"), "n"))
    assert seen.wrong()["rights"] == "error"
    assert "ZADD" in seen.of("rights").title


def test_a_user_who_may_do_no_more_than_is_needed(serve: Serve, namespace: str) -> None:
    """As docs/brokers.rst has it: what may not be asked is a note, and the rest is found as ever."""
    server = serve()
    client = as_documented(server, namespace, "app")
    seen = look(None, Inspector(client, namespace))
    assert "rights" in seen.codes("ok")
    assert "namespace-empty" in seen.wrong()
    unchecked = [finding for finding in seen.findings if finding.code == "unchecked"]
    assert len(unchecked) > 1
    assert all("may not ask it" in finding.title for finding in unchecked)
    assert server.client().keys("*") == []
    # With what the documentation says that the doctor needs besides.
    (more,) = re.findall(r"ACL SETUSER app (\+config.*)\n", BROKERS.read_text())
    server.client().execute_command("ACL", "SETUSER", "app", *more.split())
    seen = look(None, Inspector(client, namespace))
    assert [finding for finding in seen.findings if finding.code == "unchecked"] == []


@pytest.mark.parametrize("right", ["+@scripting", "+@read", "+@write", "+time"])
def test_what_is_documented_is_needed(serve: Serve, namespace: str, right: str) -> None:
    seen = look(None, Inspector(as_documented(serve(), namespace, "app", without=right), namespace))
    assert seen.wrong()["rights"] == "error"


def test_who_only_looks_needs_no_more_than_is_documented(serve: Serve, namespace: str) -> None:
    server = serve()
    lab = Lab(server.client(), namespace)
    a, b = join(lab, "a"), join(lab, "b")
    lab.runs(b, copy_of())
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    at_broker, keys = copy_of(), ("dramatiq:__acks__.b.default", "dramatiq:default.msgs")
    server.client().sadd(keys[0], at_broker.broker_copy_id)
    server.client().hset(keys[1], at_broker.broker_copy_id, "the payload")
    lab.start(b, at_broker, payload=b"", broker_keys=keys)
    client = as_documented(server, namespace, "viewer")
    viewer = Inspector(client, namespace)
    assert viewer.payload(at_broker.message_id) == b"the payload"
    assert viewer.overview() is not None
    assert len(viewer.messages()) == len(viewer.history(kinds=[EventKind.RECOVERED])) + 2 == 3
    assert viewer.message(copy.message_id) is not None
    assert viewer.payload(copy.message_id)
    assert viewer.aside() == []
    assert viewer.counts()
    admin: Any = server.client()
    refused = {entry[b"object"] for entry in admin.execute_command("ACL", "LOG")}
    assert refused <= {b"client"}, "Redis 6.2 does not tell CLIENT SETINFO from what is dangerous; redis-py minds not"
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.delete(lab.prefix + "heartbeats")


def as_documented(server: RedisServer, namespace: str, user: str, *, without: str = "") -> redis.Redis:
    """A client of a user that docs/brokers.rst names, on a namespace."""
    rules = re.search(rf"ACL SETUSER {user} on >password\s+(.*?)\n\n", BROKERS.read_text(), re.DOTALL)
    assert rules is not None
    allowed = [rule for rule in rules[1].replace("dramatiq_processing", namespace).split() if rule != without]
    try:
        server.client().execute_command("ACL", "SETUSER", user, "on", ">password", *allowed)
    except redis.ResponseError:  # as the documentation says, for Redis 6.2
        allowed = [rule.replace("%R~", "~") for rule in allowed]
        server.client().execute_command("ACL", "SETUSER", user, "on", ">password", *allowed)
    return redis.Redis(port=server.port, username=user, password="password")


def test_a_server_that_does_not_tell_its_configuration(serve: Serve) -> None:
    """As some that are rented."""
    seen = at(serve("--rename-command", "CONFIG", ""))
    assert "Whether Redis keeps its data could not be checked" in seen.of("unchecked").title


def test_all_that_the_scripts_do_is_tried() -> None:
    scripts = Path(dramatiq_inflight.__file__).parent / "store" / "lua"
    used = {name for path in scripts.rglob("*.lua") for name in re.findall(r"redis\.p?call\('(\w+)'", path.read_text())}
    assert len(used) > 20
    optional = {"INFO", "PUBSUB"}  # without them deaths are known by heartbeats alone: `heartbeat-only`
    assert used - optional <= {command for command, _ in PROBES}


def test_a_history_that_cannot_be_written(lab: Lab, inspector: Inspector) -> None:
    lab.client.set(lab.prefix + "counts", "not a hash")
    assert "'counts' is a string" in look(None, inspector).of("history").title


# Workers.


def join(lab: Lab, name: str, **said: str) -> Store:
    """A worker that says something of itself."""
    store = Store(Scripts(lab.client, lab.namespace, name, heartbeat_ttl=60, fence_ttl=60))
    store.workers.register(
        {"instance": name, "host": "h", "pid": "1", "version": "1", "ttl": "60000", "interval": "20000", **said}
    )
    return store


def test_nobody_there(lab: Lab, inspector: Inspector) -> None:
    assert "namespace-empty" in look(None, inspector).wrong()
    join(lab, "a").workers.deregister()
    wrong = look(None, inspector).wrong()
    assert "no-workers" in wrong
    assert "namespace-empty" not in wrong


def test_a_dead_worker_that_nobody_recovers(lab: Lab, inspector: Inspector) -> None:
    a, b = join(lab, "a"), join(lab, "b")
    assert "not-recovered" not in look(None, inspector).wrong()
    lab.kill(a)
    assert look(None, inspector).wrong()["not-recovered"] == "warning"
    lab.runs(b, copy_of())
    lab.kill(b)
    seen = look(None, inspector)
    assert seen.wrong()["not-recovered"] == "error"
    assert "(messages running: 1): a (incarnation a), b (incarnation b)" in seen.of("not-recovered").title


def test_workers_that_do_not_agree(lab: Lab, inspector: Inspector) -> None:
    join(lab, "a")
    join(lab, "b")
    assert {"ttl-differs", "versions-differ"}.isdisjoint(look(None, inspector).wrong())
    join(lab, "c", version="2", ttl="900000")
    seen = look(None, inspector)
    assert {"ttl-differs", "versions-differ"} <= set(seen.wrong())
    assert "60 s (20 s), 900 s (20 s)" in seen.of("ttl-differs").title
    assert "1, 2" in seen.of("versions-differ").title


def test_a_worker_that_was_declared_dead_and_lives(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    lab.runs(a, copy_of())
    lab.kill(a)
    copy = copy_of()
    lab.runs(b, copy)
    assert "revived" not in look(None, inspector).wrong()
    assert b.workers.record_death(b.workers.incarnation(a.me))
    assert a.workers.register({"instance": "pod-a", "host": "h", "pid": "1"}) is None
    seen = look(None, inspector)
    assert seen.wrong()["revived"] == "warning"
    assert "pod-a (process 1, 0 messages)" in seen.of("revived").title


def test_the_doctors_own_environment_is_no_warning(server_url: str, namespace: str, lab: Lab) -> None:
    """It may run outside the pod, where nobody has set the workers' times."""
    join(lab, "a")
    broker = RedisBroker(url=server_url, middleware=[InFlightTracker(namespace=namespace, heartbeat_ttl=77)])
    finding = look(broker).of("ttl-differs")
    assert finding.severity == "note"
    assert "the doctor's own environment differs: 60 s" in finding.title


def test_workers_whose_connections_are_not_seen(lab: Lab, inspector: Inspector) -> None:
    join(lab, "a")
    lab.client.hset(f"{lab.prefix}incarnation:a", "life", "here")
    assert "heartbeat-only" in look(None, inspector).codes("ok")
    lab.client.hdel(f"{lab.prefix}incarnation:a", "life")
    seen = look(None, inspector)
    assert seen.wrong()["heartbeat-only"] == "warning"
    assert "of 1 worker: a (incarnation a)" in seen.of("heartbeat-only").title


def test_a_namespace_of_a_later_version(lab: Lab, inspector: Inspector) -> None:
    join(lab, "a")
    assert "schema" in look(None, inspector).codes("ok")
    lab.client.hset(lab.prefix + "schema", "schema", 2)
    seen = look(None, inspector)
    assert seen.wrong()["schema"] == "error"
    assert "has schema 2" in seen.of("schema").title
    assert "reads up to 1" in seen.of("schema").title


def test_a_short_ttl(server_url: str, namespace: str) -> None:
    with pytest.warns(RuntimeWarning, match="less than three times"):
        tracker = InFlightTracker(namespace=namespace, heartbeat_interval=10, heartbeat_ttl=25)
    assert "ttl-short" in look(broker_of(server_url, tracker)).wrong()


def test_instance_ids_that_are_shared(lab: Lab, inspector: Inspector) -> None:
    join(lab, "a", instance="pod", host="one", place="p1")
    join(lab, "b", instance="pod", host="one", place="p1")
    assert "instance-shared" not in look(None, inspector).wrong()
    join(lab, "c", instance="pod", host="two", place="p2")
    assert look(None, inspector).wrong()["instance-shared"] == "warning"
    join(lab, "d", instance="pod", host="two", place="p2", exclusive="1")
    wrong = look(None, inspector).wrong()
    assert wrong["instance-not-exclusive"] == "error"
    assert "instance-shared" not in wrong


# Messages.


def test_messages_that_wait_are_set_aside_or_have_killed(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    late, unreadable, poison = copy_of(), copy_of(), copy_of()
    lab.runs(b, late)
    lab.runs(b, unreadable)
    lab.runs(b, poison, limit=0)
    assert {"overdue", "set-aside", "poison"}.isdisjoint(look(None, inspector).wrong())
    lab.kill(b)
    lab.claim(a, late, b)
    lab.overdue(late)
    assert isinstance(lab.claim(a, poison, b), Orphan)
    assert a.recovery.set_aside(lab.claim(a, unreadable, b), dead="b")
    seen = look(None, inspector)
    assert {"overdue", "set-aside", "poison"} <= set(seen.wrong())
    assert "1 of actor 'work'" in seen.of("poison").title


def test_messages_that_cannot_be_enqueued_are_counted_by_queue(
    lab: Lab, a: Store, b: Store, inspector: Inspector
) -> None:
    """Which, how many, and how often they were tried; not what a recoverer has in hand, or has passed over."""
    refused, in_hand, untried = copy_of(), copy_of(), copy_of()
    for copy in (refused, in_hand, untried):
        lab.runs(b, copy)
    lab.kill(b)
    for copy in (refused, in_hand, untried):
        lab.claim(a, copy, b)
    a.recovery.return_claims([(untried.message_id, 2, "untried")])
    assert "refused" not in look(None, inspector).wrong()
    a.recovery.return_claims([(refused.message_id, 2, "refused")])
    seen = look(None, inspector)
    assert seen.wrong()["refused"] == "warning"
    title = seen.of("refused").title
    assert "1 of queue 'default' and actor 'work'" in title
    assert f"message {refused.message_id} was tried 1 times" in title
    lab.overdue(untried)
    lab.claim(a, untried, b)
    a.recovery.return_claims([(untried.message_id, 2, "away")])
    assert "2 of queue 'default' and actor 'work'" in look(None, inspector).of("refused").title


# The application.


def test_applications_without_a_tracker_or_with_two(server_url: str, namespace: str) -> None:
    assert look(broker_of(server_url)).wrong()["no-tracker"] == "error"
    trackers = [InFlightTracker(namespace=namespace) for _ in range(2)]
    assert look(broker_of(server_url, *trackers)).wrong()["two-trackers"] == "error"
    off = InFlightTracker(namespace=namespace, enabled=False)
    assert look(broker_of(server_url, off)).wrong()["disabled"] == "warning"


def test_an_application_without_a_redis_or_a_broker() -> None:
    broker = StubBroker(middleware=[InFlightTracker()])
    seen = look(broker)
    assert seen.wrong()["no-redis"] == "error"
    assert "there is no Redis" in seen.of("unchecked").title
    assert look(None).codes("note") == {"no-broker", "unchecked"}


def test_actors_and_their_options(server_url: str, namespace: str) -> None:
    broker = broker_of(server_url, InFlightTracker(namespace=namespace, on_poison="nobody"))
    declare = functools.partial(dramatiq.actor, broker=broker)
    plain = declare(actor_name="plain", on_poison="plain")(lambda: None)
    assert look(broker).wrong()["nothing-tracked"] == "warning"
    declare(actor_name="odd", track_inflight=True, recovery_queue="elsewhere", on_poison=plain)(lambda: None)
    seen = look(broker)
    assert {"nothing-tracked", "unknown-handler", "options"}.isdisjoint(seen.wrong())
    assert seen.of("recovery-queue").severity == "note"
    declare(actor_name="by_default")(lambda: None)
    assert "'nobody', which is no actor" in look(broker).of("unknown-handler").title
    broker.actors["odd"].options["max_recoveries"] = "many"  # declared before the tracker was added, say
    seen = look(broker)
    assert seen.wrong()["options"] == "error"
    assert "max_recoveries of actor 'odd' is 'many'" in seen.of("options").title
    assert broker.get_declared_queues() == {"default"}, "to look changes nothing"


def test_a_redis_broker_that_waits_for_ever_or_is_in_a_hurry(server_url: str, namespace: str) -> None:
    broker = RedisBroker(
        client=redis.Redis.from_url(server_url, socket_timeout=None),
        middleware=[InFlightTracker(namespace=namespace)],
        heartbeat_timeout=5000,
    )
    wrong = look(broker).wrong()
    assert wrong["broker-timeout"] == wrong["broker-heartbeat"] == "warning"


def test_the_remedies_for_time_outs_work(server_url: str, namespace: str) -> None:
    """The remedies that the doctor names: Dramatiq ignores a ``socket_timeout`` beside ``url``."""

    def broker_of(more: str) -> Any:
        results = Results(backend=RedisBackend(url=server_url + more, namespace=f"{namespace}-results"))
        return RedisBroker(url=server_url + more, middleware=[InFlightTracker(namespace=namespace), results])

    assert "?socket_timeout=10" in CODES["broker-timeout"].remedy
    remedied = broker_of("?socket_timeout=30")
    found = {finding.code: finding.severity for finding in look(remedied).findings}
    assert found["broker-timeout"] == found["results-timeout"] == "ok"
    broker: Any = broker_of("?socket_timeout=1")
    assert look(broker).of("results-timeout").severity == "note"
    message = dramatiq.Message[Any]("default", "work", (), {}, {})
    with pytest.raises(redis.TimeoutError):
        message.get_result(backend=broker.middleware[1].backend, block=True, timeout=3000)
    with pytest.raises(ResultTimeout):
        message.get_result(backend=remedied.middleware[1].backend, block=True, timeout=2000)


# RabbitMQ.


def rabbit(url: str, tracker: InFlightTracker, **options: Any) -> Any:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415  needs pika

    return RabbitmqBroker(url=url, middleware=[tracker], **options)


def test_rabbitmq(rabbitmq_url: str, server_url: str, namespace: str, lab: Lab, a: Store) -> None:
    tracker = InFlightTracker(namespace=namespace, redis_url=server_url)
    broker = rabbit(rabbitmq_url, tracker)
    seen = look(broker)
    assert seen.wrong()["confirm-delivery"] == "warning"
    assert {"rabbitmq-unreachable", "rabbitmq-heartbeat", "delivery-limit", "worn-out"} <= seen.codes("ok")
    assert seen.of("consumer-timeout").severity == "note"
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.zadd(lab.prefix + "running:a", {copy.message_id: (time.time() - 1700) * 1000})
    wrong = look(rabbit(rabbitmq_url + "?heartbeat=300", tracker, confirm_delivery=True)).wrong()
    assert wrong["consumer-timeout"] == wrong["rabbitmq-heartbeat"] == "warning"
    assert "confirm-delivery" not in wrong


def test_a_rabbitmq_that_is_away(server_url: str, namespace: str) -> None:
    pytest.importorskip("pika")
    tracker = InFlightTracker(namespace=namespace, redis_url=server_url)
    seen = look(rabbit(f"amqp://user:secret@127.0.0.1:{free_port()}/", tracker, confirm_delivery=True))
    assert seen.wrong()["rabbitmq-unreachable"] == "error"
    assert "secret" not in seen.text()


# The doctor.


def test_a_check_that_fails_stops_no_other(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(case: Any) -> list[Finding]:
        raise RuntimeError("redis://:secret@host")

    checks = (Check(CODES["poison"], "The weather", "It is fine.", fails), *examination_module.OF_REDIS)
    monkeypatch.setattr(examination_module, "OF_REDIS", checks)
    seen = look(None, inspector)
    assert "The weather could not be checked: RuntimeError." in seen.of("unchecked").title
    assert "rights" in seen.codes("ok")
    assert "secret" not in seen.text()


def test_every_code_is_brought_about_here_and_documented() -> None:
    source = inspect.getsource(sys.modules[__name__])
    assert [code for code in CODES if f'"{code}"' not in source] == []
    assert re.findall(r"^``([\w-]+)``: ", (DOCS / "doctor.rst").read_text(), re.MULTILINE) == list(CODES)


def test_a_finding_is_no_worse_than_its_code_declares() -> None:
    assert CODES["poison"].warning("It is.").severity == "warning"
    with pytest.raises(AssertionError, match="poison is declared as warning"):
        CODES["poison"].error("It is.")


def test_a_finding_can_be_kept_and_compared(inspector: Inspector) -> None:
    first, second = (examine(None, inspector)[0] for _ in range(2))
    assert first == second
    assert len({first, second}) == 1
