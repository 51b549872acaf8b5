# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The page by itself, on a port of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq.logging import get_logger

from ..inspection.inspector import Inspector
from ..operations import Operations
from .app import create_app

__all__ = ["LoopbackOnly", "serve"]

logger = get_logger(__name__)


def serve(
    inspector: Inspector,
    operations: Operations | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8010,
    api_token: str | None = None,
) -> None:
    """Serve the page until the process is stopped.

    There is no login: whoever reaches the port sees all, and with `operations` may act.  Only the JSON interface has a
    token, as for `create_app`.

    Raises:
      ConfigurationError: The token is too short, or cannot be sent.
      ImportError: waitress is not installed.
    """
    import waitress  # noqa: PLC0415  an application that has the page mounted needs no server

    app: Any = create_app(inspector, operations, api_token=api_token)
    if is_loopback(host):
        app = LoopbackOnly(app)
    logger.info("The web page is on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    waitress.serve(app, host=host, port=port, threads=8, ident=None, _quiet=True)


class LoopbackOnly:
    """Refuses requests that name another host.

    Else any web page could have its own name resolved to 127.0.0.1, and read this one as if it were its own.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "")
        name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
        if is_loopback(name):
            return self.app(environ, start_response)
        start_response("421 Misdirected Request", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This page is served for localhost only.\n"]


def is_loopback(host: str) -> bool:
    """Return whether that is this machine, and nobody else's name for it."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
