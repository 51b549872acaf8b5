# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Other middleware hears of what runs, in the order that keeps it safe, and of no copy that does not run."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from dramatiq import Middleware
from dramatiq.middleware import MiddlewareError, Retries, SkipMessage, TimeLimit
from dramatiq.results import Results

import dramatiq_inflight
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.message.in_flight import Outcome
from tests.support.inprocess import App, put_off_briefly
from tests.support.servers import wait_until

#: Every hook that Dramatiq calls about a message.
HOOKS = [f"{when}_{what}" for when in ("before", "after") for what in ("enqueue", "process_message", "ack", "nack")]
HOOKS += ["before_delay_message", "after_skip_message"]


class Hears(Middleware):
    """Notes each hook that is called, with the message's id."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        for hook in HOOKS:
            setattr(self, hook, self._noting(hook))

    def _noting(self, hook: str) -> Any:
        return lambda broker, message, *args, **kwargs: self.heard.append((hook, message.message_id))

    def of(self, message: Any) -> list[str]:
        return [hook for hook, id in self.heard if id == message.message_id]


def armed(broker: Any) -> list[float]:
    """The time limits that run."""
    manager: Any = next(m for m in broker.middleware if isinstance(m, TimeLimit)).manager
    return [limit for limit in manager.deadlines.values() if limit]


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_second_delivery_is_heard_by_nobody(app: App, caplog: pytest.LogCaptureFixture, place: str) -> None:
    """Neither its skip, nor its put-off, nor its acknowledgement: the last word is that of the run."""
    caplog.set_level("INFO")
    put_off_briefly(app.tracker)
    hears, go = Hears(), threading.Event()
    app.broker.add_middleware(hears, **({"before": TimeLimit} if place == "before" else {}))
    actor = app.actor(lambda: go.wait(120), store_results=False)
    message = actor.send()
    app.start()
    wait_until(app.records, what="it runs")
    app.redeliver(message)
    wait_until(lambda: "is put off for" in caplog.text, what="the duplicate is put off")
    go.set()
    app.join()
    assert "Skipped this copy of message" in caplog.text
    expected = ["before_enqueue", "after_enqueue", "before_process_message", "after_process_message"]
    assert hears.of(message) == [*expected, "before_ack", "after_ack"]


def test_a_stale_copy_is_heard_by_nobody(app: App) -> None:
    """The copy that recovery has replaced."""
    hears = Hears()
    app.broker.add_middleware(hears)
    actor = app.actor(lambda: app.ran.append(1))
    message = actor.message()
    copy = Copy.of(message.copy(options={"redis_message_id": "r9"}))
    other = app.other()
    app.lab.start(other, dataclasses.replace(copy, generation=2))
    app.deliver(message.copy(options={"redis_message_id": "r9"}))
    app.start()
    wait_until(lambda: not app.client.exists(f"{app.broker.namespace}:default.msgs"), what="it is acknowledged")
    assert (hears.heard, app.ran) == ([], [])


def test_a_dead_letter_is_heard_by_everybody(app: App) -> None:
    """A message that is poison has run, and its dead letter is the last word."""
    hears = Hears()
    app.broker.add_middleware(hears)
    actor = app.actor(lambda: app.ran.append(1))
    message = app.send_orphan(actor, limit="once")
    app.start()
    wait_until(app.dead_letters, what="it is dead-lettered")
    app.join()
    heard = [hook for hook in hears.of(message) if "enqueue" not in hook]  # recovery's thread may be at its end yet
    assert heard == ["before_process_message", "after_skip_message", "before_nack", "after_nack"]
    assert app.ran == []


def test_a_start_is_recorded_before_others_prepare(app: App) -> None:
    """No time limit is armed while Redis is asked, and other hooks know the run."""
    runs: list[tuple[bool, list[float]]] = []

    class Prepares(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            current = dramatiq_inflight.current()
            runs.append((current is not None and current.fence > 0, armed(broker)))

    app.broker.add_middleware(Prepares(), before=app.broker.middleware[0].__class__)
    app.actor(lambda: None).send()
    app.start()
    app.join()
    assert runs == [(True, [])]


def test_time_limits_end_before_what_follows_is_enqueued(app: App) -> None:
    """A slow hook behind a failure costs no retry: nothing interrupts it."""
    limits: list[list[float]] = []

    class Slow(Middleware):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            limits.append(armed(broker))

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise ValueError("as asked for")

    app.broker.add_middleware(Slow())
    app.actor(work, time_limit=100, min_backoff=1, max_backoff=2).send()
    app.start()
    app.join()
    assert (app.ran, limits) == ([1, 1], [[], []])


@pytest.mark.parametrize("late", [Retries, Results])
def test_a_lost_message_has_no_result_or_retry(app: App, late: type[Middleware]) -> None:
    """Wherever the tracker stands among the middleware."""
    go = threading.Event()
    one = next(m for m in app.broker.middleware if isinstance(m, late))
    app.broker.middleware.remove(one)
    app.broker.middleware.append(one)

    def work() -> None:
        app.ran.append(1)
        assert go.wait(120)
        if late is Retries:
            raise ValueError("as asked for")

    actor = app.actor(work, store_results=True, min_backoff=1, max_backoff=2)
    message = actor.send()
    app.start()
    wait_until(lambda: app.ran, what="it runs")
    runtime = app.runtime
    (entry,) = runtime.table.entries()
    runtime.ledger.lose(entry)
    go.set()
    app.join()
    assert app.ran == [1]
    assert not app.client.exists(app.backend.build_message_key(message))


def test_a_hook_that_raises_costs_no_thread(app: App) -> None:
    """A subclass of what interrupts may do more in its hook, and fail: Dramatiq logs that, and goes on."""

    class Measures(TimeLimit):
        def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
            super().after_process_message(broker, message, **outcome)  # type: ignore[no-untyped-call]
            raise ConnectionError("as asked for")

    limit = next(m for m in app.broker.middleware if isinstance(m, TimeLimit))
    app.broker.middleware[app.broker.middleware.index(limit)] = Measures(interval=50)
    actor = app.actor(app.ran.append)
    app.start(threads=1)
    for number in range(3):
        actor.send(number)
    app.join()
    assert sorted(app.ran) == [0, 1, 2]
    assert app.worker is not None
    assert all(thread.is_alive() for thread in app.worker.workers)


def test_a_hook_that_is_set_late_is_called(app: App) -> None:
    """As Dramatiq does: the hook is looked up at each message, whatever was there at the one before."""
    late = Middleware()
    app.broker.add_middleware(late)
    actor = app.actor(lambda: None)
    app.start()
    actor.send()
    app.join()
    heard: list[str] = []
    for hook in ("before_process_message", "after_process_message"):
        setattr(late, hook, lambda broker, message, hook=hook, **outcome: heard.append(hook))
    actor.send()
    app.join()
    assert heard == ["before_process_message", "after_process_message"]


def test_a_middleware_that_replaces_its_equal_is_called(app: App) -> None:
    """Two data classes are equal if their fields are."""

    @dataclasses.dataclass
    class Counts(Middleware):
        seen: int = dataclasses.field(default=0, compare=False)

        def before_process_message(self, broker: Any, message: Any) -> None:
            self.seen += 1

    first, second = Counts(), Counts()
    app.broker.add_middleware(first)
    actor = app.actor(lambda: None)
    app.start()
    actor.send()
    app.join()
    app.broker.middleware[app.broker.middleware.index(first)] = second
    actor.send()
    app.join()
    assert (first.seen, second.seen) == (1, 1)


def test_a_middleware_without_a_hook_costs_no_message(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Dramatiq logs that the hook could not be called, and goes on: what has no base class need not have all hooks."""

    class Bare:
        actor_options: frozenset[str] = frozenset()

        def after_declare_actor(self, broker: Any, actor: Any) -> None:
            pass

        def after_declare_queue(self, broker: Any, queue: str) -> None:
            pass

        after_declare_delay_queue = after_declare_queue

    app.broker.add_middleware(Bare())  # type: ignore[arg-type]
    ran: list[int] = []
    message = app.actor(lambda: ran.append(1), max_retries=0).send()
    app.start()
    app.join()
    assert ran == [1]
    assert f"record:{message.message_id}" not in app.records()
    assert "Unexpected failure in before_process_message" in caplog.text


