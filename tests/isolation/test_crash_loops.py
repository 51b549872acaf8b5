# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A crash loop ends, and no innocent message pays for it: real processes, killed by what they run, and by deploys."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.crash_loops import CrashLoops, Plan, settings_of
from tests.support.deploys import rolling_deploys
from tests.support.rounds import kill_rounds

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_poison_is_dead_lettered_and_everything_else_completes(
    cluster: MakeCluster, server_url: str, apart: bool, processes: int
) -> None:
    """Each poison message after exactly max_recoveries + 1 runs, of one process or of a container with two.

    ``python -m tests.support.crash_loops`` runs random workloads at length.
    """
    plan = Plan(
        seed=1,
        workers=2,
        max_recoveries=1,
        poison=[0.0, 0.2],
        innocent=[0.05] * 20 + [1.5, 2.0],
        failures=[0, 1] * 10 + [0, 0],
        apart=apart,
        processes=processes,
    )
    verdict = CrashLoops(cluster(**settings_of(plan, server_url)), plan).run()
    assert not verdict.wrong, str(verdict)
    assert verdict.runs == [2, 2]
    assert 2 <= verdict.deaths <= 4


def test_deploys_over_a_long_message_are_no_crashes(cluster: MakeCluster, tmp_path: Path) -> None:
    """SIGTERM, then SIGKILL, more often than max_recoveries allows."""
    made = cluster()
    runs = rolling_deploys(made, 4, tmp_path / "gate", max_recoveries=1)
    assert [(run["crashes"], run["drains"]) for run in runs] == [(0, drains) for drains in range(5)]
    assert made.dead_letters() == []


def test_what_may_have_run_never_starts_again(cluster: MakeCluster) -> None:
    """on_orphan="dead_letter", kill after kill, with the broker's own redelivery at its quickest."""
    made = cluster(TEST_MAINTENANCE_CHANCE="1000000", TEST_HEARTBEAT_TIMEOUT="1200")
    report = kill_rounds(made, 5, seed=3, at_most_once=True)
    assert not report.lost, str(report)
    assert not report.repeated, str(report)
    assert report.dead_lettered >= 5 * 8 - 8, str(report)


def test_another_instance_on_the_same_host_is_not_kept_waiting(cluster: MakeCluster, tmp_path: Path) -> None:
    """A message that is alone has its own container to itself, and no other."""
    made = cluster(PROCESSING_ALONE_IN="container", PROCESSING_MAX_RECOVERIES="1")
    first = made.worker(PROCESSING_INSTANCE_ID=f"a-{uuid.uuid4().hex}")
    made.app.gated.send_with_options(args=("long", str(tmp_path / "gate")), max_recoveries=1)
    made.wait(lambda: made.history.count("start") == 1, what="it runs")
    first.kill()
    second = made.worker(PROCESSING_INSTANCE_ID=f"b-{uuid.uuid4().hex}", processes=2, threads=1)
    made.wait(lambda: made.history.count("start") == 2, what="it runs alone in the second container")
    for n in range(4):
        made.app.untracked.send(n, 0.01)
    third = made.worker(PROCESSING_INSTANCE_ID=f"c-{uuid.uuid4().hex}")
    pids = {event.pid for event in made.history.events("boot") if event.extra == second.group}
    made.wait(lambda: third.booted_pid() is not None, what="the third boots")
    # The second container has fetched some of them; they wait until the message has ended.
    for n in range(4, 40):
        made.app.untracked.send(n, 0.01)
    made.wait(lambda: made.history.count("end") >= 20, what="the third one works")
    assert not [event for event in made.history.events("start") if event.pid in pids and event.key != "long"]
    (tmp_path / "gate").touch()
    made.wait(lambda: made.history.count("end") == 41, what="all is done")
