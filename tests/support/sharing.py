# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One server for all test processes: the first one starts it, the last one ends it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .servers import wait_until

__all__ = ["shared"]


@contextmanager
def shared(folder: Path, name: str, start: Callable[[], Any], *, number: int = signal.SIGKILL) -> Iterator[str]:
    """The address of the server.

    Parameters:
      folder: One that all of them have.
      name: The name of the kind of server.
      start: Starts one, which has a `url`, a `folder` of its own, and a `process` that leads a group.
      number: The signal that ends it.
    """
    state = folder / f"{name}.json"
    with _alone(folder, name):
        users, url, group, data = json.loads(state.read_text()) if state.exists() else (0, "", 0, "")
        if not users:
            made = start()
            url, group, data = made.url, made.process.pid, str(made.folder)
        state.write_text(json.dumps((users + 1, url, group, data)))
    try:
        yield url
    finally:
        with _alone(folder, name):
            users, url, group, data = json.loads(state.read_text())
            state.write_text(json.dumps((users - 1, url, group, data)))
            if users == 1:
                os.killpg(group, number)
                wait_until(lambda: _has_ended(group), what=f"{name} ends")
                shutil.rmtree(data, ignore_errors=True)


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # whoever started it has not asked for its exit


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    with (folder / f"{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
