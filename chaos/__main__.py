# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Chaos: ``python -m chaos --seed 1 --duration 60 --broker redis --report chaos.html``.

Worker pods in namespaces of their own, and a nemesis that breaks them and their servers, as a seed has it.  Everything
that happens is kept beside the servers, and judged.  Exit code 1: something went wrong that no documented weakness
excuses.

``python -m chaos matrix``: each fault of a network at each moment of a message's life (see `matrix`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from tests.support.networks import no_namespaces

from . import matrix
from .checker import Judgement
from .nemesis import FAULTS
from .run import Options, judge_folder

ROOT = Path(__file__).parents[1]

#: Everything that is started in these ends with the first process in there.
NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run(options: Options) -> Judgement:
    """One run, in namespaces of its own.

    Raises:
      RuntimeError: It did not come to an end.
    """
    command = [*NAMESPACES, sys.executable, "-m", "chaos.run", json.dumps(options.__dict__)]
    log = Path(options.folder, "run.log")
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
        )
    try:
        process.wait(timeout=options.duration + 600)
    finally:
        process.kill()
        process.wait()
    result = Path(options.folder, "judgement.json")
    if not result.exists():
        raise RuntimeError(f"{options} did not come to an end:\n{log.read_text(errors='replace')[-5000:]}")
    return Judgement(**json.loads(result.read_text("utf-8")))


def main() -> int:
    """Run what is asked for, and print a line a run, and a table."""
    if sys.argv[1:2] == ["matrix"]:
        return matrix.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", "--seeds", dest="seeds", default="1", help="a number, or first-last")
    parser.add_argument("--duration", type=float, default=60, help="for how long things are broken, seconds")
    parser.add_argument("--broker", choices=["redis", "rabbitmq", "both"], default="redis", help="both: in turns")
    parser.add_argument(
        "--redis", choices=["aof", "sentinel", "both"], default="aof", help="both: every third run sentinel"
    )
    parser.add_argument(
        "--report", help="where the report goes, as HTML; of several runs, with seed and broker in its name"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="a folder for histories and logs")
    parser.add_argument("--judge", type=Path, nargs="+", help="judge again what --keep has kept: a folder for each run")
    parser.add_argument("--faults", help="only these kinds, separated by commas: " + ", ".join(FAULTS))
    asked = parser.parse_args()
    if asked.judge:
        return _judge_again(asked.judge)
    why = no_namespaces()
    if why:
        parser.error(why)
    signal.signal(signal.SIGTERM, _interrupt)
    judgements: list[tuple[Options, Judgement]] = []
    for planned in _plan(asked):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            kept = folder
            if asked.keep is not None:
                path = asked.keep.resolve() / f"{planned.broker}-{planned.redis}-{planned.seed}"
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir(parents=True)
                kept = str(path)
            began = time.monotonic()
            options = dataclasses.replace(planned, folder=kept)
            try:
                judgement = run(options)
            except RuntimeError as error:
                judgement = Judgement()
                judgement.violate("errors", str(error))
            judgements.append((options, judgement))
        _print_judgement(options.told, judgement, f"{time.monotonic() - began:.0f} s in all")
        if asked.json is not None:
            figures = [{"options": options.__dict__, **judgement.as_dict()} for options, judgement in judgements]
            asked.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if len(judgements) > 1:
        _print_table(judgements)
    return 1 if any(judgement.wrong for _, judgement in judgements) else 0


def _judge_again(folders: Sequence[Path]) -> int:
    judgements = [(folder, judge_folder(folder)) for folder in folders]
    for folder, judgement in judgements:
        _print_judgement(folder.name, judgement, "judged again")
    return 1 if any(judgement.wrong for _, judgement in judgements) else 0


def _print_judgement(name: str, judgement: Judgement, more: str) -> None:
    print(f"{name}: {judgement}; {more}", flush=True)
    bars = ", ".join(f"{bar} {number}" for bar, number in judgement.histogram().items())
    print(f"    from a death to the recovery of a message: {bars}", flush=True)
    for verdict, texts in judgement.violations.items():
        for text in texts[:5]:
            print(f"    {verdict.upper()} {text}", flush=True)


def _plan(asked: argparse.Namespace) -> Iterator[Options]:
    first, _, last = asked.seeds.partition("-")
    faults = tuple(kind.strip() for kind in asked.faults.split(",")) if asked.faults else ()
    if not set(faults) <= set(FAULTS):
        raise SystemExit(f"no such faults: {', '.join(sorted(set(faults) - set(FAULTS)))}")
    several = last not in ("", first)
    for seed in range(int(first), int(last or first) + 1):
        broker = ("redis", "rabbitmq")[seed % 2] if asked.broker == "both" else asked.broker
        redis = ("aof", "aof", "sentinel")[seed % 3] if asked.redis == "both" else asked.redis
        report = ""
        if asked.report:
            path = Path(asked.report).resolve()
            report = str(path.with_stem(f"{path.stem}-{broker}-{seed}") if several else path)
        yield Options(seed, asked.duration, broker, redis, "", report, faults)


def _print_table(judgements: Sequence[tuple[Options, Judgement]]) -> None:
    columns = (
        "seed",
        "broker",
        "redis",
        "sent",
        "runs",
        "ended",
        "lost",
        "doubled",
        "repeated",
        "convicted",
        "loops",
        "left",
        "errors",
    )
    print("  ".join(f"{name:>9}" for name in columns))
    faults: Counter[str] = Counter()
    for options, judgement in judgements:
        faults.update(judgement.faults)
        figures = [options.seed, options.broker, options.redis, judgement.sent, judgement.runs, judgement.deaths]
        print("  ".join(f"{figure:>9}" for figure in [*figures, *map(len, judgement.violations.values())]))
    print(f"{len(judgements)} runs, {sum(options.duration for options, _ in judgements) / 60:.0f} minutes of chaos:")
    for kind in FAULTS:
        print(f"    {faults[kind]:>6} {kind}")
    excused: Counter[str] = Counter()
    for _, judgement in judgements:
        for verdict, excuses in judgement.excused.items():
            excused.update({f"{verdict.replace('_', ' ')}: {why}": number for why, number in excuses.items()})
    print("excused: " + (", ".join(f"{why} {number}" for why, number in sorted(excused.items())) or "nothing"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
