# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shared parts of the benchmarks: figures with their spread, servers of their own, and child processes."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.support.servers import RedisServer, embedded_server, find_server

__all__ = [
    "ROOT",
    "Figure",
    "Result",
    "calls",
    "child",
    "environment",
    "number_text",
    "server",
    "server_binaries",
    "server_cpu",
    "tree_cpu",
    "version",
]

ROOT = Path(__file__).parents[1]

#: If there are more values than this, the files have the median and the ends.
MANY = 50


@dataclass
class Figure:
    """One thing that was measured, several times if need be."""

    name: str
    values: list[float]
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    #: A text instead of a value, or beside it.
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values) if self.values else math.nan

    @property
    def met(self) -> bool | None:
        """True if the target is met; ``None``: there is none."""
        if not self.values:
            return None
        if self.at_least is not None:
            return self.median >= self.at_least
        return self.median <= self.at_most if self.at_most is not None else None

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    def as_dict(self) -> dict[str, Any]:
        spread = {"median": self.median, "min": min(self.values), "max": max(self.values)} if self.values else {}
        return {
            **{"name": self.name, "unit": self.unit, **spread, "runs": len(self.values)},
            "values": self.values if len(self.values) <= MANY else [],
            **{"target": self.target or None, "met": self.met, "note": self.note},
        }


@dataclass
class Result:
    """The result of one benchmark."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    #: Notes on the measurement.
    notes: list[str] = field(default_factory=list)
    #: Further data for the file: for the plots, and for the comparison.
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, name: str, *values: float, unit: str = "", note: str = "", **target: float) -> Figure:
        """Add a figure; `target` is ``at_least`` or ``at_most``."""
        figure = Figure(name, list(values), unit, note=note, **target)
        self.figures.append(figure)
        return figure

    def as_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "seconds": self.seconds,
            "notes": self.notes,
            **({"details": self.details} if self.details else {}),
            "figures": [figure.as_dict() for figure in self.figures],
        }

    def __str__(self) -> str:
        rows = [("", "median", "min .. max", "runs", "unit", "target", "")]
        for figure in self.figures:
            several = len(figure.values) > 1
            rows.append(
                (
                    figure.name,
                    number_text(figure.median),
                    f"{number_text(min(figure.values))} .. {number_text(max(figure.values))}" if several else "",
                    str(len(figure.values)),
                    figure.unit,
                    figure.target,
                    figure.note or {None: "", True: "met", False: "MISSED"}[figure.met],
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = (0, 4, 5, 6)
        lines = [
            "  ".join(
                cell.ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(len(line) for line in lines)
        notes = [f"  {note}" for note in [*self.notes, f"took {self.seconds:.0f} s"]]
        return "\n".join([self.title, rule, *lines, rule, *notes])


def number_text(value: float) -> str:
    """As people read it."""
    if math.isnan(value):
        return ""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 100 else f"{value:.3f}"


def server_binaries() -> list[str]:
    """Every server that is here: the one that `find_server` prefers, and the embedded one."""
    found = [path for path in [find_server()] if path is not None]
    embedded = embedded_server()
    return found if embedded is None or embedded in found else [*found, embedded]


@contextlib.contextmanager
def server(binary: str | None = None) -> Iterator[RedisServer]:
    """A server of the benchmark's own, which logs scripts that take longer than a millisecond."""
    binary = binary or find_server()
    if binary is None:
        sys.exit("No Redis or Valkey here: set TEST_REDIS_SERVER, put redis-server on the PATH, or install one.")
    with tempfile.TemporaryDirectory() as folder:
        running = RedisServer(binary, Path(folder)).start()
        try:
            yield running
        finally:
            running.kill()


def calls(client: redis.Redis) -> dict[str, int]:
    """Return how often each command was called so far, in scripts or by clients."""
    stats: dict[str, Any] = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}


def child(module: str, *args: str, env: Mapping[str, str] | None = None) -> Any:
    """Run a module in a process of its own, and return what it prints: JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def environment() -> dict[str, Any]:
    """Where the figures come from."""
    versions = {name: importlib.import_module("importlib.metadata").version(name) for name in ("dramatiq", "redis")}
    try:
        importlib.import_module("hiredis")
        parser = "hiredis"
    except ImportError:
        parser = "python"
    return {
        "python": sys.version.split()[0],
        **versions,
        "parser": parser,
        "servers": [version(binary) for binary in server_binaries()],
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def version(binary: str) -> str:
    """Name and version of a server."""
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    version = next((word[2:] for word in output if word.startswith("v=")), "?")
    return f"{output[0]} {version}"


def server_cpu(client: Any) -> float:
    """Return the processor time that a server has used, seconds."""
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def tree_cpu(pid: int) -> float:
    """Return the processor time of a process and of all that it started, whether they run or have ended, seconds."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[11:15]
        tasks = [path.read_text("ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended: its parent has its time
        return 0.0
    used = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return used + sum(tree_cpu(int(child)) for children in tasks for child in children)
