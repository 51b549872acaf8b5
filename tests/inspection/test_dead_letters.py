# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dead letters of every kind are known, with their reasons, and can be acted on."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from click.testing import CliRunner

from dramatiq_inflight import Done, Inspector, Operations
from dramatiq_inflight.brokers import redis as redis_queues
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.inspection.inspector import Choice, DeadLetterView
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.rabbit_app import RabbitApp
from tests.support.servers import wait_until


@pytest.fixture
def app(server_url: str, namespace: str, lab: Lab) -> Iterator[App]:
    made = App(server_url, namespace, lab)
    yield made
    made.close()


def purged(operations: Operations, choice: Choice) -> int:
    bulk = operations.purge(choice)
    assert bulk is not None
    assert bulk.is_complete
    return bulk.number


def fail(said: str) -> None:
    raise ValueError(said)


def die_in_all_ways(app: App) -> dict[str, str]:
    """Dead-letter a message in each way, and return their ids."""
    once = app.actor(fail, actor_name="once", max_retries=0)
    again = app.actor(fail, actor_name="again", max_retries=1, min_backoff=1, max_backoff=1)
    aside = app.actor(fail, actor_name="aside", max_retries=0, track_inflight=False)
    old = app.actor(lambda: None, actor_name="old", max_age=1000)
    idle = app.actor(lambda: None, actor_name="idle")
    stranger = app.broker.enqueue(dramatiq.Message("default", "stranger", (), {}, {}))
    late = app.broker.enqueue(dataclasses.replace(old.message(), message_timestamp=1))
    poison = app.send_orphan(idle, limit=0, crashes=0)
    ids = {
        "at once": once.send("first").message_id,
        "after retries": again.send("second").message_id,
        "untracked": aside.send("third").message_id,
        "too old": late.message_id,
        "unknown actor": stranger.message_id,
        "poison": poison.message_id,
    }
    app.start()
    wait_until(lambda: len(app.dead_letters()) >= len(ids), what="all are dead letters")
    app.join()
    return ids


def by_id(inspector: Inspector, choice: Choice = Choice()) -> dict[str, DeadLetterView]:  # noqa: B008  it is frozen
    found = inspector.dead_letters(choice)
    assert found is not None
    return {view.id: view for view in found}


def test_dead_letters_of_every_kind_have_their_reasons(app: App) -> None:
    ids = die_in_all_ways(app)
    found = by_id(Inspector.of(app.broker))
    assert set(found) == set(ids.values())
    reasons = {kind: found[id].reason for kind, id in ids.items()}
    assert reasons["at once"] == "ValueError: first"
    assert reasons["after retries"] == "failed 2 times: ValueError: second"
    assert "Message age limit exceeded" in reasons["too old"] or "max_age" in reasons["too old"]
    assert "stranger" in reasons["unknown actor"]
    assert "max_recoveries is 0" in reasons["poison"]
    assert reasons["untracked"] == "it has failed, and was not to be retried"
    assert "raise ValueError(said)" in found[ids["at once"]].traceback
    assert "ValueError: second" in found[ids["after retries"]].traceback
    assert found[ids["after retries"]].retries == 1
    assert all(view.at is not None and view.queue == "default" for view in found.values())
    inspector = Inspector.of(app.broker)
    for kind, id in ids.items():
        seen = inspector.message(id)
        assert seen is not None, kind
        assert seen.state == "dead_lettered", kind
        assert inspector.payload(id), kind


def test_each_dead_letter_is_requeued_or_discarded_by_its_id(app: App) -> None:
    ids = die_in_all_ways(app)
    app.stop()
    operations = Operations(app.broker)
    assert operations.requeue(ids["unknown actor"]) is Done.STRANGE
    for kind in ("at once", "after retries", "untracked", "too old", "poison"):
        assert operations.requeue(ids[kind]) is Done.DONE, kind
        assert operations.requeue(ids[kind]) is Done.QUEUED, kind
    assert operations.discard(ids["unknown actor"]) is Done.DONE
    assert operations.discard(ids["unknown actor"]) is Done.UNKNOWN
    assert by_id(operations.inspector) == {}
    assert app.dead_letters() == []
    last = operations.inspector.last_event(ids["unknown actor"])
    assert last is not None
    assert (last.name, last.actor) == ("discarded", "stranger")
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 3, what="those that fail are dead letters again")
    assert ids["at once"] in by_id(operations.inspector)


