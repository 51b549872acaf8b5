# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The page of the dead letters: found by cause, queue, actor and text, and acted on one by one or all at once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from dramatiq_inflight import Choice, Inspector, Operations
from dramatiq_inflight.dashboard import acts, create_app
from dramatiq_inflight.inspection import dead_letters
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.letters import bury, read_all
from tests.support.servers import RedisServer, wait_until

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}\u202e"


@pytest.fixture
def web(app: App) -> FlaskClient:
    return create_app(Inspector.of(app.broker), Operations(app.broker)).test_client()


def form_of(page: str) -> dict[str, Any]:
    """The hidden fields of the only form that is posted."""
    form = page.partition('<form method="post"')[2].partition("</form>")[0]
    fields: dict[str, Any] = {}
    for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form):
        fields.setdefault(name, []).append(value.replace("&#39;", "'").replace("&#34;", '"').replace("&amp;", "&"))
    return fields


def shop(app: App) -> tuple[list[str], list[str]]:
    """Two actors with three causes; the ids of all, and of those of one cause."""
    charge = app.actor(app.ran.append, actor_name="charge")
    mail = app.actor(app.ran.append, actor_name="mail", queue_name="mail")
    declined = bury(app.broker, charge, [f"CardDeclined: card {n} of 'customer {n}'" for n in range(5)])
    others = bury(app.broker, charge, ["KeyError: 'total'"] * 20)
    others += bury(app.broker, mail, ["TimeoutError: no answer in 30 s"] * 150)
    return declined + others, declined


def test_letters_are_counted_by_cause_and_filtered(app: App, web: FlaskClient) -> None:
    _, declined = shop(app)
    shown = read_all(web)
    assert "1 to 100 of 175, newest first" in shown
    assert "page 1 of 2" in shown
    assert re.findall(r'class="number">(\d+)</td>\s+<td role="cell" data-label="Cause"', shown) == ["150", "20", "5"]
    assert "CardDeclined: card # of #" in shown
    assert "TimeoutError: no answer in # s" in shown
    link = re.findall(r'href="(\?cause=CardDeclined[^"]*)"', shown)[0]
    shown = read_all(web, f"/dead{link}")
    assert "1 to 5 of 5, newest first; there are 175" in shown
    assert set(re.findall(r'name="id" value="([^"]+)"', shown)) == set(declined)
    assert "Requeue all 5 that match" in shown
    assert "of 25" in read_all(web, "/dead?actor=charge")
    assert "of 150" in read_all(web, "/dead?queue=mail")
    assert "of 5, newest" in read_all(web, "/dead?text=carddeclined")
    assert "of 175" in read_all(web, "/dead?text=in%20charge"), "that is in the traceback"
    assert "None of 175 matches" in read_all(web, "/dead?text=nonsense")
    assert 'href="?queue=mail&amp;page=2"' in read_all(web, "/dead?queue=mail")


