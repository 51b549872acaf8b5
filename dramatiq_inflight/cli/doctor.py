# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``doctor``: what is wrong, what comes of it, and what to do."""

from __future__ import annotations

from collections import Counter

import click

from .extras import load
from .failures import not_done
from .output import Output, json_option
from .shapes import STYLES
from .source import Source
from .table import Cell

__all__ = ["doctor"]

#: Worst first.
SEVERITIES = ("error", "warning", "note", "ok")


@click.command(short_help="Report problems, and what to do.")
@json_option
@click.pass_obj
def doctor(source: Source, as_json: bool) -> None:
    """Examine the settings, Redis and the workers, and report each problem with its remedy.

    With --broker it sees more than with --redis-url.

    Exit code 1: there is an error or a warning.
    """
    out = Output(as_json=as_json)
    examine = load("doctor", "doctor", "cli").examine
    findings = examine(source.broker, source.inspector)
    if as_json:
        names = ("severity", "code", "title", "consequence", "remedy")
        out.json({"findings": [{name: getattr(finding, name) for name in names} for finding in findings]})
    else:
        findings = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
        for finding in findings:
            out.line(
                Cell(f"{finding.severity:7}  ", STYLES[finding.severity]),
                Cell(finding.title, "bold" if finding.severity != "ok" else ""),
                Cell(f"  [{finding.code}]" if finding.severity != "ok" else "", "dim"),  # the code names what is wrong
            )
            for text in (finding.consequence, finding.remedy):
                if text and finding.severity != "ok":
                    out.prose(text, indent=9)
        counted = Counter(finding.severity for finding in findings)
        out.line(", ".join(f"{counted[severity]} {severity}" for severity in SEVERITIES))
    if any(finding.severity in ("error", "warning") for finding in findings):
        raise not_done()
