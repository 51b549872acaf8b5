# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A shutdown is one from its first signal on, however often and to whom that is sent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dramatiq.cli import RET_KILLED

from dramatiq_inflight.message import shutdown as handing_back
from dramatiq_inflight.message.shutdown import SIGNALS, ShutdownSignals
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.servers import RedisServer, wait_until
from tests.support.signals import SETTINGS, Scenario, scenarios, sweep
from tests.support.workers import PROGRAM, WorkerProcess

GEVENT = (sys.executable, str(Path(sys.executable).with_name("dramatiq-gevent")))


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


def listening(
    begin: Callable[[], None] = lambda: None,
    is_known: Callable[[], bool] = lambda: True,
    is_handing_back: Callable[[], bool] = lambda: False,
) -> ShutdownSignals:
    """One that is attached."""
    signals = ShutdownSignals(begin, is_known, is_handing_back)
    signals.attach()
    return signals


def passed_on(handler: Handler, number: int) -> None:
    """Wait until Dramatiq's handler has had so many signals, and no more."""
    wait_until(lambda: len(handler.called) == number, what=f"{number} signals are passed on, not {handler.called}")


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_passed_on_once_redis_knows(number: signal.Signals) -> None:
    """The shutdown begins at once; Dramatiq's own handler has both signals in the end."""
    handler, begun, known = Handler(), threading.Event(), threading.Event()
    signal.signal(number, handler)
    signals = listening(begun.set, known.is_set)
    os.kill(os.getpid(), number)
    assert begun.wait(120)
    os.kill(os.getpid(), number)  # the second one kills a Dramatiq worker process
    assert not handler.called
    known.set()
    passed_on(handler, 2)
    assert handler.called == [number, number]
    signals.detach()
    assert signal.getsignal(number) is handler


def test_a_shutdown_begins_once() -> None:
    """However many signals come."""
    begun: list[int] = []
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening(lambda: begun.append(1))
    for number in range(1, 4):
        os.kill(os.getpid(), signal.SIGTERM)
        passed_on(handler, number)
    signals.detach()
    assert len(begun) == 1


def test_signals_are_passed_on_though_redis_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot reach Redis stops, too."""
    monkeypatch.setattr(handing_back, "HOLD", 0.1)
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening(is_known=lambda: False)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 2)
    signals.detach()


def test_signals_are_passed_on_though_the_begin_fails() -> None:
    """Whatever goes wrong here, the worker can be stopped."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)

    def fails() -> None:
        raise RuntimeError("no thread can be started")

    signals = listening(fails)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    signals.detach()


def test_the_second_signal_waits_for_what_is_handed_back() -> None:
    """It is the first one once more: a service manager sends it to all processes."""
    handler, stopped = Handler(), threading.Event()
    signal.signal(signal.SIGTERM, handler)
    signals = listening(is_handing_back=lambda: not stopped.is_set())
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    time.sleep(0.1)
    assert len(handler.called) == 1
    stopped.set()
    passed_on(handler, 2)
    signals.detach()


def test_a_signal_that_insists_waits_for_redis_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that repeats it after a while wants the worker to end at once."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening(is_handing_back=lambda: True)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    monkeypatch.setattr(handing_back, "SAME", 0.0)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 3)
    signals.detach()


def test_a_worker_that_has_stopped_gets_no_second_signal() -> None:
    """A signal that was held back during the stop would end the worker in the midst of leaving."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    before = set(threading.enumerate())
    signals = listening(is_handing_back=lambda: True)
    (thread,) = set(threading.enumerate()) - before
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    signals.detach()
    wait_until(lambda: not thread.is_alive(), what="it ends")
    assert len(handler.called) == 1


def test_a_handler_is_called_in_the_main_thread() -> None:
    """Dramatiq's ends the process, by an exception that means that only there."""
    threads: list[threading.Thread] = []

    class Noting(Handler):
        def __call__(self, number: int, frame: Any) -> None:
            threads.append(threading.current_thread())

    signal.signal(signal.SIGTERM, Noting())
    signals = listening()
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: threads, what="it is passed on")
    signals.detach()
    assert threads == [threading.main_thread()]


def test_a_fork_gets_its_signals_as_from_dramatiq() -> None:
    """It inherits the handlers, and not the thread that passes signals on."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening()
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(len(handler.called))
    _, status = os.waitpid(child, 0)
    signals.detach()
    assert os.waitstatus_to_exitcode(status) == 1


def test_other_handlers_are_left_alone() -> None:
    """In a web server's process, say."""
    handlers: list[Any] = [Handler("somebody.s"), signal.SIG_IGN]
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    listening()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_one_that_was_set_later_is_left_alone() -> None:
    handler, later = Handler(), Handler("somebody.s")
    signal.signal(signal.SIGTERM, handler)
    signals = listening()
    signal.signal(signal.SIGTERM, later)
    signals.detach()
    assert signal.getsignal(signal.SIGTERM) is later


def test_who_ends_without_a_signal_tells_nobody() -> None:
    told = threading.Event()
    signal.signal(signal.SIGTERM, Handler())
    before = set(threading.enumerate())
    signals = listening(told.set)
    (thread,) = set(threading.enumerate()) - before
    signals.detach()
    wait_until(lambda: not thread.is_alive(), what="it ends")
    assert not told.is_set()


