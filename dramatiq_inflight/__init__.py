# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dramatiq jobs that survive the death of their worker.

``InFlightTracker`` is a Dramatiq middleware that records in Redis which worker runs which message.  When a worker dies,
its messages are put back through the broker: at once, exactly once, and not for ever.
"""

from __future__ import annotations

from .errors import (
    AlreadyDone,
    Busy,
    CheckpointError,
    ConfigurationError,
    HandBack,
    InFlightError,
    MessageLost,
    MessageSkipped,
    Overtaken,
    PoisonMessage,
    SchemaError,
    TryAgain,
    Unfenced,
)
from .incident import Incident, Kind
from .inspection.history import Count, Event, EventKind
from .inspection.inspector import Aside, Inspector, MessageView, Overview, Tally, WorkerView
from .message.current import Current, current
from .middleware import InFlightTracker
from .operations import Done, Operations
from .recovery.summary import Swept
from .version import __version__

__all__ = [
    "AlreadyDone",
    "Aside",
    "Busy",
    "CheckpointError",
    "ConfigurationError",
    "Count",
    "Current",
    "Done",
    "Event",
    "EventKind",
    "HandBack",
    "InFlightError",
    "InFlightTracker",
    "Incident",
    "Inspector",
    "Kind",
    "MessageLost",
    "MessageSkipped",
    "MessageView",
    "Operations",
    "Overtaken",
    "Overview",
    "PoisonMessage",
    "SchemaError",
    "Swept",
    "Tally",
    "TryAgain",
    "Unfenced",
    "WorkerView",
    "__version__",
    "current",
]
