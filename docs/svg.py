# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Drawings for the documentation: plain SVG, which follows the light or dark of the reader's system."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["INK", "PALE", "picture", "text"]

#: Colours that change with the background: of what is written, and of what is only hinted at.
INK, PALE = "var(--ink, #222)", "var(--pale, #c9cdd2)"

STYLE = (
    "<style>svg{--ink:#222;--pale:#c9cdd2;--paper:#fff}"
    "@media (prefers-color-scheme:dark){svg{--ink:#dde1e6;--pale:#59616b;--paper:#1c2127}}</style>"
)


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Some words; `anchor` says which end of them is at x."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def picture(title: str, parts: Sequence[str], width: float, height: float, *, margin: float = 20) -> str:
    """A whole file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}"><title>{escape(title)}</title>{STYLE}'
        f'<rect width="{width:g}" height="{height:g}" fill="var(--paper, #fff)"/>'
        f'<text x="{margin:g}" y="26" font-size="15">{escape(title)}</text>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"
