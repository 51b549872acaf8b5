# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dramatiq jobs that survive the death of their worker.

``InFlightTracker`` is a Dramatiq middleware that records in Redis which worker runs which message.  When a worker dies,
its messages are put back through the broker: at once, exactly once, and not for ever.
"""

from __future__ import annotations

from .current import Current, current
from .errors import ConfigurationError, InFlightError, MessageLost, MessageSkipped, PoisonMessage
from .incident import Incident, Kind
from .middleware import InFlightTracker

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Current",
    "InFlightError",
    "InFlightTracker",
    "Incident",
    "Kind",
    "MessageLost",
    "MessageSkipped",
    "PoisonMessage",
    "__version__",
    "current",
]
