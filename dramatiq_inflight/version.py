# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The version, in a module that imports nothing: each worker says it of itself."""

__all__ = ["__version__"]

__version__ = "0.1.0"
