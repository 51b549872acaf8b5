# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A state machine as SVG, from a table of transitions: a column for each state, a line for each transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..svg import INK, PALE, picture, text

__all__ = ["Machine", "drawn"]

WIDTH, LABELS, TOP, STEP = 780, 104, 40, 24

ACCENT = "#2f7fc4"


class Machine(NamedTuple):
    """The states of one kind, and by the name of each transition, from which of them it leads to which."""

    title: str
    states: Sequence[str]
    moves: Mapping[str, Mapping[str, str]]


def drawn(title: str, machines: Sequence[Machine]) -> str:
    """The picture, with the machines below each other.  The first state of each is where it begins."""
    across = (WIDTH - LABELS) / max(len(machine.states) for machine in machines)
    parts: list[str] = []
    top = TOP
    for machine in machines:
        parts += _machine(machine, across, top)
        top += STEP * (len(machine.moves) + 3)
    return picture(title, parts, WIDTH, top)


def _machine(machine: Machine, across: float, top: float) -> list[str]:
    xs = {state: LABELS + across * (i + 0.5) for i, state in enumerate(machine.states)}
    names, bottom = top + STEP, top + STEP * (len(machine.moves) + 1.6)
    lines = [f'<path d="M{x:g} {names + 6:g}V{bottom:g}" stroke="{PALE}" stroke-width="2"/>' for x in xs.values()]
    heads = [f'<g font-weight="bold">{text(x, names, state, "middle")}</g>' for state, x in xs.items()]
    parts = [f'<g font-weight="bold" fill="{ACCENT}">{text(20, names, machine.title)}</g>', *lines, *heads]
    for i, (transition, moves) in enumerate(machine.moves.items()):
        y = names + STEP * (i + 1)
        parts.append(text(20, y + 4, transition))
        parts += [_move(xs[before], xs[after], y) for before, after in moves.items()]
    return parts


def _move(start: float, end: float, y: float) -> str:
    """A point where the transition happens; with an arrow, if another state follows."""
    point = f'<circle cx="{start:g}" cy="{y:g}" r="4" fill="{ACCENT}"/>'
    if start == end:
        return point
    back = -7 if end > start else 7
    tip = end + back * 5 / 7  # beside the point that may be there
    return (
        f'{point}<path d="M{start:g} {y:g}H{tip:g}" stroke="{INK}" stroke-width="1.5"/>'
        f'<path d="M{tip:g} {y:g}l{back} -4v8z"/>'
    )
