# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The stored data."""

from django.db import models


class Order(models.Model):
    """An order, which is to be charged once."""

    created_at = models.DateTimeField(auto_now_add=True)
    charged_at = models.DateTimeField(null=True)
    #: Whether a worker died while it was charging.
    recovered = models.BooleanField(default=False)
