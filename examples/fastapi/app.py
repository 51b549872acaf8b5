# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The web's side: ``uvicorn examples.fastapi.app:app``.  It only sends: the tracker does nothing here."""

from __future__ import annotations

import os
from base64 import b64decode
from binascii import Error
from hmac import compare_digest

from a2wsgi import WSGIMiddleware
from dramatiq.results import ResultMissing
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, BaseUser, SimpleUser
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response

from dramatiq_inflight import Inspector, Operations
from dramatiq_inflight.dashboard import create_app

from .tasks import broker, charge

app = FastAPI()


class Order(BaseModel):
    """The ordered goods."""

    order: int


class Taken(BaseModel):
    """An order that is taken, and is being charged."""

    id: str


class State(BaseModel):
    """Whether an order is charged."""

    state: str
    recovered: bool = False


# Neither is async: sending and asking for a result are round trips to Redis, which would block the event loop.


@app.post("/orders", status_code=202)
def order(order: Order) -> Taken:
    """Take an order, and leave the charging to a worker."""
    return Taken(id=charge.send(order.order).message_id)


@app.get("/orders/{message_id}")
def look(message_id: str) -> State:
    """Return whether it is charged."""
    message = charge.message(0).copy(message_id=message_id)
    try:
        return State(state="charged", recovered=message.get_result()["recovered"])
    except ResultMissing:
        return State(state="pending")


class Password(AuthenticationBackend):
    """Asks for a password: the dashboard has no login of its own, and dependencies of routes do not guard a mount."""

    def __init__(self, password: str) -> None:
        self.password = password.encode()

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser]:
        """HTTP's basic authentication."""
        scheme, _, rest = conn.headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = b64decode(rest).partition(b":")
        except Error:
            user = password = b""
        if scheme.lower() != "basic" or not compare_digest(password, self.password):
            raise AuthenticationError("a password is needed")
        return AuthCredentials(), SimpleUser(user.decode(errors="replace"))


if password := os.environ.get("DASHBOARD_PASSWORD"):
    # The same key for all processes of uvicorn, or a form made by one is refused by another.
    dashboard = create_app(Inspector.of(broker), Operations(broker), secret_key=os.environ["SECRET_KEY"])
    app.mount(
        "/inflight",
        AuthenticationMiddleware(
            WSGIMiddleware(dashboard),
            backend=Password(password),
            on_error=lambda conn, error: Response(status_code=401, headers={"WWW-Authenticate": "Basic"}),
        ),
    )
