# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""From each release to the present version: what it left in Redis, and workers of both at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from dramatiq import Message
from dramatiq.results import Results

import dramatiq_inflight
from dramatiq_inflight import EventKind, Inspector
from tests.support.cluster import Cluster
from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.rounds import kill_rounds
from tests.support.servers import wait_until
from tests.upgrades.frozen import RELEASES, ROOT, load, save, unpack

pytestmark = pytest.mark.long

APP = "tests.upgrades.app"


class Release:
    """The data that a release has left."""

    def __init__(self, name: str, client: Any, namespace: str) -> None:
        state = json.loads((ROOT / name / "redis.json").read_text("utf-8"))
        self.keys: list[Any] = state["keys"]
        self.run: list[int] = state["run"]
        self.dead_letter: list[int] = state["dead_letter"]
        self.never: list[int] = state["never"]
        seconds, micro = client.time()
        load(client, namespace, self.keys, seconds * 1000 + micro // 1000 - state["at"])


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, client: redis.Redis, namespace: str) -> Release:
    """Every worker of the release was killed a moment ago."""
    return Release(request.param, client, namespace)


def test_the_first_release_is_kept() -> None:
    assert "0.1.0" in RELEASES


def test_what_was_frozen_is_what_is_thawed(release: Release, client: redis.Redis, namespace: str) -> None:
    def without_times(keys: list[Any]) -> list[Any]:
        return [[name, kind, [one[0] for one in value] if kind == "zset" else value] for name, kind, _, value in keys]

    assert without_times(save(client, namespace)) == without_times(release.keys)
    kinds = {kind for _, kind, _, _ in release.keys}
    assert kinds == {"string", "hash", "zset", "list", "set", "stream"}


def test_what_a_release_has_left_is_shown(release: Release, client: redis.Redis, namespace: str) -> None:
    inspector = Inspector(client, namespace)
    overview = inspector.overview()
    assert (overview.alive, overview.aside) == (0, 1)
    states = {view.state for view in inspector.messages()}
    assert states == {"running", "recovering", "requeued"}
    assert any(view.dead_letter for view in inspector.messages())
    (checkpointed,) = [view for view in inspector.messages() if view.checkpointed]
    assert (checkpointed.progress, checkpointed.note) == (0.5, "page 3")
    kinds = {event.kind for event in inspector.history(limit=1000)}
    assert {EventKind.JOINED, EventKind.RECOVERED, EventKind.POISON, EventKind.SET_ASIDE} <= kinds
    assert None not in kinds
    assert sum(count.number for count in inspector.counts() if count.kind == "recovered") == 4


@pytest.fixture
def impatient(server_url: str, namespace: str, lab: Lab) -> Iterator[App]:
    """A worker that waits no longer than a second for a recoverer that is not known to be dead."""
    made = App(server_url, namespace, lab, heartbeat_ttl=1)
    yield made
    made.close()


def test_what_a_release_has_left_is_recovered_once(release: Release, impatient: App) -> None:
    """Nothing is lost, and nothing runs twice."""
    app = impatient
    ran: list[tuple[int, int]] = []
    kept: dict[int, Any] = {}

    def work(key: int) -> None:
        current = dramatiq_inflight.current()
        assert current is not None
        ran.append((key, current.run))
        kept[key] = current.last_checkpoint

    app.broker.middleware = [one for one in app.broker.middleware if not isinstance(one, Results)]
    app.actor(work)
    app.start()
    wait_until(lambda: {key for key, _ in ran} >= set(release.run), what="all that is to run runs")
    wait_until(lambda: len(app.dead_letters()) == len(release.dead_letter), what="the rest is dead-lettered")
    app.join()
    assert sorted(key for key, _ in ran) == release.run
    assert sorted(message.args[0] for message in app.dead_letters()) == release.dead_letter
    assert kept[9] == {"page": 3}
    runs = dict(ran)
    assert (runs[9], runs[10], runs[4], runs[5], runs[11], runs[14]) == (2, 2, 2, 2, 1, 1)
    inspector = Inspector(app.client, app.namespace)
    assert [aside.actor for aside in inspector.aside()] == ["work"]
    wait_until(lambda: len(inspector.workers()) == 1, what="the dead are forgotten")
    assert app.unsettled() == set()
    assert inspector.overview().waiting == 0
    assert inspector.schema() >= 1


# Workers of both.


@pytest.mark.parametrize("name", RELEASES)
def test_workers_of_a_release_and_of_today_share_a_namespace(
    name: str, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Killed again and again, by SIGKILL, whichever it is: nothing is lost, and nothing doubled."""
    old = {"TEST_PACKAGE": str(unpack(name, tmp_path / "package"))}
    cluster_ = cluster()
    report = kill_rounds(cluster_, 4, seed=3, beside={"env": old}, app=APP)
    print(name, report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * 4
    packages = {event.extra for event in cluster_.history.events("package")}
    assert len(packages) == 2, "the release's own code, and the present one"


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_refuses_a_namespace_of_a_later_schema(
    name: str, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """Both ways: the later one while the release's workers live, and the release once the later one has come."""
    old = {"TEST_PACKAGE": str(unpack(name, tmp_path / "package"))}
    later = {"TEST_SCHEMA": "1000"}
    cluster_ = cluster()
    first = cluster_.worker(app=APP, env=old)
    cluster_.broker.enqueue(Message("default", "cut_off", (1,), {}, {}))
    cluster_.wait(lambda: cluster_.history.count("start") == 1, what="it runs")
    refused = cluster_.worker(app=APP, wait=False, env=later)
    assert refused.process.wait(120) != 0
    assert "SchemaError" in refused.output()
    assert f"Let the workers of the older version end first: {socket.gethostname()} (process " in refused.output()
    first.kill()
    cluster_.wait(lambda: _boots(cluster_, later), what="the first one is known to be dead")
    cluster_.wait(lambda: cluster_.history.count("end") == 1, what="what it ran is recovered")
    refused = cluster_.worker(app=APP, wait=False, env=old)
    assert refused.process.wait(120) != 0
    assert "has schema 1000" in refused.output()
    assert "Finish the rollout" in refused.output()
    cluster_.wait(lambda: cluster_.enqueued() == 0, what="all is acknowledged")
    assert cluster_.history.count("start") == 2


def _boots(cluster: Cluster, settings: dict[str, str]) -> bool:
    """Start a worker; if it refuses, that is for another time, as whoever supervises it would see to it."""
    worker = cluster.worker(app=APP, wait=False, env=settings)
    wait_until(lambda: worker.booted_pid() is not None or worker.process.poll() is not None, what="it boots, or not")
    return worker.booted_pid() is not None
