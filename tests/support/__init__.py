# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shared parts of the tests: servers, workers, and the history of the runs."""
