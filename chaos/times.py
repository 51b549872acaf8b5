# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The workers' settings: short times, so that much happens in a minute.  The judge knows them too."""

from __future__ import annotations

__all__ = ["HEARTBEAT_INTERVAL", "HEARTBEAT_TTL", "MAX_RECOVERIES", "SETTINGS"]

HEARTBEAT_INTERVAL, HEARTBEAT_TTL = 0.5, 4.0

MAX_RECOVERIES = 3

SETTINGS = {
    "HEARTBEAT_INTERVAL": str(HEARTBEAT_INTERVAL),
    "HEARTBEAT_TTL": str(HEARTBEAT_TTL),
    "PROCESSING_MAX_RECOVERIES": str(MAX_RECOVERIES),
    "PROCESSING_NS": "chaos",
    "PROCESSING_ALONE_TIMEOUT": "30",
    # Messages that a killed recoverer had claimed are taken up after this.
    "RECOVERY_LOCK_TTL": "10",
    "dramatiq_restart_delay": "300",
}
