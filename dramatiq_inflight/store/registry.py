# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The records in Redis: nobody else changes them.

The keys are those of store/keys.py.  Every method that changes a record is one script, so it is atomic, and every
method raises ``redis.RedisError`` when Redis cannot be reached or refuses.
"""

from __future__ import annotations

from .broker_copies import BrokerCopies
from .messages import Runs
from .operations import Interventions
from .recovery import Orphans

__all__ = ["Registry"]


class Registry(Runs, BrokerCopies, Orphans, Interventions):
    """All that an incarnation reads and writes of the tracker's keys; see `Scripting` for its parameters.

    A message's life: `Runs`, `BrokerCopies`.  An incarnation's: `Membership`, and what it says to others: `Words`.
    Recovery: `Orphans`.  An operator's: `Interventions`.
    """
