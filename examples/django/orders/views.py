# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""An interface without cookies, for other programs."""

from functools import partial

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from .models import Order
from .tasks import charge


@csrf_exempt
@require_POST
@transaction.atomic
def order(request: HttpRequest) -> JsonResponse:
    """Take an order, and leave the charging to a worker."""
    order = Order.objects.create()
    transaction.on_commit(partial(charge.send, order.pk))  # a worker that is faster than the commit would not find it
    return JsonResponse({"id": order.pk}, status=202)


@require_GET
def look(request: HttpRequest, order_id: int) -> JsonResponse:
    """Return whether it is charged."""
    order = get_object_or_404(Order, pk=order_id)
    return JsonResponse({"state": "charged" if order.charged_at else "pending", "recovered": order.recovered})
