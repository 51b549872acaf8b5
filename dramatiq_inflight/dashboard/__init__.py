# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A web page that shows what runs where, what died, and what became of it.

It is a WSGI application, to be served by itself or mounted in yours::

    from dramatiq_inflight import Inspector, Operations
    from dramatiq_inflight.dashboard import create_app, serve

    serve(Inspector.of(broker), Operations(broker))  # http://127.0.0.1:8010

It needs ``pip install dramatiq_inflight[dashboard]``.  How to mount it, and what to heed: docs/dashboard.rst.
"""

from __future__ import annotations

try:
    import flask as _flask  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("The web page needs Flask: pip install 'dramatiq_inflight[dashboard]'") from error

from .app import create_app
from .serving import serve

__all__ = ["create_app", "serve"]
