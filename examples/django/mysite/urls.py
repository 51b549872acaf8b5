# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Addresses."""

from django.contrib import admin
from django.urls import include, path

from .inflight import inflight

urlpatterns = [
    path("admin/", admin.site.urls),
    path("inflight/", inflight),
    path("inflight/<path:path>", inflight),
    path("", include("orders.urls")),
]
