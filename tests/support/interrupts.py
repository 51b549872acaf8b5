# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The whole sweep of interrupts, and of the garbage collector.

``python -m tests.support.interrupts`` runs it; ``--help`` shows how to run a part of it.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from .garbage import COLLECTIONS, Collecting
from .interrupted import SCENARIOS, SOURCES, Sweep, short
from .servers import RedisServer, find_server
from .stepped import quick_consumers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="only these")
    parser.add_argument("--broker", action="append", choices=["redis", "apart"], help="only these")
    parser.add_argument("--source", action="append", choices=sorted(SOURCES), help="only these")
    parser.add_argument("--garbage", action="store_true", help="only the garbage collector's")
    parser.add_argument("--late", action="store_true", help="also where nothing is armed: see SOURCES")
    parser.add_argument("--limit", type=int, default=1000, help="stop a scenario after so many findings")
    parser.add_argument("--step", type=int, default=1, help="every so many boundaries")
    parser.add_argument("--first", type=int, default=1, help="the first boundary")
    parser.add_argument("--only", type=int, help="this boundary alone")
    parser.add_argument("--verbose", action="store_true", help="the log as well")
    options = parser.parse_args()
    logging.disable(logging.NOTSET if options.verbose else logging.CRITICAL)
    if options.verbose:
        logging.basicConfig(level=logging.INFO, format="%(threadName)s %(name)s %(message)s")
    with tempfile.TemporaryDirectory() as folder, quick_consumers():
        server = RedisServer(find_server() or "redis-server", Path(folder)).start()
        sweep = Sweep(server.url, lambda text: print(text, flush=True))
        try:
            collecting = Collecting(server.url, sweep.report, lambda text: print(text, flush=True))
            for collection, broker in itertools.product(COLLECTIONS.values(), ("redis", "apart")):
                if not (options.scenario or options.source) and (not options.broker or broker in options.broker):
                    n = collecting.sweep(collection, broker, options.step, options.first)
                    print(f"-- collected in {collection.name} / {broker}: {n}", flush=True)
            collecting.close()
            for name, each in SCENARIOS.items():
                if options.garbage or (options.scenario and name not in options.scenario):
                    continue
                for broker, source in itertools.product(each.brokers, [*each.sources, "late"]):
                    if options.broker and broker not in options.broker:
                        continue
                    wanted = options.source or [*each.sources, *(["late"] if options.late else [])]
                    if source not in wanted:
                        continue
                    begun, before = time.monotonic(), sweep.report.boundaries
                    if options.only is not None:
                        sweep.at(each, broker, SOURCES[source], options.only)
                    else:
                        sweep.sweep(
                            each, broker, SOURCES[source], step=options.step, first=options.first, limit=options.limit
                        )
                    n = sweep.report.boundaries - before
                    print(f"-- {name} / {broker} / {source}: {n} in {time.monotonic() - begun:.1f} s", flush=True)
            sweep.close()
            print(short(sweep.report))
        except BaseException:
            traceback.print_exc()
            os._exit(2)
        finally:
            server.kill()
        sys.stdout.flush()
        os._exit(bool(sweep.report.findings))  # threads that hang must not keep it


if __name__ == "__main__":
    sys.exit(main())
