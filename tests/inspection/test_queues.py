# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The queues: how much each has, how quickly that comes and goes, and where that is shown."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import threading
import time
import types
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from dramatiq.middleware import Shutdown
from prometheus_client import CollectorRegistry, generate_latest

from dramatiq_inflight import HandBack, Inspector, MessageLost, PoisonMessage, QueueView, TryAgain
from dramatiq_inflight.brokers.queues import BrokerQueues
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.dashboard import create_app
from dramatiq_inflight.inspection.queues import Throughput
from dramatiq_inflight.metrics import InFlightCollector
from dramatiq_inflight.metrics import throughput as reports
from dramatiq_inflight.store.workers import Ended
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.rabbit_app import RabbitApp
from tests.support.servers import wait_until
from tests.support.wire import note_writes


def by_name(inspector: Inspector) -> dict[str, QueueView]:
    found = inspector.queues()
    assert found is not None
    return {queue.name: queue for queue in found}


def fail() -> None:
    raise ValueError("no")


def enqueue_old(app: App, actor: Any, ages: tuple[int, ...]) -> None:
    """Enqueue messages that are so many seconds old."""
    for age in ages:
        message = actor.message()
        app.broker.enqueue(dataclasses.replace(message, message_timestamp=message.message_timestamp - age * 1000))


def write_minutes(lab: Lab, now_ms: int, *minutes: Any) -> None:
    """Write what workers have reported, for the last minutes up to the present one."""
    first = now_ms // 60_000 - len(minutes) + 1
    values = {str(first + i): json.dumps(minute) for i, minute in enumerate(minutes)}
    lab.client.hset(f"{lab.prefix}throughput", mapping=values)


