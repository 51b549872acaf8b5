# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Everything else that Dramatiq can do, with every message tracked: other brokers, workers, encoders and middleware."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.middleware import Shutdown
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from dramatiq_inflight import current
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.inprocess import App, put_off_briefly
from tests.support.lab import Lab
from tests.support.rounds import kill_rounds
from tests.support.servers import wait_until

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]

#: How many rounds of each kind; ``KILL_ROUNDS=200`` for the long run.
ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))

GEVENT = (sys.executable, str(Path(sys.executable).with_name("dramatiq-gevent")))

# Workers that are started in other ways, and brokers that are not Dramatiq's own.


@pytest.mark.parametrize(
    ("settings", "worker"),
    [
        pytest.param({}, {"program": GEVENT}, id="gevent"),
        pytest.param({"PROCESSING_HEARTBEAT": "process"}, {"program": GEVENT}, id="gevent and a heartbeat process"),
        pytest.param({}, {"args": ("--use-spawn",)}, id="spawn"),
        pytest.param({"TEST_ENCODER": "pickle"}, {}, id="pickle"),
    ],
)
def test_killed_workers_of_all_kinds_lose_and_double_nothing(
    settings: dict[str, str], worker: dict[str, Any], cluster: MakeCluster
) -> None:
    """The promise holds for greenlets, for processes that were spawned, and for payloads that are no text."""
    report = kill_rounds(cluster(**settings), ROUNDS, seed=3, **worker)
    print(report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * ROUNDS


def test_killed_workers_on_postgres_lose_and_double_nothing(cluster: MakeCluster, postgres_url: str) -> None:
    """dramatiq-postgres: a copy replaces the one before it, whoever holds that, and it delivers again by itself."""
    report = kill_rounds(cluster(TEST_POSTGRES_URL=postgres_url), ROUNDS, seed=4)
    print(report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * ROUNDS


@pytest.mark.parametrize("how", ["SIGHUP", "--watch"])
def test_a_reload_under_load_runs_everything_once(
    how: str, cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """The main process starts itself anew, under its old pid: its workers end in order, or are killed."""
    made = cluster()
    watched = tmp_path / "watched"
    watched.mkdir()
    worker = made.worker(threads=4, args=("--watch", str(watched)) if how == "--watch" else ())
    for key in range(40):
        made.app.work.send(key, 0.2)
    made.wait(lambda: history.count("end") >= 6, what="they run")
    if how == "--watch":
        (watched / "changed.py").touch()
    else:
        worker.process.send_signal(signal.SIGHUP)
    made.wait(lambda: history.count("boot") == 2, what="it has started anew")
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.keys("end") == set(range(40))
    if how == "SIGHUP":
        assert history.count("start") == history.count("end") == 40
        assert "is dead" not in worker.output()
        worker.stop()
        made.wait(lambda: made.names() == set(), what="what it was woken by has expired")
    else:  # a change is several events, and the second signal cuts off what runs
        assert history.count("end") == 40


# Clients that are set up in other ways.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"protocol": 3}, id="RESP3"),
        pytest.param({"retry": Retry(ExponentialBackoff(), 5), "retry_on_timeout": True}, id="retries"),
        pytest.param({"health_check_interval": 1, "socket_keepalive": True, "max_connections": 64}, id="checks"),
        pytest.param({"client_name": "app", "single_connection_client": False, "encoding": "latin-1"}, id="names"),
    ],
)
def test_a_broker_whose_client_is_set_up_otherwise(
    options: dict[str, Any], server_url: str, namespace: str, lab: Lab
) -> None:
    """A message's life, a retry, a recovery, poison."""
    app = App(server_url, namespace, lab, broker_client=redis.Redis.from_url(server_url, **options))
    try:
        lives(app)
    finally:
        app.close()


def test_a_client_of_the_trackers_own_that_decodes(server_url: str, namespace: str, lab: Lab) -> None:
    """RedisBroker itself cannot have one: it reads messages as bytes."""
    client = redis.Redis.from_url(server_url, decode_responses=True, protocol=3)
    app = App(server_url, namespace, lab, client=client)
    try:
        lives(app)
    finally:
        app.close()


def lives(app: App) -> None:
    """Run what a message may meet with, and look at what is left."""
    failures = iter([RuntimeError("once")])

    def fails_once() -> None:
        for failure in failures:
            raise failure
        app.ran.append("retried")

    ordinary = app.actor(lambda: app.ran.append("ordinary"), actor_name="ordinary")
    retried = app.actor(fails_once, actor_name="retried", min_backoff=10, max_backoff=20)
    recovered = app.actor(lambda: app.ran.append("recovered"), actor_name="recovered")
    poison = app.actor(lambda: app.ran.append("poison"), actor_name="poison", max_recoveries=1)
    app.send_orphan(recovered)
    app.send_orphan(poison, crashes=1, limit=1)
    ordinary.send()
    retried.send()
    app.start()
    app.join()
    app.stop()
    assert sorted(app.ran) == ["ordinary", "recovered", "retried"]
    assert [message.actor_name for message in app.dead_letters()] == ["poison"]


# The effects of Dramatiq's options and middleware.


@pytest.mark.skipif(dramatiq.__version__.startswith("2.0."), reason="Dramatiq 2.0's worker is not filled in this way")
def test_a_recovered_message_keeps_its_priority(app: App) -> None:
    """A message of a higher priority runs first, recovered or not."""
    low = app.actor(lambda: app.ran.append("low"), actor_name="low", priority=100)
    high = app.actor(lambda: app.ran.append("high"), actor_name="high", priority=0)
    release = threading.Semaphore(0)
    busy: list[int] = []

    def block() -> None:
        busy.append(1)
        release.acquire(timeout=120)

    blocks = app.actor(block, priority=0)
    for _ in range(3):
        blocks.send()
    low.send()
    app.send_orphan(high)
    app.start(threads=3)
    worker = app.worker
    assert worker is not None
    # The copy that the broker has delivered again is stale by then; recovery's is the third.
    wait_until(lambda: len(busy) == worker.work_queue.qsize() == 3, what="all is fetched, and all threads are busy")
    release.release()
    wait_until(lambda: len(app.ran) == 2, what="one thread ran both")
    release.release(2)
    app.join()
    assert app.ran == ["high", "low"]


def test_an_async_actor_that_was_running_is_recovered(app: App) -> None:
    """Async actors run in a loop's thread; their messages are tracked in their worker thread."""

    async def work() -> None:
        app.ran.append(1)

    app.send_orphan(app.actor(work))
    app.start()
    app.join()
    assert app.ran == [1]
    assert app.unsettled() == set()


def test_a_dead_workers_rate_limit_costs_retries_and_no_recovery(app: App) -> None:
    """The slot of the dead run expires by itself; until then the message is tried again as Dramatiq does it."""
    limiter = ConcurrentRateLimiter(RedisBackend(client=app.client), f"{app.namespace}-limit", limit=1, ttl=600_000)
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        with limiter.acquire():
            app.ran.append(1)

    actor = app.actor(work, min_backoff=20, max_backoff=50)
    held = limiter.acquire()
    held.__enter__()  # by the run that died
    message = app.send_orphan(actor)
    app.start()
    wait_until(lambda: len(tries) >= 2, what="it was tried again")
    assert app.ran == []
    held.__exit__(None, None, None)
    app.join()
    assert app.ran == [1]
    assert message.message_id not in str(app.dead_letters())
    assert app.unsettled() == set()


def test_a_retry_that_the_actor_asks_for_is_a_retry(app: App) -> None:
    """``dramatiq.Retry``: with its own delay, and neither a crash nor a duplicate."""
    runs: list[Any] = []

    def work() -> None:
        runs.append(current())
        if len(runs) == 1:
            raise dramatiq.errors.Retry("later", delay=100)

    app.actor(work).send()
    app.start()
    wait_until(lambda: len(runs) == 2, what="it ran again")
    app.join()
    assert [(run.crashes, run.recovered) for run in runs] == [(0, False), (0, False)]
    assert app.records() == set()


def test_a_shutdown_enqueues_a_message_again_and_releases_it(app: App) -> None:
    """``notify_shutdown``: Retries puts it back, and no record of it stays behind with this worker."""
    interrupted: list[int] = []

    def work() -> None:
        try:
            for _ in range(2000):
                if interrupted:
                    app.ran.append(1)
                    return
                time.sleep(0.01)
        except Shutdown:
            interrupted.append(1)
            raise

    app.actor(work, notify_shutdown=True, max_retries=3, min_backoff=1, max_backoff=10).send()
    app.start(threads=1)
    wait_until(app.records, what="it runs")
    app.stop()
    assert interrupted == [1]
    assert app.records() == set()
    app.start(threads=1)
    app.join()
    assert app.ran == [1]


# Middleware that others have made.


@pytest.fixture
def abortable(app: App) -> Iterator[Any]:
    """dramatiq-abort, before the tracker as its documentation would have it, with an event store in Redis."""
    abort = pytest.importorskip("dramatiq_abort")
    backends = pytest.importorskip("dramatiq_abort.backends")
    made = abort.Abortable(backend=backends.RedisBackend(client=app.client, namespace=f"{app.namespace}-abort:"))
    app.broker.add_middleware(made, before=type(app.tracker))
    yield made
    app.client.delete(*(app.client.keys(f"{app.namespace}-abort:*") or ["-"]))


def test_an_aborted_message_is_an_ordinary_failure(app: App, abortable: Any) -> None:
    """Aborted while it runs: not a crash, not recovered, no record; aborted before: skipped."""
    started = threading.Event()

    def work() -> None:
        app.ran.append("start")
        started.set()
        for _ in range(2000):
            time.sleep(0.01)

    actor = app.actor(work, max_retries=0)
    running = actor.send()
    app.start(threads=1)
    assert started.wait(120)
    abortable.abort(running.message_id)
    wait_until(lambda: app.records() == set(), what="its record is gone")
    waiting = actor.message()
    abortable.abort(waiting.message_id)
    app.broker.enqueue(waiting)
    app.join()
    assert app.ran == ["start"]
    assert [message.message_id for message in app.dead_letters()] == [running.message_id]


def test_an_orphan_that_was_aborted_meanwhile_is_not_run(app: App, abortable: Any) -> None:
    """Its worker died; nobody wants it any more: the recovered copy is skipped, and its record is settled."""
    message = app.actor(lambda: app.ran.append(1)).message().copy(options={"redis_message_id": "r1"})
    app.orphan(message)
    abortable.abort(message.message_id)
    app.start()
    app.join()
    assert app.ran == []
    wait_until(lambda: app.unsettled() == set(), what="its record is settled")


def test_dramatiqs_prometheus_counts_a_duplicate_as_no_message(
    app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Dramatiq's own metrics: nothing stays in progress, and what was put off and skipped is no message of its own."""
    pytest.importorskip("prometheus_client")
    for name in ("dramatiq_prom_db", "prometheus_multiproc_dir", "PROMETHEUS_MULTIPROC_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    import prometheus_client  # noqa: PLC0415
    from dramatiq.middleware.prometheus import Prometheus  # noqa: PLC0415

    store = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "CollectorRegistry", lambda: store)
    app.broker.add_middleware(Prometheus(), before=type(app.tracker))
    put_off_briefly(app.tracker)
    caplog.set_level("INFO")
    release = threading.Event()

    def work() -> None:
        release.wait(120)

    message = app.actor(work).send()
    app.start(threads=2)
    wait_until(app.records, what="it runs")
    app.redeliver(message)
    wait_until(lambda: "is put off for" in caplog.text, what="the duplicate is put off")
    release.set()
    app.join()

    def value(name: str) -> float:
        labels = {"queue_name": "default", "actor_name": message.actor_name}
        return float(store.get_sample_value(name, labels) or 0)

    wait_until(lambda: value("dramatiq_messages_inprogress") == 0, what="nothing is in progress")
    assert value("dramatiq_message_errors_total") == 0
    assert value("dramatiq_message_rejects_total") == 0
    assert "Skipped this copy of message" in caplog.text
    assert value("dramatiq_messages_total") == 1
