# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Waits for a key, a new size of the terminal, or a time: whatever comes first."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Keyboard"]


class Keyboard:
    """The keyboard while a picture is on the screen; the terminal is as it was afterwards, whatever ends it."""

    def __init__(self) -> None:
        self._fd: int | None = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None
        self._signals: dict[int, Any] = {}

    def __enter__(self) -> Keyboard:
        self._told, self._tell = os.pipe()
        os.set_blocking(self._tell, False)
        self._signals[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, self._resized)
        self._signals[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._ended)
        self._signals[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._ended)
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
            mode = termios.tcgetattr(self._fd)
            mode[6][termios.VSUSP] = os.fpathconf(self._fd, "PC_VDISABLE")  # Ctrl-Z would leave a screen half set up
            termios.tcsetattr(self._fd, termios.TCSANOW, mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fd is not None and self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        os.close(self._told)
        os.close(self._tell)

    def wait(self, seconds: float) -> str:
        """Return the key that was pressed; empty if the time is over, or the terminal has another size."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            asked = [self._told] if self._fd is None else [self._told, self._fd]
            ready, _, _ = select.select(asked, [], [], left)
            if self._told in ready:
                os.read(self._told, 4096)
                return ""
            if self._fd in ready and self._fd is not None:
                pressed = os.read(self._fd, 64)
                if pressed:
                    return pressed.decode(errors="replace")
                self._fd = None  # the terminal is gone
        return ""

    def _resized(self, number: int, frame: FrameType | None) -> None:
        try:
            os.write(self._tell, b"!")
        except BlockingIOError:
            pass  # it knows already

    def _ended(self, number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)
