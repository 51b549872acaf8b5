# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The findings of the checks, and their codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["UNCHECKED", "Code", "Finding", "Severity"]

Severity = Literal["error", "warning", "note", "ok"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Parameters:
      code: The name, for programs: one of `CODES`.
      title: The name, for people.
      consequence, remedy: Its result and the way to mend it; empty if all is well.
    """

    severity: Severity
    code: str
    title: str
    consequence: str
    remedy: str


@dataclass(frozen=True)
class Code:
    """A kind of finding.  It is declared once, beside the check that finds it; docs/doctor.rst has it from there.

    Parameters:
      name: The code, for programs.
      severities: How bad it can be.  *Error*: messages are lost, run twice, or are not tracked.  *Warning*: that may
        happen.  *Note*: good to know.
      consequence: Its result, whatever the case.
      remedy: The way to mend it.
    """

    name: str
    severities: tuple[Severity, ...]
    consequence: str
    remedy: str

    def error(self, title: str) -> Finding:
        """Make a finding of an error."""
        return self._finding("error", title)

    def warning(self, title: str) -> Finding:
        """Make a finding of a warning."""
        return self._finding("warning", title)

    def note(self, title: str) -> Finding:
        """Make a finding of a note."""
        return self._finding("note", title)

    def ok(self, title: str) -> Finding:
        """Make a finding that all is well."""
        return Finding("ok", self.name, title, "", "")

    def _finding(self, severity: Severity, title: str) -> Finding:
        assert severity in self.severities, f"{self.name} is declared as {' or '.join(self.severities)}"
        return Finding(severity, self.name, title, self.consequence, self.remedy)


UNCHECKED = Code(
    "unchecked",
    ("note",),
    "It may be wrong, or all right.",
    "Let the doctor use a Redis user with the right to INFO, CONFIG GET and SLOWLOG GET, or check it yourself.",
)
