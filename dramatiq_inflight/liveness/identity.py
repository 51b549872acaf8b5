# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The identity of this process: one incarnation, made anew at every boot of a worker process."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field

__all__ = ["Incarnation"]


@dataclass(frozen=True)
class Incarnation:
    """One boot of one worker process of an instance.

    Made after the fork and never used again: a container that restarts under the same instance id is another
    incarnation, and does not keep the dead one's heartbeat alive.
    """

    instance: str
    #: 64 random bits in hex.
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)

    def __str__(self) -> str:
        return f"{self.instance} (process {self.pid} on {self.host}, incarnation {self.id})"
