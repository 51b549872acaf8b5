# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Faults that the sweep of interrupts has to find: each takes one mend out of the package again.

``python -m tests.support.taken_out 10 redis://...`` ends with 0 if the sweep finds the fault of that case.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from dramatiq.middleware import SkipMessage

from dramatiq_inflight import delivery
from dramatiq_inflight.message import checkpoints
from dramatiq_inflight.message.hooks import Hooks
from dramatiq_inflight.message.in_flight import Entry
from dramatiq_inflight.message.start import Starting
from dramatiq_inflight.message.state import Phase
from dramatiq_inflight.threads.bell import Bell
from dramatiq_inflight.threads.mutex import Mutex

from . import stepped
from .garbage import COLLECTIONS, Collecting
from .interrupted import SCENARIOS, SOURCES, Report, Sweep, short
from .stepped import quick_consumers

__all__ = ["FAULTS", "Fault"]


@contextlib.contextmanager
def interruptible_hooks() -> Iterator[None]:
    """An interrupt behind the actor keeps the other hooks from being called, and the message counts as ended."""

    def ended(self: Any, hook: str, message: Any, **outcome: Any) -> None:
        self._emit(hook, [self._tracker], message, **outcome)
        entry = self._table.get(message)
        if entry is not None and entry.state.phase is Phase.ENDING:
            entry.follow()
        self._emit(hook, reversed(self._others()), message, **outcome)

    with mock.patch.object(Hooks, "_ended", ended):
        yield


@contextlib.contextmanager
def interruptible_start() -> Iterator[None]:
    """The tracker starts a message behind the other middleware, and an interrupt of its start is a failure."""

    def before(self: Any, signal: str, *args: Any, **kwargs: Any) -> None:
        self._before(signal, *args, **kwargs)

    def begin(self: Any, message: Any) -> None:
        self.gate.expel(threading.get_ident())
        try:
            self._begin(message)
        except SkipMessage:
            raise
        except BaseException:
            entry = self.table.get(message)
            if entry is not None and entry.state.phase is Phase.STARTING:
                self.table.refuse(entry, Entry.skip)
            raise

    with mock.patch.object(Hooks, "before", before), mock.patch.object(Starting, "begin", begin):
        yield


@contextlib.contextmanager
def interruptible_everywhere() -> Iterator[None]:
    """Both: what has not begun is retried, and its retry is no second delivery any more."""
    with interruptible_start(), interruptible_hooks():
        yield


@contextlib.contextmanager
def bells_with_locks() -> Iterator[None]:
    """A bell is an event, whose lock is taken by Python code."""

    def init(self: Any) -> None:
        self.event = threading.Event()

    def wait(self: Any, timeout: float | None = None) -> bool:
        rang: bool = self.event.wait(timeout)
        self.event.clear()
        return rang

    with contextlib.ExitStack() as stack:
        for name, function in {
            "__init__": init,
            "ring": lambda self: self.event.set(),
            "wait": wait,
            "clear": lambda self: self.event.clear(),
        }.items():
            stack.enter_context(mock.patch.object(Bell, name, function))
        yield


def _own_enqueue() -> Iterator[None]:
    token = delivery.is_own_enqueue.set(True)
    try:
        yield
    finally:
        delivery.is_own_enqueue.reset(token)


_own_enqueue.__code__ = _own_enqueue.__code__.replace(co_filename=delivery.__file__)  # its boundaries count


@contextlib.contextmanager
def context_set_outside() -> Iterator[None]:
    """A context variable is set before the `try` that resets it."""
    with contextlib.ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("dramatiq_inflight.")]:
            if not hasattr(module, "own_enqueue") or module is delivery:
                continue
            stack.enter_context(mock.patch.object(module, "own_enqueue", contextlib.contextmanager(_own_enqueue)))
        yield


@contextlib.contextmanager
def saves_anywhere() -> Iterator[None]:
    """An iteration saves wherever the garbage collector closes it, and a lock keeps its own owner out as well."""

    def enter(self: Any) -> None:
        while self._is_owned():
            time.sleep(1)
        self.acquire()

    with (
        mock.patch.object(checkpoints, "_is_within_our_code", return_value=False),
        mock.patch.object(Mutex, "__enter__", enter),
    ):
        yield


@dataclass(frozen=True)
class Fault:
    """One fault, and where the sweep finds it.

    Parameters:
      take_out: Takes the mend out.
      scenario: A scenario, or what is under way as the garbage collector comes.
      source: The interrupt; ``garbage`` for the collector.
      within: The function whose boundaries are tried.
      kinds: The expected finding.
    """

    take_out: Callable[[], contextlib.AbstractContextManager[None]]
    scenario: str
    source: str
    within: str
    kinds: tuple[str, ...]


#: The faults, by the case that shows each.
FAULTS = {
    "10": Fault(interruptible_hooks, "retry", "TimeLimitExceeded", "remove_abortable", ("lost",)),
    "11": Fault(interruptible_start, "last chance", "TimeLimitExceeded", "_taken_over", ("records left",)),
    "12": Fault(bells_with_locks, "stall_timeout", "late", "set", ("locks left", "hangs")),
    "22": Fault(context_set_outside, "duplicate", "late", "_own_enqueue", ("contexts left",)),
    "26": Fault(saves_anywhere, "a checkpoint", "garbage", "_write", ("hangs",)),
    "27": Fault(interruptible_everywhere, "duplicate", "TimeLimitExceeded", "_ask", ("doubled",)),
}


def is_found(fault: Fault, url: str) -> bool:
    """Return whether the sweep finds a fault."""
    with quick_consumers(), fault.take_out():
        if fault.source == "garbage":
            report = Report()
            Collecting(url, report, within=fault.within).sweep(COLLECTIONS[fault.scenario], "redis")
            found = any(finding.kind in fault.kinds for finding in report.findings)
        else:
            sweep = Sweep(url, within=fault.within)
            report = sweep.report
            found = sweep.finds(SCENARIOS[fault.scenario], "apart", SOURCES[fault.source], fault.kinds)
    print(short(report), flush=True)
    return found


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    stepped.HANGS = 20.0  # here threads do hang
    found = is_found(FAULTS[sys.argv[1]], sys.argv[2])
    os._exit(not found)  # threads that hang must not keep it