def test_an_unknown_id_is_not_looked_for_in_all_letters(
    app: App, web: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has their ids; to read 50,000 letters takes seconds."""
    _, (id, *_) = shop(app)
    read_all(web)
    monkeypatch.delattr(Inspector, "dead_letters")
    assert web.get("/message?id=nobody").status_code == 404
    assert web.get(f"/message?id={id[:13]}").location == f"/message?id={id}"
    late = bury(app.broker, app.broker.get_actor("charge"), ["KeyError: 'late'"])[0]
    assert web.get(f"/message?id={late[:13]}").location == f"/message?id={late}"


def test_all_that_match_are_requeued_and_run(app: App, web: FlaskClient) -> None:
    _, declined = shop(app)
    read_all(web)
    page = web.get("/dead/act?action=requeue&text=CardDeclined").get_data(as_text=True)
    assert "Requeue 5 dead letters?" in page
    assert "charge</bdi>" in page
    late = bury(app.broker, app.broker.get_actor("charge"), ["CardDeclined: late"], age=-3600)
    answer = web.post("/dead/act", data=form_of(page))
    assert answer.status_code == 200
    assert "5 dead letters requeued" in answer.text
    left = Inspector.of(app.broker).dead_letters(Choice(text="CardDeclined"))
    assert [view.id for view in left or ()] == late, "it came after the question"
    assert "of 171" in read_all(web)
    app.start()
    wait_until(lambda: len(app.ran) == 5, what="they run")
    assert sorted(app.ran) == list(range(5))
    assert declined


def test_selected_letters_are_discarded(app: App, web: FlaskClient) -> None:
    ids, _ = shop(app)
    read_all(web)
    chosen = [ids[0], ids[7], ids[100]]
    page = web.get("/dead/act", query_string={"action": "discard", "id": chosen}).get_data(as_text=True)
    assert "Discard 3 dead letters?" in page
    answer = web.post("/dead/act", data=form_of(page))
    assert "3 dead letters discarded" in answer.text
    left = Inspector.of(app.broker).dead_letters() or []
    assert {view.id for view in left} == set(ids) - set(chosen)
    again = web.post("/dead/act", data=form_of(page))
    assert "0 dead letters discarded" in again.text


def test_a_form_is_good_for_what_it_asked_about(app: App, web: FlaskClient) -> None:
    """Not for more, not for another action, not from elsewhere, and not without its cookie."""
    shop(app)
    read_all(web)
    form = form_of(web.get("/dead/act?action=requeue&text=CardDeclined").get_data(as_text=True))
    changes: tuple[dict[str, list[str]], ...] = (
        {"token": ["nonsense"]},
        {"token": []},
        {"action": ["discard"]},
        {"text": []},
        {"text": ["a"]},
        {"until": ["2999-01-01T00:00:00Z"]},
        {"id": ["more"]},
    )
    for changed in changes:
        assert web.post("/dead/act", data={**form, **changed}).status_code == 403, changed
    assert web.post("/dead/act", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    other = create_app(Inspector.of(app.broker), Operations(app.broker)).test_client()
    assert other.post("/dead/act", data=form).status_code == 403
    assert web.get("/dead/act?action=purge").status_code == 404
    assert web.put("/dead/act", data=form).status_code == 405
    assert len(Inspector.of(app.broker).dead_letters() or []) == 175
    assert web.post("/dead/act", data=form).status_code == 200


def test_without_operations_nothing_can_be_done(app: App) -> None:
    shop(app)
    web = create_app(Inspector.of(app.broker)).test_client()
    shown = read_all(web)
    assert "Requeue selected" not in shown
    assert "Requeue all" not in shown
    assert 'type="checkbox"' not in shown
    assert web.get("/dead/act?action=requeue").status_code == 404
    assert web.post("/dead/act").status_code == 404


def test_what_takes_too_long_goes_on_in_another_request(
    app: App, web: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(app)
    read_all(web)
    monkeypatch.setattr(acts, "LONGEST_ACT", -1.0)
    page = web.get("/dead/act?action=discard").get_data(as_text=True)
    answer = web.post("/dead/act", data=form_of(page))
    assert "0 dead letters discarded" in answer.text
    assert "175 dead letters that match are left" in answer.text
    assert "Go on" in answer.text
    monkeypatch.setattr(acts, "LONGEST_ACT", 60.0)
    assert "175 dead letters discarded" in web.post("/dead/act", data=form_of(answer.text)).text


def test_letters_are_sorted_by_any_column(app: App, web: FlaskClient) -> None:
    shop(app)

    def order(query: str) -> list[str]:
        shown = read_all(web, f"/dead?{query}")
        return re.findall(r'data-label="Queue"><bdi>([^<]+)<', shown)

    assert read_all(web).count('aria-sort="descending"') == 1
    assert order("sort=queue") == ["default"] * 25 + ["mail"] * 75
    assert order("sort=queue&dir=desc") == ["mail"] * 100
    newest = re.findall(r'data-key="p-([^"]+)"', read_all(web, "/dead?actor=charge"))
    oldest = re.findall(r'data-key="p-([^"]+)"', read_all(web, "/dead?actor=charge&sort=at&dir=asc"))
    assert newest == oldest[::-1]
    shown = read_all(web, "/dead?sort=queue&text=TimeoutError")
    assert 'href="?text=TimeoutError&amp;sort=queue&amp;dir=asc&amp;page=2"' in shown
    assert 'href="?text=TimeoutError&amp;action=requeue"' in shown.replace("/dead/act", "")
    assert read_all(web, "/dead?sort=nonsense").count('aria-sort="descending"') == 1
    sheet = web.get("/dead?sort=queue&format=csv").text.splitlines()
    assert len(sheet) == 1 + 175
    assert sheet[0].startswith("id,queue,actor,at,reason,cause,retries")
    assert ",default," in sheet[1]
    assert ",mail," in sheet[-1]


def test_letters_that_cannot_be_requeued_are_told(app: App, web: FlaskClient) -> None:
    _, declined = shop(app)
    del app.broker.actors["charge"]
    read_all(web)
    answer = web.post("/dead/act", data=form_of(web.get("/dead/act?action=requeue&actor=charge").text))
    assert "0 dead letters requeued" in answer.text
    assert "25: Nothing was done: this application does not declare its queue or its actor" in answer.text
    assert declined


def test_hostile_letters_stay_text(app: App, web: FlaskClient) -> None:
    actor = app.actor(lambda number: None, actor_name=HOSTILE[:20])
    bury(app.broker, actor, [f"Error{HOSTILE}: {HOSTILE}"] * 2)
    for path in ("/dead", "/dead/act?action=discard"):
        shown = read_all(web, path)
        assert "<img" not in shown
        assert "\u202e" not in shown
        assert "&lt;img" in shown
    assert "{{7*7}}\\u202e" in read_all(web)
    for name in ("queue", "actor", "cause", "text", "id"):
        shown = read_all(web, f"/dead?{name}=%22%3E%3Cscript%3E")
        assert "<script>" not in shown
        shown = web.get(f"/dead/act?action=discard&{name}=%22%3E%3Cscript%3E").text
        assert "<script>" not in shown


def test_the_index_follows_what_happens(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads only what is new; and a reason that comes later than its letter is seen."""
    monkeypatch.setattr(dead_letters, "RECENT", timedelta(0))
    work = app.actor(lambda number: None, actor_name="work")
    first = bury(app.broker, work, ["ValueError: a"] * 3)
    inspector = Inspector.of(app.broker)
    index = inspector.index_dead_letters()
    assert index is not None
    assert index is inspector.index_dead_letters()
    assert index.found == []
    assert index.refresh()
    assert {view.id for view in index.found} == set(first)
    kept = {view.id: view for view in index.found}
    more = bury(app.broker, work, ["ValueError: b"], age=0)
    before = app.client.info("commandstats")["cmdstat_hmget"]["calls"]
    assert index.refresh()
    assert [view.id for view in index.found][:1] == more
    assert all(view is kept[view.id] for view in index.found if view.id in kept), "these were not read again"
    operations = Operations(app.broker)
    operations.discard(first[0])
    assert index.refresh()
    assert {view.id for view in index.found} == {*first[1:], *more}
    assert inspector.dead_letter(first[0]) is None
    assert inspector.dead_letter(first[1]) is not None
    assert inspector.message(more[0]) is not None
    assert app.client.info("commandstats")["cmdstat_hmget"]["calls"] > before


def test_an_index_is_bounded(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MOST", 10)
    work = app.actor(lambda number: None, actor_name="work")
    ids = bury(app.broker, work, ["ValueError: a"] * 30)
    inspector = Inspector.of(app.broker)
    index = inspector.index_dead_letters()
    assert index is not None
    assert index.refresh()
    assert [view.id for view in index.found] == ids[:-11:-1], "the newest"
    assert inspector.dead_letter(ids[0]) is not None, "looked for in Redis"


def test_long_acts_keep_others_out(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held for as long as it takes; if it is lost all the same, the rest is left."""
    work = app.actor(lambda number: None, actor_name="work")
    bury(app.broker, work, ["ValueError: a"] * 5)
    operations = Operations(app.broker)
    monkeypatch.setattr("dramatiq_inflight.operations.HOLD", 0.001)
    app.client.delete(f"{app.lab.prefix}replay")
    seen = []

    def stop() -> bool:
        seen.append(app.client.delete(f"{app.lab.prefix}replay"))
        return False

    bulk = operations.purge(Choice(), stop)
    assert bulk is not None
    assert not bulk.is_complete
    assert bulk.number < 5


def test_the_page_says_that_redis_is_away(own_server: RedisServer, namespace: str) -> None:
    app = App(own_server.url, namespace, Lab(own_server.client(), namespace))
    try:
        app.actor(lambda: None, actor_name="work")
        web = create_app(Inspector.of(app.broker), Operations(app.broker)).test_client()
        assert web.get("/dead").status_code == 200
        own_server.kill()
        wait_until(lambda: web.get("/dead").status_code == 503, what="it says so")
        own_server.start()
        wait_until(lambda: web.get("/dead").status_code == 200, what="it is back")
    finally:
        app.close()


def test_causes_leave_out_what_differs() -> None:
    causes = {
        "ValueError: first": "ValueError: first",
        "failed 3 times: KeyError: 'a'": "KeyError: #",
        "failed 3 times: at last but one KeyError: 'b'": "KeyError: #",
        "failed 3 times": "failed # times",
        'no order "x y" in 30 s': "no order # in # s",
        "no row 5f786cbf-7317-4292-8f80-7a578ffeab07": "no row #",
        "it wasn't there, and isn't": "it wasn't there, and isn't",
        "one\ntwo": "one",
    }
    assert {reason: dead_letters.cause_of(reason) for reason in causes} == causes


def test_a_letter_of_rabbitmq_can_be_chosen_and_requeued(
    rabbitmq_url: str, client: redis.Redis, namespace: str
) -> None:
    from tests.support.rabbit_app import RabbitApp  # noqa: PLC0415  pika is optional

    app = RabbitApp(rabbitmq_url, client, namespace)
    try:

        def fail(number: int) -> None:
            raise ValueError(f"cause {number % 2}")

        bad = app.actor(fail, actor_name="bad", max_retries=0)
        for number in range(6):
            bad.send(number)
        app.start()
        inspector = Inspector.of(app.broker)
        wait_until(lambda: inspector.count_dead_letters() == 6, what="all are dead letters")
        app.stop()
        web = create_app(inspector, Operations(app.broker)).test_client()
        shown = read_all(web)
        assert "1 to 6 of 6" in shown
        answer = web.post("/dead/act", data=form_of(web.get("/dead/act?action=requeue&text=cause%201").text))
        assert "3 dead letters requeued" in answer.text
        wait_until(lambda: inspector.count_dead_letters() == 3, what="three are left")
    finally:
        app.close()
