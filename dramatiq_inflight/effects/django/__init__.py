# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A Django app with the table and its migration: ``INSTALLED_APPS += ["dramatiq_inflight.effects.django"]``."""
