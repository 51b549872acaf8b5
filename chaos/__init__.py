# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Chaos: pods, servers and messages in a small world of their own, a nemesis that breaks things, and a judge."""
