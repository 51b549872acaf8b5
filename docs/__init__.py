# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The documentation: pages, and what makes a site of them (``nox -s docs``)."""
