# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A short run of the chaos, and a judge that condemns what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.checker import Ending, Judgement, judge
from chaos.report import report
from tests.support.history import Event
from tests.support.networks import no_namespaces
from tests.support.servers import find_server

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif("CHAOS" not in os.environ, reason="set CHAOS=1: it wants the machine to itself")
def test_a_short_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Real pods and a real Redis, in namespaces of their own.

    With the faults that leave little to be excused; ``nox -s chaos`` has them all.
    """
    why = no_namespaces() or ("" if find_server() else "no Redis or Valkey server here")
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    page, figures = tmp_path / "chaos.html", tmp_path / "chaos.json"
    command = ["--seed", "1", "--duration", "10", "--report", str(page), "--json", str(figures)]
    command += ["--faults", "kill process,kill pod,deploy,redis kill"]
    done = subprocess.run(
        [sys.executable, "-m", "chaos", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    (said,) = json.loads(figures.read_text("utf-8"))
    assert said["completed"] >= 50
    assert sum(said["faults"].values()) >= 4
    text = page.read_text("utf-8")
    assert "Nothing went wrong" in text
    assert "http" not in text.replace("http://www.w3.org", "")


# The judge.  Each history is of one or two processes and one message, and goes wrong in one way.

A, B = "pod-0.1:2", "pod-1.1:2"


class Story:
    """A history, written by hand."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._faults = 0

    def note(self, at: float, who: str, what: str, key: Any = None, extra: Any = None) -> None:
        self.events.append(Event(at, who, what, key, str(key), extra))

    def run(
        self,
        key: str,
        who: str,
        start: float,
        end: float | None = None,
        outcome: str = "ok",
        *,
        run: int = 1,
        ack: bool = True,
    ) -> None:
        """One run; `end`: ``None``: it is cut off, or goes on."""
        token = f"{key} {who} {start}"
        self.note(start, who, "start", key, {"token": token, "run": run, "crashes": 0})
        if end is not None:
            self.note(end, who, "end", key, {"token": token, "outcome": outcome})
            if ack:
                self.note(end + 0.01, who, "acked", key)

    def died(self, who: str, at: float) -> None:
        self.note(at, "chaos", "died", who)

    def fault(self, begin: float, until: float, kind: str, part: str, **more: str) -> None:
        self._faults += 1
        self.note(begin, "chaos", "fault", self._faults, {"kind": kind, "part": part, **more})
        self.note(until, "chaos", "mended", self._faults)

    def judge(self, *, rabbitmq: bool = False, **ending: Any) -> Judgement:
        return judge(self.events, Ending(**ending), {}, rabbitmq=rabbitmq)


