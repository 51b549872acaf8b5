# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The headers of every answer: browsers are told to allow next to nothing."""

from __future__ import annotations

from flask import Flask, Response, request

__all__ = ["CSP", "FRAGMENT", "install"]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

#: Set by the page's script, which wants the changing part alone; and by the answer that is one.
FRAGMENT = "X-Inflight-Fragment"


def install(app: Flask) -> None:
    """Have it added to all answers, errors and files too."""

    @app.after_request
    def add(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CSP
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if request.endpoint == "static" and response.status_code < 400:
            response.headers["Cache-Control"] = "public, max-age=86400"
        else:
            response.headers["Cache-Control"] = "no-store"
        if FRAGMENT in request.headers:
            response.headers[FRAGMENT] = "1"
        return response
