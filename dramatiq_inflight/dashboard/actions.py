# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What changes something: a page that asks whether it is meant, and what that page sends."""

from __future__ import annotations

from collections.abc import Callable

from dramatiq.logging import get_logger
from flask import Flask, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, NotFound

from ..operations import Done, Operations
from .board import Board
from .pages import actions_for
from .tokens import Tokens
from .words import ACTIONS, ANSWERS

__all__ = ["install"]

logger = get_logger(__name__)


def install(app: Flask, board: Board, operations: Operations, tokens: Tokens) -> None:
    """Add them to an application."""
    does: dict[str, Callable[..., Done]] = {
        "requeue": operations.requeue,
        "dead-letter": operations.dead_letter,
        "discard": operations.discard,
    }

    @app.get("/message/<any('requeue', 'dead-letter', 'discard'):action>")
    def confirm(action: str) -> ResponseReturnValue:
        return ask(action, request.args.get("id", ""), None, 200)

    @app.post("/message/<any('requeue', 'dead-letter', 'discard'):action>")
    def act(action: str) -> ResponseReturnValue:
        id = request.form.get("id", "")
        if not tokens.is_valid(request.form.get("token", ""), action, id):
            raise Forbidden
        force = request.form.get("force") == "yes"
        answer = does[action](id, force=force)
        logger.info("From the web page: %s of message %r%s: %s.", action, id, " by force" * force, answer.value)
        if answer is Done.DONE:
            # To a path, never to a host: what the request says of the host is anybody's.
            return redirect(url_for("message", id=id, done=action), 303)
        return ask(action, id, answer, 404 if answer is Done.UNKNOWN else 409)

    def ask(action: str, id: str, answer: Done | None, status: int) -> ResponseReturnValue:
        view = board.inspector.message(id)
        if view is None and answer is None:
            raise NotFound
        token, cookie = tokens.issue(action, id)
        page = render_template(
            "confirm.html",
            action=action,
            label=ACTIONS[action][0],
            means=ACTIONS[action][1],
            id=id,
            view=view,
            possible=view is not None and action in actions_for(view),
            # Where all are silent nobody is taken for dead, though it does not look alive: the answer knows better.
            alive=answer is Done.ALIVE or (view is not None and view.worker_alive and view.state == "running"),
            answer=ANSWERS[answer] if answer else "",
            token=token,
        )
        response = make_response(page, status)
        tokens.give(response, cookie)
        return response
