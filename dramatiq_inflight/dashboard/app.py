# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application: pages, actions if there are any, and what every answer has."""

from __future__ import annotations

import secrets
from hashlib import sha256
from pathlib import Path

from flask import Flask, Response, url_for

from ..inspection.inspector import Inspector
from ..operations import Operations
from . import actions, api, errors, headers, pages, words
from .acts import Acts
from .board import Board
from .tokens import Tokens

__all__ = ["create_app"]

#: The longest form, bytes: an id and a token.
LONGEST_FORM = 64 * 1024


def create_app(
    inspector: Inspector,
    operations: Operations | None = None,
    *,
    secret_key: str | None = None,
    api_token: str | None = None,
) -> Flask:
    """Make the web page, as a WSGI application, with its JSON interface under ``/api``.

    Parameters:
      inspector: An inspector of the namespace that it shows.
      operations: For its buttons; ``None``: there are none, and nothing can be changed.
      secret_key: Signs its forms.  Random if it is not given: a form of one process is then refused by another one, so
        several processes behind one address need one.
      api_token: What programs send as ``Authorization: Bearer ...`` to the JSON interface, which then asks for it
        always; ``None``: it only reads, and asks for nothing.

    Raises:
      ConfigurationError: The token is too short, or cannot be sent.
    """
    app = Flask("dramatiq_inflight.dashboard")
    app.config["MAX_CONTENT_LENGTH"] = LONGEST_FORM
    # No redirect to a prettier address: it would be made of the Host header.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(words.FILTERS)
    app.jinja_env.finalize = words.visible
    versions = {path.name: _version(path) for path in Path(app.static_folder or "").iterdir()}

    def asset(name: str) -> str:
        return url_for("static", filename=name, v=versions[name])

    app.jinja_env.globals.update(asset=asset, can_act=operations is not None, namespace=inspector.namespace)
    board = Board(operations.inspector if operations is not None else inspector)
    headers.install(app)
    errors.install(app)
    pages.install(app, board)
    if operations is not None:
        tokens = Tokens(secret_key or secrets.token_urlsafe(32))
        actions.install(app, board, Acts(board, operations, "the web page"), tokens)
    acts = Acts(board, operations, "the JSON interface") if operations is not None else None
    api.install(app, board, acts, api_token)

    @app.get("/healthz")
    def healthz() -> Response:
        """For probes: 200 if the page can show something; 503 while Redis is away, or has another version's data."""
        board.overview()
        return Response("ok\n", content_type="text/plain; charset=utf-8")

    return app


def _version(path: Path) -> str:
    """Changes with the file, so that browsers may keep the file."""
    return sha256(path.read_bytes()).hexdigest()[:12]
