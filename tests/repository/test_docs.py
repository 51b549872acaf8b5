# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The documentation: well-formed, and its links lead somewhere."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
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
from docs.pictures import FOLDER, PICTURES
from docs.tables import PAGES as PAGES_WITH_TABLES
from docs.tables import updated
from dramatiq_inflight import (
    DeadLetterView,
    DelayedView,
    Done,
    Event,
    InFlightTracker,
    Inspector,
    MessageView,
    Operations,
    Overview,
    QueueView,
    Swept,
    Tally,
    WorkerView,
    dashboard,
    doctor,
    errors,
    metrics,
)
from dramatiq_inflight.config.settings import SETTINGS
from dramatiq_inflight.store.keys import Keys
from tests.support.scenes import Scene
from tests.support.servers import wait_until
from tests.support.wire import note_writes

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
#: Pages that are read without the site: there, Sphinx looks after them (see test_site.py).
PAGES = sorted([*ROOT.glob("*.rst"), *(ROOT / "examples").rglob("*.rst")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_well_formed(path: Path) -> None:
    strict = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    publish_doctree(path.read_text("utf-8"), source_path=str(path), settings_overrides=strict)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_other_files_lead_there(path: Path) -> None:
    for link in re.findall(r"`[^`<]+<([^>]+)>`_", path.read_text("utf-8")):
        assert "://" in link or (path.parent / link).exists(), link


def test_the_guide_for_contributors_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.rst").read_text("utf-8")
    named = set(re.findall(r"(?<![\w/.])\.?[a-z_]+/[\w/]*\w\.(?:py|lua|rst|yml)", text))
    assert len(named) > 20
    roots = (ROOT, ROOT / "dramatiq_inflight", ROOT / "tests")
    assert [name for name in named if not any((root / name).exists() for root in roots)] == [
        "store/lua/FOLDER/NAME.lua"
    ]


def test_the_tests_that_a_page_names_exist() -> None:
    named = set(re.findall(r"``(test_\w+)``", (ROOT / "docs" / "tested.rst").read_text("utf-8")))
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    assert named
    assert [name for name in sorted(named) if not any(f"def {name}(" in text for text in texts)] == []


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.rst").read_text("utf-8")
    on_the_site_alone = {"index", "api", "commands", "changelog"}
    for path in (ROOT / "docs").rglob("*.rst"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("docs/benchmarks/", "docs/_build/")) and path.stem not in on_the_site_alone:
            assert f"<{name}>" in readme, name


def rows(text: str) -> dict[str, str]:
    """Return the rest of the first line of each row whose first column is a literal."""
    return dict(re.findall(r"^``(\w+)(?:\(\))?``(.*)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES_WITH_TABLES)
def test_the_tables_are_as_the_code_declares_them(page: str) -> None:
    assert (ROOT / "docs" / f"{page}.rst").read_text("utf-8") == updated(page), "python -m docs.tables"


def test_every_setting_is_on_its_page() -> None:
    page = (ROOT / "docs" / "settings.rst").read_text("utf-8")
    assert re.findall(r"^   \* - (?:\| )?``(\w+)``", page, re.MULTILINE) == [*SETTINGS]


def test_every_setting_is_in_the_docstring_of_the_tracker() -> None:
    said = re.findall(r"^  (\w+): ", inspect.getdoc(InFlightTracker) or "", re.MULTILINE)
    assert [*said] == [*SETTINGS, "ConfigurationError"]


def test_every_key_in_redis_is_documented() -> None:
    keys, table = Keys("namespace"), (ROOT / "docs" / "keys.rst").read_text("utf-8")
    made = [*keys.shared.values()]
    made += [keys.record("<message id>"), keys.checkpoint("<message id>")]
    made += [keys.running("<incarnation>"), keys.incarnation("<incarnation>")]
    made.append(re.sub(r":\w+$", ":<hash>", keys.place("here") or ""))
    assert {*made} == set(re.findall(r"^``(\{namespace\}:[^`]*)``", table, re.MULTILINE))


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.rst").read_text("utf-8")
    said = set(re.findall(r"^\.\. (?:auto|py:)\w+:: ([\w.]+)", page, re.MULTILINE))
    for module in (dramatiq_inflight, doctor, dashboard, metrics):
        prefix = "" if module is dramatiq_inflight else f"{module.__name__}."
        assert {prefix + name for name in module.__all__} <= said
    assert set(errors.__all__) <= said


def test_the_drawings_are_up_to_date() -> None:
    for name, drawing in PICTURES.items():
        assert (FOLDER / f"{name}.svg").read_text("utf-8") == drawing, "python -m docs.pictures"


def test_the_quickstart_works(server_url: str, namespace: str, tmp_path: Path) -> None:
    """As it is written: two workers, four orders, a kill."""
    page = (ROOT / "docs" / "quickstart.rst").read_text("utf-8")
    (code,) = re.findall(r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)", page, re.MULTILINE)
    source = textwrap.dedent(code).replace("RedisBroker(", f"RedisBroker(namespace={namespace + '-broker'!r}, ")
    (tmp_path / "tasks.py").write_text(source, "utf-8")
    (command,) = re.findall(r"^    dramatiq (--processes .*)$", page, re.MULTILINE)
    environment = {**os.environ, "REDIS_URL": server_url, "PROCESSING_NS": namespace, "PYTHONUNBUFFERED": "1"}
    run = {"cwd": tmp_path, "env": environment, "start_new_session": True}
    output = tmp_path / "output"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(output.open("wb"))

        def said(pattern: str) -> list[str]:
            return re.findall(pattern, output.read_text("utf-8"))

        for _ in range(2):
            args = [sys.executable, "-m", "dramatiq", *command.split()]
            worker = subprocess.Popen(args, stdout=log, stderr=subprocess.STDOUT, **run)  # type: ignore[call-overload]
            stack.callback(worker.wait)
            stack.callback(os.killpg, worker.pid, signal.SIGKILL)
        wait_until(lambda: len(said("ready for action")) == 2, what="both workers are up")
        subprocess.run([sys.executable, "tasks.py"], check=True, **run)  # type: ignore[call-overload]
        wait_until(lambda: len(said(r": begins")) == 4, what="all orders run")
        victim = said(r"order 1: begins in process (\d+)")[0]
        lost = said(rf"order (\d): begins in process {victim}(?!\d)")  # lines of two threads may run together
        os.kill(int(victim), signal.SIGKILL)
        wait_until(lambda: len(said(r": goes on")) == len(lost), what="the other worker goes on with them")
        assert sorted(said(r"order (\d): goes on")) == sorted(lost)
        assert victim not in said(r": goes on in process (\d+)")
    client = redis.Redis.from_url(server_url)
    client.delete(*client.keys(f"*{namespace}*"))


@pytest.mark.parametrize(
    ("command", "views"),
    [
        ("status", (Tally,)),
        ("list", (MessageView,)),
        ("history", (Event,)),
        ("workers", (WorkerView,)),
        ("queues", (QueueView,)),
        ("delayed", (DelayedView,)),
        ("dead", (DeadLetterView,)),
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
    message, overview = inspector.messages(limit=1)[0], inspector.overview()
    asides = len(inspector.aside())
    inspector.queues(overview)  # connects to the broker
    sent = note_writes(monkeypatch)
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
        "schema": inspector.schema,
        "queues": lambda: inspector.queues(overview),
        "ended": inspector.ended,
    }
    table = rows((ROOT / "docs" / "inspector.rst").read_text("utf-8"))
    for name, call in calls.items():
        sent.clear()
        call()
        assert 0 < len(sent) <= int(table[name].split()[0]) + (asides if name == "aside" else 0), name


def test_what_the_views_have_is_named() -> None:
    """Where reading is documented: what of them is used, by those who look for it."""
    text = (ROOT / "docs" / "inspector.rst").read_text("utf-8")
    for view in (
        Inspector,
        Operations,
        Overview,
        QueueView,
        DelayedView,
        DeadLetterView,
        Tally,
        WorkerView,
        MessageView,
        Event,
        Swept,
    ):
        assert f"``{view.__name__}``" in text
