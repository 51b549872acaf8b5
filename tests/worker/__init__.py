# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker process as a whole: its starts, its stops, and its neighbours."""
