# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The data of each release in Redis in the midst of its work, frozen, and its own code: docs/upgrading.rst."""
