# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The web page as an HTTP client sees it: what it shows and hides, refuses and survives."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import dramatiq_inflight.dashboard
from dramatiq_inflight import Event, EventKind, InFlightTracker, Inspector, Operations
from dramatiq_inflight.dashboard import create_app
from dramatiq_inflight.dashboard.charts import draw as draw_charts
from dramatiq_inflight.dashboard.choice import GROUPS, EventChoice
from dramatiq_inflight.dashboard.headers import CSP, FRAGMENT
from dramatiq_inflight.dashboard.payload import CAP, pretty
from dramatiq_inflight.dashboard.serving import LoopbackOnly
from dramatiq_inflight.dashboard.shared import Shared
from dramatiq_inflight.dashboard.sheet import as_csv
from dramatiq_inflight.dashboard.tail import Tail
from dramatiq_inflight.dashboard.timeline import draw
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.doctor import examine
from dramatiq_inflight.inspection.history import revivals
from dramatiq_inflight.inspection.queues import Throughput
from dramatiq_inflight.inspection.views import Aside
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.replies import Claim
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.support.lab import Lab, copy_of
from tests.support.letters import read_all
from tests.support.scenes import Scene
from tests.support.servers import RedisServer, free_port, wait_until

HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}"

PAGES = ("/", "/?hours=24", "/messages", "/dead", "/history", "/nowhere", "/message?id=nobody", "/static/style.css")


@pytest.fixture
def inspector(lab: Lab) -> Inspector:
    return Inspector(lab.client, lab.namespace)


@pytest.fixture
def web(inspector: Inspector) -> FlaskClient:
    """Read only."""
    return create_app(inspector).test_client()


@pytest.fixture
def broker(server_url: str, namespace: str) -> Iterator[Any]:
    broker = RedisBroker(client=redis.Redis.from_url(server_url), namespace=namespace + "-broker")
    broker.add_middleware(InFlightTracker(namespace=namespace, heartbeat_interval=10, heartbeat_ttl=60))
    dramatiq.actor(broker=broker, track_inflight=True, actor_name="work")(lambda: None)
    yield broker
    broker.client.delete(*(broker.client.keys(f"{broker.namespace}:*") or ["-"]))


@pytest.fixture
def acting(broker: Any) -> FlaskClient:
    """With actions."""
    return create_app(Inspector.of(broker), Operations(broker)).test_client()


