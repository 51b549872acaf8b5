# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tests of everything around the code: the layout, the documentation, the examples."""
