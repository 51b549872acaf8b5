# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker in a Python that has no more than macOS or Windows would have.

``python -m tests.support.elsewhere macos|windows REDIS_URL NAMESPACE thread|process``: runs a message, recovers an
orphan, stops, and prints what ran and what is left.  A part that is missing there is taken away before anything is
imported:
this shows that nothing of it is needed, not that all else works there.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

#: The parts that these systems' Pythons lack, and that this package or Dramatiq might use.
LACKS: dict[str, list[tuple[Any, str]]] = {
    "macos": [(os, "pidfd_open"), (os, "setns"), (select, "epoll"), (os, "memfd_create")],
    "windows": [
        *((os, name) for name in ("pidfd_open", "setns", "memfd_create", "fork", "getuid", "getpgid", "killpg")),
        *((os, name) for name in ("mkfifo", "register_at_fork", "setsid", "geteuid", "getpgrp")),
        *((select, name) for name in ("poll", "epoll")),
        *((signal, name) for name in ("SIGHUP", "SIGKILL", "SIGQUIT", "pthread_sigmask")),
    ],
}
MODULES = {"macos": [], "windows": ["fcntl", "resource", "grp", "pwd"]}


def take_away(system: str) -> None:
    """Make this Python like the other system's, as far as that goes."""
    importlib.import_module("tempfile")  # the standard library itself was made for its own system
    importlib.import_module("subprocess")
    importlib.import_module("selectors")
    importlib.import_module("multiprocessing.util")
    importlib.import_module("asyncio")
    importlib.import_module("importlib.metadata")
    importlib.import_module("http.server")  # Dramatiq's Prometheus middleware
    for module, name in LACKS[system]:
        if hasattr(module, name):
            delattr(module, name)
    subprocess: Any = sys.modules["subprocess"]
    subprocess._CAN_USE_PIDFD_OPEN = False  # from Python 3.15 on it looks for that once, when it is imported
    for gone in MODULES[system]:
        sys.modules[gone] = None  # type: ignore[assignment]
    plain = builtins.open

    def without_proc(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).startswith(("/proc", "/sys")):
            raise FileNotFoundError(file)
        return plain(file, *args, **kwargs)

    builtins.open = without_proc
    Path.read_text = _reads(Path.read_text)  # type: ignore[method-assign]


def _reads(plain: Any) -> Any:
    def read_text(self: Path, *args: Any, **kwargs: Any) -> str:
        if str(self).startswith(("/proc", "/sys")):
            raise FileNotFoundError(self)
        text: str = plain(self, *args, **kwargs)
        return text

    return read_text


def main() -> None:
    system, url, namespace, heartbeat = sys.argv[1:]
    take_away(system)
    import redis  # noqa: PLC0415

    from .inprocess import App  # noqa: PLC0415
    from .lab import Lab  # noqa: PLC0415

    client = redis.Redis.from_url(url)
    app = App(url, namespace, Lab(client, namespace), heartbeat=heartbeat, alone_in="container")
    actor = app.actor(app.ran.append, actor_name="work")
    last = app.actor(lambda: app.ran.append("last chance"), actor_name="last", max_recoveries=1)
    app.send_orphan(last, limit=1)
    orphan = actor.message("recovered").copy(options={"redis_message_id": "r1"})
    app.orphan(orphan)
    app.deliver(orphan)
    actor.send("sent")
    app.start()
    app.join()
    runtime = app.runtime
    said = {"watches": runtime.watch is not None, "healthy": app.tracker.healthy(), "ran": sorted(app.ran)}
    app.stop()
    print(json.dumps({**said, "left": sorted(app.unsettled())}))


if __name__ == "__main__":
    main()