def test_a_retry_is_heard_in_pairs(app: App) -> None:
    """Its message was put off before, and it carries that mark when it is enqueued."""
    hears = Hears()
    app.broker.add_middleware(hears)

    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise ValueError("as asked for")

    actor = app.actor(work, min_backoff=1, max_backoff=2)
    message = actor.message().copy(options={"redis_message_id": "r7", "inflight": {"deferrals": 1, "generation": 1}})
    app.deliver(message)
    app.start()
    app.join()
    assert app.ran == [1, 1]
    heard = hears.of(message)
    assert heard.count("before_enqueue") == heard.count("after_enqueue") > 0


class Unique(MiddlewareError):
    """Raised where a message of an actor is there already."""


class UniqueJobs(Middleware):
    """One message of an actor at a time, until it has been acknowledged."""

    def __init__(self) -> None:
        self.held: set[str] = set()

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        if message.actor_name in self.held:
            raise Unique(message.actor_name)
        if message.actor_name == "report":
            self.held.add(message.actor_name)

    def after_ack(self, broker: Any, message: Any) -> None:
        self.held.discard(message.actor_name)


def test_a_second_delivery_releases_no_lock_of_the_first(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Neither refused by a middleware of unique jobs, nor freeing what the run still holds."""
    caplog.set_level("INFO")
    put_off_briefly(app.tracker)
    go, unique = threading.Event(), UniqueJobs()
    app.broker.add_middleware(unique)
    actor = app.actor(lambda: go.wait(120), actor_name="report")
    message = actor.send()
    app.start(threads=2)
    wait_until(app.records, what="it runs")
    app.redeliver(message)
    wait_until(lambda: "is put off for" in caplog.text, what="the duplicate is put off")
    wait_until(lambda: app.client.hlen(f"{app.broker.namespace}:default.msgs") == 1, what="and acknowledged")
    assert unique.held == {"report"}
    with pytest.raises(Unique):
        actor.send()
    go.set()
    app.join()
    assert unique.held == set()


def test_a_middleware_that_skips_ends_the_record(app: App) -> None:
    """Its start was recorded first: the record is gone when the broker was told."""

    class Skips(Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            raise SkipMessage("as asked for")

    hears = Hears()
    app.broker.add_middleware(hears)
    app.broker.add_middleware(Skips())
    message = app.actor(lambda: app.ran.append(1)).send()
    app.start()
    app.join()
    assert (app.ran, app.unsettled()) == ([], set())
    assert hears.of(message)[-3:] == ["after_skip_message", "before_ack", "after_ack"]


def test_a_message_that_outlives_its_worker_ends_as_it_does(app: App) -> None:
    """The shutdown has timed out; what succeeds then has succeeded, and is not recovered as a failure."""
    go, began = threading.Event(), threading.Event()

    def work() -> None:
        app.ran.append(1)
        began.set()
        assert go.wait(120)

    app.actor(work, store_results=False).send()
    app.start()
    worker, runtime = app.worker, app.runtime
    assert worker is not None
    assert began.wait(120)
    worker.stop(timeout=100)
    app.worker = None
    (entry,) = runtime.table.entries()
    go.set()
    wait_until(lambda: not app.client.exists(f"{app.broker.namespace}:default.msgs"), what="it is acknowledged")
    assert entry.outcome is Outcome.SUCCEEDED
    app.start()
    app.join()
    assert app.ran == [1]


def test_a_stopped_worker_leaves_the_broker_as_it_was(app: App) -> None:
    """Also where it was stopped and started again."""
    for _ in range(2):
        app.start()
        assert "emit_before" in app.broker.__dict__
        app.stop()
        assert app.broker.emit_before == type(app.broker).emit_before.__get__(app.broker)


DJANGO = """
    import logging, os, sys, threading, time
    import django
    from django.conf import settings
    url, namespace = sys.argv[1:]
    settings.configure(
        DEBUG=False, SECRET_KEY="for this test", USE_TZ=True, INSTALLED_APPS=["django_dramatiq"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3", "NAME": "tasks.sqlite3", "OPTIONS": {"timeout": 30},
            },
        },
        DRAMATIQ_BROKER={
            "BROKER": "dramatiq.brokers.redis.RedisBroker",
            "OPTIONS": {"url": url, "namespace": namespace + "-broker", "maintenance_chance": 0},
            "MIDDLEWARE": [
                "dramatiq.middleware.AgeLimit", "dramatiq.middleware.TimeLimit", "dramatiq.middleware.Callbacks",
                "dramatiq.middleware.Retries", "django_dramatiq.middleware.DbConnectionsMiddleware",
                "django_dramatiq.middleware.AdminMiddleware", "dramatiq_inflight.InFlightTracker",
            ],
        },
        DRAMATIQ_RESULT_BACKEND={
            "BACKEND": "dramatiq.results.backends.redis.RedisBackend",
            "BACKEND_OPTIONS": {"url": url, "namespace": namespace + "-results"},
        },
    )
    os.environ.update(PROCESSING_NS=namespace, HEARTBEAT_INTERVAL="0.1", HEARTBEAT_TTL="0.6")
    django.setup()
    from django.core.management import call_command
    call_command("migrate", verbosity=0)
    import dramatiq, redis
    from django_dramatiq.models import Task
    broker, go, began = dramatiq.get_broker(), threading.Event(), threading.Event()

    @dramatiq.actor(track_inflight=True, store_results=True)
    def work():
        began.set()
        go.wait(120)
        return "its result"

    refused, warnings = threading.Event(), []
    class Listens(logging.Handler):
        def emit(self, record):
            if "is put off for" in record.getMessage():
                refused.set()
            if record.levelno >= logging.WARNING:
                warnings.append(record.getMessage())
    logging.getLogger("dramatiq_inflight").addHandler(Listens())
    logging.getLogger("dramatiq_inflight").setLevel("INFO")
    message = work.send()
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=20)
    worker.start()
    assert began.wait(120)
    client = redis.Redis.from_url(url)
    client.rpush(namespace + "-broker:default", message.options["redis_message_id"])
    assert refused.wait(120)
    print("while it runs:", Task.tasks.get().status)
    go.set()
    deadline = time.monotonic() + 120
    stored = [namespace + "-broker:default.msgs", namespace + "-broker:default.DQ.msgs"]
    while client.exists(*stored) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.stop()
    print("in the end:", Task.tasks.get().status)
    print("with", message.get_result(), "and warnings", warnings)
    from dramatiq_inflight.doctor import examine
    print("found:", [found.code for found in examine(broker) if "iddleware" in found.title and found.severity != "ok"])
"""


def test_the_admin_page_of_django_shows_what_ran(server_url: str, namespace: str, tmp_path: Path) -> None:
    """django_dramatiq says *running* and then *done*, though the message was delivered twice.

    Its results come behind the tracker, and nobody warns of that.
    """
    pytest.importorskip("django_dramatiq")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DJANGO), "utf-8")
    root = Path(dramatiq_inflight.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, str(program), server_url, namespace],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = ["while it runs: running", "in the end: done", "with its result and warnings []", "found: []"]
    assert done.stdout.split("\n")[:4] == said, done.stderr[-3000:]
