# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The documentation: well-formed, and its links lead somewhere."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from docutils.core import publish_doctree
from dramatiq.brokers.redis import RedisBroker

import dramatiq_inflight
from dramatiq_inflight import (
    Done,
    Event,
    InFlightTracker,
    Inspector,
    MessageView,
    Operations,
    Overview,
    Swept,
    Tally,
    WorkerView,
)
from dramatiq_inflight.policy import OPTIONS
from dramatiq_inflight.settings import VARIABLES
from tests.support.scenes import Scene

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.rst"), *(ROOT / "docs").glob("*.rst"), *(ROOT / "examples").rglob("*.rst")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_a_page_is_well_formed(path: Path) -> None:
    strict = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    publish_doctree(path.read_text("utf-8"), source_path=str(path), settings_overrides=strict)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_links_to_other_files_lead_there(path: Path) -> None:
    for link in re.findall(r"`[^`<]+<([^>]+)>`_", path.read_text("utf-8")):
        assert "://" in link or (path.parent / link).exists(), link


def rows(text: str) -> dict[str, str]:
    """Of the tables whose first column is a literal: the rest of the first line."""
    return dict(re.findall(r"^``(\w+)(?:\(\))?``(.*)$", text, re.MULTILINE))


def test_every_setting_is_in_the_readme() -> None:
    text = (ROOT / "README.rst").read_text("utf-8")
    readme = rows(text.partition("\nSettings\n")[2].partition("\nThose with a star")[0])
    for setting, variable in VARIABLES.items():
        assert f"``{variable}``" in readme[setting]
        starred = readme[setting].startswith(" *")
        assert starred == (setting in OPTIONS), f"{setting}: the star says that it is an option of actors as well"
    assert {"callback", "client"} <= set(readme)


@pytest.mark.parametrize(
    ("command", "views"),
    [
        ("status", (Tally,)),
        ("list", (MessageView,)),
        ("history", (Event,)),
        ("workers", (WorkerView,)),
        ("recover", (Swept,)),
    ],
)
def test_every_name_in_the_json_is_documented(command: str, views: tuple[Any, ...]) -> None:
    json = (ROOT / "docs" / "cli.rst").read_text("utf-8").partition("\nJSON\n")[2]
    found = re.search(rf"^``{command}``\n((?:    .*\n)+)", json, re.MULTILINE)
    assert found
    said = set(re.findall(r"``(\w+)``", found[1]))
    assert {field.name for view in views for field in fields(view)} - {"name"} <= said


def test_every_answer_to_an_operator_is_documented() -> None:
    command_line = (ROOT / "docs" / "cli.rst").read_text("utf-8")
    table = rows((ROOT / "docs" / "inspector.rst").read_text("utf-8"))
    for done in Done:
        assert done.name in table
        assert f"``{done.value}``" in command_line


def test_every_public_name_says_what_it_is() -> None:
    for name in dramatiq_inflight.__all__:
        value = getattr(dramatiq_inflight, name)
        if not name.startswith("__"):
            assert value.__doc__, name
        if isinstance(value, type):
            methods = [(n, m) for n, m in vars(value).items() if callable(getattr(m, "__func__", m)) and n[0] != "_"]
            assert [n for n, m in methods if not m.__doc__ and value is not InFlightTracker] == []


@pytest.fixture
def broker(client: redis.Redis, server_url: str, namespace: str) -> Iterator[Any]:
    """An application with something to see."""
    broker = RedisBroker(client=redis.Redis.from_url(server_url), namespace=namespace + "-broker")
    broker.add_middleware(InFlightTracker(namespace=namespace))
    scene = Scene(client, namespace)
    scene.afternoon()
    for message in Inspector(client, namespace).messages():
        if message.actor not in broker.actors:
            dramatiq.actor(broker=broker, actor_name=message.actor, queue_name=message.queue)(print)
    yield broker
    broker.client.delete(*(broker.client.keys(f"{broker.namespace}:*") or ["-"]))


def test_the_examples_of_reading_and_acting_run(broker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as they are read."""
    text = (ROOT / "docs" / "inspector.rst").read_text("utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", text, re.MULTILINE)
    assert len(blocks) > 8
    names: dict[str, Any] = {"broker": broker}
    for block in blocks:
        exec(textwrap.dedent(block), names)
    assert names["done"] in (Done.DONE, Done.STRANGE)
    assert "workers live" in capsys.readouterr().out


def test_the_round_trips_of_an_inspector_are_as_documented(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inspector = Inspector.of(broker)
    message = inspector.messages(limit=1)[0]
    asides = len(inspector.aside())
    sent: list[Any] = []
    send: Any = redis.Connection.send_packed_command

    def counted(self: Any, command: Any, *args: Any, **more: Any) -> Any:
        sent.append(command)
        return send(self, command, *args, **more)

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    calls: dict[str, Callable[[], object]] = {
        "overview": inspector.overview,
        "workers": inspector.workers,
        "messages": inspector.messages,
        "message": lambda: inspector.message(message.id),
        "payload": lambda: inspector.payload(message.id),
        "aside": inspector.aside,
        "history": lambda: inspector.history(limit=100),
        "counts": inspector.counts,
        "overdue": inspector.overdue,
    }
    table = rows((ROOT / "docs" / "inspector.rst").read_text("utf-8"))
    for name, call in calls.items():
        sent.clear()
        call()
        assert (name, len(sent)) <= (name, int(table[name].split()[0]) + (asides if name == "aside" else 0))


def test_what_the_views_have_is_named() -> None:
    """Where reading is documented: what of them is used, by those who look for it."""
    text = (ROOT / "docs" / "inspector.rst").read_text("utf-8")
    for view in (Inspector, Operations, Overview, Tally, WorkerView, MessageView, Event, Swept):
        assert f"``{view.__name__}``" in text
