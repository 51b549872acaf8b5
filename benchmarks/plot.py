# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Draw what the benchmarks have measured, and write the tables of the docs: from ``docs/benchmarks/*.json`` alone.

So the docs show what was measured, and nothing else.  The drawings are plain SVG, two kinds of them: bars, and lines.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from docs.svg import INK, PALE, picture, text

from .support import ROOT, number_text

__all__ = ["FOLDER", "run"]

FOLDER = ROOT / "docs" / "benchmarks"

COLOURS = ("#2a6fb0", "#d0662a", "#3a8f4d", "#8450a0")
WIDTH, MARGIN, LEFT = 760, 20, 230


class Bar(NamedTuple):
    """One row of a drawing."""

    name: str
    #: The median first; more than one: whiskers.
    values: Sequence[float]
    label: str
    colour: str
    #: Drawn to the edge, pale: more than the axis shows.
    beyond: bool = False


class Line(NamedTuple):
    """One line of a drawing."""

    name: str
    points: Sequence[tuple[float, float]]
    #: The least and the most at each point; may be empty.
    spread: Sequence[tuple[float, float]] = ()


def run() -> None:
    """Draw and write all that there are figures for."""
    drawings: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
        "latency": _latency,
        "poison": _poison,
        "throughput": _throughput,
        "payloads": _payloads,
        "growth": _growth,
    }
    for path in sorted(FOLDER.glob("*.json")):
        measured = json.loads(path.read_text("utf-8"))
        path.with_suffix(".rst").write_text(_table(measured), "utf-8")
        written = [f"{path.stem}.rst"]
        for name, drawing in drawings.get(path.stem, lambda measured: {})(measured).items():
            (FOLDER / f"{name}.svg").write_text(drawing, "utf-8")
            written.append(f"{name}.svg")
        print(f"{path.name}: {', '.join(written)}")


# The drawings.


def _latency(measured: dict[str, Any]) -> dict[str, str]:
    patience = measured["details"]["patience"]
    rows = []
    for figure in measured["figures"]:
        values = figure["values"]
        median = statistics.median(values) if values else patience
        label = f"{number_text(median)} s" if values else figure["note"]
        rows.append(Bar(figure["name"], [median, *values], label, _colour(figure["name"]), not values))
    title = "Seconds from SIGKILL of a worker to the start of its job on another (log scale)"
    return {"latency": _bars(title, rows, 0.001, patience, log=True)}


def _poison(measured: dict[str, Any]) -> dict[str, str]:
    rows = [
        Bar(name, [value], f"{value:g}, {figure['note']}", _colour(name))
        for figure in measured["figures"]
        for name, value in [(figure["name"], figure["values"][0])]
    ]
    return {"poison": _bars("Workers killed by a job that kills its worker", rows, 0, measured["details"]["bound"])}


def _throughput(measured: dict[str, Any]) -> dict[str, str]:
    figures = [figure for figure in measured["figures"] if figure["unit"] == "jobs/s"]
    rows = []
    for figure in figures:
        name, median = figure["name"].partition(":")[0], figure["median"]
        rows.append(Bar(name, [median, *figure["values"]], f"{number_text(median)} jobs/s", _colour(name)))
    most = max(figure["max"] for figure in figures)
    return {"throughput": _bars("Jobs a second of one worker, which do nothing", rows, 0, most)}


def _payloads(measured: dict[str, Any]) -> dict[str, str]:
    rows = measured["details"]["rows"]

    def lines(by: str, other: str, name: Callable[[Any], str]) -> list[Line]:
        found = []
        for value in sorted({row[other] for row in rows}):
            points = sorted((row for row in rows if row[other] == value), key=lambda row: row[by])
            if len(points) > 1:
                spread = [(min(row["ratios"]), max(row["ratios"])) for row in points]
                medians = [(row[by], statistics.median(row["ratios"])) for row in points]
                found.append(Line(name(value), medians, spread))
        return found

    title, high = "Throughput, tracked : untracked, by the", max([1.2, *(max(row["ratios"]) for row in rows)])
    return {
        "payloads": _lines(
            f"{title} bytes of the argument", lines("bytes", "threads", lambda n: f"{n} threads"), 0, high
        ),
        "threads": _lines(f"{title} number of threads", lines("threads", "bytes", lambda n: f"{n:,} bytes"), 0, high),
    }


def _growth(measured: dict[str, Any]) -> dict[str, str]:
    details = measured["details"]
    lines = [
        Line(f"{name}, by {what}", [(row["number"], row[f"{key}_us"]) for row in details[what]])
        for what in ("incarnations", "messages")
        for key, name in (("beat", "heartbeat"), ("sweep", "sweep"))
    ]
    most = max(y for line in lines for _, y in line.points)
    return {"growth": _lines("Microseconds of a script in the server, by how many there are", lines, 0, 1.2 * most)}


