# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The app."""

from __future__ import annotations

from django.apps import AppConfig


class EffectsConfig(AppConfig):
    """Has one table."""

    name = "dramatiq_inflight.effects.django"
    label = "inflight_effects"
    verbose_name = "Effects once"
