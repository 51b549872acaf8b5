# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The scripts, the connections to Redis, and each form in which Redis is run."""