def _colour(name: str) -> str:
    return COLOURS[0] if name.startswith("inflight") else COLOURS[1] if name.startswith("Dramatiq") else COLOURS[2]


# How it is drawn.


def _bars(title: str, rows: Sequence[Bar], low: float, high: float, *, log: bool = False) -> str:
    right, step, top = WIDTH - 170, 24, 50

    def x(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low) if log else (value - low) / (high - low)
        return LEFT + min(share, 1.0) * (right - LEFT)

    parts = []
    for i, row in enumerate(rows):
        y = top + i * step
        median, values = row.values[0], row.values[1:]
        parts.append(text(LEFT - 8, y + 12, row.name, "end"))
        colour = PALE if row.beyond else row.colour
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{x(median) - LEFT:.1f}" height="16" fill="{colour}"/>')
        if len(values) > 1:
            ends = x(min(values)), x(max(values))
            parts.append(f'<path d="M{ends[0]:.1f} {y + 8}H{ends[1]:.1f}" stroke="{INK}" stroke-width="1.5"/>')
        parts.append(text(x(max(row.values)) + 6, y + 12, row.label))
    return picture(title, parts, WIDTH, top + len(rows) * step + MARGIN, margin=MARGIN)


def _lines(title: str, lines: Sequence[Line], low: float, high: float) -> str:
    left, right, top, bottom = 70, WIDTH - MARGIN, 50, 300
    ticks = sorted({x for line in lines for x, _ in line.points})
    first, last = math.log(ticks[0]), math.log(ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - first) / (last - first)
        return left + 20 + across * (right - left - 60), bottom - (min(y, high) - low) / (high - low) * (bottom - top)

    parts = [f'<path d="M{left} {top}V{bottom}H{right}" stroke="#888" fill="none"/>']
    for x in ticks:
        parts.append(text(place(x, low)[0], bottom + 18, f"{x:,}", "middle"))
    for i in range(5):
        value = low + (high - low) * i / 4
        parts.append(text(left - 8, place(ticks[0], value)[1] + 4, f"{value:g}", "end"))
    for i, line in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line.points))
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        for (x, _), (least, most) in zip(line.points, line.spread, strict=False):
            (across, lower), (_, upper) = place(x, least), place(x, most)
            parts.append(f'<path d="M{across + 2 * i:.1f} {lower:.1f}V{upper:.1f}" stroke="{colour}" opacity="0.6"/>')
        y = bottom + 44 + 20 * i
        parts.append(
            f'<path d="M{left} {y - 4}h24" stroke="{colour}" stroke-width="3"/>{text(left + 32, y, line.name)}'
        )
    return picture(title, parts, WIDTH, bottom + 44 + 20 * len(lines), margin=MARGIN)


# The files that are written.


def _table(measured: dict[str, Any]) -> str:
    """Return the table that the docs include: the figures, and how they were measured."""
    where = measured["environment"]
    rows = [["", "median", "least to most", "runs", "target"]]
    for figure in measured["figures"]:
        runs = figure["runs"]
        spread = f"{number_text(figure['min'])} to {number_text(figure['max'])}" if runs > 1 else ""
        median = f"{number_text(figure['median'])} {figure['unit']}".strip() if runs else ""
        note = figure["note"] or ""
        name = figure["name"].strip()
        rows.append([name, "; ".join(filter(None, [median, note])), spread, str(runs), figure["target"] or ""])
    if not any(row[4] for row in rows[1:]):
        rows = [row[:4] for row in rows]
    lines = [
        ".. Written by \u0060\u0060python -m benchmarks plot\u0060\u0060: do not edit.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {cell}".rstrip() for i, cell in enumerate(row)]
    versions = measured.get("details", {}).get("versions", {})
    others = "; ".join(f"{name}: {', '.join(f'{k} {v}' for k, v in said.items())}" for name, said in versions.items())
    lines += ["", f"{measured['title']}.", ""]
    lines += [f"* {note}" for note in measured["notes"]]
    lines += [
        "",
        f"Python {where['python']}, Dramatiq {where['dramatiq']}, redis-py {where['redis']} ({where['parser']}), ",
    ]
    lines[-1] += f"{' and '.join(where['servers'])}, {where['cpus']} processors; {measured['seconds']:g} seconds."
    lines += ["", f"In the environments: {others}."] if others else []
    return "\n".join(lines) + "\n"
