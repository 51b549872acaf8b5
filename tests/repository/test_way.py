# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The page about the way of a message: it names what is there, and the scripts run in the order that it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import dramatiq_inflight
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.declarations import SCRIPTS
from dramatiq_inflight.store.transport import Call, Wire
from tests.support.inprocess import App

PACKAGE = Path(dramatiq_inflight.__file__).parent
PAGE = (Path(__file__).parents[2] / "docs" / "way.rst").read_text("utf-8")

#: The scripts that run beside a message's way, whenever it is time for them.  On a busy machine a retry may start
#: before its failed run is released: then it is put off, and starts again.
BESIDE = {"clear_alone", "count", "defer", "deregister", "enter", "find_due", "heartbeat", "register", "suspect"}


def scripts_of(section: str) -> list[str]:
    """The scripts that a section of the page names, in order."""
    (text,) = re.findall(rf"^{section}\n-+\n(.*?)(?:^\S[^\n]*\n---|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return re.findall(r"^     - ``(\w+)\.lua``$", text, re.MULTILINE)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that have run, in order."""
    found: list[str] = []
    exchange = Wire.exchange

    def recorded(wire: Wire, calls: Sequence[Call]) -> list[Any]:
        replies = exchange(wire, calls)
        for call in calls:
            script: Any = call.script.script
            script = script.decode() if isinstance(script, bytes) else script
            names = [name for name, text in SCRIPTS.items() if script == text]
            found.extend(name for name in names if name not in BESIDE and name != (found or [""])[-1])
        return replies

    monkeypatch.setattr(Wire, "exchange", recorded)
    return found


def test_the_page_names_modules_and_scripts_that_exist() -> None:
    assert set(re.findall(r"``(\w+\.lua)``", PAGE)) <= {path.name for path in PACKAGE.rglob("*.lua")}
    modules = re.findall(r"``([\w/]+\.py)``((?:,? ``\w+``)*)", PAGE)
    assert len(modules) > 20
    for path, functions in modules:
        source = (PACKAGE / path).read_text("utf-8")
        for name in re.findall(r"\w+", functions):
            assert f"def {name}(" in source, f"{path} has no {name}"


def test_a_message_that_succeeds_runs_the_scripts_of_its_way(app: App, ran: list[str]) -> None:
    app.actor(lambda: app.ran.append(1), actor_name="work").send()
    app.start()
    app.join()
    assert app.ran == [1]
    assert ran == scripts_of("A message that succeeds")


def test_a_message_that_fails_runs_the_scripts_of_its_way(app: App, ran: list[str]) -> None:
    def work() -> None:
        app.ran.append(1)
        if len(app.ran) == 1:
            raise RuntimeError("as asked for")

    app.actor(work, min_backoff=1, max_backoff=2).send()
    app.start()
    app.join()
    assert app.ran == [1, 1]
    assert ran == scripts_of("A message that fails")


def test_a_message_whose_worker_dies_runs_the_scripts_of_its_way(app: App, ran: list[str]) -> None:
    message = app.actor(lambda: app.ran.append(1), actor_name="work").send()
    rid, acks = message.options["redis_message_id"], f"{app.broker.namespace}:__acks__.dead.default"
    app.client.lrem(f"{app.broker.namespace}:default", 0, rid)
    app.client.sadd(acks, rid)  # it has fetched the message
    dead = app.other("dead")
    dead.workers.register({"broker_namespace": app.broker.namespace, "broker_id": "dead", "queues": '["default"]'})
    app.lab.start(dead, Copy.of(message), payload=message.encode())
    app.lab.kill(dead)
    ran.clear()
    app.start()
    app.join()
    app.stop()
    assert app.ran == [1]
    assert "forget" in ran, "before or after the next start"
    assert [name for name in ran if name != "forget"] == scripts_of("A message whose worker dies")
