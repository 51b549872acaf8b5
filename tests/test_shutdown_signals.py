# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A shutdown is heard of as soon as the signal comes; Dramatiq looks once a second whether one has."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dramatiq_inflight.handing_back import SIGNALS, ShutdownSignals

from .support.servers import wait_until


class Handler:
    """As a Dramatiq worker process has one."""

    def __init__(self, module: str = "dramatiq.cli") -> None:
        self.__module__ = module
        self.called: list[int] = []

    def __call__(self, number: int, frame: Any) -> None:
        self.called.append(number)


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_heard_of_at_once_and_the_process_s_own_handler_is_called(number: signal.Signals) -> None:
    handler, told = Handler(), threading.Event()
    signal.signal(number, handler)
    signals = ShutdownSignals(told.set)
    signals.attach()
    os.kill(os.getpid(), number)
    assert told.wait(20)
    os.kill(os.getpid(), number)  # the second one kills a Dramatiq worker process
    assert handler.called == [number, number]
    signals.detach()
    assert signal.getsignal(number) is handler


def test_other_handlers_are_left_alone() -> None:
    """In a web server's process, say."""
    handlers: list[Any] = [Handler("somebody.s"), signal.SIG_IGN]
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    ShutdownSignals(lambda: None).attach()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_one_that_was_set_later_is_left_alone() -> None:
    handler, later = Handler(), Handler("somebody.s")
    signal.signal(signal.SIGTERM, handler)
    signals = ShutdownSignals(lambda: None)
    signals.attach()
    signal.signal(signal.SIGTERM, later)
    signals.detach()
    assert signal.getsignal(signal.SIGTERM) is later


def test_who_ends_without_a_signal_tells_nobody() -> None:
    told = threading.Event()
    signal.signal(signal.SIGTERM, Handler())
    signals = ShutdownSignals(told.set)
    before = set(threading.enumerate())
    signals.attach()
    (thread,) = set(threading.enumerate()) - before
    signals.detach()
    wait_until(lambda: not thread.is_alive(), what="it ends")
    assert not told.is_set()


def test_a_thread_cannot_listen_and_does_not_try() -> None:
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = ShutdownSignals(lambda: None)
    thread = threading.Thread(target=signals.attach)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_that_comes_while_one_is_heard_does_not_wait_for_it() -> None:
    """At any line of what the first does: a supervisor may send it to all processes, and so does Dramatiq."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = ShutdownSignals(lambda: None)
    signals.attach()
    interrupted: set[tuple[str, int]] = set()

    def interrupting(frame: Any, event: str, _arg: Any) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in interrupted:
            interrupted.add(place)
            sys.settrace(None)
            signals._hear(signal.SIGTERM, frame)
            sys.settrace(interrupting)
        return interrupting

    def gives_up(_number: int, _frame: Any) -> None:
        raise TimeoutError("it waits for itself")

    signal.signal(signal.SIGALRM, gives_up)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        sys.settrace(interrupting)
        signals._hear(signal.SIGTERM, None)
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signals.detach()
    assert len(handler.called) == 1 + len(interrupted)


def test_who_ends_itself_does_not_send_the_second_signal() -> None:
    """That would kill a Dramatiq worker process, with all that it runs."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = ShutdownSignals(lambda: None)
    signals.attach()
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: handler.called, what="it is heard")
    signals.send()
    signals.detach()
    assert handler.called == [signal.SIGTERM]
