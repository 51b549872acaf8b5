# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The protocol as a model, and the real scripts beside it: see docs/model.rst."""
