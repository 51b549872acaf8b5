# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the tests have in common: servers, workers, and the history of what ran."""
