# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The command line, as people and scripts use it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click
import pytest
import redis
from click.testing import CliRunner, Result

from dramatiq_inflight import Done, EventKind, Inspector
from dramatiq_inflight.cli import act, app, source
from dramatiq_inflight.cli.app import cli
from dramatiq_inflight.cli.screen import share
from dramatiq_inflight.cli.table import Cell, Column, cells, cut, lines, plain
from dramatiq_inflight.cli.text import age, clean, duration
from dramatiq_inflight.store.errors import masked
from dramatiq_inflight.store.keys import Keys
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store
from tests.inspection.test_operations import Shop
from tests.support.cluster import Cluster
from tests.support.lab import Lab, copy_of
from tests.support.letters import bury
from tests.support.servers import free_port, wait_until
from tests.support.terminal import Terminal
from tests.support.workers import ROOT

#: Text that clears a screen, sets a title, and makes rich write in red.
HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold red]x[/bold red]\n\u202e"

PROGRAM = (sys.executable, "-m", "dramatiq_inflight.cli")


class Run(Protocol):
    def __call__(self, *args: str) -> Result: ...


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the environment of the developer's shell out of the tests."""
    for name in ("PROCESSING_REDIS_URL", "PROCESSING_NS", "NO_COLOR", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def run(server_url: str, namespace: str) -> Run:
    """Runs the command line in this process, on the test's namespace."""
    runner = CliRunner(env={"PROCESSING_REDIS_URL": server_url, "PROCESSING_NS": namespace})
    return lambda *args: runner.invoke(cli, args)


@pytest.fixture
def shop(server_url: str, namespace: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """An application, as the module ``a_shop``."""
    made = Shop(server_url, namespace, lab)
    module = types.ModuleType("a_shop")
    module.broker = made.broker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "a_shop", module)
    yield made
    made.broker.client.delete(*(made.broker.client.keys(f"{made.broker.namespace}:*") or ["-"]))


@pytest.fixture
def act_on(shop: Shop) -> Run:
    """Runs the command line with that application."""
    return lambda *args: CliRunner().invoke(cli, ["--broker", "a_shop:broker", *args])


def document(result: Result) -> Any:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


def rows(result: Result, title: str) -> list[list[str]]:
    """The rows of the table with that title in its first line."""
    found = result.stdout.splitlines()
    start = next(i for i, line in enumerate(found) if title in line.split("  "))
    return [line.split() for line in found[start + 1 :] if line]


# The texts.


def test_the_overview(run: Run, lab: Lab, a: Store, b: Store, namespace: str) -> None:
    gone = copy_of()
    lab.runs(a, copy_of())
    lab.runs(a, copy_of())
    lab.runs(b, gone)
    lab.return_to_broker(a, b, gone)
    result = run("status")
    assert result.exit_code == 0
    assert namespace in result.stdout
    assert "1 alive" in result.stdout
    assert "2 running, 1 waiting" in result.stdout
    assert "recovered (returned to its queue), 1 crash" in result.stdout
    assert "joined" not in result.stdout, "every deploy brings that"
    assert "\x1b" not in result.stdout
    seen = document(run("status", "--json"))
    assert seen["namespace"] == namespace
    assert seen["workers"] == {"alive": 1, "draining": 0, "silent": 1, "dead": 0}
    assert (seen["running"], seen["waiting"], seen["aside"]) == (2, 1, 0)
    (tally,) = seen["in_flight"]
    assert (tally["queue"], tally["actor"], tally["running"], tally["waiting"]) == ("default", "work", 2, 1)
    assert seen["at"].endswith("Z")
    assert [event["kind"] for event in seen["events"]] == ["recovered"]


def test_an_empty_namespace(run: Run, lab: Lab) -> None:
    """Workers were there, and nothing is left."""
    worker = lab.incarnation("a")
    worker.workers.deregister()
    lab.client.delete(lab.prefix + "history")
    assert run("status").exit_code == 0
    for command in ("list", "workers", "history"):
        result = run(command)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "There" in result.stderr
    assert document(run("list", "--json")) == {"total": 0, "messages": []}
    assert document(run("workers", "--json")) == {"workers": []}
    assert document(run("history", "--json")) == {"events": []}


def test_a_namespace_in_which_nobody_ever_was(lab: Lab, server_url: str, namespace: str) -> None:
    """A misspelt one, likely: exit code 1, and the nearest name of those in which workers live."""
    lab.incarnation("a")
    subscribed = redis.Redis.from_url(server_url).pubsub()
    subscribed.subscribe(Keys(namespace).channel("a"))
    assert subscribed.get_message(timeout=120)
    wrong = namespace + "x"
    for command in (["status"], ["list", "--json"], ["workers"], ["history"]):
        result = CliRunner().invoke(cli, ["--redis-url", server_url, "--namespace", wrong, *command])
        assert result.exit_code == 1, command
        assert f"Nobody has ever been in the namespace '{wrong}'" in result.stderr
        assert "Did you mean '" in result.stderr
    assert f"Did you mean '{namespace}'?" in result.stderr


@pytest.mark.parametrize("command", ["dashboard", "exporter"])
def test_what_serves_starts_while_redis_is_away(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    for module in ("dashboard", "metrics"):
        stand_in(monkeypatch, module, serve=lambda *args, **options: served.append(args))
    assert CliRunner().invoke(cli, ["--redis-url", "redis://127.0.0.1:1/0", command]).exit_code == 0
    assert len(served) == 1


def test_messages_are_listed_chosen_and_sorted(run: Run, lab: Lab, a: Store, b: Store) -> None:
    one, two, three = copy_of("m1"), copy_of("m2"), copy_of("m3")
    two.queue, two.actor = "slow", "charge"
    for store, copy in ((a, one), (b, two), (a, three)):
        lab.runs(store, copy)
    lab.client.zadd(f"{lab.prefix}running:a", {"m1": 1_000_000_000_000})
    assert [row[0] for row in rows(run("list"), "MESSAGE")] == ["m1", "m2", "m3"]

    def chosen(*args: str) -> list[str]:
        return [message["id"] for message in document(run("list", "--json", *args))["messages"]]

    assert chosen("--instance", "pod-b") == ["m2"]
    assert chosen("--worker", "a") == ["m1", "m3"]
    assert chosen("--queue", "slow") == ["m2"] == chosen("--actor", "charge")
    assert chosen("--state", "requeued") == []
    assert chosen("--older-than", "1h") == []
    assert chosen("--sort", "actor") == ["m2", "m1", "m3"]
    assert chosen("--sort", "instance") == ["m1", "m3", "m2"]
    assert chosen("--limit", "2") == ["m1", "m2"]
    assert chosen("--limit", "0") == ["m1", "m2", "m3"]
    limited = run("list", "--limit", "1")
    assert "and 2 more" in limited.stderr
    assert document(run("list", "--limit", "1", "--json"))["total"] == 3
    message = document(run("list", "--json"))["messages"][0]
    assert set(message) == {
        *("id", "state", "queue", "actor", "worker", "instance", "pid", "worker_alive", "started", "age"),
        *("first_started", "run", "generation", "crashes", "drains", "tries", "max_recoveries", "alone", "dead_letter"),
        *("due", "progress", "note", "checkpointed"),
    }
    for wrong in ("tomorrow", "1h30", "-1", "99999d", ""):
        result = run("list", "--older-than", wrong)
        assert result.exit_code == 2
        assert "--older-than" in result.stderr


def test_what_was_set_aside_is_listed(run: Run, lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.kill(a)
    assert b.recovery.set_aside(lab.claim(b, copy, a), dead="a")
    assert [row[:2] for row in rows(run("list", "--state", "aside"), "MESSAGE")] == [[copy.message_id, "aside"]]
    assert document(run("list", "--state", "aside", "--queue", "other", "--json"))["messages"] == []
    assert run("list", "--state", "aside", "--worker", "a").exit_code == 2
    assert "set aside  1" in run("status").stdout
    lab.start(b, copy)  # the broker still had it
    assert [row[:2] for row in rows(run("list", "--state", "aside"), "MESSAGE")] == [[copy.message_id, "running"]]


def test_the_beginning_of_an_id_is_enough(act_on: Run, shop: Shop, a: Store, b: Store) -> None:
    copies = [shop.runs(a) for _ in range(3)]
    shop.lab.kill(a)
    id = copies[0].message_id
    beginning = next(id[:i] for i in range(1, len(id)) if not any(c.message_id.startswith(id[:i]) for c in copies[1:]))
    assert document(act_on("show", beginning, "--json"))["message"]["id"] == id
    done = document(act_on("discard", "--yes", "--json", id[:8]))
    assert [result["id"] for result in done["results"]] == [id]
    assert [
        event["message_id"] for event in document(act_on("history", "--message", beginning, "--json"))["events"]
    ] == [id]
    assert act_on("show", "xyz").exit_code == 1


def test_nothing_is_done_to_a_message_that_was_not_meant(act_on: Run, shop: Shop, a: Store) -> None:
    """An id that is not known may be that of a queued message, and the beginning of another one's."""
    for name in ("order-12", "order-13", "a-long-id-of-ours-12"):
        shop.lab.runs(a, copy_of(name))
    both = act_on("show", "order-1")
    assert both.exit_code == 2
    assert "order-1 is the beginning of 2 ids; give more of it" in both.stderr
    for given in ("order-1", "a-long-id-of-ours-1"):
        assert act_on("discard", "--yes", "--force", given).exit_code == 1
    for command in (("show",), ("discard", "--yes"), ("requeue", "--yes")):
        empty = act_on(*command, "")
        assert empty.exit_code == 2
        assert "An id is missing" in empty.stderr
    assert [shop.lab.state(copy_of(name)) for name in ("order-12", "a-long-id-of-ours-12")] == ["running", "running"]


def test_what_was_set_aside_has_its_reason_and_time(run: Run, lab: Lab, a: Store, b: Store) -> None:
    lab.runs(a, copy_of("m1"))
    lab.client.set(f"{lab.prefix}record:m1", b"what is this?")
    lab.kill(a)
    b.recovery.claim(["m1"], dead=a.me, hold=60)
    listed = run("list", "--state", "aside")
    assert "its record cannot be read" in listed.stdout
    (one,) = document(run("list", "--state", "aside", "--json"))["messages"]
    assert (one["id"], one["reason"]) == ("m1", "its record cannot be read")
    assert one["at"].endswith("Z")
    shown = run("show", "m1").stdout
    assert "Redis keeps it whole: requeue it once it can be decoded, or discard it" in shown
    lab.runs(b, copy_of("m1"))
    shown = run("show", "m1").stdout
    assert "state          running" in shown
    assert "the broker had the message as well, and that copy is the one above" in shown


def test_show_prints_a_payload_only_when_asked_for(run: Run, lab: Lab, a: Store) -> None:
    copy = copy_of()
    payload = json.dumps({"args": ["a secret of a customer"]}).encode()
    lab.start(a, copy, payload=payload)
    a.messages.defer(copy, 1)
    result = run("show", copy.message_id)
    assert result.exit_code == 0
    assert "state          running" in result.stdout
    assert "a (alive)" in result.stdout
    assert "a copy was delayed" in result.stdout
    assert "secret" not in result.stdout
    assert "secret" in run("show", copy.message_id, "--payload").stdout
    shown = document(run("show", copy.message_id, "--json"))
    assert (shown["message"]["state"], [event["kind"] for event in shown["history"]]) == ("running", ["deferred"])
    assert "payload" not in shown
    assert document(run("show", copy.message_id, "--json", "--payload"))["payload"] == payload.decode()
    lab.start(a, copy_of("binary"), payload=b"\xff\x00\x1b[2J")
    assert document(run("show", "binary", "--json", "--payload"))["payload_base64"] == "/wAbWzJK"
    assert "\\x1b[2J" in run("show", "binary", "--payload").stdout
    assert run("show", "no such").exit_code == 1
    assert document(run("show", "no such", "--json")) == {"message": None, "dead_letter": None, "history": []}


def test_workers_are_shown(run: Run, lab: Lab, a: Store, b: Store) -> None:
    lab.runs(a, copy_of())
    lab.kill(b)
    table = {row[0]: row[1:3] for row in rows(run("workers"), "INSTANCE/PID")}
    assert table == {"pod-a/1": ["alive", "1"], "pod-b/1": ["silent", "0"]}
    assert "pod-a/1" in run("list").stdout
    assert "pod-a/1" in run("history").stdout
    (view,) = document(run("workers", "--state", "silent", "--json"))["workers"]
    assert (view["id"], view["instance"], view["pid"], view["queues"]) == ("b", "pod-b", "1", [])
    assert "pod-b" in run("status").stdout, "it is not forgotten among those that live"


def test_the_history_is_told_and_chosen(run: Run, lab: Lab, a: Store, b: Store) -> None:
    copy = copy_of()
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)

    def told(*args: str) -> list[str]:
        return [event["kind"] for event in document(run("history", "--json", *args))["events"]]

    assert told() == ["recovered", "joined", "joined"], "newest first"
    assert told("--limit", "1") == ["recovered"]
    assert told("--kind", "joined", "--kind", "died") == ["joined", "joined"]
    assert told("--instance", "pod-a") == ["recovered", "joined"]
    assert told("--message", copy.message_id) == ["recovered"]
    assert told("--since", "1h") == ["recovered", "joined", "joined"]
    assert "recovered (returned to its queue), 1 crash" in run("history").stdout
    assert run("history", "--kind", "nonsense").exit_code == 2


# Hostile and wrong input.


def test_no_text_from_redis_does_anything_to_a_terminal(run: Run, lab: Lab, server_url: str, namespace: str) -> None:
    store = Store(Scripts(lab.client, namespace, "w", heartbeat_ttl=60, fence_ttl=60))
    store.workers.register({"instance": HOSTILE, "host": HOSTILE, "pid": HOSTILE})
    copy = copy_of("id" + HOSTILE)
    copy.queue = copy.actor = HOSTILE
    lab.runs(store, copy)
    store.messages.defer(copy, 1)
    commands = (["status"], ["list"], ["workers"], ["history"], ["show", copy.message_id, "--payload"])
    for command in commands:
        result = run(*command)
        assert result.exit_code == 0
        for character in "\x1b\x07\u202e":
            assert character not in result.stdout
            assert character not in result.stderr
        assert "\\x1b[2J" in result.stdout
        if command[0] != "show":
            assert document(run(*command, "--json"))
    assert document(run("list", "--json"))["messages"][0]["actor"] == HOSTILE, "programs get it as it is"
    for command in commands:
        with Terminal([*PROGRAM, *command], environment(server_url, namespace), width=300) as terminal:
            assert terminal.wait() == 0
            assert "[bold red]x[/bold red]" in terminal.text()
            assert "\x1b[2J" not in terminal.text()
            assert "\x07" not in terminal.text()


def environment(url: str, namespace: str, **more: str) -> dict[str, str]:
    """The environment of a command line in a process of its own."""
    return {
        **{name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")},
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "PROCESSING_REDIS_URL": url,
        "PROCESSING_NS": namespace,
        **more,
    }


def test_colours_are_for_terminals_and_no_color_is_honoured(lab: Lab, a: Store, server_url: str) -> None:
    lab.runs(a, copy_of())
    for more, coloured in ({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False):
        env = environment(server_url, lab.namespace, **more)
        with Terminal([*PROGRAM, "status"], env) as terminal:
            assert terminal.wait() == 0
            assert "ACTOR" in terminal.text()
            assert ("\x1b[" in terminal.text()) is coloured
    piped = subprocess.run(
        [*PROGRAM, "status"], env=environment(server_url, lab.namespace), capture_output=True, check=True, timeout=120
    )
    assert b"\x1b" not in piped.stdout


def test_tables_do_not_wrap_at_80_columns(lab: Lab, a: Store, b: Store, server_url: str) -> None:
    copy = copy_of("0123456789abcdef" * 2 + "0123")
    copy.actor, copy.queue = "a" * 100, "q" * 100
    lab.runs(a, copy)
    lab.return_to_broker(b, a, copy)
    lab.runs(b, copy_of())
    env = environment(server_url, lab.namespace)
    for command in ("status", "list", "workers", "history"):
        with Terminal([*PROGRAM, command], env | {"NO_COLOR": "1"}) as terminal:
            assert terminal.wait() == 0
            assert max(map(len, terminal.text().splitlines())) <= 80
            if command != "workers":
                assert copy.message_id in terminal.text() or command == "status", "what is copied is whole"


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ([], 2, "give --broker MODULE"),
        (["--redis-url", "http://:geheim@h"], 2, "--redis-url is 'http://...'; it must be"),
        (["--redis-url", "redis://h", "--namespace", "{x}"], 2, "--namespace is '{x}'; it must be"),
        (["--broker", "no.such.module"], 2, "--broker is 'no.such.module', which cannot be imported"),
        (["--broker", "json:dumps.nothing"], 2, "has no attribute 'nothing'"),
        (["--broker", "json:__name__"], 2, "which is a str"),
        (["--broker", "json", "--redis-url", "redis://h"], 2, "leave them out"),
        (["--redis-url", "redis://me:geheim@127.0.0.1:1/0"], 3, "Redis cannot be reached"),
    ],
)
def test_what_is_wrong_is_named(args: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(cli, [*args, "status"])
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert "geheim" not in result.output
    assert len(result.stderr.splitlines()) == 1


def test_an_application_that_fails_to_import_prints_no_password(tmp_path: Path) -> None:
    (tmp_path / "broken_shop.py").write_text(
        "print('loading')\nraise RuntimeError('no redis://me:geheim@host/0?password=geheim here')"
    )
    result = CliRunner().invoke(cli, ["--path", str(tmp_path), "--broker", "broken_shop", "status"])
    assert result.exit_code == 2
    assert "RuntimeError: no redis://***@host/0?password=*** here" in result.stderr
    assert result.stdout == "", "what it prints goes elsewhere"


def test_a_broker_without_a_tracker_is_said(tmp_path: Path) -> None:
    (tmp_path / "plain_shop.py").write_text(
        "import dramatiq\nfrom dramatiq.brokers.stub import StubBroker\n"
        "broker = StubBroker(middleware=[])\n"
        "def setup():\n    dramatiq.set_broker(broker)\n"
    )
    for name in ("plain_shop:broker", "plain_shop:setup"):
        result = CliRunner().invoke(cli, ["-P", str(tmp_path), "--broker", name, "status"])
        assert result.exit_code == 2
        assert "There is no InFlightTracker in the broker's middleware" in result.stderr


def test_without_its_extra_it_says_what_to_install() -> None:
    for name in ("click", "rich"):
        code = f"import sys; sys.modules[{name!r}] = None; from dramatiq_inflight.cli.__main__ import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=120,
        )
        assert result.returncode == 2
        assert result.stderr.decode().splitlines() == [f'There is no {name} here; pip install "dramatiq_inflight[cli]"']


def test_help_and_completion() -> None:
    names = set(cli.commands)
    assert names == {
        *("status", "list", "show", "watch", "history", "workers", "recover", "requeue", "dead-letter", "discard"),
        *("doctor", "healthcheck", "dashboard", "exporter", "effects", "queues", "delayed", "dead"),
    }
    for name in names:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0
        if name not in ("dashboard", "exporter", "effects"):  # a group of commands
            assert "Exit code" in result.stdout, name
    assert "PROCESSING_REDIS_URL" in CliRunner().invoke(cli, ["--help"]).stdout
    env = {**os.environ, "PYTHONPATH": str(ROOT), "_DRAMATIQ_INFLIGHT_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": "dramatiq-inflight dead", "COMP_CWORD": "1"}
    completed = subprocess.run(PROGRAM, env=env, capture_output=True, check=True, timeout=120)
    assert completed.stdout.split() == [b"plain,dead", b"plain,dead-letter"]


# The commands that act.


def test_acts_need_the_application(run: Run) -> None:
    for command in (["requeue", "m"], ["dead-letter", "m"], ["discard", "m"], ["recover"], ["recover", "--dry-run"]):
        result = run(*command)
        assert result.exit_code == 2
        assert "--broker" in result.stderr


def test_without_a_terminal_or_yes_nothing_is_done(act_on: Run, shop: Shop, a: Store, b: Store) -> None:
    copy = shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    for command in ("requeue", "dead-letter", "discard"):
        result = act_on(command, copy.message_id)
        assert result.exit_code == 2
        assert "--yes" in result.stderr
    assert shop.lab.state(copy) == "requeued"


def test_what_runs_on_a_living_worker_takes_force(act_on: Run, shop: Shop, a: Store) -> None:
    copy = shop.runs(a)
    for command in ("requeue", "dead-letter", "discard"):
        result = act_on(command, "--yes", copy.message_id)
        assert result.exit_code == 1
        assert "it runs on a living worker; with --force" in result.stdout
    assert shop.lab.state(copy) == "running"
    result = act_on("requeue", "--yes", "--force", copy.message_id)
    assert (result.exit_code, "enqueued again" in result.stdout) == (0, True)
    assert not a.workers.heartbeat(), "it hears of it with its next beat"


def test_each_message_has_its_result(act_on: Run, shop: Shop, a: Store, b: Store) -> None:
    copy, other = shop.runs(a), shop.runs(a)
    shop.lab.return_to_broker(b, a, copy)
    result = act_on("dead-letter", "--yes", "--json", copy.message_id, "no such", copy.message_id, other.message_id)
    assert result.exit_code == 1
    done = {one["id"]: one["done"] for one in document(result)["results"]}
    assert done == {copy.message_id: "done", "no such": "unknown", other.message_id: "done"}
    assert shop.lab.state(copy) == "requeued, dead_letter"
    result = act_on("discard", "--yes", copy.message_id)
    assert (result.exit_code, "no copy of it runs any more" in result.stdout) == (0, True)
    assert shop.lab.state(copy) == "completed"


def test_a_probe_without_a_shell_tells_fresh_from_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "healthy"

    def check(*args: str) -> Result:
        return CliRunner().invoke(cli, ["healthcheck", *args])

    monkeypatch.delenv("PROCESSING_HEALTH_FILE", raising=False)
    assert check().exit_code == 2, "nothing says which file"
    monkeypatch.setenv("PROCESSING_HEALTH_FILE", str(file))
    assert check().exit_code == 1
    assert "is not there" in check().stdout
    assert document(check("--json")) == {"healthy": False, "file": str(file), "age": None}
    file.touch()
    assert check().exit_code == 0
    assert check("--file", str(tmp_path / "other")).exit_code == 1
    long_ago = file.stat().st_mtime - 301
    os.utime(file, (long_ago, long_ago))
    assert check().exit_code == 1
    assert "not healthy: the last heartbeat was 5m" in check().stdout
    assert check("--max-age", "1h").exit_code == 0
    assert document(check("--json", "--max-age", "1h"))["healthy"]


def test_every_outcome_has_a_sentence() -> None:
    assert set(act.SENTENCES) == set(Done)


def test_it_asks_at_a_terminal(lab: Lab, a: Store, cluster: Callable[..., Cluster]) -> None:
    made = cluster()
    copy = copy_of()
    copy.queue = made.app.QUEUE
    lab.runs(a, copy)
    env = {**environment(made.env["TEST_BROKER_URL"], lab.namespace), **made.env}
    command = [*PROGRAM, "--broker", "tests.support.app", "discard", "--force", copy.message_id]
    for answer, code, state in (("n", 1, "running"), ("y", 0, "completed")):
        with Terminal(command, env, width=200) as terminal:
            wait_until(lambda shown=terminal: "[y/N]" in shown.text(), what="it asks")  # type: ignore[misc]
            assert "on pod-a/1, which lives: its run will be void" in terminal.text()
            assert lab.state(copy) == "running"
            terminal.press(answer + "\n")
            assert terminal.wait() == code
            assert lab.state(copy) == state


def test_30_of_500_dead_letters_are_found_and_requeued(cluster: Callable[..., Cluster], a: Store) -> None:
    """As somebody on call does it: the causes, then all letters of one."""
    made = cluster()
    gated = made.app.gated
    others = bury(made.broker, gated, [f"TimeoutError: no answer in {n} s" for n in range(470)])
    wanted = bury(made.broker, gated, [f"CardDeclined: card {n}" for n in range(30)])
    program = [*PROGRAM, "--broker", "tests.support.app", "dead"]
    env = {**environment(made.env["TEST_BROKER_URL"], made.namespace), **made.env}
    listed = subprocess.run([*program, "causes", "--json"], env=env, capture_output=True, check=False, timeout=60)
    causes = json.loads(listed.stdout)["causes"]
    assert causes == [
        {"number": 470, "cause": "TimeoutError: no answer in # s", "actor": "gated"},
        {"number": 30, "cause": "CardDeclined: card #", "actor": "gated"},
    ]

    def left() -> set[str]:
        return {view.id for view in Inspector.of(made.broker).dead_letters() or ()}

    command = [*program, "requeue", "--cause", causes[1]["cause"]]
    for answer, code in (("n", 1), ("y", 0)):
        assert left() == {*others, *wanted}
        with Terminal(command, env, width=200) as terminal:
            wait_until(lambda shown=terminal: "[y/N]" in shown.text(), what="it asks")  # type: ignore[misc]
            assert "requeue 30 dead letters?" in terminal.text()
            assert f"30  queue {gated.queue_name}, actor gated" in terminal.text()
            terminal.press(answer + "\n")
            assert terminal.wait() == code, terminal.text()
    assert "30 dead letters enqueued again" in terminal.text()
    assert left() == set(others)
    queues = {queue.name: queue.depth for queue in Inspector.of(made.broker).queues() or ()}
    assert queues[gated.queue_name] == 30


def test_recover_says_what_there_is_and_does_it(act_on: Run, shop: Shop, a: Store, b: Store) -> None:
    assert act_on("recover", "--dry-run").exit_code == 0
    copy = shop.runs(a)
    shop.lab.kill(a)
    result = act_on("recover", "--dry-run")
    assert (result.exit_code, "To recover: 1 message; 1 dead worker process." in result.stdout) == (1, True)
    due = document(act_on("recover", "--dry-run", "--json"))
    assert (due["messages"], [one["instance"] for one in due["workers"]]) == (1, ["pod-a"])
    assert shop.lab.state(copy) == "running"
    result = act_on("recover")
    assert result.exit_code == 0
    assert "1  enqueued as copies" in result.stdout
    assert shop.lab.state(copy) == "requeued"
    swept = document(act_on("recover", "--json"))
    assert (swept["copied"], swept["left"], swept["stopped"]) == (0, 0, False)
    assert "Nothing was due." in act_on("recover").stdout


def test_recover_shows_a_bar_on_a_terminal(lab: Lab, a: Store, b: Store, cluster: Callable[..., Cluster]) -> None:
    made = cluster(HEARTBEAT_INTERVAL="20", HEARTBEAT_TTL="60")
    message = made.app.work.message("k", 0.0)
    copy = copy_of(message.message_id)
    copy.queue, copy.actor = message.queue_name, message.actor_name
    lab.start(a, copy, payload=message.encode())
    lab.kill(a)
    env = {**environment(made.env["TEST_BROKER_URL"], lab.namespace), **made.env}
    with Terminal([*PROGRAM, "--broker", "tests.support.app", "recover"], env, width=200) as terminal:
        assert terminal.wait() == 0
        assert "recovering" in terminal.text()
        assert "enqueued as copies" in terminal.text()
        assert "pod-a (process 1 on h, incarnation a) is dead: its heartbeat has expired." in terminal.text()
    assert lab.state(copy) == "requeued"


def test_recover_says_so_if_another_recovers_or_nobody_is_judged(act_on: Run, shop: Shop, a: Store) -> None:
    shop.runs(a)
    holder = shop.lab.incarnation("holder")
    shop.lab.kill(a)
    lock = holder.recovery.lock(60)
    assert lock.acquire(blocking=False, token="holder")
    result = act_on("recover")
    assert (result.exit_code, "Another worker is recovering" in result.stdout) == (1, True)
    lock.release()
    shop.lab.client.zadd(shop.lab.prefix + "heartbeats", {"holder": 1000, "*last": 1000})
    result = act_on("recover")
    assert (result.exit_code, "2 worker processes are silent, with 1 message," in result.stdout) == (1, True)
    assert act_on("recover", "--dry-run").exit_code == 1


# Other parts of the package.


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: Any) -> None:
    made = types.ModuleType(module)
    vars(made).update(functions)
    monkeypatch.setitem(sys.modules, f"dramatiq_inflight.{module}", made)


def test_the_doctor_is_asked(act_on: Run, run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    severities = ["ok"]

    def examine(broker: Any, inspector: Inspector) -> list[Any]:
        asked.append((broker, inspector.namespace))
        names = ("code", "title", "consequence", "remedy")
        return [types.SimpleNamespace(severity=one, **{n: f"{n} of {one}" for n in names}) for one in severities]

    stand_in(monkeypatch, "doctor", examine=examine)
    assert act_on("doctor").exit_code == 0
    assert run("doctor").exit_code == 0
    assert asked == [(shop.broker, shop.lab.namespace), (None, shop.lab.namespace)]
    severities[:] = ["ok", "note"]
    assert run("doctor").exit_code == 0
    severities[:] = ["ok", "warning", "error"]
    result = run("doctor")
    assert result.exit_code == 1
    assert result.stdout.index("title of error") < result.stdout.index("title of warning")
    for said in ("consequence of error", "remedy of error", "1 error, 1 warning, 0 note, 1 ok"):
        assert said in result.stdout
    findings = document(run("doctor", "--json"))["findings"]
    assert findings[0] == {
        **{"severity": "ok", "code": "code of ok", "title": "title of ok"},
        **{"consequence": "consequence of ok", "remedy": "remedy of ok"},
    }


def test_the_dashboard_and_the_exporter_are_started(
    act_on: Run, run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []

    def serve(inspector: Inspector, operations: Any = None, *, host: str, port: int, **more: Any) -> None:
        served.append((inspector.namespace, operations is not None, host, port, more))
        if port == 1:
            raise OSError(98, "Address already in use")

    stand_in(monkeypatch, "dashboard", serve=serve)
    stand_in(monkeypatch, "metrics", serve=serve)
    namespace = shop.lab.namespace
    assert act_on("dashboard", "--port", "7").exit_code == 0
    assert act_on("dashboard", "--host", "0.0.0.0", "--allow-actions").exit_code == 0
    for variable in ("PROCESSING_API_TOKEN", "DRAMATIQ_INFLIGHT_API_TOKEN"):  # the last one goes before the first
        monkeypatch.setenv(variable, f"of {variable}")
        assert act_on("dashboard").exit_code == 0
    result = run("exporter", "--port", "9")
    assert (result.exit_code, "http://127.0.0.1:9/metrics" in result.stderr) == (0, True), "and it says where"
    assert served == [
        (namespace, False, "127.0.0.1", 7, {"api_token": None}),
        (namespace, True, "0.0.0.0", 8010, {"api_token": None}),
        (namespace, False, "127.0.0.1", 8010, {"api_token": "of PROCESSING_API_TOKEN"}),
        (namespace, False, "127.0.0.1", 8010, {"api_token": "of DRAMATIQ_INFLIGHT_API_TOKEN"}),
        (namespace, False, "127.0.0.1", 9, {}),
    ]
    result = run("dashboard", "--allow-actions")
    assert (result.exit_code, "--broker" in result.stderr) == (2, True)
    result = run("exporter", "--port", "1")
    assert (result.exit_code, "Address already in use" in result.stderr) == (2, True)


def test_a_part_without_its_extra_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, command, extra in (("dashboard", "dashboard", "dashboard"), ("metrics", "exporter", "metrics")):
        monkeypatch.setitem(sys.modules, f"dramatiq_inflight.{module}", None)
        result = run(command)
        assert result.exit_code == 2
        assert f'pip install "dramatiq_inflight[{extra}]"' in result.stderr


# On terminals, with processes.


def test_watch_shows_what_happens_and_q_ends_it(lab: Lab, a: Store, server_url: str) -> None:
    env = environment(server_url, lab.namespace, NO_COLOR="1")
    with Terminal([*PROGRAM, "watch", "--interval", "0.2"], env) as terminal:
        wait_until(lambda: "1 alive" in terminal.text(), what="the first picture")
        copy = copy_of()
        lab.runs(a, copy)
        wait_until(lambda: copy.message_id in terminal.text(), what="the message, without a key")
        assert terminal.process.poll() is None
        assert "RUN " not in terminal.text(), "it has no room"
        terminal.resize(140, 40)
        wait_until(lambda: "RUN " in terminal.text(), what="a wider picture")
        terminal.press("q")
        assert terminal.wait() == 0
        assert "\x1b[?1049l" in terminal.text(), "the screen is as it was"
        assert terminal.as_it_was, "and so is the keyboard"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_watch_leaves_the_terminal_as_it_was(lab: Lab, server_url: str, number: signal.Signals, code: int) -> None:
    with Terminal([*PROGRAM, "watch"], environment(server_url, lab.namespace, NO_COLOR="1")) as terminal:
        wait_until(lambda: "q ends" in terminal.text(), what="the first picture")
        terminal.process.send_signal(number)
        assert terminal.wait() == code
        assert "\x1b[?1049l" in terminal.text()
        assert terminal.as_it_was


def test_watch_outlasts_an_outage(own_server: Any, namespace: str) -> None:
    with Terminal([*PROGRAM, "watch", "--interval", "0.2"], environment(own_server.url, namespace)) as terminal:
        wait_until(lambda: "q ends" in terminal.text(), what="the first picture")
        own_server.kill()
        wait_until(lambda: "Redis cannot be reached" in terminal.text(), what="it says so")
        own_server.start()
        Lab(redis.Redis.from_url(own_server.url), namespace).incarnation("back")
        wait_until(lambda: "pod-back" in terminal.text(), what="it goes on")
        terminal.press("q")
        assert terminal.wait() == 0


def test_watch_needs_a_terminal(run: Run) -> None:
    result = run("watch")
    assert (result.exit_code, "terminal" in result.stderr) == (2, True)


def test_the_history_is_followed(lab: Lab, a: Store, server_url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*PROGRAM, "history", "--follow", "--json", "--kind", "joined"]
    env = environment(server_url, lab.namespace, PYTHONUNBUFFERED="1")
    with out.open("wb") as file, subprocess.Popen(command, env=env, stdout=file) as process:
        try:
            wait_until(lambda: b"\n" in out.read_bytes(), what="what has happened")
            a.messages.defer(copy_of(), 1)
            lab.incarnation("b")
            wait_until(lambda: out.read_bytes().count(b"\n") == 2, what="what happens")
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=120) == 0
        finally:
            process.kill()
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(event["kind"], event["worker"]) for event in told] == [("joined", "a"), ("joined", "b")]


def test_a_death_and_its_recovery_by_hand(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """A real worker dies; another one, which has no access to its broker, sees it; an operator does the rest."""
    made = cluster()

    def call(*args: str) -> tuple[int, str]:
        result = subprocess.run(
            [*PROGRAM, "--broker", "tests.support.app", *args],
            check=False,
            env={**os.environ, **made.env, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode in (0, 1), result.stderr
        return result.returncode, result.stdout

    def told(*args: str) -> Any:
        return json.loads(call(*args, "--json")[1])

    victim = made.worker(PROCESSING_INSTANCE_ID="victim")
    gate = tmp_path / "gate"
    message = made.app.gated.send("k", str(gate))
    made.wait(lambda: made.history.count("start") == 1, what="it runs")
    made.worker(PROCESSING_INSTANCE_ID="other", TEST_BROKER_NAMESPACE=f"{made.namespace}-other")
    assert "2 alive, 0 dead" in call("status")[1]
    (shown,) = told("list")["messages"]
    assert (shown["id"], shown["actor"], shown["instance"]) == (message.message_id, "gated", "victim")
    code, text = call("requeue", "--yes", message.message_id)
    assert (code, "it runs on a living worker" in text) == (1, True)
    victim.kill()
    made.wait(lambda: told("status")["workers"]["dead"] == 1, what="its death is seen")
    code, text = call("recover", "--dry-run")
    assert (code, "To recover: 1 message" in text) == (1, True)
    made.wait(lambda: "1  returned to their queues" in call("recover")[1], what="the other does not hold the lock")
    kinds = [event["kind"] for event in told("history", "--instance", "victim")["events"]]
    assert kinds == ["cleared", "recovered", "died", "joined"]
    assert "1 (max_recoveries: no limit)" in call("show", message.message_id)[1]
    assert call("recover", "--dry-run")[0] == 0
    gate.touch()
    made.worker()
    made.wait(lambda: made.history.count("acked") == 1, what="it is complete")
    assert told("list")["total"] == 0


def test_a_redis_that_does_not_answer_is_code_3(namespace: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        result = subprocess.run(
            [*PROGRAM, "--redis-url", f"redis://:geheim@127.0.0.1:{listener.getsockname()[1]}", "list"],
            check=False,
            env=environment("", namespace),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 3
    assert result.stderr.startswith("Error: Redis cannot be reached")
    assert "geheim" not in result.stderr


# The parts it is made of.


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("10m", 600), ("2h", 7200), ("1h30m", 5400), ("1.5d", 129600), ("0", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_wrong_durations_are_named() -> None:
    with pytest.raises(click.BadParameter, match="'soon' is no duration; it must be"):
        duration("soon")


def test_texts_are_made_harmless() -> None:
    assert clean("über \u4e2d") == "über \u4e2d"
    assert clean(HOSTILE) == r"\x1b[2J\x1b]0;owned\x07[bold red]x[/bold red]\n\u202e"
    assert masked("at redis://u:p@h:1/0, rediss://:p@@h") == "at redis://***@h:1/0, rediss://***@h"
    assert masked("Port could not be cast to integer value as 's3cret'") == (
        "Port could not be cast to integer value as '***'"
    )
    assert masked("netloc ':s3\u2100cret@h' contains invalid characters") == "netloc '***' contains invalid characters"
    assert [age(seconds) for seconds in (0.9, 123, 11040, 190_800, -1)] == ["0s", "2m03s", "3h04m", "2d05h", "0s"]


@pytest.mark.parametrize("word", ["a", "a://", "?user=", "netloc '"])
def test_a_long_text_is_masked_in_linear_time(word: str) -> None:
    """A worker masks each error that it keeps, with all its threads waiting."""
    began = time.thread_time()
    masked(word * 200_000)
    assert time.thread_time() - began < 5


def test_tables_fit() -> None:
    columns = (Column("ID"), Column("NAME", least=5, middle=True), Column("N", right=True), Column("X", spare=1))
    table = [
        [Cell("m1"), Cell("a-long-name-01"), Cell("7"), Cell("spare")],
        [Cell("m2"), Cell(""), Cell("10"), Cell("")],
    ]
    whole = [plain(line) for line in lines(columns, table, None)]
    assert whole == ["ID  NAME             N  X", "m1  a-long-name-01   7  spare", "m2  -               10  -"]
    assert [plain(line) for line in lines(columns, table, 13)] == ["ID  NAME    N", "m1  a-…01   7", "m2         10"]
    for room in range(13, 60):
        assert all(cells(plain(line)) <= room for line in lines(columns, table, room))
    assert cut("\u4e2d\u6587\u5b57", 5) == "\u4e2d\u6587…"
    assert cut("abcdef", 0) == ""


def test_the_room_of_a_picture_is_shared() -> None:
    assert share([1, 10, 3], 7) == [1, 3, 3]
    assert share([1, 1], 9) == [1, 1]
    assert share([5], 0) == [0]


def test_every_event_can_be_asked_for() -> None:
    (kind,) = [option for option in cli.commands["history"].params if option.name == "kinds"]
    assert isinstance(kind.type, click.Choice)
    assert set(kind.type.choices) == {one.value for one in EventKind}
    assert app.cli is cli
    assert source.import_broker.__doc__
