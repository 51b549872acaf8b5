# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Pages for errors: the error, and what to do; no traceback, and nothing of the connection."""

from __future__ import annotations

import json
import time

import redis
from dramatiq.errors import BrokerError
from dramatiq.logging import get_logger
from flask import Flask, Response, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from ..errors import SchemaError

__all__ = ["SAID", "install", "is_api"]

logger = get_logger(__name__)

#: The texts of the usual errors.
SAID = {
    400: "The request cannot be read.",
    403: "The form was not made by this page, or is too old. Nothing was done. Load the page again.",
    404: "There is no such page, or the message is not in flight: it may be queued, or complete.",
    405: "This page does not take such a request.",
    409: "Somebody else acts on dead letters just now, or the broker cannot be asked. Nothing was done. Try again.",
    413: "The request is too big.",
}


def install(app: Flask) -> None:
    """Have errors answered with pages, and those of the JSON interface with JSON."""
    said_until = [0.0]

    @app.errorhandler(redis.RedisError)
    @app.errorhandler(BrokerError)
    def away(error: Exception) -> ResponseReturnValue:
        # Once a minute, not once a second for everybody who looks.  And not the error itself: it may say more of the
        # connection than everybody is to know.
        if time.monotonic() >= said_until[0]:
            said_until[0] = time.monotonic() + 60
            logger.warning("The web page cannot reach Redis or the broker (%s).", type(error).__name__)
        if isinstance(error, redis.ResponseError):
            name = "Redis refuses"
            said = "Redis refuses what it is asked. The log of this server says what kind of error it was."
        else:
            which = "The broker" if isinstance(error, BrokerError) else "Redis"
            name, said = f"{which} is away", f"{which} cannot be reached. This comes back by itself when that does."
        return _answer(503, name, said, {"Retry-After": "2"})

    @app.errorhandler(SchemaError)
    def of_another_version(error: SchemaError) -> ResponseReturnValue:
        return _answer(503, "Another version", str(error), {"Retry-After": "10"})

    @app.errorhandler(HTTPException)
    def told(error: HTTPException) -> ResponseReturnValue:
        code = error.code or 500
        said = SAID.get(code, "Something failed. The log of this server says what.")
        # Which methods there are, or how to say who one is.
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
        return _answer(code, error.name, (is_api() and error.description) or said, headers)


def is_api() -> bool:
    """Return True if this request is for the JSON interface."""
    return request.path.startswith("/api/")


def _answer(code: int, name: str, said: str, headers: dict[str, str]) -> ResponseReturnValue:
    if is_api():
        return Response(json.dumps({"error": said}) + "\n", code, headers, content_type="application/json")
    return render_template("error.html", code=code, name=name, said=said), code, headers
