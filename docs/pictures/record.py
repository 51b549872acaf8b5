# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The states of a record, and which lead to which, as SVG: drawn from the table that the code has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dramatiq_inflight.store.states import SETTLED, WAITING, State

from ..svg import INK, PALE, picture, text

__all__ = ["drawn_record"]

WIDTH, HEIGHT = 640, 400

#: Half the size of a box.
ACROSS, UP = 56, 15

#: Where each state is; `None`: no record.
PLACES: dict[State | None, tuple[int, int]] = {
    None: (80, 90),
    State.RUNNING: (300, 90),
    State.RECOVERING: (572, 205),
    State.REQUEUED: (490, 90),
    State.RELEASED: (76, 350),
    State.LET_GO: (200, 350),
    State.COMPLETED: (340, 350),
    State.DEAD_LETTERED: (490, 350),
}

ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
)

Point = tuple[float, float]


def drawn_record(title: str, transitions: Mapping[tuple[State | None, State | None], Any]) -> str:
    """The diagram: a line between two states has a head at each end that it leads to."""
    lines = [ARROW]
    for before, after in transitions:
        both = (after, before) in transitions
        if not both or list(PLACES).index(before) < list(PLACES).index(after):
            lines.append(_line(PLACES[before], PLACES[after], both))
    return picture(title, [*lines, *map(_box, PLACES)], WIDTH, HEIGHT)


def _line(start: Point, end: Point, both: bool) -> str:
    """Bent a little, so that it does not run through a box between the two."""
    bend = 0.0 if start[1] == end[1] == 90 else 0.12
    middle = (
        (start[0] + end[0]) / 2 + bend * (end[1] - start[1]),
        (start[1] + end[1]) / 2 - bend * (end[0] - start[0]),
    )
    (x1, y1), (x2, y2) = _edge(start, middle), _edge(end, middle)
    first = ' marker-start="url(#arrow)"' if both else ""
    return (
        f'<path d="M{x1:.1f} {y1:.1f}Q{middle[0]:.1f} {middle[1]:.1f} {x2:.1f} {y2:.1f}" fill="none" '
        f'stroke="{INK}" stroke-width="1.2" marker-end="url(#arrow)"{first}/>'
    )


def _edge(box: Point, towards: Point) -> Point:
    """Where a line from the middle of a box leaves it."""
    dx, dy = towards[0] - box[0], towards[1] - box[1]
    part = min(ACROSS / abs(dx) if dx else 1, UP / abs(dy) if dy else 1)
    return box[0] + dx * part, box[1] + dy * part


def _box(state: State | None) -> str:
    x, y = PLACES[state]
    fill = "#d0482a" if state in WAITING else "#6b7683" if state in SETTLED else "#2f7fc4"
    words = state.value if state else "no record"
    ink = "#fff" if state else INK
    return (
        f'<rect x="{x - ACROSS}" y="{y - UP}" width="{2 * ACROSS}" height="{2 * UP}" rx="4" '
        f'fill="{fill if state else PALE}"/><g fill="{ink}">{text(x, y + 4, words, "middle")}</g>'
    )
