# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The JSON interface: its answers are as its description says, and nothing is changed without the token."""

from __future__ import annotations

import functools
import html
import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from click.testing import CliRunner
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import dramatiq_inflight.cli.source
from docs.openapi import made
from dramatiq_inflight import Choice, ConfigurationError, InFlightTracker, Inspector, Operations
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.dashboard import acts, api, create_app
from dramatiq_inflight.dashboard.api import OPENAPI
from dramatiq_inflight.dashboard.headers import CSP
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.letters import bury
from tests.support.scenes import Scene
from tests.support.servers import RedisServer, free_port, wait_until

TOKEN = "a-token-for-programs"
HOSTILE = "<img src=x>\"'&{{7*7}}/../\u202e\x1b"

DESCRIPTION: dict[str, Any] = json.loads(OPENAPI.read_text("utf-8"))


def faults(path: str, method: str, status: int, document: Any) -> list[str]:
    """Say what an answer has that the description does not."""
    responses = DESCRIPTION["paths"][path][method]["responses"]
    described = responses.get(str(status)) or responses["default"]
    assert (status < 400) == (described is not responses["default"]) or str(status) in responses, (path, status)
    schema = described["content"]["application/json"]["schema"]
    validator = Draft202012Validator(
        {**schema, "components": DESCRIPTION["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


class Program:
    """A program that uses the interface with its token, and holds each answer against the description."""

    def __init__(self, app: Any, token: str | None = TOKEN, prefix: str = "") -> None:
        self.client = Client(app)
        self.prefix = prefix
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.asked: set[tuple[str, str]] = set()

    def ask(self, method: str, path: str, status: int, **more: Any) -> Any:
        more.setdefault("headers", self.headers)
        answer = self.client.open(f"{self.prefix}/api{path}", method=method, **more)
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == "application/json"
        document = json.loads(answer.text)
        if path in DESCRIPTION["paths"] and method.lower() in DESCRIPTION["paths"][path]:
            self.asked.add((method.lower(), path))
            assert faults(path, method.lower(), status, document) == []
        return document

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        return self.ask("GET", path, status, query_string=query)

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        return self.ask("POST", path, status, json=body)

    def all_read(self, path: str, **query: Any) -> Any:
        """Return the document of a list that is read in the background."""
        wait_until(lambda: self.get(path, **query)["is_complete"], what="all is read")
        return self.get(path, **query)


@pytest.fixture
def program(app: App) -> Program:
    return Program(create_app(Inspector.of(app.broker), Operations(app.broker), api_token=TOKEN))


def shop(app: App, letters: int = 3) -> list[str]:
    """A queue with dead letters, of two causes in turn; their ids."""
    charge = app.actor(app.ran.append, actor_name="charge")
    return bury(
        app.broker, charge, [f"CardDeclined: card {n}" if n % 2 else "KeyError: 'total'" for n in range(letters)]
    )


def orphan(lab: Lab) -> str:
    """A message of an actor that is declared, whose worker is dead; its id."""
    a, copy = lab.incarnation("a"), copy_of()
    copy.actor, copy.queue = "charge", "default"
    lab.runs(a, copy)
    lab.kill(a)
    return copy.message_id


def state(lab: Lab) -> dict[str, Any]:
    """All that the tracker has in Redis."""
    return {name: lab.client.dump(lab.prefix + name) for name in lab.names()}


def test_the_description_is_made_of_the_code() -> None:
    """If not: ``python -m docs.openapi``."""
    assert OPENAPI.read_text("utf-8") == made()


def test_the_description_is_openapi() -> None:
    validate(DESCRIPTION)
    assert DESCRIPTION["openapi"].startswith("3.1")


def test_the_description_has_each_route_and_no_other(program: Program) -> None:
    app: Any = program.client.application
    assert isinstance(app, Flask)
    served = {
        (method.lower(), rule.rule.removeprefix("/api"))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(method, path) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert served == described


def test_a_field_that_is_not_described_is_a_fault() -> None:
    """So the test below notices one."""
    page = {"total": 1, "page": 1, "pages": 1}
    aside = {"id": "a", "queue": "", "actor": "", "size": 1, "reason": "", "at": "2026-11-30T12:00:00.000Z"}
    assert faults("/aside", "get", 200, {**page, "aside": [aside]}) == []
    assert faults("/aside", "get", 200, {**page, "aside": [{**aside, "new": 1}]})
    assert faults("/aside", "get", 200, {**page, "aside": [{**aside, "size": "1"}]})
    assert faults("/aside", "get", 200, {**page, "aside": [{**aside, "at": "yesterday"}]})
    assert faults("/aside", "get", 200, {"aside": []})
    assert faults("/aside", "get", 404, {"error": "", "more": 1})


def test_every_answer_is_as_described(client: redis.Redis, app: App, program: Program) -> None:
    Scene(client, app.namespace).afternoon()
    ids = shop(app)
    app.broker.get_actor("charge").send_with_options(args=(1,), delay=60_000)
    overview = program.get("/overview")
    assert overview["running"] > 0
    assert overview["in_flight"]
    assert overview["events"]
    for path, name in (("/workers", "workers"), ("/queues", "queues"), ("/messages", "messages"), ("/aside", "aside")):
        assert program.get(path)[name], path
    assert program.get("/history")["events"]
    for path, name in (("/delayed", "delayed"), ("/dead", "dead_letters"), ("/dead/causes", "causes")):
        assert program.all_read(path)[name], path
    running = program.get("/messages", state="running")["messages"][0]
    assert program.get("/message", id=running["id"])["message"]["id"] == running["id"]
    letter = program.get("/message", id=ids[0], payload=1)
    assert letter["dead_letter"]["id"] == ids[0]
    assert json.loads(letter["payload"])["message_id"] == ids[0]
    assert program.get("/openapi.json") == DESCRIPTION
    assert program.post("/message/requeue", id=ids[0])["done"] == "done"
    assert program.post("/message/discard", id=ids[1])["done"] == "done"
    assert program.post("/message/dead-letter", status=409, id=ids[2])["done"] == "settled"
    assert program.post("/message/discard", status=404, id="nobody")["done"] == "unknown"
    assert program.post("/dead/requeue", text="KeyError") == {"done": {"done": 1}, "is_complete": True}
    assert program.post("/dead/discard", all=True) == {"done": {}, "is_complete": True}
    assert program.asked == {(method, path) for path, methods in DESCRIPTION["paths"].items() for method in methods}


def test_the_command_line_prints_the_same(
    client: redis.Redis, app: App, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scene(client, app.namespace).afternoon()
    ids = shop(app)
    monkeypatch.setattr(dramatiq_inflight.cli.source, "import_broker", lambda name: app.broker)

    def printed(*args: str) -> Any:
        result = CliRunner().invoke(cli, ["--broker", "app", *args, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert printed("dead")["dead_letters"] == program.all_read("/dead")["dead_letters"]
    assert printed("dead", "causes")["causes"] == program.all_read("/dead/causes")["causes"]
    assert printed("history", "--limit", "100")["events"] == program.get("/history")["events"]
    one = {"message": dict, "dead_letter": dict, "history": list}
    assert {name: type(value) for name, value in printed("show", ids[0]).items()} == one
    assert printed("show", ids[0], "--payload") == program.get("/message", id=ids[0], payload=1)
    assert printed("status").keys() == program.get("/overview").keys()
    seen, listed = program.get("/messages"), printed("list")
    assert [view["id"] for view in seen["messages"]] == [view["id"] for view in listed["messages"]]
    assert seen["messages"][0].keys() == listed["messages"][0].keys()


def test_the_fields_of_a_page_choose(app: App, program: Program, lab: Lab) -> None:
    ids = shop(app, 5)
    program.all_read("/dead")
    chosen = program.get("/dead", cause="CardDeclined: card #")
    assert {view["id"] for view in chosen["dead_letters"]} == {ids[1], ids[3]}
    assert program.get("/dead", text="keyerror")["total"] == 3
    assert program.get("/dead", queue="", actor="charge", text="")["total"] == 5, "an empty field is not given"
    assert program.get("/dead", queue="mail")["total"] == 0
    third = program.get("/dead")["dead_letters"][2]
    assert program.get("/dead", until=third["at"])["total"] == 3
    assert program.get("/dead/causes", cause="KeyError: #")["causes"] == [
        {"number": 3, "cause": "KeyError: #", "actor": "charge"}
    ]
    a = lab.incarnation("a")
    for number in range(3):
        copy = copy_of(f"m-{number}")
        copy.actor = f"actor-{number}"
        lab.runs(a, copy)
    for name, value, numbers in (
        ("dir", "asc", "012"),
        ("dir", "desc", "210"),
        ("queue", "", "012"),
        ("actor", "actor-1", "1"),
        ("state", "requeued", ""),
        ("instance", "x", ""),
    ):
        found = program.ask("GET", "/messages", 200, query_string={"sort": "actor", name: value})["messages"]
        assert [view["id"] for view in found] == [f"m-{number}" for number in numbers], name
    assert program.get("/messages", older="1h")["total"] == 0
    assert program.get("/workers", state="dead")["total"] == 0
    assert program.get("/message", id="m-1")["message"]["id"] == "m-1"
    assert program.get("/message", id=ids[0][:13])["message"]["id"] == ids[0], "the beginning is enough"


def test_an_address_of_the_browser_is_one_of_a_program(app: App, program: Program) -> None:
    """Each form sends all its fields, the empty ones as well."""
    shop(app, 5)
    program.all_read("/dead")
    pages = program.client
    for path in ("/queues", "/messages", "/delayed", "/dead", "/history"):
        form = pages.get(path).text.partition('<form class="filters card"')[2].partition("</form>")[0]
        fields: dict[str, Any] = dict.fromkeys(re.findall(r'name="(\w+)"', form), "")
        assert ("text" in fields) == (path in ("/messages", "/delayed", "/dead"))
        program.get(path, **fields)
        links = re.findall(r'aria-sort="\w+"><a href="[^"?]*\?([^"]*)"', pages.get(path).text)
        for link in links:
            program.ask("GET", path, 200, query_string=html.unescape(link))
        assert len(links) == (path in ("/queues", "/dead"))
    reasons = [view["reason"] for view in program.get("/dead", sort="reason", dir="desc")["dead_letters"]]
    assert reasons == sorted(reasons, reverse=True)
    ids = [view["id"] for view in program.get("/dead")["dead_letters"]]
    assert [view["id"] for view in program.get("/dead", sort="at", dir="asc")["dead_letters"]] == ids[::-1]
    assert program.get("/queues", queue="default")["total"] == 1
    assert program.get("/queues", queue="mail")["total"] == 0


def test_pages_have_a_hundred(app: App, program: Program) -> None:
    ids = shop(app, 250)
    program.all_read("/dead")
    pages = [program.get("/dead", page=number) for number in (1, 2, 3, 4)]
    assert [len(page["dead_letters"]) for page in pages] == [100, 100, 50, 0]
    assert {page["pages"] for page in pages} == {3}
    assert {page["total"] for page in pages} == {250}
    assert [view["id"] for page in pages for view in page["dead_letters"]] == ids[::-1]


@pytest.mark.parametrize(
    ("path", "query", "said"),
    [
        (
            "/messages",
            "quue=a",
            'The query has a field "quue"; known are text, queue, actor, instance, state, older, sort',
        ),
        ("/messages", "queue=a&queue=b", "queue is given 2 times; give it once."),
        ("/messages", "state=dead", 'state is "dead"; it must be one of running, recovering, requeued.'),
        ("/messages", "older=soon", 'older is "soon"; it must be a number of seconds, or such as 10m, 2h, 3d.'),
        ("/messages", "older=-1", 'older is "-1"; it must be a number of seconds'),
        ("/messages", "page=0", 'page is "0"; it must be a number from 1.'),
        ("/messages", "page=\u00b2", 'page is "\\u00b2"; it must be a number from 1.'),
        ("/messages", "page=" + "9" * 5000, 'page is "9999'),
        ("/messages", "dir=up", 'dir is "up"; it must be one of asc, desc.'),
        ("/queues", "sort=size", 'sort is "size"; it must be one of name, depth,'),
        ("/history", "kind=nothing", 'kind is "nothing"; it must be one of workers, recoveries,'),
        ("/dead", "until=yesterday", 'until is "yesterday"; it must be a time such as 2026-11-30T12:00:00Z.'),
        ("/dead", "until=2026-11-30T12:00:00", "it must be a time such as 2026-11-30T12:00:00Z."),
        ("/dead", "until=0001-01-01T00:00:00%2B14:00", "it must be a time such as 2026-11-30T12:00:00Z."),
        ("/message", "", "id is missing; it must be a text that is not empty."),
        ("/message", "id=", "id is missing; it must be a text that is not empty."),
        ("/message", "id=x&payload=yes", 'payload is "yes"; it must be one of 0, 1.'),
        ("/overview", "x=", 'The query has a field "x"; known are none.'),
    ],
)
def test_a_wrong_field_of_a_query_is_named(program: Program, path: str, query: str, said: str) -> None:
    document = program.ask("GET", path, 400, query_string=query)
    assert said in document["error"]
    assert len(document["error"]) < 400


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/message/requeue", b"", "The body is no JSON"),
        ("/message/requeue", b"id=a&force=yes", "The body is no JSON"),
        ("/message/requeue", b"\xff", "The body is no JSON"),
        ("/message/requeue", b"[" * 60_000, "The body is no JSON"),
        ("/message/requeue", b'"a"', 'The body is "a"; it must be an object'),
        ("/message/requeue", b'["a"]', 'The body is ["a"]; it must be an object'),
        ("/message/requeue", b"null", "The body is null; it must be an object"),
        ("/message/requeue", b"{}", "id is missing"),
        ("/message/requeue", b'{"id": ""}', 'id is ""; it must be a text that is not empty.'),
        ("/message/requeue", b'{"id": 1}', "id is 1; it must be a text that is not empty."),
        ("/message/requeue", b'{"id": null}', "id is null; it must be a text that is not empty."),
        ("/message/requeue", b'{"id": "\\ud800"}', 'id is "\\ud800"; it must be a text that is not empty.'),
        ("/message/requeue", b'{"id": "a", "force": "yes"}', 'force is "yes"; it must be true or false.'),
        ("/message/requeue", b'{"id": "a", "force": 1}', "force is 1; it must be true or false."),
        ("/message/requeue", b'{"id": "a", "self": 1}', 'The body has a field "self"; known are id, force.'),
        ("/dead/discard", b"{}", "Nothing is chosen; give queue, actor, cause, text or ids, or"),
        ("/dead/discard", b'{"all": false}', "Nothing is chosen"),
        ("/dead/discard", b'{"until": "2026-11-30T12:00:00Z"}', "Nothing is chosen"),
        ("/dead/discard", b'{"all": true, "queue": "a"}', "all is given beside a choice; leave one of them out."),
        ("/dead/discard", b'{"queue": ""}', 'queue is ""; it must be a text that is not empty.'),
        ("/dead/discard", b'{"ids": []}', "ids is []; it must be a list of texts that is not empty."),
        ("/dead/discard", b'{"ids": "a"}', 'ids is "a"; it must be a list of texts that is not empty.'),
        ("/dead/discard", b'{"ids": ["a", 1]}', 'ids is ["a", 1]; it must be a list of texts that is not empty.'),
        ("/dead/discard", b'{"until": 0, "all": true}', "until is 0; it must be a time such as"),
        ("/dead/discard", b'{"quue": "a"}', 'The body has a field "quue"; known are queue, actor, cause, text, until'),
    ],
)
def test_a_wrong_body_is_told_and_does_nothing(app: App, program: Program, path: str, body: bytes, said: str) -> None:
    shop(app)
    document = program.ask("POST", path, 400, data=body)
    assert said in document["error"]
    assert len(document["error"]) < 400
    assert len(Inspector.of(app.broker).dead_letters() or []) == 3


def test_a_body_that_is_hardly_too_deep_is_told(program: Program) -> None:
    """One that can be read, and is too deep to be repeated in the error."""
    for depth in range(850, 1050):
        nested = "[" * depth + "]" * depth
        answer = program.client.post(
            "/api/message/requeue", data=f'{{"id": {nested}}}'.encode(), headers=program.headers
        )
        assert answer.status_code == 400, depth


def test_nothing_is_answered_without_the_token(app: App, program: Program, lab: Lab) -> None:
    shop(app)
    before = state(lab)
    wrong: list[Any] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer t\u00f6ken"},
        {"Authorization": b"Bearer \xff\xfe".decode("latin-1")},
        {"X-Authorization": f"Bearer {TOKEN}"},
        {"Cookie": f"Authorization=Bearer {TOKEN}"},
        [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {TOKEN}")],
    ]
    for headers in wrong:
        for method, path in (("GET", "/dead"), ("POST", "/dead/discard"), ("GET", "/nowhere"), ("PUT", "/dead")):
            body = {"data": b'{"all": true}'} if method == "POST" else {}
            document = program.ask(method, path, 401, headers=headers, **body)
            assert document["error"].startswith("The token is missing or wrong; send it as the header")
            assert TOKEN not in json.dumps(document)
    answer = program.client.post("/api/dead/discard", json={"all": True}, query_string={"token": TOKEN})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].lower().startswith("bearer")
    assert state(lab) == before
    assert len(Inspector.of(app.broker).dead_letters() or []) == 3
    assert program.client.get("/dead").status_code == 200, "the page is behind a login of its own"
    right = program.client.get("/api/dead", headers={"Authorization": f"bearer  {TOKEN} "})
    assert right.status_code == 200


@pytest.mark.parametrize(
    "token", ["", "short", "fifteen-letters", "sixteen letters ", f"{TOKEN}\n", "t\u00f6ken" * 5, "=" * 20]
)
def test_a_token_that_is_none_is_an_error(app: App, token: str) -> None:
    """One from a secret that is missing does not open anything."""
    with pytest.raises(ConfigurationError, match="api_token") as raised:
        create_app(Inspector.of(app.broker), Operations(app.broker), api_token=token)
    assert len(token) < 6 or token not in str(raised.value)


def test_without_a_token_it_only_reads(app: App, lab: Lab) -> None:
    ids = shop(app)
    program = Program(create_app(Inspector.of(app.broker), Operations(app.broker)), token=None)
    before = state(lab)
    assert program.all_read("/dead")["total"] == 3
    for path, methods in DESCRIPTION["paths"].items():
        if "post" in methods:
            body = {"all": True} if path.startswith("/dead") else {"id": ids[0]}
            assert "No token is configured" in program.post(path, 403, **body)["error"]
            document = program.ask("POST", path, 403, headers={"Authorization": "Bearer None"}, json=body)
            assert "No token is configured" in document["error"]
    assert state(lab) == before
    assert len(Inspector.of(app.broker).dead_letters() or []) == 3


def test_without_operations_it_only_reads(app: App, lab: Lab) -> None:
    ids = shop(app)
    program = Program(create_app(Inspector.of(app.broker), api_token=TOKEN))
    assert program.all_read("/dead")["total"] == 3
    for path, body in (("/dead/discard", {"all": True}), ("/message/discard", {"id": ids[0]})):
        assert "--allow-actions" in program.post(path, 403, **body)["error"]
    assert len(Inspector.of(app.broker).dead_letters() or []) == 3


def test_an_act_is_done_and_logged(app: App, program: Program, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    app.actor(app.ran.append, actor_name="charge")
    for action, event in (("requeue", "requeued"), ("dead-letter", "condemned"), ("discard", "discarded")):
        id = orphan(lab)
        with caplog.at_level("INFO"):
            assert program.post(f"/message/{action}", id=id)["id"] == id
        assert program.get("/history", message=id)["events"][0]["kind"] == event
        assert f"From the JSON interface: {action} of message {id!r}: done." in caplog.text


def test_what_runs_on_a_living_worker_takes_force(app: App, program: Program, lab: Lab) -> None:
    app.actor(app.ran.append, actor_name="charge")
    copy = copy_of()
    copy.actor, copy.queue = "charge", "default"
    lab.runs(lab.incarnation("a"), copy)
    refused = program.post("/message/discard", 409, id=copy.message_id)
    assert (refused["done"], refused["id"]) == ("alive", copy.message_id)
    assert "It takes force" in refused["error"]
    assert program.post("/message/discard", 409, id=copy.message_id, force=False)["done"] == "alive"
    assert program.post("/message/discard", id=copy.message_id, force=True)["done"] == "done"


def test_what_was_chosen_before_is_requeued_and_runs(app: App, program: Program) -> None:
    shop(app, 4)
    seen = program.all_read("/dead", text="CardDeclined")
    late = bury(app.broker, app.broker.get_actor("charge"), ["CardDeclined: late"], age=-3600)
    done = program.post("/dead/requeue", text="CardDeclined", until=seen["dead_letters"][0]["at"])
    assert done == {"done": {"done": 2}, "is_complete": True}
    left = Inspector.of(app.broker).dead_letters(Choice(text="CardDeclined")) or []
    assert [view.id for view in left] == late, "it came after the look"
    app.start()
    wait_until(lambda: sorted(app.ran) == [1, 3], what="they run")


def test_only_the_named_letters_are_discarded(app: App, program: Program) -> None:
    ids = shop(app, 5)
    assert program.post("/dead/discard", ids=[ids[0], ids[3], "nobody"])["done"] == {"done": 2}
    assert program.all_read("/dead")["total"] == 3
    assert program.post("/dead/discard", ids=[ids[1]], actor="mail")["done"] == {}, "both must fit"
    assert program.post("/dead/discard", all=True)["done"] == {"done": 3}


def test_what_takes_too_long_goes_on_in_another_request(
    app: App, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(app, 5)
    monkeypatch.setattr(acts, "LONGEST_ACT", -1.0)
    assert program.post("/dead/discard", all=True) == {"done": {}, "is_complete": False}
    monkeypatch.setattr(acts, "LONGEST_ACT", 60.0)
    assert program.post("/dead/discard", all=True) == {"done": {"done": 5}, "is_complete": True}


def test_errors_are_json_and_heads_are_those_of_the_page(app: App, program: Program) -> None:
    assert program.get("/nowhere", 404)["error"]
    assert program.get("/", 404)["error"]
    assert program.get("/message", 404, id="nobody")["error"].startswith("Nothing is known of the message")
    for method, path in (("POST", "/dead"), ("PUT", "/dead"), ("DELETE", "/message"), ("PATCH", "/dead/requeue")):
        assert program.ask(method, path, 405)["error"]
    for override in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        headers = {**program.headers, override: "POST"}
        assert program.ask("GET", "/dead/discard", 405, headers=headers)["error"]
    assert program.ask("POST", "/dead/discard", 413, data=b"x" * 100_000)["error"]
    for method, path, status in (
        ("GET", "/overview", 200),
        ("HEAD", "/overview", 200),
        ("OPTIONS", "/dead/discard", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/dead/discard", 405),
    ):
        answer = program.client.open(f"/api{path}", method=method, headers=program.headers)
        assert answer.status_code == status
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert status != 405 or "POST" in answer.headers["Allow"]
        assert method != "HEAD" or answer.text == ""


def test_hostile_names_stay_data(app: App, program: Program, lab: Lab) -> None:
    """They come back as they are, and can be chosen and acted on, slashes, blanks and all."""
    app.actor(app.ran.append, actor_name="charge")
    a = lab.incarnation("a")
    names = [HOSTILE, "a/b", "a//b/", "../x", " blank ", "?q=1&r#s", "%2e%2e", "\x00", "\u00e9\U0001f600"]
    for name in names:
        copy = copy_of(name)
        copy.actor, copy.queue = name, name
        lab.runs(a, copy)
    raw = b"\xff\xfe"
    lab.client.hset(lab.prefix + "aside", raw, raw)
    lab.kill(a)
    shown = program.get("/messages")
    assert {view["id"] for view in shown["messages"]} == set(names)
    for name in names:
        assert program.get("/message", id=name)["message"]["actor"] == name
        refused = program.post("/message/requeue", 409, id=name)
        assert (refused["id"], refused["done"]) == (name, "strange")
        assert program.post("/message/discard", id=name)["id"] == name
    assert [one["id"] for one in program.get("/aside")["aside"]] == ["\ufffd\ufffd"]
    answer = program.client.get("/api/history", headers=program.headers)
    assert answer.text.isascii()
    assert answer.text.strip().isprintable()


def test_a_payload_is_shown_if_asked_for(app: App, program: Program, lab: Lab) -> None:
    ids = shop(app)
    known = program.get("/message", id=ids[0])
    assert "payload" not in known
    assert "args" not in json.dumps(known)
    assert program.get("/message", id=ids[0], payload=0) == known
    with_payload = program.get("/message", id=ids[0], payload=1)
    assert json.loads(with_payload["payload"])["args"] == [0]
    lab.client.hset(lab.prefix + "aside", "binary", b"\x80\x04pickle")
    assert program.get("/message", id="binary", payload=1)["payload_base64"] == "gARwaWNrbGU="


def test_the_printed_command_hides_the_token_from_ps(tmp_path: Path) -> None:
    printed = (Path(__file__).parents[2] / "docs/dashboard.rst").read_text("utf-8")
    (function,) = re.findall(r"^ +(api\(\) .*)$", printed, re.MULTILINE)
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > arguments\ncat > stdin\n')
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PROCESSING_API_TOKEN": TOKEN}
    script = f"{function}\napi /dead/discard -d '{{}}'"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, check=True)
    arguments = ["-sS", "-H", "@-", "http://127.0.0.1:8010/api/dead/discard", "-d", "{}"]
    assert (tmp_path / "arguments").read_text().splitlines() == arguments
    assert (tmp_path / "stdin").read_text() == f"Authorization: Bearer {TOKEN}"


def test_the_command_line_logs_each_act_and_no_token(app: App, server_url: str, tmp_path: Path) -> None:
    """Also where the application has set up no logging."""
    shop(app)
    (tmp_path / "shop_app.py").write_text(
        f"""
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq_inflight import InFlightTracker
broker = RedisBroker(url={server_url!r}, namespace={app.broker.namespace!r})
broker.add_middleware(InFlightTracker(namespace={app.namespace!r}))
dramatiq.actor(broker=broker, actor_name="charge")(print)
"""
    )
    port = free_port()
    command = [sys.executable, "-m", "dramatiq_inflight.cli", "--broker", "shop_app:broker"]
    command += ["dashboard", "--allow-actions", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}", "PROCESSING_API_TOKEN": TOKEN}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/dead/discard", b'{"all": true}', {"Authorization": f"Bearer {TOKEN}"}
        )

        def acts() -> bool:
            assert process.poll() is None
            try:
                with urllib.request.urlopen(request) as answer:
                    return bool(json.load(answer)["done"] == {"done": 3})
            except urllib.error.URLError:
                return False

        wait_until(acts, what="it acts")
        wait_until(lambda: "discard of dead letters, 3 done." in (tmp_path / "log").read_text(), what="it is logged")
        assert TOKEN not in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_it_can_be_mounted_under_a_prefix(app: App) -> None:
    shop(app)
    page = create_app(Inspector.of(app.broker), Operations(app.broker), api_token=TOKEN)
    program = Program(DispatcherMiddleware(Flask("outer"), {"/in/flight": page}), prefix="/in/flight")
    assert program.all_read("/dead")["total"] == 3
    assert program.post("/dead/discard", all=True)["done"] == {"done": 3}
    assert program.get("/nowhere", 404)["error"]
    assert program.client.get("/in/flight/api/dead").status_code == 401
    assert program.client.get("/in/flight//api/dead").status_code in (401, 404)
    assert program.client.get("/in/flight/dead").status_code == 200
    # The address of the server, as a client of the description makes it.
    assert DESCRIPTION["servers"] == [{"url": "../api"}]


def test_what_cannot_be_seen_from_here_is_told(lab: Lab) -> None:
    program = Program(create_app(Inspector(lab.client, lab.namespace)), token=None)
    for path in ("/queues", "/delayed", "/dead", "/dead/causes"):
        error = program.get(path, 404)["error"]
        assert "cannot be seen from here: that takes the application's broker (--broker), and it must be a R" in error
    assert program.get("/messages")["total"] == 0


def test_an_outage_is_told_as_json(own_server: RedisServer, namespace: str) -> None:
    app = App(own_server.url, namespace, Lab(own_server.client(), namespace))
    try:
        ids = shop(app)
        program = Program(create_app(Inspector.of(app.broker), Operations(app.broker), api_token=TOKEN))
        assert program.all_read("/dead")["total"] == 3
        own_server.kill()

        def is_away(path: str) -> bool:
            return program.client.get(f"/api{path}", headers=program.headers).status_code == 503

        for path in ("/overview", "/dead", "/aside"):
            wait_until(functools.partial(is_away, path), what=f"{path} says that Redis is away")
            assert program.get(path, 503)["error"].startswith("Redis cannot be reached.")
        assert program.post("/message/requeue", 503, id=ids[0])["error"].startswith("Redis cannot be reached.")
        assert program.post("/dead/requeue", 503, all=True)["error"].startswith("Redis cannot be reached.")
        own_server.start()
        wait_until(lambda: not is_away("/overview"), what="it is back")
    finally:
        app.close()


def test_a_list_that_is_being_read_is_not_complete(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an earlier look is over: what is known may be old."""
    shop(app)
    operations = Operations(app.broker)
    program = Program(create_app(operations.inspector, operations, api_token=TOKEN))
    assert program.all_read("/dead")["total"] == 3
    index = operations.inspector.index_dead_letters()
    assert index is not None
    read, may_read = index.refresh, threading.Event()
    monkeypatch.setattr(api, "PATIENCE", 0.01)
    monkeypatch.setattr(index, "refresh", lambda: may_read.wait() and read())
    bury(app.broker, app.broker.get_actor("charge"), ["ValueError: new"], age=0)
    wait_until(lambda: not program.get("/dead")["is_complete"], what="it is read anew")
    assert program.get("/dead")["total"] == 3
    may_read.set()
    assert program.all_read("/dead")["total"] == 4


def test_a_broker_that_is_away_is_named(client: redis.Redis, namespace: str) -> None:
    broker = RabbitmqBroker(url=f"amqp://guest:guest@127.0.0.1:{free_port()}")
    broker.add_middleware(InFlightTracker(client=client, namespace=namespace))
    dramatiq.actor(broker=broker, track_inflight=True, actor_name="work")(lambda: None)
    program = Program(create_app(Inspector.of(broker)), token=None)
    assert program.get("/queues", 503)["error"].startswith("The broker cannot be reached.")
    assert program.get("/messages")["total"] == 0


def test_a_look_waits_for_what_is_new(app: App, program: Program) -> None:
    """A program that asks once in an hour is not told what was there an hour ago."""
    shop(app)
    program.all_read("/dead")
    bury(app.broker, app.broker.get_actor("charge"), ["ValueError: new"], age=0)
    wait_until(lambda: program.get("/dead")["total"] == 4, what="the new one is seen")


def test_times_are_those_of_the_views(app: App, program: Program) -> None:
    shop(app)
    at = datetime.fromisoformat(program.all_read("/dead")["dead_letters"][0]["at"])
    assert at.tzinfo == UTC
    assert timedelta(0) < datetime.now(UTC) - at < timedelta(hours=1)
