# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A sequence diagram as SVG: the messages between some parties, from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..svg import INK, PALE, picture, text

__all__ = ["Box", "Death", "Sent", "drawn"]

WIDTH, SIDE, TOP, STEP = 640, 80, 62, 34

ACCENT, WRONG = "#2f7fc4", "#d0482a"


class Sent(NamedTuple):
    """Something that one says to another."""

    from_: int
    to: int
    words: str
    #: Drawn dashed: an answer, or what comes to nothing.
    answer: bool = False


class Box(NamedTuple):
    """Something that one does."""

    who: int
    words: str


class Death(NamedTuple):
    """The end of one."""

    who: int
    words: str


def drawn(title: str, who: Sequence[str], steps: Sequence[Sent | Box | Death]) -> str:
    """The diagram."""
    across = (WIDTH - 2 * SIDE) / (len(who) - 1)
    xs = [SIDE + across * i for i in range(len(who))]
    bottom = TOP + STEP * (len(steps) + 1)
    lines, parts = [], []
    ends = {step.who: i for i, step in enumerate(steps) if isinstance(step, Death)}
    for i, (x, name) in enumerate(zip(xs, who, strict=True)):
        end = TOP + STEP * (ends[i] + 1) if i in ends else bottom
        lines.append(f'<path d="M{x:g} {TOP}V{end}" stroke="{PALE}" stroke-width="2"/>')
        if end < bottom:
            lines.append(f'<path d="M{x:g} {end}V{bottom}" stroke="{PALE}" stroke-dasharray="2 6"/>')
        parts.append(f'<g font-weight="bold">{text(x, TOP - 8, name, "middle")}</g>')
    for i, step in enumerate(steps):
        y = TOP + STEP * (i + 1)
        if isinstance(step, Sent):
            parts.append(_arrow(xs[step.from_], xs[step.to], y, step.answer))
            parts.append(_words((xs[step.from_] + xs[step.to]) / 2, y - 6, step.words))
        elif isinstance(step, Box):
            x, wide = xs[step.who], 6.4 * len(step.words) + 16
            parts.append(
                f'<rect x="{x - wide / 2:g}" y="{y - 16}" width="{wide:g}" height="24" rx="4" fill="{ACCENT}"/>'
                f'<g fill="#fff">{text(x, y, step.words, "middle")}</g>'
            )
        else:
            x = xs[step.who]
            parts.append(
                f'<path d="M{x - 8:g} {y - 8}l16 16m0 -16l-16 16" stroke="{WRONG}" stroke-width="3"/>'
                f'<g fill="{WRONG}" font-weight="bold">{text(x + 16, y + 4, step.words)}</g>'
            )
    return picture(title, [*lines, *parts], WIDTH, bottom + 8)


def _words(x: float, y: float, words: str) -> str:
    """On a ground of their own, so that no line runs through them."""
    wide = 6.0 * len(words)
    ground = f'<rect x="{x - wide / 2:g}" y="{y - 11:g}" width="{wide:g}" height="14" fill="var(--paper, #fff)"/>'
    return ground + text(x, y, words, "middle")


def _arrow(start: float, end: float, y: float, dashed: bool) -> str:
    back = -7 if end > start else 7
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="M{start:g} {y}H{end:g}" stroke="{INK}" stroke-width="1.5"{dash}/>'
        f'<path d="M{end:g} {y}l{back} -4v8z"/>'
    )
