# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What tracking costs, measured: ``python -m benchmarks``."""
