# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The web's side: ``gunicorn examples.flask.app:app``.  It only sends: the tracker does nothing here."""

from __future__ import annotations

import os
from hmac import compare_digest
from typing import TYPE_CHECKING

from dramatiq.results import ResultMissing
from flask import Flask, request
from flask.typing import ResponseReturnValue
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as Answer

from dramatiq_inflight import Inspector, Operations
from dramatiq_inflight.dashboard import create_app

from .tasks import broker, charge

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

app = Flask(__name__)


@app.post("/orders")
def order() -> ResponseReturnValue:
    """Take an order, and leave the charging to a worker."""
    message = charge.send(int(request.form["order"]))
    return {"id": message.message_id}, 202


@app.get("/orders/<message_id>")
def look(message_id: str) -> ResponseReturnValue:
    """Return whether it is charged."""
    message = charge.message(0).copy(message_id=message_id)
    try:
        return {"state": "charged", **message.get_result()}
    except ResultMissing:
        return {"state": "pending"}


def behind_password(inside: WSGIApplication, password: str) -> WSGIApplication:
    """Asks for a password: the dashboard has no login of its own, and ``before_request`` does not see a mounted one."""

    def guarded(environ, start_response):  # type: ignore[no-untyped-def]
        login = Request(environ).authorization
        if login is None or not compare_digest((login.password or "").encode(), password.encode()):
            return Answer(status=401, headers={"WWW-Authenticate": "Basic"})(environ, start_response)
        return inside(environ, start_response)

    return guarded


if password := os.environ.get("DASHBOARD_PASSWORD"):
    # The same key for all processes of gunicorn, or a form made by one is refused by another.
    dashboard = create_app(Inspector.of(broker), Operations(broker), secret_key=os.environ["SECRET_KEY"])
    app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, {"/inflight": behind_password(dashboard, password)}
    )
