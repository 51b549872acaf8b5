# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The report of one run: one HTML file with the verdict, a picture of what happened when, and the whole history."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tests.support.history import Event

from .checker import Fault, Judgement, Run, deaths_in, faults_in, runs_in
from .nemesis import FAULTS

__all__ = ["write_report"]

#: How many messages have a lane of their own: those that ran most often.
STORIES = 30

#: Heights, pixels.
ROW, LANE, GAP = 7, 18, 10

#: The colours of runs, by how they ended.
RUNS = {
    "ok": ("#2e9e5b", "completed"),
    "failed": ("#e0a100", "failed, to be tried again"),
    "cut off": ("#d1343c", "cut off by the death of its process"),
    "interrupted": ("#8a4fd0", "interrupted: another worker has the message"),
    "kills": ("#111111", "poison: kills its process"),
}

#: The colours of faults, by the first word or words of their kind.
COLOURS = {
    "freeze": "#4a90d9",
    "cut": "#f08c2e",
    "deploy": "#9a9a9a",
    "skew": "#7a3fb0",
    "kill": "#c00000",
    "redis": "#d1343c",
    "rabbitmq": "#f08c2e",
}

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px; color: #222; background: #fff; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 28px 0 8px; }
.verdict { display: inline-block; padding: 6px 14px; border-radius: 6px; color: #fff; font-weight: 600; }
.good { background: #2e9e5b; } .bad { background: #c0262d; }
table { border-collapse: collapse; margin: 4px 0; }
td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #ccc; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.columns { display: flex; flex-wrap: wrap; gap: 0 48px; }
.picture { display: flex; border: 1px solid #ddd; } .scroll { overflow-x: auto; flex: 1; } svg { display: block; }
.legend span { display: inline-block; margin-right: 18px; white-space: nowrap; }
.legend i { display: inline-block; width: 14px; height: 10px; margin-right: 5px; }
pre { font-size: 12px; overflow: auto; max-height: 480px; background: #f6f6f6; padding: 8px; }
.wrong { color: #c0262d; }
"""


def write_report(path: Path, title: str, judgement: Judgement, events: Sequence[Event], command: str = "") -> None:
    """Write the report.

    Parameters:
      title: The command.
      command: How to run it again.
    """
    path.write_text(report(title, judgement, events, command), "utf-8")


def report(title: str, judgement: Judgement, events: Sequence[Event], command: str) -> str:
    """The text of the file."""
    events = sorted(events, key=lambda event: event.at)
    begin = events[0].at if events else 0.0
    picture = _Picture(events, begin)
    good = not judgement.wrong
    verdict = "Nothing went wrong" if good else f"{judgement.wrong} violation{'' if judgement.wrong == 1 else 's'}"
    figures = {
        "messages sent": judgement.sent,
        "enqueues that failed (may have been enqueued)": judgement.unsure,
        "runs": judgement.runs,
        "completed": judgement.completed,
        "dead-lettered": judgement.dead_lettered,
        "recoveries": judgement.recoveries,
        "boots of pods": judgement.boots,
        "worker processes that ended": judgement.deaths,
        "faults": sum(judgement.faults.values()),
    }
    lines = (json.dumps([round(e.at - begin, 3), e.pid, e.what, e.key, e.message_id, e.extra]) for e in events)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<div class="verdict {"good" if good else "bad"}">{escape(verdict)}</div>
{f"<p><code>{escape(command)}</code></p>" if command else ""}
<div class="columns">
<div><h2>Verdicts</h2>{_verdicts(judgement)}</div>
<div><h2>Figures</h2>{_table(figures)}</div>
<div><h2>Faults</h2>{_faults(judgement.faults)}</div>
<div><h2>From a death to the recovery of a message</h2>{_table(judgement.histogram())}</div>
</div>
{_violations(judgement)}
<h2>What happened when</h2>
<p class="legend">{_legend()}</p>
{picture.draw()}
<h2>Messages that ran more than once</h2>
{picture.stories_table()}
<h2>History</h2>
<details><summary>{len(events)} events: seconds, who, what, message, id, more</summary>
<pre>{escape(chr(10).join(lines))}</pre></details>
</body></html>
"""


def _table(figures: Mapping[str, int]) -> str:
    rows = (f"<tr><td>{escape(name)}</td><td class=number>{value}</td></tr>" for name, value in figures.items())
    return f"<table>{''.join(rows)}</table>"


def _verdicts(judgement: Judgement) -> str:
    rows = ["<tr><th>verdict<th>violations<th>excused, and why</tr>"]
    for verdict, texts in judgement.violations.items():
        excuses = judgement.excused.get(verdict, {})
        said = ", ".join(f"{why} {number}" for why, number in sorted(excuses.items())) or "none"
        name, colour = escape(verdict.replace("_", " ")), " class=wrong" if texts else ""
        rows.append(f"<tr{colour}><td>{name}</td><td class=number>{len(texts)}</td><td>{escape(said)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _faults(faults: Mapping[str, int]) -> str:
    rows = (
        f"<tr><td>{escape(kind)}</td><td class=number>{faults[kind]}</td><td>{escape(FAULTS[kind][0])}</td></tr>"
        for kind in FAULTS
        if kind in faults
    )
    return f"<table>{''.join(rows)}</table>"


def _violations(judgement: Judgement) -> str:
    found = [(verdict, text) for verdict, texts in judgement.violations.items() for text in texts]
    if not found:
        return ""
    items = "".join(f"<li><b>{escape(verdict)}</b> {escape(text)}</li>" for verdict, text in found)
    return f"<h2>Violations</h2><ul class=wrong>{items}</ul>"


def _legend() -> str:
    spans = [f'<span><i style="background:{colour}"></i>{escape(text)}</span>' for colour, text in RUNS.values()]
    names = {"freeze": "stopped", "cut": "cut off", "deploy": "SIGTERM", "skew": "clock is off", "kill": "killed"}
    spans += [
        f'<span><i style="background:{COLOURS[kind]};opacity:.35"></i>{escape(text)}</span>'
        for kind, text in names.items()
    ]
    spans.append("<span>▲ recovers a message</span>")
    return "".join(spans)


class _Picture:
    """Lanes over time: servers, pods with their runs, and the messages that ran most often."""

    def __init__(self, events: Sequence[Event], begin: float) -> None:
        self.events = events
        self.begin = begin
        self.seconds = (events[-1].at - begin if events else 0.0) + 1
        #: Pixels a second.
        self.scale = min(max(6000 / self.seconds, 8), 40)
        self.faults = faults_in(events)
        self.deaths = deaths_in(events, self.faults)
        self.runs = runs_in(events, self.deaths)
        self.labels: list[str] = []
        self.parts: list[str] = []
        self.height = 0

    def draw(self) -> str:
        """The SVG: names on the left, which stay, and the lanes, which scroll."""
        self._axis()
        for server in ("redis", "rabbitmq"):
            if any(fault.part == server for fault in self.faults):
                self._label(server, LANE)
                self._bands(server, LANE)
                self.height += LANE + GAP
        for pod in sorted({event.key.partition(".")[0] for event in self.events if event.what == "pod"}):
            self._pod(pod)
        for key, runs in self._stories():
            self._label(key, ROW + 4, size=9)
            for run in runs:
                self._run(run, self.height)
            self.height += ROW + 4
        width, height = math.ceil(self.seconds * self.scale), self.height + GAP
        labels = f'<svg width="120" height="{height}">{"".join(self.labels)}</svg>'
        lanes = f'<svg width="{width}" height="{height}" font-family="sans-serif">{"".join(self.parts)}</svg>'
        return f'<div class="picture">{labels}<div class="scroll">{lanes}</div></div>'

    def stories_table(self) -> str:
        """The same messages, in words."""
        rows = []
        for key, runs in self._stories():
            said = "; ".join(
                f"{self._at(run.start)} on {run.who}"
                + (f" {_outcome(run)} after {run.stop - run.start:.1f} s" if run.stop < math.inf else "")
                for run in runs
            )
            rows.append(f"<tr><td>{escape(key)}</td><td class=number>{len(runs)}</td><td>{escape(said)}</td></tr>")
        return f"<table><tr><th>message<th>runs<th>each</tr>{''.join(rows)}</table>"

    def _stories(self) -> list[tuple[str, list[Run]]]:
        several = [(key, runs) for key, runs in self.runs.items() if len(runs) > 1]
        several.sort(key=lambda item: -len(item[1]))
        return sorted(several[:STORIES], key=lambda item: item[1][0].start)

    def _x(self, at: float) -> float:
        return round((min(at, self.begin + self.seconds) - self.begin) * self.scale, 1)

    def _at(self, at: float) -> str:
        return f"{at - self.begin:.2f} s"

    def _label(self, text: str, height: int, *, size: int = 12) -> None:
        y = self.height + height / 2 + size / 3
        self.labels.append(f'<text x="6" y="{y:g}" font-size="{size}" font-family="sans-serif">{escape(text)}</text>')

    def _axis(self) -> None:
        bottom = "100%"
        step = 5 if self.scale * 5 >= 50 else 10
        for second in range(0, math.ceil(self.seconds), step):
            x = second * self.scale
            self.parts.append(f'<line x1="{x:g}" x2="{x:g}" y1="14" y2="{bottom}" stroke="#eee"/>')
            self.parts.append(f'<text x="{x + 2:g}" y="11" font-size="10" fill="#666">{second} s</text>')
        for event in self.events:
            if event.what in ("begin", "quiet"):
                x, text = self._x(event.at), {"begin": "messages begin", "quiet": "faults end"}[event.what]
                self.parts.append(
                    f'<line x1="{x}" x2="{x}" y1="0" y2="{bottom}" stroke="#444" stroke-dasharray="4 3"/>'
                    f'<text x="{x + 3}" y="22" font-size="10">{text}</text>'
                )
        self.height = 28

    def _bands(self, part: str, height: int) -> None:
        for fault in self.faults:
            if fault.part != part:
                continue
            x, end = self._x(fault.begin), self._x(fault.until)
            width = max(end - x, 2)
            colour = COLOURS[fault.kind.partition(" ")[0]]
            self.parts.append(
                f'<rect x="{x}" y="{self.height}" width="{width:g}" height="{height}" fill="{colour}" opacity=".3">'
                f"<title>{escape(self._tell(fault))}</title></rect>"
                f'<text x="{x + 1}" y="{self.height + 9}" font-size="9" fill="{colour}">{escape(fault.kind)}</text>'
            )

    def _tell(self, fault: Fault) -> str:
        until = f" to {self._at(fault.until)}" if fault.until < math.inf else ""
        return f"{fault.kind} {fault.victim or fault.part}, {self._at(fault.begin)}{until}"

    def _pod(self, pod: str) -> None:
        runs = sorted(
            (run for each in self.runs.values() for run in each if _pod_of(run.who) == pod), key=lambda r: r.start
        )
        rows: list[float] = []
        placed: list[tuple[Run, int]] = []
        for run in runs:
            row = next((n for n, free in enumerate(rows) if free <= run.start), len(rows))
            rows[row : row + 1] = [run.stop]
            placed.append((run, row))
        top, height = self.height, LANE + ROW * max(len(rows), 4)
        self._label(pod, height)
        self.parts.append(f'<rect x="0" y="{top}" width="100%" height="{height}" fill="#fafafa"/>')
        self._bands(pod, height)
        self._lives(pod, top + 12)
        for run, row in placed:
            self._run(run, top + LANE + row * ROW)
        for event in self.events:
            if event.what == "recovered" and _pod_of(event.pid) == pod:
                x, y = self._x(event.at), top + 11
                said = f"recovers {event.message_id}: {event.extra['why']}"
                self.parts.append(f'<path d="M{x} {y - 5}l4 6h-8z" fill="#0b57a4"><title>{escape(said)}</title></path>')
        self.height += height + GAP

    def _lives(self, pod: str, y: int) -> None:
        """A line for each boot of a pod, and a thicker one for each worker process."""
        booted: dict[str, float] = {}
        spans: list[tuple[str, float, float, int]] = []
        for event in self.events:
            if event.what == "pod" and _pod_of(event.key) == pod:
                booted[event.key] = event.at
            elif event.what == "ended" and event.key in booted:
                spans.append((event.key, booted.pop(event.key), event.at, 1))
            elif event.what == "boot" and _pod_of(event.pid) == pod:
                spans.append((event.pid, event.at, self.deaths.get(event.pid, math.inf), 3))
        spans += [(boot, at, math.inf, 1) for boot, at in booted.items()]
        for name, begin, end, width in spans:
            where = f'x1="{self._x(begin)}" x2="{self._x(end)}" y1="{y}" y2="{y}"'
            self.parts.append(
                f'<line {where} stroke="#555" stroke-width="{width}">'
                f"<title>{escape(name)}, from {self._at(begin)}</title></line>"
            )

    def _run(self, run: Run, y: int) -> None:
        x = self._x(run.start)
        width = max(self._x(run.stop) - x, 1.5)
        colour = RUNS[_outcome(run)][0] if run.stop < math.inf else "#bbb"
        again = ' stroke="#000" stroke-width=".8"' if run is not self.runs[run.key][0] else ""
        said = f"{run.key}, run {run.number} on {run.who}: {_outcome(run)}, from {self._at(run.start)}"
        where = f'x="{x}" y="{y}" width="{width:g}" height="{ROW - 1}"'
        self.parts.append(f'<rect {where} fill="{colour}"{again}><title>{escape(said)}</title></rect>')


def _outcome(run: Run) -> str:
    if run.end < math.inf:
        return run.outcome
    return "kills" if run.key.startswith("poison") else "cut off"


def _pod_of(who: Any) -> str:
    return str(who).partition(":")[0].partition(".")[0]
