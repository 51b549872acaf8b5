# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A message's way through a worker: its hooks, from the delivery to what follows from it."""
