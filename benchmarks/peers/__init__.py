# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The same job and the same kill, for this package and for others: see `systems`."""
