# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""This worker lives, and so do others: heartbeats, connections, processes."""
