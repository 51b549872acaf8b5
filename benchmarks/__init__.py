# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Benchmarks of the cost of tracking: ``python -m benchmarks``."""
