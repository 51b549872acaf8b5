# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Draw the pictures of the documentation: ``python -m docs.pictures``."""

from __future__ import annotations

from . import write

if __name__ == "__main__":
    write()
