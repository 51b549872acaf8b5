# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .codes import CODES

__all__ = ["Finding", "Severity", "error", "fine", "note", "warning"]

Severity = Literal["error", "warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters:
      code: What it is, for programs: one of `CODES`.
      title: What it is, for people.
      consequence, remedy: What follows from it, and what to do; empty where all is well.
    """

    severity: Severity
    code: str
    title: str
    consequence: str
    remedy: str


def error(code: str, title: str) -> Finding:
    """Messages are lost, run twice, or are not tracked."""
    return Finding("error", code, title, *CODES[code])


def warning(code: str, title: str) -> Finding:
    """That may happen."""
    return Finding("warning", code, title, *CODES[code])


def note(code: str, title: str) -> Finding:
    """Good to know."""
    return Finding("note", code, title, *CODES[code])


def fine(code: str, title: str) -> Finding:
    """All is well."""
    assert code in CODES
    return Finding("ok", code, title, "", "")
