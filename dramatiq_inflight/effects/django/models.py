# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The table, as a model: for its migration, and to look at."""

from __future__ import annotations

from django.db import models


class Effect(models.Model):
    """The state of a key.  Written by ``once`` and ``fence`` alone."""

    key = models.CharField(max_length=255, primary_key=True)
    fence = models.BigIntegerField()
    done = models.BooleanField(default=False)
    result = models.BinaryField(null=True)
    at = models.DateTimeField()

    class Meta:
        db_table = "inflight_effects"