def now_of(lab: Lab) -> int:
    seconds, micro = lab.client.time()
    return int(seconds * 1000 + micro // 1000)


def test_what_waits_is_counted(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    app.actor(lambda: None, actor_name="idle", queue_name="other")
    enqueue_old(app, work, (90, 30))
    work.send_with_options(delay=3_600_000)
    queues = by_name(Inspector.of(app.broker))
    assert list(queues) == ["default", "other"]
    seen = queues["default"]
    assert (seen.depth, seen.delayed, seen.unacked, seen.in_flight, seen.dead_letters) == (2, 1, 0, 0, 0)
    assert seen.oldest is not None
    assert 90 <= seen.oldest < 600
    assert (seen.rate_in, seen.rate_out) == (None, None), "no worker has reported"
    other = queues["other"]
    assert (other.depth, other.delayed, other.unacked, other.dead_letters, other.oldest) == (0, 0, 0, 0, 0.0)


def test_what_workers_have_is_counted(app: App) -> None:
    gate = threading.Event()
    work = app.actor(lambda: gate.wait(60), actor_name="work")
    app.actor(fail, actor_name="bad", max_retries=0).send()
    app.start(threads=1)
    try:
        wait_until(app.dead_letters, what="it is a dead letter")
        for _ in range(2):
            work.send()  # one runs, and one waits in the worker's memory
        work.send_with_options(delay=3_600_000)
        inspector = Inspector.of(app.broker)
        fetched = {"depth": 0, "delayed": 1, "unacked": 2, "in_flight": 1, "dead_letters": 1}
        wait_until(
            lambda: fetched.items() <= dataclasses.asdict(by_name(inspector)["default"]).items(), what="it has both"
        )
    finally:
        gate.set()


def test_a_retry_is_as_old_as_its_last_enqueue(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    again = now_of(app.lab) - 40_000
    app.broker.enqueue(dataclasses.replace(work.message(), message_timestamp=1, options={"requeue_timestamp": again}))
    oldest = by_name(Inspector.of(app.broker))["default"].oldest
    assert oldest is not None
    assert 40 <= oldest < 600


@pytest.mark.parametrize(
    "data", [b"\xffnonsense", b"{}", b"x" * 2_000_000, None], ids=["bytes", "empty", "big", "none"]
)
def test_a_strange_first_message_has_no_age(app: App, data: bytes | None) -> None:
    app.actor(lambda: None, actor_name="work")
    app.client.rpush(f"{app.broker.namespace}:default", "r1")
    if data is not None:
        app.client.hset(f"{app.broker.namespace}:default.msgs", "r1", data)
    seen = by_name(Inspector.of(app.broker))["default"]
    assert (seen.depth, seen.oldest) == (1, None)


def test_rates_are_of_this_minute_and_the_last(app: App) -> None:
    """New messages are the ended ones, and those that are there now and were not then."""
    work = app.actor(lambda: None, actor_name="work")
    app.actor(lambda: None, actor_name="idle", queue_name="other")
    for _ in range(40):
        work.send()
    now = now_of(app.lab)
    write_minutes(app.lab, now, {"default": [60, 10, 0, 0]}, {"default": [30, 25, 0, 0]})
    seen = by_name(Inspector.of(app.broker))
    seconds = 60 + now % 60_000 / 1000
    rates = seen["default"].rate_in, seen["default"].rate_out
    expected = (90 + 40 - 10) / seconds, 90 / seconds
    if now_of(app.lab) // 60_000 == now // 60_000:  # else another minute has begun meanwhile
        assert rates == pytest.approx(expected, rel=0.2)
        assert (seen["other"].rate_in, seen["other"].rate_out) == (None, 0.0)


def test_rates_are_worked_out_by_the_minute() -> None:
    told = Throughput.of({"100": '{"q": [60, 10, 0, 0]}', "101": '{"q": [30, 25, 0, 0]}', "all": '{"q": 500}'})
    assert told.ended == {"q": 500}
    assert told.rates("q", 101 * 60_000 + 30_000, 40) == ((90 + 40 - 10) / 90, 1.0)
    assert told.rates("q", 101 * 60_000 + 30_000, 0) == ((90 - 10) / 90, 1.0)
    assert told.rates("other", 101 * 60_000, 5) == (None, 0.0)
    assert told.rates("q", 102 * 60_000, 40) == ((30 + 40 - 25) / 60, 0.5)
    assert told.rates("q", 103 * 60_000, 40) == (None, None), "nobody has reported for a minute"


@pytest.mark.parametrize("damaged", ["", "[", "[]", "7", '{"q": 1}', '{"q": ["a", null, 0, 0]}', '{"q": {}}'])
def test_damaged_reports_hide_nothing(damaged: str) -> None:
    told = Throughput.of({"100": damaged, "x": damaged, "all": damaged, "101": '{"q": [60, 0, 0, 0]}'})
    assert told.rates("q", 102 * 60_000, 0) == (1.0, 1.0)
    assert set(told.ended.values()) <= {0, 1}


def test_workers_report_what_ended_tracked_or_not(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is an end as well.  The last seconds are reported as the worker stops."""
    monkeypatch.setattr(reports, "INTERVAL", 3600)
    work = app.actor(lambda: None, actor_name="work", queue_name="a")
    aside = app.actor(lambda: None, actor_name="aside", queue_name="a", track_inflight=False)
    bad = app.actor(fail, actor_name="bad", queue_name="b", max_retries=0)
    for actor in (work, work, aside, bad):
        actor.send()
    app.start()
    inspector = Inspector.of(app.broker)
    wait_until(
        lambda: sum(queue.depth + (queue.unacked or 0) for queue in by_name(inspector).values()) == 0, what="all"
    )
    app.stop()
    assert inspector.ended() == {"a": 3, "b": 1}
    (minutes,) = [value for name, value in app.client.hgetall(f"{app.lab.prefix}throughput").items() if name != b"all"]
    assert {queue: ended for queue, (ended, *_) in json.loads(minutes).items()} == {"a": 3, "b": 1}
    assert 0 < app.client.pttl(f"{app.lab.prefix}throughput") <= 30 * 24 * 3600 * 1000


def test_minutes_have_failures_and_durations(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tracked and untracked messages alike."""
    monkeypatch.setattr(reports, "INTERVAL", 3600)
    seconds = 0.2
    app.actor(lambda: time.sleep(seconds), actor_name="tracked").send()
    app.actor(lambda: time.sleep(seconds), actor_name="plain", track_inflight=False).send()
    app.actor(fail, actor_name="bad", queue_name="other", max_retries=0).send()
    app.start()
    inspector = Inspector.of(app.broker)
    wait_until(
        lambda: sum(queue.depth + (queue.unacked or 0) for queue in by_name(inspector).values()) == 0, what="all"
    )
    app.stop()
    minutes = inspector.minutes()
    assert len(minutes) == 60
    assert {(after.at - before.at).total_seconds() for before, after in itertools.pairwise(minutes)} == {60}
    assert (sum(one.ended for one in minutes), sum(one.failed for one in minutes)) == (3, 1)
    took = {one.duration for one in inspector.minutes("default") if one.ended}
    assert all(duration is not None and seconds <= duration < 60 for duration in took)
    assert took
    assert {one.failed for one in inspector.minutes("default")} == {0}
    assert {(one.ended, one.duration) for one in inspector.minutes("nowhere")} == {(0, None)}


def test_a_message_that_never_began_has_no_duration(app: App) -> None:
    app.actor(lambda: None, actor_name="work")
    report = reports.Throughput(app.broker, BrokerQueues(), app.other().workers)
    report.begin()
    time.sleep(0.05)
    report.count("default", None)
    report.count("default", PoisonMessage("it is poison"))
    for goes_on in (HandBack(), TryAgain("not now"), MessageLost(), Shutdown()):
        report.count("default", goes_on)
    report.run_once()
    ended = [one for one in Inspector.of(app.broker).minutes() if one.ended]
    assert [(one.ended, one.failed) for one in ended] == [(6, 1)]
    assert 0.05 / 6 <= (ended[0].duration or 0) < 60


def test_a_skipped_message_leaves_its_beginning_to_no_other(app: App) -> None:
    """Else a message whose start fails, long after, would have run ever since."""
    app.actor(lambda: None, actor_name="work", track_inflight=False)
    app.start()
    tracker = app.tracker
    skipped = app.broker.get_actor("work").message()
    tracker.before_process_message(app.broker, skipped)
    tracker.after_skip_message(app.broker, skipped)
    time.sleep(0.05)
    tracker.after_process_message(app.broker, skipped, exception=PoisonMessage("it is poison"))
    app.stop()  # reports
    ended = [one for one in Inspector.of(app.broker).minutes() if one.ended]
    assert [(one.ended, one.failed, one.duration) for one in ended] == [(1, 1, 0.0)]


def test_an_hour_of_a_hundred_queues_is_small(app: App) -> None:
    """Some 40 bytes for a queue and minute, however much ends."""
    now = now_of(app.lab)
    workers = app.other().workers
    names = [f"queue-{n}" for n in range(100)]
    workers.count({name: Ended(1_000_000, 10_000, 3_600_000) for name in names}, dict.fromkeys(names, 1_000_000))
    key = f"{app.lab.prefix}throughput"
    (minute,) = (value for name, value in app.client.hgetall(key).items() if name != b"all")
    assert json.loads(minute)["queue-0"] == [1_000_000, 1_000_000, 10_000, 3_600_000_000]
    assert len(minute) < 55 * len(names)
    write_minutes(app.lab, now, *[json.loads(minute)] * 60)
    assert app.client.memory_usage(key, samples=0) < 400_000
    assert sum(one.ended for one in Inspector.of(app.broker).minutes()[:-1]) == 59 * 100 * 1_000_000


def test_the_first_report_of_a_minute_has_the_backlogs(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    for _ in range(3):
        work.send()
    other = app.other()
    report = reports.Throughput(app.broker, RedisQueues(app.broker, app.lab.client), other.workers)
    for queue in ("default", "default", "made up", ["a", "list"]):
        report.count(queue, None)  # type: ignore[arg-type]
    report.run_once()
    (said,) = [value for name, value in app.client.hgetall(f"{app.lab.prefix}throughput").items() if name != b"all"]
    assert json.loads(said) == {"default": [2, 3, 0, 0]}
    work.send()
    report.run_once()
    minutes = [json.loads(value) for name, value in app.client.hgetall(f"{app.lab.prefix}throughput").items()]
    assert {"default": [2, 3, 0, 0]} in minutes, "the backlog is that of the beginning"


def test_what_redis_did_not_hear_is_reported_later(app: App) -> None:
    report = reports.Throughput(app.broker, BrokerQueues(), app.other().workers)
    app.actor(lambda: None, actor_name="work")
    report.count("default", None)
    key = f"{app.lab.prefix}throughput"
    app.client.set(key, "in the way")
    with pytest.raises(redis.ResponseError):
        report.run_once()
    app.client.delete(key)
    report.count("default", None)
    report.run_once()
    assert Inspector.of(app.broker).ended() == {"default": 2}


def test_reports_of_an_hour_are_kept(app: App) -> None:
    app.actor(lambda: None, actor_name="work")
    now = now_of(app.lab)
    write_minutes(app.lab, now, *[{"default": [1, 0, 0, 0]} for _ in range(100)])
    app.lab.client.hdel(f"{app.lab.prefix}throughput", now // 60_000, now // 60_000 + 1)
    assert app.other().workers.count({"default": Ended(1)}, {})
    assert 59 <= app.lab.client.hlen(f"{app.lab.prefix}throughput") - 1 <= 61


def test_a_hundred_queues_are_read_in_few_round_trips(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(100):
        app.actor(lambda: None, actor_name=f"work-{i}", queue_name=f"q{i}").send()
    inspector = Inspector.of(app.broker)
    seen = inspector.overview()
    inspector.queues(seen)  # connects
    sent = note_writes(monkeypatch)
    found = inspector.queues(seen)
    assert found is not None
    assert [(queue.depth, queue.oldest is not None) for queue in found] == [(1, True)] * 100
    assert len(sent) == 4


# Where it is shown.


@pytest.fixture
def run(app: App, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("an_app")
    module.broker = app.broker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_app", module)
    return lambda *args: CliRunner().invoke(cli, ["--broker", "an_app:broker", *args])


HOSTILE = "<b>\x1b[2J"


def test_the_command_line_shows_the_queues(app: App, run: Any) -> None:
    assert "There are none" in run("queues").stderr
    app.actor(lambda: None, actor_name="work", queue_name="small").send()
    big = app.actor(lambda: None, actor_name="other", queue_name="z-big")
    for _ in range(3):
        big.send()
    named = json.loads(run("queues", "--json").stdout)["queues"]
    assert [(queue["name"], queue["depth"]) for queue in named] == [("small", 1), ("z-big", 3)]
    assert set(named[0]) == {field.name for field in dataclasses.fields(QueueView)}
    listed = run("queues", "--sort", "depth").stdout.splitlines()
    titles = ["QUEUE", "DEPTH", "DELAYED", "UNACKED", "IN", "FLIGHT", "DEAD", "OLDEST", "IN/s", "OUT/s"]
    assert listed[0].split() == titles
    assert [line.split()[:2] for line in listed[1:]] == [["z-big", "3"], ["small", "1"]]


def test_the_command_line_wants_the_application(server_url: str, namespace: str) -> None:
    result = CliRunner().invoke(cli, ["--redis-url", server_url, "--namespace", namespace, "queues"])
    assert result.exit_code == 2
    assert "give --broker" in result.stderr


def test_the_page_shows_the_queues(app: App) -> None:
    small = app.actor(lambda: None, actor_name="work", queue_name="small")
    big = app.actor(lambda: None, actor_name="other", queue_name="z-big")
    for actor in (small, big, big):
        actor.send()
    app.broker.queues.add(HOSTILE)
    web = create_app(Inspector.of(app.broker)).test_client()
    shown = web.get("/queues").get_data(as_text=True)
    assert shown.index("small") < shown.index("z-big")
    assert "<b>" not in shown
    assert "&lt;b&gt;\\u001b[2J" in shown
    shown = web.get("/queues?sort=depth").get_data(as_text=True)
    assert shown.index("z-big") < shown.index("small")
    assert 'href="/queues?sort=depth&amp;dir=asc"' in shown
    assert web.get("/queues?sort=nonsense&dir=up").status_code == 200


def test_the_page_says_where_queues_cannot_be_seen(lab: Lab) -> None:
    shown = create_app(Inspector(lab.client, lab.namespace)).test_client().get("/queues")
    assert "given the application&#39;s broker" in shown.get_data(as_text=True) or "application's broker" in shown.text


def test_metrics_of_queues_are_there_to_scale_on(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    enqueue_old(app, work, (90,))
    work.send_with_options(delay=3_600_000)
    app.other().workers.count({"default": Ended(7)}, {})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(InFlightCollector(Inspector.of(app.broker)))

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"dramatiq_inflight_queue_{name}", {"queue": "default"})

    names = ("depth", "delayed", "unacked", "dead_letters", "ended_total")
    assert [value(name) for name in names] == [1, 1, 0, 0, 7]
    assert (value("oldest_seconds") or 0) >= 90
    assert b"up 1" in generate_latest(registry)


# RabbitMQ.


def test_the_queues_of_rabbitmq_are_counted(rabbitmq_url: str, client: redis.Redis, namespace: str) -> None:
    app = RabbitApp(rabbitmq_url, client, namespace)
    try:
        work = app.actor(lambda: None, actor_name="work")
        app.broker.queues.add("never-made")
        inspector = Inspector.of(app.broker)
        empty = by_name(inspector)
        assert (empty["never-made"].depth, empty["never-made"].dead_letters) == (0, 0)
        for _ in range(3):
            work.send()
        work.send_with_options(delay=3_600_000)
        wait_until(lambda: by_name(inspector)[app.queue].depth == 3, what="they are there")
        seen = by_name(inspector)[app.queue]
        assert (seen.delayed, seen.unacked, seen.dead_letters, seen.oldest) == (1, None, 0, None)
        app.actor(fail, actor_name="bad", max_retries=0).send()
        app.broker.queues.discard("never-made")
        app.start()
        wait_until(lambda: by_name(inspector)[app.queue].dead_letters == 1, what="it is a dead letter")
        app.stop()
        assert inspector.ended() == {app.queue: 4}
    finally:
        app.close()
