# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dramatiq jobs that survive the death of their worker.

``InFlightTracker`` is a Dramatiq middleware that records in Redis which worker runs which message.  When a worker dies,
its messages are put back through the broker: at once, exactly once, and not for ever.
"""

# Each name is loaded at its first use (PEP 562): whoever imports a part of the package does not load the other ones.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
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
    from .inspection.inspector import (
        Aside,
        Choice,
        DeadLetterView,
        DelayedView,
        Inspector,
        MessageView,
        MinuteView,
        Overview,
        QueueView,
        Tally,
        WorkerView,
    )
    from .message.current import Current, current
    from .middleware import InFlightTracker
    from .operations import Bulk, Done, Operations
    from .recovery.summary import Swept

__all__ = [
    "AlreadyDone",
    "Aside",
    "Bulk",
    "Busy",
    "CheckpointError",
    "Choice",
    "ConfigurationError",
    "Count",
    "Current",
    "DeadLetterView",
    "DelayedView",
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
    "MinuteView",
    "Operations",
    "Overtaken",
    "Overview",
    "PoisonMessage",
    "QueueView",
    "SchemaError",
    "Swept",
    "Tally",
    "TryAgain",
    "Unfenced",
    "WorkerView",
    "__version__",
    "current",
]

#: Where the public names are, but for the errors.
_HOMES = {
    "incident": {"Incident", "Kind"},
    "inspection.history": {"Count", "Event", "EventKind"},
    "inspection.inspector": {
        "Aside",
        "Choice",
        "DeadLetterView",
        "DelayedView",
        "Inspector",
        "MessageView",
        "MinuteView",
        "Overview",
        "QueueView",
        "Tally",
        "WorkerView",
    },
    "message.current": {"Current", "current"},
    "middleware": {"InFlightTracker"},
    "operations": {"Bulk", "Done", "Operations"},
    "recovery.summary": {"Swept"},
}

if not TYPE_CHECKING:  # or a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        """Load a public name."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = next((module for module, names in _HOMES.items() if name in names), "errors")
        found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        return found

    def __dir__() -> list[str]:
        """Return the public names as well, loaded or not."""
        return sorted({*globals(), *__all__})
