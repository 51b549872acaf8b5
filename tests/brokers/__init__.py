# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Each broker, and all that Dramatiq can do beside the tracker."""
