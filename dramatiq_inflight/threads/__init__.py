# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Threads, and what they share: bells, locks, clocks, forks."""