def test_dead_letters_are_chosen_and_purged(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: they are read some at a time, and what is dropped meanwhile moves the rest."""
    monkeypatch.setattr(redis_queues, "LETTERS", 3)
    work = app.actor(fail, actor_name="once", max_retries=0)
    other = app.actor(fail, actor_name="other", max_retries=0)
    for i in range(10):
        work.send(f"cause {i % 2}")
        other.send("cause 0")
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 20, what="all are dead letters")
    app.join()
    operations = Operations(app.broker)
    assert len(by_id(operations.inspector)) == 20
    assert operations.inspector.count_dead_letters() == 20
    newest = operations.inspector.dead_letters(limit=4)
    assert newest is not None
    times = [view.at.timestamp() for view in newest if view.at is not None]
    assert times == sorted(times, reverse=True)
    assert len(times) == 4
    assert len(by_id(operations.inspector, Choice(actor="once", text="CAUSE 1"))) == 5
    assert purged(operations, Choice(actor="once", text="cause 1")) == 5
    assert purged(operations, Choice(queue="default", actor="once")) == 5
    left = by_id(operations.inspector)
    assert {view.actor for view in left.values()} == {"other"}
    assert len(left) == 10
    event = operations.inspector.history(limit=1)[0]
    assert (event.text, event.actor) == ("discarded by an operator: 5 dead letters", "once")
    counts = {(count.kind, count.actor): count.number for count in operations.inspector.counts()}
    assert counts["discarded", "once"] == 10


def test_a_letter_that_cannot_be_decoded_is_listed_and_purged(app: App) -> None:
    app.actor(lambda: None, actor_name="idle")
    key = f"{app.broker.namespace}:default.XQ"
    app.client.zadd(key, {"r1": 1_700_000_000_000})
    app.client.hset(f"{key}.msgs", "r1", b"\xffnonsense")
    operations = Operations(app.broker)
    (view,) = by_id(operations.inspector).values()
    assert (view.id, view.actor, view.reason) == ("r1", "", "it cannot be decoded here")
    assert operations.requeue("r1") is Done.UNREADABLE
    assert purged(operations, Choice(text="cannot be decoded")) == 1
    assert by_id(operations.inspector) == {}


def test_the_command_line_shows_and_acts_on_dead_letters(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = die_in_all_ways(app)
    app.stop()
    module = types.ModuleType("an_app")
    module.broker = app.broker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_app", module)

    def run(*args: str) -> Any:
        return CliRunner().invoke(cli, ["--broker", "an_app:broker", *args])

    listed = run("dead", "--actor", "once")
    assert listed.exit_code == 0
    assert ids["at once"] in listed.stdout
    assert "ValueError: first" in listed.stdout
    assert ids["too old"] not in listed.stdout
    assert json.loads(run("dead", "--json", "--limit", "2").stdout)["total"] == len(ids)
    for command in (("dead",), ("dead", "causes"), ("dead", "purge", "--yes"), ("dead", "requeue", "--yes")):
        wrong = run(*command, "--queue", "defualt")
        assert wrong.exit_code == 2
        assert "There is no queue 'defualt'; the application has default" in wrong.stderr
    for kind, id in ids.items():
        shown = run("show", id)
        assert shown.exit_code == 0, kind
        assert "nothing is known" not in shown.output.lower(), kind
        assert "dead_lettered" in shown.stdout, kind
    assert "raise ValueError(said)" in run("show", ids["at once"]).stdout
    assert run("requeue", "--yes", ids["at once"]).exit_code == 0
    again = run("requeue", "--yes", ids["at once"])
    assert again.exit_code == 1
    assert "that copy waits in its queue" in again.stdout
    refused = run("dead", "purge", "--actor", "again")
    assert refused.exit_code == 2
    assert "give --yes" in refused.stderr
    assert json.loads(run("dead", "purge", "--actor", "again", "--yes", "--json").stdout)["done"] == {"done": 1}
    assert ids["after retries"] not in run("dead").stdout


def test_without_the_application_dead_letters_take_a_broker(server_url: str, namespace: str) -> None:
    result = CliRunner().invoke(cli, ["--redis-url", server_url, "--namespace", namespace, "dead"])
    assert result.exit_code == 2
    assert "give --broker" in result.stderr


def test_the_dead_letters_of_rabbitmq_are_known(rabbitmq_url: str, client: redis.Redis, namespace: str) -> None:
    app = RabbitApp(rabbitmq_url, client, namespace)
    try:
        once = app.actor(fail, actor_name="once", max_retries=0)
        ids = [once.send(f"cause {i}").message_id for i in range(3)]
        app.start()
        operations = Operations(app.broker)
        wait_until(lambda: len(by_id(operations.inspector)) == 3, what="all are dead letters")
        for worker in app.workers:
            worker.stop()
        assert operations.inspector.count_dead_letters() == 3
        found = by_id(operations.inspector, Choice(text="cause 1"))
        assert [(view.id, view.reason) for view in found.values()] == [(ids[1], "ValueError: cause 1")]
        assert all(view.at is not None for view in found.values())
        assert operations.requeue(ids[0]) is Done.DONE
        assert operations.requeue(ids[0]) is Done.REQUEUED
        assert operations.discard(ids[1]) is Done.DONE
        assert purged(operations, Choice()) == 1
        assert by_id(operations.inspector) == {}
    finally:
        app.close()


def test_no_password_is_shown_of_a_dead_letter(app: App) -> None:
    """A driver's error about a connection that failed has the URL in it, however long it is."""
    said = "cannot connect to amqp://app:S3cret@rabbit:5672/ " * 5
    app.actor(fail, actor_name="once", max_retries=0).send(said)
    app.actor(fail, actor_name="again", max_retries=1, min_backoff=1, max_backoff=1).send(said)
    app.actor(fail, actor_name="aside", max_retries=1, min_backoff=1, max_backoff=1, track_inflight=False).send(said)
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 3, what="all are dead letters")
    app.join()
    inspector = Inspector.of(app.broker)
    shown = repr((by_id(inspector), inspector.history()))
    assert "amqp://***@rabbit" in shown
    assert "S3cret" not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"message_timestamp": None},
        {"message_timestamp": "today"},
        {"message_timestamp": float("inf")},
        {"options": None},
        {"options": {"max_age": "1h"}},
        {"actor_name": ["once"]},
        {"actor_name": "\ud800"},
        {"message_id": 7},
    ],
    ids=str,
)
def test_a_strange_dead_letter_hides_no_other(app: App, change: dict[str, Any]) -> None:
    """Anybody can enqueue anything."""
    actor = app.actor(fail, actor_name="once", max_retries=0)
    ids = [actor.send("good").message_id, actor.send("strange").message_id]
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 2, what="both are dead letters")
    app.stop()
    key = f"{app.broker.namespace}:default.XQ.msgs"
    for letter, data in app.client.hgetall(key).items():
        if ids[1].encode() in data:
            app.client.hset(key, letter, json.dumps({**json.loads(data), **change}).encode())
    operations = Operations(app.broker)
    found = operations.inspector.dead_letters()
    assert found is not None
    assert len(found) == 2
    assert ids[0] in {view.id for view in found}
    assert operations.requeue(ids[0]) is Done.DONE
    assert purged(operations, Choice()) == 1
    assert app.dead_letters() == []


@pytest.mark.parametrize("id", ["Bestellung-ä", 'a"b', "a/b", "plain"])
def test_a_dead_letter_with_any_id_can_be_acted_on(app: App, id: str) -> None:
    """JSON writes some characters in another way."""
    actor = app.actor(fail, actor_name="once", max_retries=0)
    app.broker.enqueue(dataclasses.replace(actor.message("bad"), message_id=id))
    app.start()
    wait_until(app.dead_letters, what="it is a dead letter")
    app.stop()
    assert Operations(app.broker).discard(id) is Done.DONE
    assert app.dead_letters() == []


def test_large_dead_letters_are_read_in_several_commands(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queues, "MOST_BYTES", 1000)
    actor = app.actor(fail, actor_name="once", max_retries=0)
    ids = {actor.send("x" * 600).message_id for _ in range(5)}
    app.start()
    wait_until(lambda: len(app.dead_letters()) == 5, what="all are dead letters")
    app.stop()
    before = app.client.info("commandstats")["cmdstat_hmget"]["calls"]
    assert set(by_id(Inspector.of(app.broker))) == ids
    assert app.client.info("commandstats")["cmdstat_hmget"]["calls"] >= before + 5
