# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What is given to others: the wheel, and the sdist (``nox -s wheel``)."""
