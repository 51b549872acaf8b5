# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The web page on a real port, and a browser to look at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["CHROMIUM", "find_chromium", "served"]

#: Where Debian has it.
CHROMIUM = "/usr/bin/chromium"


def find_chromium() -> str | None:
    """The browser named in TEST_CHROMIUM, Debian's, or one on the PATH; or None."""
    for path in (os.environ.get("TEST_CHROMIUM"), CHROMIUM, shutil.which("chromium"), shutil.which("google-chrome")):
        if path and os.access(path, os.X_OK):
            return path
    return None


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve a WSGI application on a free port of loopback; its address."""
    import waitress  # noqa: PLC0415  the examples' environment has none
    from waitress import wasyncore  # noqa: PLC0415

    connections: dict[int, Any] = {}
    server: Any = waitress.create_server(app, host="127.0.0.1", port=0, threads=4, map=connections)
    ends = threading.Event()

    def run() -> None:
        while not ends.is_set():
            wasyncore.loop(timeout=0.1, map=connections, count=1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        ends.set()
        thread.join()
        server.task_dispatcher.shutdown()
        wasyncore.close_all(connections)
