# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A process that an actor forks: it has the worker's memory and descriptors, none of its threads, and is no worker."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["tell_children"]


class Forked(Protocol):
    """Something that has to know that this process is a child."""

    def forked(self) -> None:
        """Take new locks, for other threads may have held the old ones, and speak for the worker no more."""


_known: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_children(something: Forked) -> None:
    """Have a method called in every process that is forked from this one, before anything else runs there."""
    _known.add(something)


def _in_child() -> None:
    for something in list(_known):
        something.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
