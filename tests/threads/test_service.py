# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The loop of a service: it survives every error, is woken, and stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from dramatiq_inflight.threads.service import Service
from tests.support.servers import wait_until


class Counting(Service):
    """Counts its rounds, and pauses for ever after each."""

    def __init__(self, task: Callable[[int], None] = lambda number: None) -> None:
        super().__init__("counting", "The count")
        self.done = 0
        self.task = task

    def run_once(self) -> None:
        self.done += 1
        self.task(self.done)


@pytest.fixture
def start() -> Iterator[Callable[..., Counting]]:
    started: list[Counting] = []

    def begin(task: Callable[[int], None] = lambda number: None) -> Counting:
        started.append(Counting(task))
        started[-1].start()
        return started[-1]

    yield begin
    for service in started:
        service.stop()
        assert not service.is_alive()


def test_a_service_pauses_until_it_is_woken(start: Callable[..., Counting]) -> None:
    service = start()
    for number in (1, 2, 3):
        wait_until(lambda number=number: service.done == number, what="it has done its task")  # type: ignore[misc]
        service.wake()


def test_a_wake_during_a_round_skips_the_pause(start: Callable[..., Counting]) -> None:
    """Whatever it is woken for may have come too late for that round."""
    may_go_on = threading.Event()
    service = start(lambda number: may_go_on.wait(120))
    wait_until(lambda: service.done == 1, what="it has begun")
    service.wake()
    may_go_on.set()
    wait_until(lambda: service.done == 2, what="it begins again")


def test_a_stop_during_a_round_skips_the_pause(start: Callable[..., Counting]) -> None:
    may_go_on = threading.Event()
    service = start(lambda number: may_go_on.wait(120))
    wait_until(lambda: service.done == 1, what="it has begun")
    service.stop(within=0)
    assert service.is_alive()
    may_go_on.set()
    wait_until(lambda: not service.is_alive(), what="it has ended")
    assert service.done == 1


@pytest.mark.parametrize("error", [ValueError("as asked for"), redis.ConnectionError("as asked for")])
def test_a_service_goes_on_after_an_error(
    start: Callable[..., Counting], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """An error of Redis is logged elsewhere, once."""

    def fail(number: int) -> None:
        if number == 1:
            raise error

    service = start(fail)
    wait_until(lambda: service.done == 2, what="it tries again")
    logged = "The count failed for an unexpected reason and will be tried again." in caplog.text
    assert logged == isinstance(error, ValueError)


def test_a_service_that_never_began_can_be_stopped() -> None:
    service = Counting()
    service.stop()
    service.start()
    wait_until(lambda: not service.is_alive(), what="it has ended")
    assert service.done == 0
