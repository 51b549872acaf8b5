# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Pages for errors: the error, and what to do; no traceback, and nothing of the connection."""

from __future__ import annotations

import time

import redis
from dramatiq.errors import BrokerError
from dramatiq.logging import get_logger
from flask import Flask, render_template
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ..errors import SchemaError

__all__ = ["install"]

logger = get_logger(__name__)

#: The texts of the usual errors.
SAID = {
    400: "The request cannot be read.",
    403: "The form was not made by this page, or is too old. Nothing was done. Load the page again.",
    404: "There is no such page; or nothing is known of the message: it may be queued, or complete.",
    405: "That cannot be done to this page.",
    409: "Somebody else acts on dead letters just now, or the broker cannot be asked. Nothing was done. Try again.",
    413: "The request is too big.",
}


def install(app: Flask) -> None:
    """Have errors answered with pages."""
    said_until = [0.0]

    @app.errorhandler(redis.RedisError)
    @app.errorhandler(BrokerError)
    def away(error: Exception) -> ResponseReturnValue:
        # Once a minute, not once a second for everybody who looks.  And not the error itself: it may say more of the
        # connection than everybody is to know.
        if time.monotonic() >= said_until[0]:
            said_until[0] = time.monotonic() + 60
            logger.warning("The web page cannot reach Redis or the broker (%s).", type(error).__name__)
        refused = isinstance(error, redis.ResponseError)
        said = (
            "Redis refuses what this page asks it. The log of this server says what kind of error it was."
            if refused
            else "Redis cannot be reached. This page comes back by itself when Redis does."
        )
        return _page(503, "Redis refuses" if refused else "Redis is away", said), 503, {"Retry-After": "2"}

    @app.errorhandler(SchemaError)
    def of_another_version(error: SchemaError) -> ResponseReturnValue:
        return _page(503, "Another version", str(error)), 503, {"Retry-After": "10"}

    @app.errorhandler(HTTPException)
    def told(error: HTTPException) -> ResponseReturnValue:
        code = error.code or 500
        said = SAID.get(code, "Something failed. The log of this server says what.")
        allowed = error.valid_methods if isinstance(error, MethodNotAllowed) else None
        return _page(code, error.name, said), code, {"Allow": ", ".join(allowed)} if allowed else {}


def _page(code: int, name: str, said: str) -> str:
    return render_template("error.html", code=code, name=name, said=said)
