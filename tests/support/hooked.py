# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Hears of copies that do not run: of those only the tracker's own hooks are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dramatiq_inflight import InFlightTracker

__all__ = ["beside"]


def beside(tracker: InFlightTracker, hook: str, call: Callable[..., object]) -> None:
    """Call something behind a hook of the tracker's, with the same arguments."""
    own = getattr(tracker, hook)

    def both(broker: Any, message: Any, **outcome: Any) -> None:
        own(broker, message, **outcome)
        call(broker, message, **outcome)

    setattr(tracker, hook, both)
