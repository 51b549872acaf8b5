# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A long job resumes where it was: short versions of ``python -m tests.support.resumes``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import HandBack, current
from dramatiq_inflight.outcomes import Finished, Start
from dramatiq_inflight.registry import Registry

from .support.cluster import Cluster
from .support.history import History
from .support.inprocess import App
from .support.lab import Lab, copy_of
from .support.resumes import (
    BOTH,
    NOTED,
    SETTINGS,
    SIGKILL,
    SIGSTOP,
    SIGTERM,
    kill_between_completion_and_ack,
    kill_the_job,
    roll_over_the_job,
)
from .support.servers import another_database

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]


def test_a_job_that_is_killed_goes_on_from_its_last_save(cluster: MakeCluster) -> None:
    report = kill_the_job(cluster(**NOTED), 3, 1, steps=40, workers=2, kinds=(SIGKILL, BOTH, SIGSTOP))
    assert not report.wrong, str(report)
    assert report.done == 40


def test_a_job_that_is_killed_goes_on_from_its_last_save_on_rabbitmq(cluster: MakeCluster, rabbitmq_url: str) -> None:
    made = cluster(TEST_RABBITMQ_URL=rabbitmq_url, **NOTED)
    report = kill_the_job(made, 2, 2, steps=40, workers=2, kinds=(SIGKILL, SIGTERM))
    assert not report.wrong, str(report)
    assert report.done == 40


def test_a_deploy_costs_a_job_no_step(cluster: MakeCluster) -> None:
    report = roll_over_the_job(cluster(**NOTED), 2, 1, steps=40)
    assert not report.wrong, str(report)
    assert report.done == 40


def test_what_is_killed_between_completion_and_ack_does_not_run_again(cluster: MakeCluster, server_url: str) -> None:
    """Two processes with four messages each; the tracker's Redis is not the broker's."""
    made = cluster(PROCESSING_REDIS_URL=another_database(server_url), **SETTINGS["completions"])
    report = kill_between_completion_and_ack(made, 8, workers=1)
    assert (report.messages, report.delivered_again) == (8, 8), str(report)
    assert report.again == report.untold == report.lost == [], str(report)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_what_is_handed_back_does_not_wait_for_the_worker_that_it_comes_from(
    cluster: MakeCluster, history: History, request: pytest.FixtureRequest, tmp_path: Path, broker: str
) -> None:
    """That one's consumer fetches on while another message goes on there, and nobody runs what it fetches."""
    rabbitmq = {"TEST_RABBITMQ_URL": request.getfixturevalue("rabbitmq_url")} if broker == "rabbitmq" else {}
    made = cluster(**NOTED, **rabbitmq)
    old = made.worker()
    made.app.gated.send("stays", str(tmp_path / "stays"))
    made.app.stepwise.send_with_options(args=("goes", 10, 0.01, 5.0, str(tmp_path / "goes")), hand_back=10)
    made.wait(lambda: history.keys("start") == {"stays", "goes"}, what="both run")
    old.process.terminate()
    made.wait(lambda: history.count("enqueued"), what="it is handed back")
    made.worker()
    made.wait(lambda: history.count("start") == 3, what="it runs again")
    (tmp_path / "goes").touch()
    made.wait(lambda: history.keys("end") == {"goes"}, what="it ends")
    (tmp_path / "stays").touch()
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.count("start") == 3


# The number of a run.


@pytest.mark.parametrize("how", ["fails", "is handed back"])
def test_the_numbers_of_runs_grow_through_retries(app: App, how: str) -> None:
    """Though the record of a run that has failed is gone when its retry starts."""
    runs: list[int] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append(handle.run)
        if len(runs) < 4:
            raise RuntimeError("as asked for") if how == "fails" else HandBack("as asked for")

    actor = app.actor(work, max_retries=5, min_backoff=1, max_backoff=2)
    app.start()
    actor.send()
    app.join()
    assert runs == [1, 2, 3, 4]


def test_a_message_that_is_sent_again_by_its_run_has_a_higher_number(app: App) -> None:
    runs: list[int] = []

    def work() -> None:
        handle = current()
        assert handle is not None
        runs.append(handle.run)
        if len(runs) < 3:
            app.broker.enqueue(sent[0].copy(options={"redis_message_id": None}))

    actor = app.actor(work)
    sent: list[Any] = [actor.message()]
    app.start()
    app.broker.enqueue(sent[0])
    app.join()
    assert runs == [1, 2, 3]
    assert isinstance(app.broker, RedisBroker)


def test_a_record_that_knows_of_a_later_run_counts(lab: Lab, a: Registry, b: Registry) -> None:
    copy = copy_of()
    copy.run = 5
    assert lab.runs(a, copy).run == 6
    lab.kill(a)
    again = lab.runs(b, copy)
    assert (again.answer, again.run) == (Start.RUN, 7)
    assert b.finish(copy, 7, again=False, contended=False) is Finished.FINISHED
