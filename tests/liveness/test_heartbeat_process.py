# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A heartbeat that C code cannot starve; and what becomes of one that can be."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

import dramatiq_inflight
from dramatiq_inflight.liveness import sidecar
from dramatiq_inflight.liveness.pidfd import Process
from dramatiq_inflight.liveness.sidecar import PACKAGE, HeartbeatProcess
from dramatiq_inflight.liveness.sidecar_main import Task
from dramatiq_inflight.liveness.subscription import Subscriptions
from dramatiq_inflight.store.connection import Address
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.store.workers import DIED
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import wait_until

MakeCluster = Callable[..., Cluster]

DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "90"}


class Worker:
    """A process that is watched: a child of the test, of which the heartbeat's process is no child."""

    def __init__(self, lab: Lab, store: Store, health_file: Path | None, *, known: bool) -> None:
        self.lab, self.store = lab, store
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        address = Address.of(lab.client)
        me = Process.here()
        assert address is not None
        assert me is not None
        started = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        self.heartbeat = HeartbeatProcess(
            Task(
                address=address.pickled(),
                namespace=lab.namespace,
                incarnation=store.me,
                process=Process(me.place, self.process.pid, started) if known else None,
                parent=os.getpid(),
                interval=0.05,
                ttl=60,
                connection_timeout=2,
                health_file=health_file,
            )
        )
        self.heartbeat.start()
        wait_until(self.is_subscribed, what="it beats, and is subscribed")

    @property
    def attendant(self) -> subprocess.Popen[bytes]:
        process = self.heartbeat.process
        assert process is not None
        return process

    def is_subscribed(self) -> bool:
        return self.store.workers.look([self.store.me]) == {self.store.me: 1}

    def deadline(self) -> float:
        return self.store.workers.deadlines()[self.store.me]

    def close(self) -> None:
        self.heartbeat.stop()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watched(lab: Lab, a: Store, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(*, health_file: Path | None = None, known: bool = True) -> Worker:
        made.append(Worker(lab, a, health_file, known=known))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


# The process.


def test_it_beats_answers_and_touches_the_health_file(watched: Callable[..., Worker], b: Store, tmp_path: Path) -> None:
    """As long as the worker lives."""
    worker = watched(health_file=tmp_path / "healthy")
    before = worker.deadline()
    wait_until(lambda: worker.deadline() > before, what="it beats")
    wait_until((tmp_path / "healthy").exists, what="the file is touched")
    assert b.recovery.find_due().dead == []


def test_it_sees_the_death_and_says_so(watched: Callable[..., Worker], b: Store) -> None:
    """Nobody else is there to see it."""
    words = Subscriptions(b).open(b.keys.channel("b"), 5)
    worker = watched()
    worker.process.kill()
    wait_until(lambda: b.recovery.find_due().dead == ["a"], what="the death is proven")
    assert b.workers.incarnation("a").why == "its process was killed by signal 9 (SIGKILL)"
    assert words.wait(120) == DIED
    words.close()
    worker.heartbeat.stopping = True
    wait_until(lambda: worker.attendant.poll() == 0, what="it ends")


def test_it_holds_no_application_and_no_credentials(
    watched: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in its arguments nor in its environment; and it imports no Dramatiq."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    worker = watched()
    proc = Path(f"/proc/{worker.attendant.pid}")
    arguments, environment = ((proc / name).read_bytes() for name in ("cmdline", "environ"))
    assert b"dramatiq_inflight heartbeat of\0" in arguments
    port = str(worker.lab.client.connection_pool.connection_kwargs["port"]).encode()
    for text in (arguments, environment):
        assert b"hunter2" not in text
        assert b"redis://" not in text
        assert port not in text
    assert b"/dramatiq/" not in (proc / "maps").read_bytes()
    check = "import sys, dramatiq_inflight.liveness.sidecar_main; assert 'dramatiq' not in sys.modules, 'imported'"
    program = f"{_without_main()}\n{check}"
    assert str(PACKAGE) == dramatiq_inflight.__file__
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],  # no hook of an editable install finds its modules
        input=pickle.dumps((sys.path, str(PACKAGE))),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def _without_main() -> str:
    from dramatiq_inflight.liveness.sidecar import PROGRAM  # noqa: PLC0415

    return PROGRAM.replace("from dramatiq_inflight.liveness.sidecar_main import main\nmain()", "")


def test_it_is_started_again_should_it_die(watched: Callable[..., Worker]) -> None:
    """The out-of-memory killer may have chosen it. Meanwhile the worker answers for itself."""
    worker = watched()
    first = worker.attendant
    first.kill()
    wait_until(lambda: worker.attendant.pid != first.pid and worker.is_subscribed(), what="it is there again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_everybody_do_not_end_it(watched: Callable[..., Worker], number: signal.Signals) -> None:
    """A service manager signals all processes, and the worker drains for a while."""
    worker = watched()
    worker.attendant.send_signal(number)
    before = worker.deadline()
    wait_until(lambda: worker.deadline() > before, what="it beats")
    assert worker.attendant.poll() is None


def test_it_ends_when_the_worker_says_so(watched: Callable[..., Worker], b: Store) -> None:
    """In order: nobody is proven dead."""
    worker = watched()
    attendant = worker.attendant
    worker.heartbeat.stop()
    assert attendant.poll() == 0
    assert b.recovery.find_due().dead == []
    assert not worker.heartbeat.is_alive()


def test_it_ends_though_it_hangs(watched: Callable[..., Worker]) -> None:
    """It must not beat any more when its worker has left."""
    worker = watched()
    worker.attendant.send_signal(signal.SIGSTOP)
    worker.heartbeat.stop()
    assert worker.attendant.poll() == -signal.SIGKILL


# What it needs to connect.


@pytest.mark.parametrize(
    "given",
    [
        redis.Redis(host="db", port=7, db=3, username="u", password="secret"),
        redis.Redis.from_url("rediss://u:secret@db:7/3?ssl_ca_certs=/ca.pem"),
        redis.Redis.from_url("unix://u:secret@/run/redis.sock?db=3"),
        redis.Redis(connection_pool=redis.BlockingConnectionPool(host="db", password="secret", max_connections=3)),
    ],
    ids=["tcp", "tls", "unix", "blocking"],
)
def test_another_process_connects_like_the_client(given: redis.Redis) -> None:
    """With the tracker's bounds, and with no word of the password to be seen."""
    address = Address.of(given)
    assert address is not None
    assert "secret" not in repr(address)
    pool = pickle.loads(address.pickled()).connect(5).connection_pool
    assert pool.plain_class is given.connection_pool.connection_class
    wanted = {
        name: value
        for name, value in given.connection_pool.connection_kwargs.items()
        if name in ("host", "port", "path", "db", "username", "password", "ssl_ca_certs")
    }
    assert wanted["password"] == "secret"
    assert wanted.items() <= pool.connection_kwargs.items()
    assert pool.connection_kwargs["socket_timeout"] == 5


def test_another_process_reaches_the_server_of_any_client(client: redis.Redis) -> None:
    """redis-py has defaults that are known by their identity, which does not survive the way to another process."""
    where = {name: client.connection_pool.connection_kwargs[name] for name in ("host", "port")}
    for one in (client, redis.Redis(**where), redis.Redis(**where, socket_keepalive=True, protocol=3)):
        address = Address.of(one)
        assert address is not None
        assert pickle.loads(address.pickled()).connect().ping() is True


def test_another_process_asks_the_sentinels() -> None:
    """For the primary, as the client does."""
    sentinel = Sentinel([("s1", 1), ("s2", 2)], sentinel_kwargs={"password": "hush"}, min_other_sentinels=1)
    address = Address.of(sentinel.master_for("main", password="secret", db=3))
    assert address is not None
    assert "hush" not in repr(address)
    assert "secret" not in repr(address)
    pool: Any = pickle.loads(address.pickled()).connect(5).connection_pool
    manager = pool.proxy.sentinel_manager
    assert (pool.service_name, pool.is_master, manager.min_other_sentinels) == ("main", True, 1)
    kwargs = [one.connection_pool.connection_kwargs for one in manager.sentinels]
    assert [(one["host"], one["port"], one["password"]) for one in kwargs] == [("s1", 1, "hush"), ("s2", 2, "hush")]
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("secret", 3)


def test_a_client_that_cannot_be_taken_along_is_said(
    server_url: str, namespace: str, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """And a thread sends the heartbeat."""
    app = App(server_url, namespace, lab, heartbeat="process")
    app.broker.client.connection_pool.connection_kwargs["redis_connect_func"] = lambda connection: (
        connection.on_connect()
    )
    app.start()
    wait_until(app.tracker.healthy, what="it beats")
    app.close()
    assert "heartbeat='process' is not possible here" in caplog.text
    assert "PROCESSING_REDIS_URL" in caplog.text


# Workers.


def test_a_process_that_has_died_is_started_again(
    server_url: str, namespace: str, lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are subscribed, and either is enough."""
    app = App(server_url, namespace, lab, heartbeat="process")
    app.start()
    runtime = app.runtime
    assert runtime.heartbeat_process is not None
    me = runtime.incarnation.id
    wait_until(lambda: app.store.workers.look([me])[me] == 2, what="both are subscribed")
    process = runtime.heartbeat_process.process
    assert process is not None
    start, may_start = sidecar.launch, threading.Event()

    def start_later(task: Task) -> Any:
        assert may_start.wait(120)
        return start(task)

    monkeypatch.setattr(sidecar, "launch", start_later)
    process.kill()
    wait_until(lambda: app.store.workers.look([me])[me] == 1, what="the worker alone is subscribed")
    may_start.set()
    wait_until(lambda: app.store.workers.look([me])[me] == 2, what="both are again")
    assert "The heartbeat process ended (signal 9). Starting it again" in caplog.text
    process = runtime.heartbeat_process.process
    assert process is not None
    app.close()
    assert process.poll() == 0
    assert lab.names() == set()
    name = "dramatiq_inflight-heartbeat-process"
    wait_until(lambda: name not in {thread.name for thread in threading.enumerate()}, what="its thread has ended")


def test_a_call_that_holds_the_gil_for_three_ttls_is_no_death(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """The process beats, and keeps the health file fresh."""
    made = cluster(
        PROCESSING_HEARTBEAT="process",
        PROCESSING_CONNECTION_TIMEOUT="2",
        PROCESSING_HEALTH_FILE=str(tmp_path / "healthy"),
    )
    worker = made.worker(threads=2)
    made.wait(lambda: _subscribed(made) == [2], what="the process is there")
    other = made.worker(threads=2, PROCESSING_HEALTH_FILE="")
    made.wait(lambda: _subscribed(made) == [2, 2], what="the other one's is there")
    made.app.starving.send("m", 4.5, str(tmp_path / "gate"))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    ran, idle = (worker, other) if worker.runs_the_first() else (other, worker)
    touched = (tmp_path / "healthy").stat().st_mtime_ns
    made.wait(lambda: (tmp_path / "healthy").stat().st_mtime_ns > touched, what="it is healthy")
    made.wait(lambda: history.count("end") == 1, what="it ends")
    made.wait(lambda: made.enqueued() == 0, what="it is done")
    for one in (ran, idle):
        one.stop()
        assert "dead" not in one.output()
    assert history.count("start") == 1
    assert made.names() == set()


def test_a_call_that_starves_the_heartbeat_for_a_ttl_is_fenced(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """Taken for dead; nothing is lost, nothing is overwritten, and the log says why and what to set."""
    made = cluster()
    gate = tmp_path / "gate"
    one, two = made.worker(threads=2), made.worker(threads=2)
    message = made.app.starving.send("m", 60, str(gate))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    starved, other = (one, two) if one.runs_the_first() else (two, one)
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    (tmp_path / "gate.fed").touch()
    made.wait(lambda: history.count("end") == 1, what="the starved one ends")
    made.wait(
        lambda: "completed here after another worker or an operator had taken it over" in starved.output(),
        what="it is fenced",
    )
    gate.touch()
    made.wait(lambda: history.count("end") == 2 and made.enqueued() == 0, what="all is done")
    assert made.results().get_result(message) == "of run 2"
    made.wait(lambda: "PROCESSING_HEARTBEAT=process" in starved.output(), what="it is said what to set")
    wait_until(lambda: "its heartbeat thread had no turn" in starved.output(), what="said")
    wait_until(lambda: "its heartbeat has expired" in other.output(), what="said")


def _subscribed(made: Cluster) -> list[int]:
    """Return how many processes of each incarnation are subscribed."""
    names = [key.decode().rpartition(":")[2] for key in made.client.keys(made.prefix + "incarnation:*")]
    return [count for _, count in made.client.pubsub_numsub(*(f"{made.prefix}in:{name}" for name in names))]


def test_a_single_process_has_a_witness(cluster: MakeCluster, history: History, tmp_path: Path) -> None:
    """Its death is known at once to a worker that sees nothing of its host, by default settings."""
    made = cluster(PROCESSING_HEARTBEAT="process", PROCESSING_CONNECTION_TIMEOUT="2", **DEFAULTS)
    gate = tmp_path / "gate"
    made.app.gated.send("m", str(gate))
    first = made.worker(threads=1)
    made.wait(lambda: history.count("start") == 1 and _subscribed(made) == [2], what="it runs")
    other = made.worker(threads=1)
    pid = first.booted_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    gate.touch()
    made.wait(lambda: made.enqueued() == 0, what="it is done")
    wait_until(lambda: re.search(r"is dead: its process (was killed|is gone)", other.output()), what="said")
