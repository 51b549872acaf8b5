# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Looks for what is set up wrong, or has gone wrong, before it costs a message.

::

    for finding in examine(broker, None):
        print(finding.severity, finding.title, finding.consequence, finding.remedy)

Nothing is changed but a few keys of the namespace for a moment, and those only where Redis does not tell what a user
may do.  No text holds an address's credentials, nor what a server has said, which may repeat them.
"""

from __future__ import annotations

from .examination import CODES, examine
from .findings import Finding

__all__ = ["CODES", "Finding", "examine"]
