# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The dashboard, behind Django's own login: see docs/dashboard.rst."""

import io

import dramatiq
from django.conf import settings
from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from werkzeug.wrappers import Response

from dramatiq_inflight import Inspector, Operations
from dramatiq_inflight.dashboard import create_app

broker = dramatiq.get_broker()

# The same key for all processes of gunicorn, or a form made by one is refused by another.
dashboard = create_app(Inspector.of(broker), Operations(broker), secret_key=settings.SECRET_KEY)


@csrf_exempt  # its forms have a token of their own
@staff_member_required
def inflight(request: HttpRequest, path: str = "") -> HttpResponse:
    """Whatever is below /inflight/."""
    prefix = request.path_info.removesuffix(path).rstrip("/")
    environ = {
        **request.META,
        "SCRIPT_NAME": request.META.get("SCRIPT_NAME", "") + prefix,
        "PATH_INFO": "/" + path.encode().decode("latin-1"),  # as WSGI has it
        "wsgi.input": io.BytesIO(request.body),
    }
    answer = Response.from_app(dashboard, environ)
    return HttpResponse(answer.data, status=answer.status_code, headers=dict(answer.headers))
