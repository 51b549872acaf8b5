# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Actions: a page that asks for a confirmation, and the form that it sends."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from dramatiq.common import current_millis
from dramatiq.logging import get_logger
from flask import Flask, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict, Forbidden, NotFound

from ..operations import Bulk, Done, Operations
from .board import Board
from .choice import LetterChoice
from .pages import actions_for
from .tokens import Tokens
from .words import ACTIONS, ANSWERS, LETTER_ACTIONS

__all__ = ["install"]

logger = get_logger(__name__)

#: How long one request acts on dead letters, seconds; then it says how many are left.
LONGEST_ACT = 10.0

#: How many queues and actors are named before it is asked.
SHARES = 20


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

    in_bulk: dict[str, Callable[..., Bulk | None]] = {
        "requeue": operations.requeue_dead_letters,
        "discard": operations.purge,
    }

    @app.get("/dead/act")
    def confirm_letters() -> ResponseReturnValue:
        action, chosen = request.args.get("action", ""), LetterChoice.asked(request.args)
        if action not in in_bulk:
            raise NotFound
        # Letters that come after this moment were not asked about.
        return ask_about(action, replace(chosen, until=str(current_millis())), None, 200)

    @app.post("/dead/act")
    def act_on_letters() -> ResponseReturnValue:
        action, chosen = request.form.get("action", ""), LetterChoice.asked(request.form)
        if action not in in_bulk or not tokens.is_valid(
            request.form.get("token", ""), f"all {action}", subject(chosen)
        ):
            raise Forbidden
        ends = time.monotonic() + LONGEST_ACT
        bulk = in_bulk[action](chosen.choice, lambda: time.monotonic() > ends)
        if bulk is None:
            raise Conflict
        logger.info("From the web page: %s of dead letters, %d done.", action, bulk.number)
        board.letters.refresh()
        return ask_about(action, chosen, bulk, 200)

    def ask_about(action: str, chosen: LetterChoice, bulk: Bulk | None, status: int) -> ResponseReturnValue:
        index = board.letters.get()
        found = [] if index is None or (bulk is not None and bulk.is_complete) else chosen.choice.of(index.found)
        shares = Counter((view.queue, view.actor) for view in found)
        token, cookie = tokens.issue(f"all {action}", subject(chosen))
        label, means, past = LETTER_ACTIONS[action]
        page = render_template(
            "letters.html",
            action=action,
            label=label,
            means=means,
            past=past,
            chosen=chosen,
            number=len(found),
            shares=shares.most_common(SHARES),
            more_shares=max(0, len(shares) - SHARES),
            done=None
            if bulk is None
            else [(ANSWERS[one], many) for one, many in bulk.done.items() if one != Done.DONE],
            done_of=0 if bulk is None else bulk.number,
            token=token,
        )
        response = make_response(page, status)
        tokens.give(response, cookie)
        return response


def subject(chosen: LetterChoice) -> str:
    """Return which letters a form is about, for its token."""
    return json.dumps(chosen.fields)
