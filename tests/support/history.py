# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A history of what workers did, in a file beside Redis: it survives whatever is done to Redis and to the workers."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Event", "History"]


@dataclass(frozen=True)
class Event:
    at: float
    pid: Any  # or whoever it was
    what: str  # start, end, acked, ...
    key: Any
    message_id: str
    extra: Any = None


class History:
    """Appends and reads lines; one write each, so that processes do not mix them up.

    Parameters:
      clock: The clock.
      who: The name of the writer.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, who: Callable[[], Any] = os.getpid
    ) -> None:
        self.path = path
        self.clock = clock
        self.who = who
        self._fd: int | None = None
        self._read_to = 0
        self._events: list[Event] = []
        self._reading = threading.Lock()

    def write(self, what: str, key: Any, message_id: str = "", extra: Any = None) -> None:
        if self._fd is None:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = json.dumps([self.clock(), self.who(), what, key, message_id, extra]) + "\n"
        os.write(self._fd, line.encode())

    def events(self, what: str | None = None) -> list[Event]:
        """All events so far, in the order of their writing."""
        with self._reading:
            if self.path.exists():
                with self.path.open("rb") as file:
                    file.seek(self._read_to)
                    data = file.read()
                whole = data[: data.rfind(b"\n") + 1]
                self._read_to += len(whole)
                self._events += [Event(*json.loads(line)) for line in whole.splitlines()]
            return [event for event in self._events if what in (None, event.what)]

    def by_key(self) -> dict[Any, list[Event]]:
        """The events of each key."""
        sorted_out: dict[Any, list[Event]] = defaultdict(list)
        for event in self.events():
            sorted_out[event.key].append(event)
        return sorted_out

    def keys(self, what: str) -> set[Any]:
        return {event.key for event in self.events(what)}

    def count(self, what: str) -> int:
        return len(self.events(what))

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events())
