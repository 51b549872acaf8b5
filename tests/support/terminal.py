# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A terminal with a program in it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence

__all__ = ["Terminal"]


class Terminal:
    """Runs a program on a terminal of a size, and keeps what it writes."""

    def __init__(self, command: Sequence[str], env: dict[str, str], *, width: int = 80, height: int = 24) -> None:
        self._ours, theirs = pty.openpty()
        self._resize(width, height)
        # Kept, so that the terminal outlasts the program: what state it was left in is to be seen.
        self._theirs: int | None = theirs
        self._written = bytearray()
        #: Whether keys were shown and lines waited for, as in a shell, when the program had ended.
        self.as_it_was = False
        self.process = subprocess.Popen(
            command,
            env=env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """All that was written so far."""
        return bytes(self._written).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, width: int, height: int) -> None:
        self._resize(width, height)
        self.process.send_signal(signal.SIGWINCH)  # it is no terminal of its session, so the kernel does not

    def wait(self) -> int:
        """Wait until the program has ended, and all that it wrote is there; its exit code."""
        code = self.process.wait(timeout=120)
        if self._theirs is not None:
            local = termios.tcgetattr(self._theirs)[3]
            self.as_it_was = bool(local & termios.ECHO and local & termios.ICANON)
            os.close(self._theirs)
            self._theirs = None
        self._thread.join(timeout=120)
        return code

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        os.close(self._ours)

    def _resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # nobody has the other end any more
                return
            if not data:
                return
            self._written += data
