# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Addresses."""

from django.urls import path

from . import views

urlpatterns = [
    path("orders", views.order),
    path("orders/<int:order_id>", views.look),
]
