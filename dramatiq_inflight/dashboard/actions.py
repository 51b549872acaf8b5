# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Actions: a page that asks for a confirmation, and the form that it sends."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from flask import Flask, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict, Forbidden, NotFound

from ..inspection.documents import iso
from ..operations import Bulk, Done
from .acts import Acts
from .board import Board
from .choice import LetterChoice
from .pages import actions_for
from .tokens import Tokens
from .words import ACTIONS, ANSWERS, LETTER_ACTIONS

__all__ = ["install"]

#: How many queues and actors are named before it is asked.
SHARES = 20


def install(app: Flask, board: Board, acts: Acts, tokens: Tokens) -> None:
    """Add them to an application."""

    @app.get("/message/<any('requeue', 'dead-letter', 'discard'):action>")
    def confirm(action: str) -> ResponseReturnValue:
        return ask(action, request.args.get("id", ""), None, 200)

    @app.post("/message/<any('requeue', 'dead-letter', 'discard'):action>")
    def act(action: str) -> ResponseReturnValue:
        id = request.form.get("id", "")
        if not tokens.is_valid(request.form.get("token", ""), action, id):
            raise Forbidden
        answer = acts.on_message(action, id, force=request.form.get("force") == "yes")
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

    @app.get("/dead/act")
    def confirm_letters() -> ResponseReturnValue:
        action, chosen = request.args.get("action", ""), LetterChoice.asked(request.args)
        if action not in LETTER_ACTIONS:
            raise NotFound
        # What comes after this moment is not what was asked about.
        return ask_about(action, replace(chosen, until=iso(datetime.now(UTC))), None, 200)

    @app.post("/dead/act")
    def act_on_letters() -> ResponseReturnValue:
        action, chosen = request.form.get("action", ""), LetterChoice.asked(request.form)
        if action not in LETTER_ACTIONS or not tokens.is_valid(
            request.form.get("token", ""), f"all {action}", subject(chosen)
        ):
            raise Forbidden
        bulk = acts.on_letters(action, chosen.choice)
        if bulk is None:
            raise Conflict
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
