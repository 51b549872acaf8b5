# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Real processes, and all that breaks around them: kills, networks, Redis itself."""
