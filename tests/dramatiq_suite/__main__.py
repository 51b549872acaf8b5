# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Run Dramatiq's own tests without the tracker and with it: what passes without must pass with.

``python -m tests.dramatiq_suite FOLDER``: where the source distribution of the installed version is.  The tests expect
Redis and RabbitMQ at their usual ports, which must be free: servers of our own are started there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import dramatiq

from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer, find_server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Not about brokers and workers, or about things that are not here (memcached, watchdog), or timed to a hair.
LEFT_OUT = ("test_cli", "test_watch", "test_canteen", "test_pidfile", "test_types")


def main() -> int:
    """Run both, and compare.  Returns 0 if all that passes without passes with."""
    sdist = next(Path(sys.argv[1]).glob(f"dramatiq-{dramatiq.__version__}.tar.gz"))
    binary = find_server()
    assert binary is not None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        suite = _unpack(sdist, folder)
        redis_server = RedisServer(binary, folder / "redis", port=6379).start()
        rabbitmq = RabbitServer(folder / "rabbitmq")
        rabbitmq.port = 5672
        rabbitmq.start()
        try:
            without, with_ = _run(suite, tracked=False), _run(suite, tracked=True)
        finally:
            rabbitmq.remove()
            redis_server.kill()
    broken = sorted(without - with_)
    print(f"dramatiq {dramatiq.__version__}: {len(without)} pass without the tracker, {len(with_)} with it")
    for name in broken:
        print(f"passes only without: {name}")
    return 1 if broken or not without else 0


def _unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tests = folder / sdist.name.removesuffix(".tar.gz") / "tests"
    for path in tests.glob("test_*.py"):
        if path.stem in LEFT_OUT:
            path.unlink()
    (tests / "__init__.py").touch()
    shutil.copy(HERE / "suite_conftest.py", tests / "conftest.py")
    shutil.copy(HERE / "suite_common.py", tests / "common.py")
    return tests


def _run(tests: Path, *, tracked: bool) -> set[str]:
    report = tests.parent / f"report-{tracked}.xml"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-p",
            "no:cacheprovider",
            "--junitxml",
            str(report),
            "tests",
        ],
        cwd=tests.parent,
        env={
            **os.environ,
            "SUITE_TRACKED": "1" if tracked else "0",
            "PYTHONPATH": os.pathsep.join([str(tests.parent), str(ROOT)]),
        },
        check=False,
    )
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}" for case in cases if len(case) == 0}


if __name__ == "__main__":
    sys.exit(main())
