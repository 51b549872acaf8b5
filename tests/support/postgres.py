# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A PostgreSQL of the tests' own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .servers import free_port, wait_until

__all__ = ["PostgresServer", "find_postgres"]


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, the newest there is; or None."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


class PostgresServer:
    """One server, on loopback.  It does not run as root: then it runs as the user of Debian's package."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = ""
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}

    @property
    def url(self) -> str:
        return f"postgresql://test@127.0.0.1:{self.port}/postgres"

    def start(self, init: str = "") -> PostgresServer:
        """Make it, start it, and run some SQL there."""
        import psycopg  # noqa: PLC0415  it is there where PostgreSQL is tried

        data = self.folder = tempfile.mkdtemp(prefix="postgres-")  # the user could not enter a folder of the tests
        if self.user:
            shutil.chown(data, **self.user)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": data, **self.user}
        subprocess.run(
            [self.programs / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8"],
            check=True,
            **quiet,
        )
        self.process = subprocess.Popen(
            [self.programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port), "-k", ""],
            start_new_session=True,
            **quiet,
        )

        def answers() -> bool:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                return False
            return True

        wait_until(answers, what="PostgreSQL answers")
        if init:
            with psycopg.connect(self.url, autocommit=True) as connection:
                connection.execute(init)
        return self

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # its children end with it, whoever is connected
            self.process.wait(timeout=120)
        shutil.rmtree(self.folder, ignore_errors=True)