def test_a_thread_cannot_listen_and_does_not_try() -> None:
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    thread = threading.Thread(target=listening)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_signal_during_another_ones_handler_does_not_wait() -> None:
    """At any line of what the first does: a supervisor may send it to all processes, and so does Dramatiq."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening()
    heard: Any = signal.getsignal(signal.SIGTERM)
    interrupted: set[tuple[str, int]] = set()

    def interrupting(frame: Any, event: str, _arg: Any) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in interrupted:
            interrupted.add(place)
            sys.settrace(None)
            heard(signal.SIGTERM, frame)
            sys.settrace(interrupting)
        return interrupting

    def gives_up(_number: int, _frame: Any) -> None:
        raise TimeoutError("it waits for itself")

    signal.signal(signal.SIGALRM, gives_up)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        sys.settrace(interrupting)
        heard(signal.SIGTERM, None)
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
    passed_on(handler, 1 + len(interrupted))
    signals.detach()


def test_who_ends_itself_does_not_send_the_second_signal() -> None:
    """That would kill a Dramatiq worker process, with all that it runs."""
    handler = Handler()
    signal.signal(signal.SIGTERM, handler)
    signals = listening()
    os.kill(os.getpid(), signal.SIGTERM)
    passed_on(handler, 1)
    signals.send()
    signals.detach()
    assert handler.called == [signal.SIGTERM]


# Real services: their main process, their worker processes, and whoever stops them.


def insist(worker: WorkerProcess, pid: int | None) -> None:
    """Signal a worker process until Dramatiq has ended it: two signals that are pending at once are one."""
    assert pid is not None

    def ended() -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.05)
        return worker.process.poll() is not None

    wait_until(ended, what="the worker ends")
    assert worker.process.returncode == RET_KILLED


@pytest.mark.parametrize(
    "gap", [pytest.param(0.0, marks=pytest.mark.long), 0.02, pytest.param(0.7, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("hand_back", [None, 0.5])
def test_a_signal_to_all_processes_is_no_crash(
    gap: float, hand_back: float | None, cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """As systemd, Heroku and supervisord send it: each worker process gets it twice."""
    played = [Scenario(signal.SIGTERM, 1, "all", gap)] * 2
    outcome = sweep(cluster(**SETTINGS), tmp_path / "gate", played, hand_back=hand_back)
    assert outcome.wrong == []
    # At least: the sibling takes over what a process has left if its own signal is late.
    assert outcome.runs >= 3
    assert outcome.drains == (outcome.runs - 1 if hand_back is None else 0)
    assert outcome.is_right, outcome


@pytest.mark.long
@pytest.mark.parametrize("hand_back", [None, 0.5])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_to_some_processes_are_no_crash(
    number: signal.Signals,
    hand_back: float | None,
    cluster: Callable[..., Cluster],
    rabbitmq_url: str,
    tmp_path: Path,
) -> None:
    """RabbitMQ delivers again what was cut off; the whole sweep is ``nox -s rounds -- signals``."""
    played = [scenario for scenario in scenarios() if scenario.number is number and scenario.gap == 0.02]
    made = cluster(**SETTINGS, TEST_RABBITMQ_URL=rabbitmq_url)
    outcome = sweep(made, tmp_path / "gate", played, hand_back=hand_back, heartbeat="process")
    assert outcome.wrong == []
    assert outcome.is_right, outcome


@pytest.mark.long
@pytest.mark.parametrize("program", [PROGRAM, GEVENT], ids=["threads", "gevent"])
def test_a_second_signal_ends_the_worker(
    program: tuple[str, ...], cluster: Callable[..., Cluster], history: History, tmp_path: Path
) -> None:
    """A message that Dramatiq cuts off at the second signal is recovered, and a shutdown is counted, no crash."""
    made = cluster(**SETTINGS)
    made.app.gated.send("cut off", str(tmp_path / "gate"))
    worker = made.worker(program=program)
    made.wait(lambda: history.count("start") == 1, what="the message runs")
    insist(worker, worker.booted_pid())
    (tmp_path / "gate").touch()
    made.worker(program=program)
    made.wait(lambda: history.count("end") == 1, what="the message ends")
    assert history.events("start")[-1].extra == {"run": 2, "crashes": 0, "drains": 1}


def test_a_signal_before_the_boot_is_the_first_one(
    cluster: Callable[..., Cluster], history: History, tmp_path: Path
) -> None:
    """The main process passes its own on when its workers have booted: Dramatiq takes that for the second."""
    made = cluster(**SETTINGS, TEST_LOADED=str(tmp_path / "loaded"))
    worker = made.worker(app="tests.support.slow_boot", wait=False)
    made.wait(lambda: history.count("loading") == 1, what="the worker process loads the application")
    made.app.gated.send("cut off", str(tmp_path / "gate"))
    worker.signal(signal.SIGTERM)
    (tmp_path / "loaded").touch()
    made.wait(lambda: history.count("start") == 1, what="the message runs")
    insist(worker, history.events("loading")[0].pid)  # where both were pending at once
    (tmp_path / "gate").touch()
    made.worker()
    made.wait(lambda: history.count("end") == 1, what="the message ends")
    assert history.events("start")[-1].extra == {"run": 2, "crashes": 0, "drains": 1}


def test_a_second_signal_waits_until_redis_is_back(
    cluster: Callable[..., Cluster], history: History, own_server: RedisServer, tmp_path: Path
) -> None:
    """A Redis that is away for a moment hears of the shutdown before Dramatiq ends the worker."""
    made = cluster(**SETTINGS, TEST_BROKER_URL=own_server.url)
    made.app.gated.send("cut off", str(tmp_path / "gate"))
    worker = made.worker()
    made.wait(lambda: history.count("start") == 1, what="the message runs")
    pid = worker.booted_pid()
    assert pid is not None
    own_server.pause()
    for _ in range(2):  # less than the two seconds that a signal is held
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.2)
    own_server.resume()
    insist(worker, worker.booted_pid())
    (tmp_path / "gate").touch()
    made.worker()
    made.wait(lambda: history.count("end") == 1, what="the message ends")
    assert history.events("start")[-1].extra == {"run": 2, "crashes": 0, "drains": 1}