def verdicts(judgement: Judgement) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Return the verdicts and the excuses."""
    found = {verdict: len(texts) for verdict, texts in judgement.violations.items() if texts}
    return found, {verdict: excuses for verdict, excuses in judgement.excused.items() if excuses}


@pytest.fixture
def story() -> Story:
    return Story()


def test_one_run_is_all_right(story: Story) -> None:
    story.run("m", A, 10, 11)
    assert verdicts(story.judge(sent=["m"])) == ({}, {})


def test_what_never_ran_or_was_cut_off_for_good_is_lost(story: Story) -> None:
    story.run("cut", A, 10)
    story.died(A, 11)
    judgement = story.judge(sent=["never", "cut"], unsure=["maybe"])
    assert verdicts(judgement) == ({"lost": 2}, {})


def test_a_missing_stage_is_lost_unless_the_first_was_rejected(story: Story) -> None:
    story.run("s/1", A, 10, 11)
    story.note(11.1, A, "enqueue", "s/2")
    story.fault(11, 12, "rabbitmq restart", "rabbitmq")
    assert verdicts(story.judge(sent=["s/1", "s/2"], rabbitmq=True)) == ({"lost": 1}, {})
    story.note(12, A, "nacked", "s/1")
    assert "lost" not in verdicts(story.judge(sent=["s/1", "s/2"], rabbitmq=True))[0]


def test_two_runs_at_once_are_doubled(story: Story) -> None:
    story.run("m", A, 10, 20)
    story.run("m", B, 12, 13, run=2)
    assert verdicts(story.judge(sent=["m"]))[0] == {"doubled": 1}


def test_a_run_after_a_death_is_not_doubled(story: Story) -> None:
    story.run("m", A, 10)
    story.fault(11, 11, "kill process", "pod-0", who=A)
    story.run("m", B, 11.1, 13, run=2)
    story.died(A, 11.2)  # it is noticed late
    assert verdicts(story.judge(sent=["m"])) == ({}, {})


@pytest.mark.parametrize(
    ("seconds", "victim", "found"),
    [(6, A, {}), (6, B, {"doubled": 1}), (2, A, {"doubled": 1})],
    ids=["long", "another", "short"],
)
def test_only_a_long_freeze_of_the_owner_excuses(
    story: Story, seconds: float, victim: str, found: dict[str, int]
) -> None:
    story.run("m", A, 10, 20)
    story.fault(11, 11 + seconds, "freeze process", victim.partition(".")[0], who=victim)
    story.run("m", B, 16, 17, run=2)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"doubled": {"frozen": 1}})


@pytest.mark.parametrize(("run", "found"), [(1, {}), (3, {"repeated": 1})], ids=["first", "next"])
def test_a_run_recorded_before_its_workers_freeze_begins_late(story: Story, run: int, found: dict[str, int]) -> None:
    story.fault(10, 16, "freeze pod", "pod-0", boot="pod-0.1")
    story.run("m", B, 15, 15.5, run=2)
    story.run("m", A, 16.1, 17, run=run)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"repeated": {"frozen": 1}})


@pytest.mark.parametrize(("pod", "found"), [("pod-0", {}), ("pod-1", {"doubled": 1})])
def test_only_a_cut_of_the_owner_excuses(story: Story, pod: str, found: dict[str, int]) -> None:
    story.run("m", A, 10, 20)
    story.fault(11, 17, "cut redis long", pod)
    story.run("m", B, 16, 17, run=2)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"doubled": {"cut off": 1}})


@pytest.mark.parametrize(("outage", "found"), [((9, 10), {}), ((4, 5), {"doubled": 1})], ids=["just before", "earlier"])
def test_outages_of_which_one_follows_the_other_are_one_silence(
    story: Story, outage: tuple[float, float], found: dict[str, int]
) -> None:
    """Redis was away until a moment before the worker was cut off: it has not beaten since before that."""
    story.fault(*outage, "redis memory", "redis")
    story.run("m", A, 8, 20)
    story.fault(11.5, 17, "cut redis long", "pod-0")
    story.run("m", B, 13.5, 17, run=2)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"doubled": {"cut off": 1}})


def test_an_outage_of_redis_excuses_only_what_started_unrecorded(story: Story) -> None:
    story.run("m", A, 10, 20)
    story.fault(11, 17, "redis stall", "redis")
    story.run("m", B, 16, 17, run=2)
    assert verdicts(story.judge(sent=["m"]))[0] == {"doubled": 1}
    story.run("n", A, 10, 20)
    story.run("n", B, 16, 17, run=0)
    assert verdicts(story.judge(sent=["m", "n"])) == ({"doubled": 1}, {"doubled": {"untracked": 1}})


def test_an_unrecorded_start_without_an_outage_excuses_nothing(story: Story) -> None:
    story.run("m", A, 10, 20)
    story.run("m", B, 16, 17, run=0)
    assert verdicts(story.judge(sent=["m"]))[0] == {"doubled": 1}


def test_a_run_after_completion_is_repeated(story: Story) -> None:
    story.run("m", A, 10, 11)
    story.run("m", B, 12, 13, run=2)
    assert verdicts(story.judge(sent=["m"]))[0] == {"repeated": 1}


@pytest.mark.parametrize(("frozen", "found"), [(6, {}), (1, {"doubled": 1, "repeated": 1})])
def test_what_a_frozen_worker_completes_late_ends_nothing(story: Story, frozen: float, found: dict[str, int]) -> None:
    """Another worker has its message, and dies as well."""
    story.run("m", A, 10, 17)
    story.fault(10.5, 10.5 + frozen, "freeze process", "pod-0", who=A)
    story.run("m", B, 16, run=2)
    story.died(B, 18)
    story.run("m", "pod-2.1:2", 19, 20, run=3)
    excused = {} if found else {"doubled": {"frozen": 1}, "repeated": {"frozen": 1}}
    assert verdicts(story.judge(sent=["m"])) == (found, excused)


@pytest.mark.parametrize(
    ("skew", "restart", "enqueued", "found"),
    [(90, 12, 2, {}), (30, 12, 2, {"repeated": 1}), (90, 16, 2, {"repeated": 1}), (90, 4, 8, {"repeated": 1})],
    ids=["", "clocks agree", "it was restarted later", "it was restarted before"],
)
def test_what_may_be_the_last_copy_after_a_restart_is_excused(
    story: Story, skew: int, restart: float, enqueued: float, found: dict[str, int]
) -> None:
    story.note(1, "chaos", "pod", "pod-2.1", {"skew": skew})
    story.note(enqueued, "sender", "enqueue", "m", False)
    story.run("m", A, 10, 11)
    story.fault(restart, restart + 1, "redis kill", "redis")
    story.run("m", B, 15, 15.5, run=2)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"repeated": {"last copy": 1}})


def test_a_death_before_the_ack_excuses_in_that_moment_only(story: Story) -> None:
    story.run("m", A, 10, 11, ack=False)
    story.run("n", A, 9, 10, ack=False)
    story.died(A, 11.1)
    for key in ("m", "n"):
        story.run(key, B, 12, 13, run=2)
    assert verdicts(story.judge(sent=["m", "n"])) == ({"repeated": 1}, {"repeated": {"torn": 1}})


@pytest.mark.parametrize(
    ("death", "next_outage", "found"),
    [(15, None, {}), (24, None, {"repeated": 1}), (24, 16, {}), (24, 20, {"repeated": 1})],
    ids=["before it could tell", "long after", "in the next outage", "after it could tell"],
)
def test_a_success_that_could_not_be_told_excuses_a_run_again(
    story: Story, death: float, next_outage: float | None, found: dict[str, int]
) -> None:
    """It was acknowledged while Redis was away; outages that follow each other are one."""
    story.fault(10, 12, "redis stall", "redis")
    story.run("m", A, 9, 11)
    if next_outage is not None:
        story.fault(next_outage, 23, "redis kill", "redis")
    story.died(A, death)
    story.run("m", B, death + 1, death + 2, run=2)
    assert verdicts(story.judge(sent=["m"])) == (found, {} if found else {"repeated": {"untold": 1}})


@pytest.mark.parametrize(("death", "found"), [(12, {}), (24, {"repeated": 1})], ids=["before it could tell", "later"])
def test_an_untold_failure_excuses_a_run_beside_its_retry(story: Story, death: float, found: dict[str, int]) -> None:
    story.fault(10.5, 14, "redis stall", "redis")
    story.run("m", A, 10, 11, "failed")
    story.died(A, death)
    story.run("m", B, 11.5, 12, run=0)
    story.run("m", B, 25, 26, run=2)
    excused = {} if found else {"repeated": {"retry beside its original": 1}}
    assert verdicts(story.judge(sent=["m"])) == (found, excused)


def test_an_ack_that_may_be_lost_excuses_an_unrecorded_run(story: Story) -> None:
    story.fault(5, 9, "redis stall", "redis")
    for key, run in (("recorded", 1), ("unrecorded", 0)):
        story.run(key, A, 13, 14, run=run)
        story.run(key, B, 15, 16, run=2)
    story.fault(13.5, 15, "cut broker", "pod-0")
    judgement = story.judge(sent=["recorded", "unrecorded"], rabbitmq=True)
    assert verdicts(judgement) == ({"repeated": 1}, {"repeated": {"acknowledged into a cut": 1}})
    assert verdicts(story.judge(sent=["unrecorded"]))[0] == {"repeated": 2}


def test_only_skew_excuses_a_delayed_message_that_moved_twice(story: Story) -> None:
    story.run("m", A, 10, 11)
    story.run("m", B, 12, 13)
    for who in (A, B):
        story.note(9, who, "enqueue", "m", True)
    assert verdicts(story.judge(sent=["m"])) == ({"repeated": 1}, {})
    story.note(1, "chaos", "pod", "pod-2.1", {"skew": 90})
    assert verdicts(story.judge(sent=["m"])) == ({}, {"repeated": {"moved twice": 1}})


@pytest.mark.parametrize(("skew", "found"), [(90, {}), (30, {"repeated": 1})])
def test_a_skewed_clock_excuses_a_failed_run_beside_its_retry(story: Story, skew: int, found: dict[str, int]) -> None:
    story.note(1, "chaos", "pod", "pod-2.1", {"skew": skew})
    story.run("m", A, 10, 11, "failed")
    story.run("m", B, 12, 13)
    story.run("m", A, 14, 15, run=2)
    excused = {} if found else {"repeated": {"retry beside its original": 1}}
    assert verdicts(story.judge(sent=["m"])) == (found, excused)


def test_an_innocent_message_that_is_dead_lettered_is_convicted(story: Story) -> None:
    story.run("m", A, 10)
    story.died(A, 11)
    assert verdicts(story.judge(sent=["m"], dead_letters={"m": "why"})) == ({"convicted": 1}, {})


def test_enough_deaths_by_the_nemesis_excuse_a_conviction(story: Story) -> None:
    for boot in range(1, 5):
        who = f"pod-0.{boot}:2"
        story.run("m", who, 10 * boot, run=boot)
        story.fault(10 * boot + 1, 10 * boot + 1, "kill process", "pod-0", who=who)
        story.died(who, 10 * boot + 1)
    judgement = story.judge(sent=["m"], dead_letters={"m": "why"})
    assert verdicts(judgement) == ({}, {"convicted": {"alone at a death that the nemesis caused": 1}})


@pytest.mark.parametrize(("redis", "found"), [("away", {}), ("there", {"convicted": 1})])
def test_a_shutdown_that_could_not_be_told_may_convict(story: Story, redis: str, found: dict[str, int]) -> None:
    for number in range(3):
        who = f"pod-0.{number}:2"
        story.run("m", who, 10 * number, run=number + 1)
        story.fault(10 * number + 1, 10 * number + 1, "kill process", "pod-0", who=who)
        story.died(who, 10 * number + 1)
    if redis == "away":
        story.fault(40, 44, "redis memory", "redis")
    story.run("m", "pod-0.9:2", 39, 41, run=4)
    story.fault(40.5, 43, "deploy", "pod-0", boot="pod-0.9")
    story.died("pod-0.9:2", 42)
    story.note(50, B, "nacked", "m")
    judgement = story.judge(sent=["m"], dead_letters={"m": "too often"})
    excused = {} if found else {"convicted": {"alone at a shutdown that could not be told": 1}}
    assert verdicts(judgement) == (found, excused)


def test_poison_that_runs_too_often_is_a_crash_loop(story: Story) -> None:
    for boot in range(1, 4):
        who = f"pod-0.{boot}:2"
        story.run("poison-1.1", who, 10 * boot, 10 * boot + 1, "kills", run=boot, ack=False)
        story.died(who, 10 * boot + 1)
    judgement = story.judge(sent=["poison-1.1"], dead_letters={"poison-1.1": "why"})
    assert verdicts(judgement) == ({"crash_loops": 1}, {})


def test_poison_that_is_nowhere_is_lost(story: Story) -> None:
    story.run("poison-1.1", A, 10, 11, "kills", ack=False)
    story.died(A, 11)
    assert verdicts(story.judge(sent=["poison-1.1"])) == ({"lost": 1}, {})


def test_keys_that_are_left_and_errors_of_the_run_are_violations(story: Story) -> None:
    judgement = story.judge(keys_left=["{chaos}:record:1"], errors=["a fault failed"], late="all is done")
    assert verdicts(judgement) == ({"keys_left": 1, "errors": 2}, {})


def test_the_report_has_the_time_from_death_to_recovery(story: Story) -> None:
    for key in ("recovered", "redelivered", "forgotten"):
        story.run(key, A, 10)
    story.run("unrecorded", A, 10, run=0)
    story.died(A, 11)
    story.run("unrecorded", B, 12, 13)
    story.events.append(Event(11.05, B, "recovered", None, "recovered", {}))
    story.run("recovered", B, 12, 13)
    story.run("redelivered", B, 14.5, 15)
    judgement = story.judge(sent=["recovered"])
    assert judgement.waits == [0.05, 3.5]
    assert {name: n for name, n in judgement.histogram().items() if n} == {"less than 0.1 s": 1, "less than 4.5 s": 1}
    assert "less than 4.5 s</td><td class=number>1<" in report("title", judgement, story.events, "")


def test_a_report_escapes_what_it_shows(story: Story) -> None:
    story.run("<b>", A, 10, 11)
    story.run("<b>", B, 12, 13)
    text = report("<title>", story.judge(sent=["<b>"]), story.events, "<command>")
    assert "1 violation<" in text
    assert "<b>:" not in text
    assert "<command>" not in text
