# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Checks of the published files: the wheel, and the sdist (``nox -s wheel``)."""
