# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Metrics for Prometheus: ``pip install dramatiq_inflight[metrics]``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exporter import InFlightCollector, serve

__all__ = ["InFlightCollector", "serve"]


def __getattr__(name: str) -> Any:
    """Import the exporter when it is used: the worker's side needs only `process`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import exporter  # noqa: PLC0415

    return getattr(exporter, name)
