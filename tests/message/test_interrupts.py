# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Interrupts at the boundaries of the hooks: a sample here, every one of them in ``nox -s interrupts``."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq.middleware import TimeLimitExceeded

from dramatiq_inflight.threads.mutex import Mutex
from tests.support import boundaries
from tests.support.boundaries import interruptions
from tests.support.garbage import COLLECTIONS, Collecting
from tests.support.interrupted import SCENARIOS, SOURCES, Report, Scenario, Source, Sweep, short
from tests.support.stepped import is_taken, quick_consumers
from tests.support.taken_out import FAULTS

pytestmark = pytest.mark.once


#: How many boundaries of each scenario the sample has.
SAMPLE = 6


@pytest.fixture
def quiet() -> Iterator[None]:
    """Dramatiq's threads wait for nothing long, and the log, which would be long, is off."""
    logging.disable(logging.CRITICAL)
    with quick_consumers():
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def sweep(server_url: str, quiet: None) -> Iterator[Sweep]:
    made = Sweep(server_url)
    yield made
    made.close()


@pytest.fixture
def collecting(server_url: str, quiet: None) -> Iterator[Collecting]:
    """The garbage collector at the boundaries."""
    made = Collecting(server_url, Report())
    yield made
    made.close()


def left_locked(work: Any, lock: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """At how many boundaries of some work an interrupt leaves a lock taken."""
    monkeypatch.setattr(boundaries, "SCOPE", (*boundaries.SCOPE, __file__))
    boundaries.in_scope.cache_clear()
    left = 0
    for _ in interruptions(work, TimeLimitExceeded):
        if is_taken(lock):
            left += 1
            lock.release()
    boundaries.in_scope.cache_clear()
    return left


@pytest.mark.parametrize("kind", [Mutex] if sys.version_info >= (3, 14) else [threading.Lock, Mutex])
def test_an_interrupt_never_divides_a_with_from_its_lock(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is left by C code is given back, wherever the interrupt comes."""
    lock = kind()

    def work() -> int:
        with lock:
            return len([is_taken(lock) for _ in range(3)])

    assert left_locked(work, lock, monkeypatch) == 0


def test_an_interrupt_can_leave_an_event_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is taken by Python code."""
    event = threading.Event()
    assert left_locked(event.set, event._cond._lock, monkeypatch) > 0  # type: ignore[attr-defined]


def is_struck(sweep: Sweep, scenario: Scenario, kind: str, source: Source, at: int) -> bool:
    """Interrupt a boundary, or an earlier one if there are fewer this time: a start after a pause takes another way."""
    return any(sweep.at(scenario, kind, source, number) for number in (at, at // 2, 1))


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_interrupt_leaves_nothing_behind(sweep: Sweep, name: str) -> None:
    """Nothing is lost or doubled, no lock, context or record is left, and the worker stops."""
    scenario, turn = SCENARIOS[name], list(SCENARIOS).index(name)
    broker = scenario.brokers[turn % len(scenario.brokers)]
    source = SOURCES[scenario.sources[turn % len(scenario.sources)]]
    boundaries = sweep.count(scenario, broker, source)
    for number in range(SAMPLE):
        at = 1 + (turn + boundaries * number // SAMPLE) % max(boundaries, 1)
        assert is_struck(sweep, scenario, broker, source, at) or not boundaries
    sweep.close()
    assert not sweep.report.findings, short(sweep.report)


@pytest.mark.long
@pytest.mark.parametrize("name", ["success, what follows", "retry", "dead letter", "duplicate", "recovered copy"])
def test_an_interrupt_leaves_nothing_on_rabbitmq(server_url: str, rabbitmq_url: str, name: str, quiet: None) -> None:
    """The same, where the broker acknowledges by a thread of its own."""
    sweep = Sweep(server_url, rabbitmq=rabbitmq_url)
    scenario, source = SCENARIOS[name], SOURCES["TimeLimitExceeded"]
    boundaries = sweep.count(scenario, "rabbitmq", source)
    for number in range(SAMPLE):
        at = 1 + boundaries * number // SAMPLE
        assert is_struck(sweep, scenario, "rabbitmq", source, at) or not boundaries
    sweep.close()
    assert not sweep.report.findings, short(sweep.report)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collected_iteration_leaves_nothing_behind(collecting: Collecting, name: str) -> None:
    """The garbage collector closes it in whatever thread allocates next, under whatever lock that holds."""
    collecting.sweep(COLLECTIONS[name], "redis", step=61, first=1 + list(COLLECTIONS).index(name))
    collecting.close()
    assert not collecting.report.findings, short(collecting.report)


@pytest.mark.long
@pytest.mark.once
@pytest.mark.parametrize("case", FAULTS)
def test_the_sweep_finds_a_mend_that_is_taken_out(server_url: str, case: str) -> None:
    """Or it would prove nothing."""
    # In a process of its own: threads hang there.
    program = [sys.executable, "-m", "tests.support.taken_out", case, server_url]
    subprocess.run(program, check=True, timeout=900, cwd=Path(__file__).parents[2])
