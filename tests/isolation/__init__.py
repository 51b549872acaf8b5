# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Messages that run alone in their process, and crash loops, which end by that."""
