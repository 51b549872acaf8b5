# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The command line: what runs where, what happened, and what an operator does about it.

It needs the extra: ``pip install "dramatiq_inflight[cli]"``.  Nothing else of the package imports it.
"""
