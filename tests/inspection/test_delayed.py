# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Delayed messages: when each is due, which attempt that is, and why the last one failed."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner
from dramatiq import Message

from dramatiq_inflight import Choice, DelayedView, Inspector
from dramatiq_inflight.brokers import redis as redis_queues
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.dashboard import create_app
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.letters import bury, read_all
from tests.support.servers import wait_until

HOSTILE = "<img src=x onerror=alert(1)>\u202e"


def delayed_of(app: App, choice: Choice = Choice()) -> list[DelayedView]:  # noqa: B008  it is frozen
    found = Inspector.of(app.broker).delayed(choice)
    assert found is not None
    return found


def retry(app: App, actor: Any, error: str, *, seconds: float = 3600, retries: int = 2) -> Message[Any]:
    """Enqueue a message as a retry."""
    traceback = f'Traceback (most recent call last):\n  File "shop.py", line 1, in charge\n{error}\n'
    message = actor.message().copy(options={"retries": retries, "traceback": traceback})
    sent: Message[Any] = app.broker.enqueue(message, delay=int(seconds * 1000))
    return sent


def test_what_waits_is_listed_by_its_time(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    other = app.actor(lambda: None, actor_name="other", queue_name="mail")
    late = work.send_with_options(delay=7_200_000)
    soon = other.send_with_options(delay=60_000)
    again = retry(app, work, "ValueError: no card 7", seconds=600)
    work.send()
    found = delayed_of(app)
    assert [view.id for view in found] == [soon.message_id, again.message_id, late.message_id]
    assert [view.attempt for view in found] == [1, 3, 1]
    assert [view.reason for view in found] == ["", "ValueError: no card 7", ""]
    assert found[1].cause == "ValueError: no card #"
    assert "shop.py" in found[1].traceback
    assert found[0].at is not None
    assert 0 < (found[0].at - datetime.now(UTC)).total_seconds() <= 60
    assert [view.id for view in delayed_of(app, Choice(queue="mail"))] == [soon.message_id]
    assert [view.id for view in delayed_of(app, Choice(cause="ValueError: no card #"))] == [again.message_id]
    assert [view.id for view in delayed_of(app, Choice(text="SHOP.PY"))] == [again.message_id]


def test_what_a_worker_holds_is_listed_until_it_runs(app: App) -> None:
    """A worker fetches what is delayed at once, and keeps it in its memory."""

    def fail() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise ValueError("first")

    bad = app.actor(fail, actor_name="bad", max_retries=3, min_backoff=600_000, max_backoff=600_000)
    message = bad.send()
    app.start()
    wait_until(lambda: [view.attempt for view in delayed_of(app)] == [2], what="its retry waits")
    wait_until(lambda: app.client.llen(f"{app.broker.namespace}:default.DQ") == 0, what="the worker holds it")
    (view,) = delayed_of(app)
    assert (view.id, view.reason) == (message.message_id, "ValueError: first")


def test_an_index_reads_only_what_is_new(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_queues, "LETTERS", 3)
    work = app.actor(lambda: None, actor_name="work")
    for n in range(10):
        work.send_with_options(delay=60_000 + n)
    index = Inspector.of(app.broker).index_delayed()
    assert index is not None
    assert index.refresh()
    before = {view.id: view for view in index.found}
    assert len(before) == 10
    key = f"{app.broker.namespace}:default.DQ"
    gone = app.client.lpop(key)
    app.client.hdel(f"{key}.msgs", gone)
    more = work.send_with_options(delay=1)
    assert index.refresh()
    assert index.found[0].id == more.message_id
    assert len(index.found) == 10
    assert all(view is before[view.id] for view in index.found[1:])


@pytest.mark.parametrize(
    "options",
    [{"eta": "tomorrow"}, {"eta": None}, {"eta": 1e300}, {"retries": "x"}, {"traceback": 7}, {"traceback": HOSTILE}],
    ids=str,
)
def test_strange_messages_hide_no_other(app: App, options: dict[str, Any]) -> None:
    work = app.actor(lambda: None, actor_name="work")
    good = work.send_with_options(delay=60_000)
    key, rid = f"{app.broker.namespace}:default.DQ", str(uuid.uuid4())
    strange = work.message().copy(options={"eta": 1, **options})
    app.client.hset(f"{key}.msgs", mapping={rid: strange.encode(), "r2": b"\xffnonsense"})
    app.client.rpush(key, rid, "r2", "nothing")
    assert {view.id for view in delayed_of(app)} == {good.message_id, strange.message_id, "r2"}
    shown = read_all(create_app(Inspector.of(app.broker)).test_client(), "/delayed")
    assert good.message_id in shown
    assert "<img" not in shown
    assert "\u202e" not in shown


def test_the_command_line_lists_what_waits(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("an_app")
    module.broker = app.broker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "an_app", module)

    def run(*args: str) -> Any:
        return CliRunner().invoke(cli, ["--broker", "an_app:broker", "delayed", *args])

    work = app.actor(lambda: None, actor_name="work")
    assert "There are none" in run().stderr
    plain = work.send_with_options(delay=7_200_000)
    again = retry(app, work, "ValueError: no card")
    listed = run().stdout
    assert listed.index(again.message_id) < listed.index(plain.message_id)
    assert "ValueError: no card" in listed
    assert plain.message_id not in run("--retries").stdout
    said = json.loads(run("--json", "--limit", "1").stdout)
    assert said["total"] == 2
    assert set(said["delayed"][0]) == {field.name for field in dataclasses.fields(DelayedView)}
    wrong = run("--queue", "defualt")
    assert wrong.exit_code == 2
    assert "There is no queue 'defualt'" in wrong.stderr


def test_the_page_lists_what_waits(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    web = create_app(Inspector.of(app.broker)).test_client()
    assert "Nothing waits for its time." in read_all(web, "/delayed")
    for n in range(120):
        retry(app, work, f"ValueError: no card {n}")
    plain = work.send_with_options(delay=60_000)

    def shown(query: str = "") -> str:
        return web.get(f"/delayed{query}").text

    wait_until(lambda: "1 to 100 of 121, due soonest first" in shown(), what="it is read again")
    assert plain.message_id in shown()
    assert "ValueError: no card #" in shown()
    assert "of 120, due soonest first; 121 wait" in shown("?cause=ValueError:%20no%20card%20%23")
    assert 'href="?queue=default&amp;page=2"' in shown("?queue=default")
    assert 'href="/delayed?queue=default"' in web.get("/queues").text


def test_a_time_that_no_zone_has_is_utc(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    for at in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(microsecond=0, tzinfo=UTC)):
        message = work.message().copy(options={"eta": int(at.timestamp()) * 1000})
        app.broker.enqueue(message, delay=3_600_000)
        key = f"{app.broker.namespace}:default.DQ.msgs"
        (copy,) = app.client.hkeys(key)
        app.client.hset(key, copy, message.encode())
        for zone in ("Pacific/Kiritimati", "America/New_York"):
            web = create_app(Inspector.of(app.broker)).test_client()
            web.set_cookie("inflight-zone", zone)
            assert f"{at:%Y-%m-%d %H:%M:%S} UTC" in read_all(web, "/delayed")
        app.client.delete(key, f"{app.broker.namespace}:default.DQ")


def test_half_a_character_in_an_error_breaks_no_page(app: App) -> None:
    work = app.actor(lambda: None, actor_name="work")
    retry(app, work, "ValueError: \ud800")
    bury(app.broker, work, ["ValueError: \ud800"])
    web = create_app(Inspector.of(app.broker)).test_client()
    for path in ("/delayed", "/dead"):
        shown = read_all(web, path)
        assert r"ValueError: \ud800" in shown
        (link,) = re.findall(r'href="(\?cause=[^"]+)"', shown)
        assert r"ValueError: \ud800" in read_all(web, f"{path}{link}")


def test_without_the_application_it_is_said(lab: Lab) -> None:
    assert Inspector(lab.client, lab.namespace).delayed() is None
    web = create_app(Inspector(lab.client, lab.namespace)).test_client()
    assert "given the application's RedisBroker" in read_all(web, "/delayed")
