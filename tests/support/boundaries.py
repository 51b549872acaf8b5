# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The boundaries at which CPython delivers an asynchronous exception, and how to act at one of them.

CPython looks for one as a Python function begins or a generator goes on, after a call of a C function, and after a
backward jump.  It does not look between any other two instructions: not after a Python function has returned.  Up to
3.13 it does not look after `with lock:` has taken a lock, either; from 3.14 on it does, which leaves that lock taken.
Where the `with` is Dramatiq's or another library's, nobody but these can mend it, and the place does not count.

The profiler is called at the same places as the interpreter looks, with the same handlers around, so raising there is
the same as an exception that is delivered there.  Backward jumps and generators are found by the tracer.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import itertools
import queue
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import dramatiq
import redis

import dramatiq_inflight

__all__ = ["Boundaries", "Place", "innermost", "interruptions", "is_in_redis", "is_within"]

OURS = str(Path(dramatiq_inflight.__file__).parent)

REDIS = str(Path(redis.__file__).parent)

#: The packages and modules whose every boundary counts.  Any other function counts once, as it begins.
SCOPE = (
    OURS,
    *(str(Path(module.__file__ or "").parent) for module in (dramatiq, redis)),
    *(str(module.__file__) for module in (threading, contextlib, queue)),
    str(Path(sysconfig.get_path("purelib"), "dramatiq_abort")),
)

GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Place:
    """Where a boundary is."""

    def __init__(self, frame: FrameType, how: str) -> None:
        self.how = how
        #: The frames from the innermost outwards, as file, line and function.
        self.frames: list[tuple[str, int, str]] = []
        outer: FrameType | None = frame
        while outer is not None:
            name = outer.f_code.co_qualname
            self.frames.append((outer.f_code.co_filename, outer.f_lineno, name))
            outer = outer.f_back

    @property
    def ours(self) -> str:
        """The innermost line of the package's own; empty if there is none."""
        return next((_at(*frame) for frame in self.frames if frame[0].startswith(OURS)), "")

    def __str__(self) -> str:
        inner = f"{_at(*self.frames[0])} ({self.how})"
        return inner if not self.ours or self.ours == _at(*self.frames[0]) else f"{self.ours} > {inner}"


def _at(file: str, line: int, name: str) -> str:
    return f"{Path(file).parent.name}/{Path(file).name}:{line} {name}"


@functools.cache
def in_scope(code: CodeType) -> bool:
    return code.co_filename.startswith(SCOPE)


@functools.cache
def _calls(code: CodeType) -> frozenset[int]:
    """The offsets of the calls in a function."""
    calls = ("CALL", "PRECALL")
    return frozenset(one.offset for one in dis.get_instructions(code) if one.opname.startswith(calls))


def is_in_redis(frame: FrameType) -> bool:
    """Return whether redis-py is at work there."""
    return frame.f_code.co_filename.startswith(REDIS)


def innermost(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the package's own; None if the package is not at work there."""
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame


def is_within(frame: FrameType | None, function: str) -> bool:
    """Return whether a function of that name is being executed."""
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


class Boundaries:
    """Counts the boundaries that a thread comes to while it is armed, and acts at one of them.

    Parameters:
      armed: True if an exception could be raised just now.
      act: Called there; it may raise.
      at: At which boundary to do it, counted from 1; 0 for none.
      counts: True if a boundary counts, given its frame.
    """

    def __init__(
        self,
        armed: Callable[[], bool],
        act: Callable[[], object] = lambda: None,
        at: int = 0,
        counts: Callable[[FrameType], bool] = lambda frame: True,
    ) -> None:
        self._armed = armed
        self._counts = counts
        self._act = act
        self._at = at
        self.count = 0
        #: Where the boundary is at which it acted; None if it never came to it.
        self.place: Place | None = None

    def run(self, work: Callable[[], object]) -> None:
        """Do some work in this thread."""
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        try:
            work()
        finally:
            self._stop()

    @staticmethod
    def _stop() -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def reach(self, frame: FrameType, how: str) -> None:
        """Come to a boundary."""
        # CPython ignores what is raised as an object is finalized.
        if not self._armed() or is_within(frame, "__del__") or not self._counts(frame):
            return
        self.count += 1
        if self.count == self._at:
            self._stop()
            self.place = Place(frame, how)
            self._act()

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_return":
            name = getattr(arg, "__name__", "")
            if in_scope(frame.f_code) and (name != "__enter__" or frame.f_code.co_filename.startswith(OURS)):
                self.reach(frame, f"after {name or arg}()")
        elif event == "return" and frame.f_code.co_name == "__init__":
            if frame.f_code.co_flags & GENERATORS:
                return  # what is raised as it yields would end it without its handlers
            caller = frame.f_back
            if caller is not None and in_scope(caller.f_code) and caller.f_lasti in _calls(caller.f_code):
                self.reach(frame, "as it returns")

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if not in_scope(code):
            caller = frame.f_back
            if caller is not None and in_scope(caller.f_code):
                self.reach(frame, "as it begins")
            return None
        if code.co_flags & GENERATORS:
            # An exception in its "call" would end it without its handlers.
            frame.f_trace_opcodes = True
            return _Frame(self, "as it goes on")
        self.reach(frame, "as it begins")
        return _Frame(self)


def interruptions(work: Callable[[], object], exception: type[BaseException]) -> Iterator[Place]:
    """Do some work once for each of its boundaries, and raise an exception there.  Yields the place afterwards."""

    def interrupt() -> None:
        raise exception

    for number in itertools.count(1):
        boundaries = Boundaries(lambda: True, interrupt, number)
        with contextlib.suppress(exception):
            boundaries.run(work)
        if boundaries.place is None:
            return
        yield boundaries.place


class _Frame:
    """The tracer of one frame: finds its backward jumps, and a generator's next turn.

    Both are boundaries at the instruction that comes next: what is raised in the event of the jump itself passes by
    the handlers around a comprehension, from 3.12 on.
    """

    def __init__(self, boundaries: Boundaries, how: str = "") -> None:
        self._boundaries = boundaries
        #: Something has happened; the next instruction is a boundary.
        self._how = how
        self._last = -1

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            last, self._last = self._last, frame.f_lasti
            if frame.f_lasti <= last:
                self._how = "after a jump back"
                frame.f_trace_opcodes = True
        elif event == "opcode":
            frame.f_trace_opcodes = False
            how, self._how = self._how, ""
            if how:
                self._boundaries.reach(frame, how)
        return self