def orphan(lab: Lab, a: Store) -> Copy:
    """A message whose worker is dead."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    return copy


def token_of(page: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found, page
    return found[1]


def text(client: Any, path: str, **more: Any) -> str:
    answer = client.get(path, **more)
    assert answer.status_code == 200, path
    return str(answer.get_data(as_text=True))


def test_all_pages_say_what_there_is(client: redis.Redis, lab: Lab, web: FlaskClient, inspector: Inspector) -> None:
    Scene(client, lab.namespace).afternoon()
    overview = text(web, "/")
    for part in ("billing-1", "silent", "send_newsletter", "messages recovered", "poison", "The last hour"):
        assert part in overview
    assert 'href="/messages?instance=mail-0"' in overview
    found = inspector.messages(actor="charge")
    shown = text(web, "/messages?actor=charge&sort=instance&dir=asc")
    assert all(f'data-key="m-{view.id}"' in shown for view in found)
    assert "transcode</bdi>" not in shown
    assert shown.index("billing-0") < shown.index("billing-1")
    assert f"of {len(found)}, of 39 in flight" in shown
    assert "2 to" not in text(web, "/messages?state=requeued")
    assert "None of 39" in text(web, "/messages?older=1%20d")
    assert "was left out" in text(web, "/messages?older=nan")
    message = text(web, f"/message?id={found[0].id}")
    assert "customer" not in message, "no payload unless it is asked for"
    assert "&#34;customer&#34;" in text(web, f"/message?id={found[0].id}&payload=1")
    trouble = text(web, "/dead")
    assert "in the dead-letter queue, 4 crashes" in trouble
    assert "720 bytes" in trouble
    assert "died: out of memory" in text(web, "/history?kind=died")
    assert "joined" not in text(web, "/history?kind=died").partition('class="events"')[2]


def report(lab: Lab, *minutes: dict[str, list[int]]) -> None:
    """Write what workers have reported, for the last minutes up to the present one."""
    now = lab.client.time()[0] // 60
    first = now - len(minutes) + 1
    lab.client.hset(
        f"{lab.prefix}throughput", mapping={str(first + n): json.dumps(one) for n, one in enumerate(minutes)}
    )


def test_the_last_hour_is_drawn_by_the_minute(lab: Lab, a: Store, b: Store, web: FlaskClient) -> None:
    assert "Nothing ended, and nothing was recovered." in text(web, "/")
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    lab.return_to_broker(b, a, copy)
    report(lab, {"mail": [100, 0, 4, 20_000], HOSTILE: [20, 0, 0, 0]}, {"mail": [30, 0, 0, 70_000]})
    page = text(create_app(Inspector(lab.client, lab.namespace)).test_client(), "/")
    for name, summary in (
        ("Ended", "150, peak 120"),
        ("Failed", "4, peak 4"),
        ("Mean duration", "600 ms, peak 2.3 s"),
        ("Recovered", "1, peak 1"),
        ("Dead-lettered", "none"),
    ):
        assert f'aria-label="{name} by the minute: {summary}"' in page
    assert page.count('width="0.8"') == 6, "no bar for a minute without anything"


def test_charts_have_a_bar_for_each_minute() -> None:
    now = datetime(2026, 11, 27, 12, 30, tzinfo=UTC)
    minutes = Throughput.of({str(int(now.timestamp()) // 60 - ago): '{"q": [5, 0, 1, 500]}' for ago in (0, 30, 59, 60)})
    at = int(now.timestamp() * 1000)
    raw = {"event": "recovered", "message": "m", "worker": "w"}
    times = (at + 20_000, at - 59 * 60_000, at - 59 * 60_000 - 1)
    events = [Event.of(f"{when}-0", {**raw, "queue": queue}) for when in times for queue in ("q", "other")]
    charts = {chart.kind: chart for chart in draw_charts(minutes.hour(at), events)}
    assert [bar.x for bar in charts["ended"].bars] == [0, 29, 59]
    assert charts["ended"].bars[-1].title == "12:30: 5"
    assert charts["duration"].summary == "100 ms, peak 100 ms"
    assert [(bar.x, bar.title) for bar in charts["recovered"].bars] == [(0, "11:31: 2"), (59, "12:30: 2")]
    charts = {chart.kind: chart for chart in draw_charts(minutes.hour(at, "other"), events, "other")}
    assert [(chart.kind, chart.summary) for chart in charts.values() if chart.bars] == [("recovered", "2, peak 1")]


def test_a_queue_has_its_own_charts(lab: Lab, broker: Any, acting: FlaskClient) -> None:
    report(lab, {"default": [7, 0, 2, 0], "other": [99, 0, 0, 0]})
    page = text(acting, "/queues?queue=default&sort=depth")
    assert "Ended by the minute: 7, peak 7" in page
    assert 'href="/queues?queue=default&amp;sort=name&amp;dir=desc"' not in page
    assert 'href="/queues?queue=default&amp;sort=depth&amp;dir=asc"' in page, "the queue stays as the order changes"
    assert "The last hour of" not in text(acting, "/queues?queue=nonsense")


def test_times_are_those_of_the_visitor(lab: Lab, web: FlaskClient) -> None:
    at = datetime(2026, 11, 26, 20, 5, 7, tzinfo=UTC)
    event = {"event": "joined", "worker": "w", "instance": "pod"}
    lab.client.xadd(f"{lab.prefix}history", event, id=f"{int(at.timestamp() * 1000)}-0")
    page = text(web, "/history")
    assert ">20:05:07</time>" in page
    assert "Times are UTC." in page
    web.set_cookie("inflight-zone", "Asia/Tokyo")
    page = text(web, "/history")
    assert 'title="2026-11-26 20:05:07 UTC">05:05:07</time>' in page
    assert '<li class="day" data-key="d-2026-11-27">' in page
    assert "Times are those of Asia/Tokyo" in text(web, "/history", headers={FRAGMENT: "1"})
    assert "2026-11-26T20:05:07+00:00" in text(web, "/history?format=csv"), "a sheet has UTC"


@pytest.mark.parametrize(
    "zone", ["Nowhere/Land", "../../etc/passwd", "America", "/etc/localtime", "x" * 300, HOSTILE, ""]
)
def test_a_zone_that_is_none_is_utc(lab: Lab, web: FlaskClient, zone: str) -> None:
    web.set_cookie("inflight-zone", zone)
    assert "Times are UTC." in text(web, "/")


def test_an_age_with_many_blanks_is_read_in_linear_time(web: FlaskClient) -> None:
    began = time.thread_time()
    assert "was left out" in text(web, "/messages", query_string={"older": f"1{' ' * 100_000}x"})
    assert time.thread_time() - began < 5


def rows(web: FlaskClient, path: str) -> list[dict[str, str]]:
    answer = web.get(path)
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert answer.headers["Content-Security-Policy"] == CSP
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_a_list_is_there_as_comma_separated_values(client: redis.Redis, lab: Lab, web: FlaskClient) -> None:
    """All that match, in the same order."""
    Scene(client, lab.namespace).crowd(60, 250)
    found = rows(web, "/messages?queue=queue-1&sort=actor&dir=asc&format=csv&page=2")
    assert len(found) == 50
    assert [row["actor"] for row in found] == sorted(row["actor"] for row in found)
    assert {row["queue"] for row in found} == {"queue-1"}
    assert found[0]["started"].endswith("+00:00")
    assert 'href="?queue=queue-1&amp;format=csv"' in text(web, "/messages?queue=queue-1&page=1")
    events = rows(web, "/history?kind=died&format=csv")
    assert len(events) == 2500
    assert events[0]["text"].startswith("died: out of memory")
    assert rows(web, "/queues?format=csv") == rows(web, "/delayed?format=csv") == rows(web, "/dead?format=csv") == []


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\n=1", "  =1"])
def test_no_cell_is_a_formula(lab: Lab, a: Store, web: FlaskClient, formula: str) -> None:
    copy = copy_of(formula)
    copy.actor = formula
    lab.runs(a, copy)
    (row,) = rows(web, "/messages?format=csv")
    assert row["actor"].startswith("'")
    assert row["actor"] == row["id"]
    assert row["crashes"] == "0"


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("formula", ["=1+1", " +1", '"=1+1"', "-1", "@SUM(1)", "\uff1d1", "\uff201"])
def test_no_cell_is_a_formula_for_another_separator(
    lab: Lab, a: Store, web: FlaskClient, separator: str, formula: str
) -> None:
    """Where the comma is that of decimals, a spreadsheet separates by semicolons, whatever is quoted."""
    copy = copy_of("plain")
    copy.actor, copy.queue = f"a{separator}{formula}{separator}", f"b\n{formula}"
    lab.runs(a, copy)
    sheet = text(web, "/messages?format=csv")
    cells = re.split(f"[{separator}\n]", sheet)
    assert not [cell for cell in cells if cell.lstrip(' "').startswith(tuple("=+-@\uff1d\uff20"))]
    (row,) = rows(web, "/messages?format=csv")
    assert row["actor"] == f"a{separator}'{formula}{separator}"


def test_a_long_text_of_separators_is_written_in_linear_time() -> None:
    began = time.thread_time()
    for word in ("\t", ";", " ", '"', ";\t \n"):
        as_csv("sheet", Aside, [Aside(word * 200_000, "", "", 0)]).get_data()
    assert time.thread_time() - began < 5


def test_filters_are_cleared_by_one_link(lab: Lab, a: Store, web: FlaskClient) -> None:
    copy, other = copy_of("abcdef"), copy_of("other")
    lab.runs(a, copy)
    lab.runs(a, other)
    for path, clear in (("/messages?text=BCD", "/messages"), ("/history?message=abc", "/history")):
        assert f'<a class="button" href="{clear}">Clear</a>' in text(web, path)
        assert ">Clear</a>" not in text(web, clear)
    shown = text(web, "/messages?text=BCD")
    assert "1 to 1 of 1, of 2 in flight" in shown
    assert 'data-key="m-abcdef"' in shown
    assert "None of 2 in flight" in text(web, "/messages?text=nonsense")
    assert 'href="?text=BCD&amp;sort=actor&amp;dir=asc"' in shown, "what was chosen stays as the order changes"


def test_a_probe_is_told_if_the_page_works(own_server: RedisServer, namespace: str) -> None:
    web = create_app(Inspector.from_url(own_server.url, namespace)).test_client()
    answer = web.get("/healthz")
    assert (answer.status_code, answer.text, answer.mimetype) == (200, "ok\n", "text/plain")
    own_server.kill()
    wait_until(lambda: web.get("/healthz").status_code == 503, what="it says that Redis is away")
    own_server.start()
    wait_until(lambda: web.get("/healthz").status_code == 200, what="it is back")


def test_a_fragment_is_the_changing_part_alone(lab: Lab, a: Store, web: FlaskClient) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    for path in ("/", "/messages", "/dead", "/history", f"/message?id={copy.message_id}&payload=1"):
        answer = web.get(path, headers={FRAGMENT: "1"})
        assert answer.headers[FRAGMENT] == "1"
        body = answer.get_data(as_text=True)
        assert body.startswith('<div id="live">')
        assert "<html" not in body
        assert "message_timestamp" not in body, "nobody reads a payload every second"


def test_hostile_names_and_arguments_stay_text(
    lab: Lab, web: FlaskClient, acting: FlaskClient, inspector: Inspector
) -> None:
    evil = Store(Scripts(lab.client, lab.namespace, HOSTILE + "w", heartbeat_ttl=60, fence_ttl=60))
    evil.workers.register({"instance": HOSTILE, "host": HOSTILE, "pid": HOSTILE})
    other = lab.incarnation("b")
    copy, gone, poison = copy_of(HOSTILE), copy_of(HOSTILE + "2"), copy_of(HOSTILE + "3")
    for one in (copy, gone, poison):
        one.queue, one.actor = HOSTILE, HOSTILE
    lab.start(evil, copy, payload=json.dumps({"args": [HOSTILE]}).encode())
    lab.runs(evil, gone)
    lab.runs(evil, poison, limit=0)
    lab.client.hset(lab.prefix + "aside", HOSTILE + "4", HOSTILE)
    lab.return_to_broker(other, evil, gone)
    lab.claim(other, poison, evil)
    lab.client.zadd(lab.prefix + "heartbeats", {evil.me: 9e15})
    assert inspector.message(HOSTILE) is not None
    query = {"id": HOSTILE}
    for page in (
        *(text(web, path) for path in ("/", "/messages", "/dead", "/history")),
        text(web, "/message", query_string={**query, "payload": "1"}),
        text(web, "/message", query_string={"id": HOSTILE + "4", "payload": "1"}),
        text(web, "/messages", query_string={"actor": HOSTILE, "older": HOSTILE, "instance": "x" + HOSTILE}),
        text(web, "/history", query_string={"message": HOSTILE, "instance": "x" + HOSTILE, "kind": HOSTILE}),
        text(acting, "/message/requeue", query_string=query),
    ):
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert "<img" not in page
        assert "49" not in re.sub(r"[0-9a-f]{12,}", "", page.partition("img src")[2])[:60]
        assert " style=" not in page
        assert "<script>" not in page


def test_nothing_is_hidden_in_a_name(lab: Lab, acting: FlaskClient) -> None:
    """And what is chosen or done by such a name still is."""
    hidden = "m\x1b[2J\u202e"
    a, copy = lab.incarnation("a"), copy_of(hidden)
    copy.actor, copy.queue = "work", "default"
    lab.runs(a, copy)
    lab.kill(a)
    for path in ("/", "/messages", "/history", "/message?id=m%1b[2J%E2%80%AE"):
        page = text(acting, path)
        assert "\x1b" not in page
        assert "\u202e" not in page
    asked = text(acting, "/message/discard", query_string={"id": hidden})
    assert "m\\u001b[2J\\u202e" in asked
    form = {"id": hidden, "token": token_of(asked)}
    assert f'name="id" value="{hidden}"' in asked
    assert acting.post("/message/discard", data=form).status_code == 303


def test_every_answer_allows_browsers_next_to_nothing(lab: Lab, web: FlaskClient, acting: FlaskClient) -> None:
    answers = [client.get(path) for client in (web, acting) for path in PAGES]
    answers += [web.post("/"), web.get("/", headers={FRAGMENT: "1"}), acting.post("/message/requeue")]
    answers += [acting.post("/message/requeue", data={"id": "x" * 100_000})]
    assert {answer.status_code for answer in answers} == {200, 404, 405, 403, 413}
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        is_file = answer.request.path.startswith("/static/")
        assert answer.headers["Cache-Control"] == ("public, max-age=86400" if is_file else "no-store")


def test_without_operations_nothing_can_be_changed(lab: Lab, a: Store, web: FlaskClient) -> None:
    copy = orphan(lab, a)
    before = {name: lab.client.dump(lab.prefix + name) for name in lab.names()}
    for action in ("requeue", "dead-letter", "discard"):
        assert web.get(f"/message/{action}?id={copy.message_id}").status_code == 404
        assert web.post(f"/message/{action}", data={"id": copy.message_id}).status_code == 404
    for path in ("/", "/messages", "/dead", "/history", "/message"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert web.open(path, method=method).status_code == 405
    page = text(web, f"/message?id={copy.message_id}")
    assert "Requeue" not in page
    assert "Read only" in page
    assert "Set-Cookie" not in web.get("/").headers
    assert {name: lab.client.dump(lab.prefix + name) for name in lab.names()} == before


def test_looking_changes_nothing(lab: Lab, a: Store, acting: FlaskClient) -> None:
    copy = orphan(lab, a)
    before = {name: lab.client.dump(lab.prefix + name) for name in lab.names()}
    for path in (*PAGES, f"/message?id={copy.message_id}&payload=1"):
        acting.get(path)
    for action in ("requeue", "dead-letter", "discard"):
        assert acting.get(f"/message/{action}?id={copy.message_id}&force=yes").status_code == 200
    assert {name: lab.client.dump(lab.prefix + name) for name in lab.names()} == before


@pytest.mark.parametrize("action", ["requeue", "dead-letter", "discard"])
def test_an_action_with_its_form_is_done(
    lab: Lab, a: Store, acting: FlaskClient, inspector: Inspector, action: str
) -> None:
    copy = orphan(lab, a)
    page = acting.get(f"/message/{action}?id={copy.message_id}")
    cookie = page.headers["Set-Cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    data = {"id": copy.message_id, "token": token_of(page.get_data(as_text=True))}
    headers = {"Host": "evil.example", "Cookie": cookie.partition(";")[0]}
    answer = acting.application.test_client(use_cookies=False).post(f"/message/{action}", data=data, headers=headers)
    assert answer.status_code == 303
    assert answer.headers["Location"] == f"/message?id={copy.message_id}&done={action}"
    assert [event.name for event in inspector.history() if event.message_id] == [
        {"requeue": "requeued", "dead-letter": "condemned", "discard": "discarded"}[action]
    ]
    assert "done." in text(acting, answer.headers["Location"])


def test_a_form_that_was_not_made_here_is_refused(lab: Lab, a: Store, broker: Any, acting: FlaskClient) -> None:
    copy, other = orphan(lab, a), copy_of()
    lab.runs(lab.incarnation("b"), other)
    path = f"/message/discard?id={copy.message_id}"
    token = token_of(text(acting, path))
    good = {"id": copy.message_id, "token": token}
    stranger = create_app(Inspector.of(broker), Operations(broker)).test_client()
    theirs = token_of(text(stranger, path))

    def refused(client: FlaskClient, path: str = "/message/discard", **more: Any) -> bool:
        return client.post(path, **more).status_code == 403

    assert refused(acting)
    assert refused(acting, data={"id": copy.message_id})
    assert refused(acting, data={**good, "token": token[:-20] + token[-20:].swapcase()})
    assert refused(acting, data={**good, "token": theirs}), "another process, with another key"
    assert refused(acting, "/message/dead-letter", data=good), "it was for something else"
    assert refused(acting, data={**good, "id": other.message_id}), "it was for another message"
    assert refused(acting, data=good, headers={"Sec-Fetch-Site": "cross-site"})
    assert refused(acting.application.test_client(), data=good), "without its cookie"
    assert lab.state(copy) == "running"
    assert acting.post("/message/discard", data=good).status_code == 303


def test_what_makes_no_sense_in_an_address_is_left_out(lab: Lab, a: Store, acting: FlaskClient) -> None:
    """It breaks no page, and shows nothing that was not meant."""
    for odd in ("9" * 5000, "\u00b2", "-1", ""):
        assert "The last hour" in text(acting, "/", query_string={"hours": odd})
        assert acting.get("/messages", query_string={"page": odd}).status_code == 200
    assert acting.get("/message?id=").status_code == 404  # events of workers are of no message
    acting.set_cookie("inflight-form", "x" * 1000)
    copy = orphan(lab, a)
    cookie = acting.get(f"/message/discard?id={copy.message_id}").headers["Set-Cookie"]
    assert len(cookie) < 200


def test_every_kind_of_event_can_be_chosen() -> None:
    """By itself, and in a group of its like."""
    grouped = set().union(*(kinds for _, kinds in GROUPS.values()))
    assert grouped == {kind.value for kind in EventKind} == set(EventChoice.kinds())


def test_processes_with_one_key_take_each_others_forms(lab: Lab, a: Store, broker: Any) -> None:
    copy = orphan(lab, a)
    one, two = (
        create_app(Inspector.of(broker), Operations(broker), secret_key="the same").test_client() for _ in range(2)
    )
    page = one.get(f"/message/discard?id={copy.message_id}")
    name, _, value = page.headers["Set-Cookie"].partition(";")[0].partition("=")
    two.set_cookie(name, value)
    data = {"id": copy.message_id, "token": token_of(page.get_data(as_text=True))}
    assert two.post("/message/discard", data=data).status_code == 303


def test_what_runs_on_a_living_worker_takes_force(lab: Lab, a: Store, acting: FlaskClient) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    page = text(acting, f"/message/discard?id={copy.message_id}")
    assert "By force, though it is running." in page
    data = {"id": copy.message_id, "token": token_of(page)}
    answer = acting.post("/message/discard", data=data)
    assert answer.status_code == 409
    assert "It takes force" in answer.get_data(as_text=True)
    assert lab.state(copy) == "running"
    assert acting.post("/message/discard", data={**data, "force": "yes"}).status_code == 303
    assert lab.state(copy) != "running"
    answer = acting.post("/message/discard", data={**data, "force": "yes"})
    assert answer.status_code == 409, "it is settled"


def test_what_was_requeued_or_discarded_is_no_trouble_any_more(
    lab: Lab, a: Store, b: Store, inspector: Inspector
) -> None:
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    lab.kill(a)
    claimed = lab.claim(b, copy, a)
    assert claimed.verdict is Claim.POISONED
    b.recovery.confirm_copies([Enqueued(claimed, "r2", "default", 0)], dead="a")
    tail = Tail(inspector)
    assert [event.message_id for event in tail.troubled()] == [copy.message_id]
    lab.client.xadd(lab.prefix + "history", {"event": "requeued", "message": copy.message_id})
    assert Tail(inspector).troubled() == []


def test_the_tail_reads_what_is_new_and_notices_what_is_gone(lab: Lab, inspector: Inspector) -> None:
    tail = Tail(inspector)
    assert tail.read() == []
    lab.incarnation("a")
    assert [event.name for event in tail.read()] == ["joined"]
    lab.incarnation("b")
    assert [event.worker for event in tail.read()] == ["b", "a"]
    assert tail.instance_of("a") == "pod-a"
    assert [event.worker for event in tail.read()] == ["b", "a"]
    lab.client.delete(lab.prefix + "history")
    assert tail.read() == []
    assert tail.instance_of("a") == ""


def test_under_a_prefix_all_links_lead_there(lab: Lab, a: Store, acting: FlaskClient) -> None:
    copy = orphan(lab, a)

    def nothing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [])
        return []

    app: Any = DispatcherMiddleware(nothing, {"/ops/inflight": acting.application})
    client = Client(app)
    for path in ("", "/", "/messages", "/dead", "/history", f"/message?id={copy.message_id}", "/nowhere"):
        answer = client.get("/ops/inflight" + path)
        assert answer.status_code == (404 if path == "/nowhere" else 200)
        links = re.findall(r'(?:href|src|action)="([^"#?][^"]*)"', answer.get_data(as_text=True))
        assert links
        assert all(link.startswith("/ops/inflight/") for link in links), links
    page = client.get(f"/ops/inflight/message/requeue?id={copy.message_id}")
    assert "Path=/ops/inflight/" in page.headers["Set-Cookie"]
    data = {"id": copy.message_id, "token": token_of(page.get_data(as_text=True))}
    answer = client.post("/ops/inflight/message/requeue", data=data)
    assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/ops/inflight/message")
    assert client.get("/ops/inflight/static/live.js").status_code == 200


@pytest.mark.parametrize("path", ["//history", "//evil.example//messages", "/messages/", "//evil.example/%2e%2e"])
def test_no_answer_is_made_of_the_host_that_is_named(web: FlaskClient, path: str) -> None:
    answer = web.get(path, headers={"Host": "evil.example"})
    assert "Location" not in answer.headers
    assert "evil.example/" not in answer.get_data(as_text=True)


def test_served_on_loopback_it_answers_to_no_other_name(web: FlaskClient) -> None:
    client = Client(LoopbackOnly(web.application))
    for host, code in (
        *(("localhost:8010", 200), ("127.0.0.1", 200), ("[::1]:8010", 200), ("rebound.example:8010", 421)),
        *(("localhost.evil.example", 421), ("", 421)),
    ):
        assert client.get("/", headers={"Host": host}).status_code == code, host


def test_it_serves_itself(server_url: str, namespace: str) -> None:
    port = free_port()
    code = "import sys; from dramatiq_inflight import Inspector; from dramatiq_inflight.dashboard import serve; "
    code += "serve(Inspector.from_url(sys.argv[1], sys.argv[2]), None, port=int(sys.argv[3]))"
    process = subprocess.Popen([sys.executable, "-c", code, server_url, namespace, str(port)])

    def answers() -> bool:
        assert process.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/messages") as answer:
                return b"Nothing is in flight." in answer.read()
        except urllib.error.URLError:
            return False

    try:
        wait_until(answers, what="it answers")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "rebound.example"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(request)
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_those_who_wait_for_a_reading_share_it_and_its_failure() -> None:
    began, gate, calls = threading.Event(), threading.Event(), []

    def read() -> int:
        calls.append(1)
        began.set()
        gate.wait(120)
        raise redis.ConnectionError

    shared, failed = Shared(read), []

    def ask() -> None:
        try:
            shared.get()
        except redis.ConnectionError:
            failed.append(1)

    first = threading.Thread(target=ask)
    first.start()
    began.wait(120)
    others = [threading.Thread(target=ask) for _ in range(4)]
    for other in others:
        other.start()
    gate.set()  # whoever does not wait yet reads again, and fails as well
    for thread in (first, *others):
        thread.join()
    assert len(failed) == 5
    asked = len(calls)
    ask()
    assert len(calls) == asked + 1, "who asks later is not told of it"
    assert Shared(lambda: 7).get() == 7


def test_a_life_of_which_the_history_has_lost_a_part_is_drawn() -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)

    def event(minutes: float, name: str, worker: str) -> Event:
        at = now - timedelta(minutes=minutes)
        raw = {"event": name, "worker": worker, "instance": "pod", "pid": "1"}
        return Event.of(f"{int(at.timestamp() * 1000)}-0", raw)

    events = [
        *(event(1, "cleared", "late"), event(3, "died", "late"), event(10, "died", "half"), event(20, "left", "went")),
        *(event(30, "joined", "vanished"), event(50, "joined", "went"), event(90, "left", "before")),
    ]
    timeline = draw(events, [], now, 1)
    (lane,) = timeline.lanes
    found = {(bar.kind, bar.state, bar.x, bar.width) for bar in lane.bars}
    assert found == {
        ("life", "died", 0.0, 95.0),
        ("unrecovered", "died", 95.0, 3.33),
        ("life", "died", 0.0, 83.33),
        ("life", "left", 16.67, 50.0),
        ("life", "gone", 50.0, 0.3),
    }
    assert (lane.deaths, lane.trouble) == (2, False)


def test_a_worker_that_wakes_is_alive_as_revived(
    lab: Lab, a: Store, b: Store, web: FlaskClient, inspector: Inspector
) -> None:
    """Also once nothing was left of it: with its boot time, and with the messages that may have run twice."""
    booted = inspector.workers()[0].booted
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    dead = b.workers.incarnation(a.me)
    assert b.workers.record_death(dead)
    lab.return_to_broker(b, a, copy)
    assert b.workers.forget(a.me)
    assert a.workers.register({"instance": "pod-a", "host": "h", "pid": "1"}) is None
    (seen,) = (worker for worker in inspector.workers() if worker.id == a.me)
    assert seen.state == "alive"
    assert seen.booted is not None
    assert booted is not None
    assert abs((seen.booted - booted).total_seconds()) < 1
    assert next(event.name for event in inspector.history() if event.worker == a.me) == "revived"
    (revival,) = revivals(inspector.history())
    assert (revival.instance, revival.recovered) == ("pod-a", 1)
    (finding,) = (finding for finding in examine(None, inspector) if finding.code == "revived")
    assert "live: 1; 1 of their messages were recovered: pod-a (process 1, 1 messages)" in finding.title
    (lane,) = (
        lane
        for lane in draw(Tail(inspector).events(), inspector.workers(), datetime.now(UTC), 1).lanes
        if lane.name == "pod-a"
    )
    (bar,) = (bar for bar in lane.bars if bar.kind == "life")
    assert bar.state == "alive"
    assert "revived" in bar.title
    assert "1 of its messages were recovered meanwhile, and may have run twice" in text(web, "/")


def test_the_beginning_of_an_id_leads_to_its_message(lab: Lab, a: Store, web: FlaskClient) -> None:
    copy = copy_of("abcdef-1")
    lab.runs(a, copy)
    answer = web.get("/message?id=abcd")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/message?id=abcdef-1")
    assert web.get("/message?id=abce").status_code == 404
    assert ">abcdef-1</a>" in text(web, "/messages"), "whole, to be copied"


def test_marks_of_several_kinds_are_all_drawn() -> None:
    """In a long range they come close to each other; and what nobody knows the instance of makes no lane."""
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    raw = {"message": "m", "worker": "w", "instance": "pod", "queue": "default", "actor": "work"}
    at = int(now.timestamp() * 1000) - 600_000
    names = ("poison", "recovered", "recovered", "dead_lettered")
    events = [Event.of(f"{at + i}-0", {**raw, "event": name}) for i, name in enumerate(names)][::-1]
    unknown = Event.of(f"{at}-9", {**raw, "event": "dead_lettered", "worker": "", "instance": ""})
    (lane,) = draw([*events, unknown], [], now, 24).lanes
    (mark,) = lane.marks
    assert lane.name == "pod"
    assert mark.shapes == [("poison", 1), ("recovered", 2)]


def test_ticks_are_at_whole_hours_and_minutes() -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    timeline = draw([], [], now, 1)
    assert [tick for _, tick in timeline.ticks] == ["11:10", "11:20", "11:30", "11:40", "11:50", "12:00"]
    assert draw([], [], now, 24).lanes == []


def test_when_redis_is_away_it_says_so_and_comes_back(
    own_server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.url.replace("redis://", "redis://default:a-password@")
    own_server.client().config_set("requirepass", "a-password")
    inspector = Inspector.from_url(url, namespace)
    web = create_app(inspector).test_client()
    assert web.get("/").status_code == 200
    own_server.kill()
    caplog.clear()
    wait_until(lambda: web.get("/").status_code != 200, what="what was read just before is too old")
    for path in ("/", "/messages", "/message?id=x", "/dead", "/history"):
        for headers in ({}, {FRAGMENT: "1"}):
            answer = web.get(path, headers=headers)
            body = answer.get_data(as_text=True)
            assert answer.status_code == 503, path
            assert answer.headers["Retry-After"]
            assert "Redis cannot be reached" in body
            for secret in ("a-password", str(own_server.port), "127.0.0.1", "Traceback", "redis."):
                assert secret not in body
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    assert "a-password" not in caplog.text
    own_server.start()
    own_server.client().config_set("requirepass", "a-password")
    assert web.get("/").status_code == 200


def test_what_redis_refuses_is_an_error_without_a_traceback(lab: Lab, web: FlaskClient) -> None:
    lab.client.set(lab.prefix + "heartbeats", "not a sorted set")
    answer = web.get("/")
    assert answer.status_code == 503
    assert "Redis refuses" in answer.get_data(as_text=True)
    assert "WRONGTYPE" not in answer.get_data(as_text=True)


def test_a_bug_is_not_shown(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    app: Flask = create_app(inspector)
    monkeypatch.setattr(inspector, "aside", lambda: 1 / 0)
    answer = app.test_client().get("/dead")
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.get_data(as_text=True)
    assert answer.headers["Content-Security-Policy"] == CSP


def test_a_payload_is_shown_as_json_or_as_bytes() -> None:
    assert pretty(b'{"args":[1,"\xc3\xa9"]}') == ('{\n  "args": [\n    1,\n    "é"\n  ]\n}', False)
    assert pretty(b"\x80\x04K\x01.") == ("\\x80\\u0004K\\u0001.", False), "a pickle is not loaded"
    assert pretty('"\u202eevil"'.encode())[0] == '"\\u202eevil"', "nothing turns the text around"
    assert pretty(b"[" * 100_000)[1], "too deep"
    assert pretty(b"9" * 10_000) == ("9" * 10_000, False)
    shown, cut = pretty(json.dumps(["x" * 1_000_000]).encode())
    assert (len(shown), cut) == (CAP, True)


def test_many_are_shown_in_brief(client: redis.Redis, lab: Lab, web: FlaskClient) -> None:
    Scene(client, lab.namespace).crowd(60, 250)
    overview = text(web, "/?hours=24")
    assert "24 of 60 instances are drawn" in overview
    assert "52, by name" in overview
    first, second = text(web, "/messages"), text(web, "/messages?page=2")
    assert "1 to 100 of 250" in first
    assert "101 to 200 of 250" in second
    assert "page=3" in second
    assert "201 to 250" in text(web, "/messages?page=99999")
    assert "1 to 100" in text(web, "/messages?page=x")


def _luminance(colour: str) -> float:
    full = "".join(2 * digit for digit in colour) if len(colour) == 3 else colour
    parts = [int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_either_theme(dark: bool) -> None:
    """AA asks for 4.5."""
    css = (Path(dramatiq_inflight.dashboard.__file__).parent / "static" / "style.css").read_text()
    light, _, rest = css.partition("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z-]+): #([0-9a-f]{3,6})", light))
    if dark:
        colours |= dict(re.findall(r"--([a-z-]+): #([0-9a-f]{3,6})", rest))
    pairs = [(ink, ground) for ink in ("text", "muted", "link") for ground in ("card", "ground", "still")]
    pairs += [(ink, ground) for ink in ("bad", "good", "warn", "poison") for ground in ("card", f"{ink}-soft")]
    pairs += [("calm", "calm-soft"), ("text", "warn-soft"), ("card", "link"), ("card", "bad")]
    poor = {pair: ratio for pair in pairs if (ratio := _contrast(colours[pair[0]], colours[pair[1]])) < 4.5}
    assert not poor


def test_nothing_comes_from_elsewhere() -> None:
    """No page, style or script names another host."""
    for path in Path(dramatiq_inflight.dashboard.__file__).parent.rglob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"(?:https?:)?//[a-z0-9]+\.[a-z]", path.read_text()), path.name


def test_ordinary_dead_letters_are_shown_with_their_reasons(broker: Any, acting: FlaskClient) -> None:
    failed = {"retries": 2, "traceback": f"x\nValueError: {HOSTILE}"}
    hostile = dramatiq.Message[Any]("default", HOSTILE, (), {}, failed, "m1")
    failed = {"retries": 1, "traceback": "y\nKeyError: 'card'"}
    plain = dramatiq.Message[Any]("default", "work", (), {}, failed, "m2")
    key = f"{broker.namespace}:default.XQ"
    for at, message in enumerate((hostile, plain), 1_790_000_000_000):
        broker.client.zadd(key, {f"r{at}": at})
        broker.client.hset(f"{key}.msgs", f"r{at}", message.encode())
    trouble = read_all(acting)
    assert trouble.index('data-key="p-m2"') < trouble.index('data-key="p-m1"'), "newest first"
    assert "failed 2 times: at last but one KeyError: &#39;card&#39;" in trouble
    shown = text(acting, "/message?id=m2")
    assert "Dead since" in shown
    assert "KeyError" in shown.partition("Traceback")[2]
    for page in (trouble, text(acting, "/message?id=m1")):
        assert "<img" not in page
    assert "<b>2</b> dead-lettered" in text(acting, "/")
    asked = text(acting, "/message/discard?id=m2")
    answer = acting.post("/message/discard", data={"id": "m2", "token": token_of(asked)})
    assert answer.status_code == 303
    assert broker.client.zcard(key) == 1
