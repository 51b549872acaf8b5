# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Recovery: the messages of dead workers are found, and put back, exactly once."""
