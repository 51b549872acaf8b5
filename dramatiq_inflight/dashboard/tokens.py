# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Forms that only this page can have made: a signed token in the form, and a cookie that it belongs to."""

from __future__ import annotations

import hmac
import re
import secrets

from flask import Response, request
from itsdangerous import BadData, URLSafeTimedSerializer

__all__ = ["Tokens"]

COOKIE = "inflight-form"

#: How long a form is good for, seconds.
LASTS = 4 * 3600


class Tokens:
    """Makes and checks them.  One is good for one action on one message, in one browser."""

    def __init__(self, secret_key: str) -> None:
        self._signer = URLSafeTimedSerializer(secret_key, salt="dramatiq_inflight.dashboard")

    def issue(self, action: str, message_id: str) -> tuple[str, str]:
        """A token for a form, and the value for the cookie."""
        cookie = request.cookies.get(COOKIE, "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{32,64}", cookie):
            cookie = secrets.token_urlsafe(32)
        token = self._signer.dumps([cookie, action, message_id])
        return token if isinstance(token, str) else token.decode(), cookie

    def give(self, response: Response, cookie: str) -> None:
        """Set the cookie; no other site can send it, and no script read it."""
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=LASTS,
            path=(request.script_root or "") + "/",
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )

    def is_valid(self, token: str, action: str, message_id: str) -> bool:
        """Return whether a form was made here, for that, in this browser, not long ago."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False  # the browser itself says that another site sent it
        try:
            said = self._signer.loads(token, max_age=LASTS)
        except BadData:
            return False
        cookie = request.cookies.get(COOKIE, "")
        return (
            isinstance(said, list)
            and said[1:] == [action, message_id]
            and bool(cookie)
            and hmac.compare_digest(str(said[0]).encode(), cookie.encode())
        )
