# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A MariaDB of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from .servers import free_port, wait_until

__all__ = ["MariaDBServer", "find_mariadb"]


def find_mariadb() -> str | None:
    """The server's program; or None."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")


class MariaDBServer:
    """One server, on loopback."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.folder = ""
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/mysql"

    def start(self) -> MariaDBServer:
        """Make it and start it."""
        import pymysql  # noqa: PLC0415  it is there where MariaDB is tried

        self.folder = tempfile.mkdtemp(prefix="mariadb-")
        data = f"{self.folder}/data"
        user = ["--user=root"] if os.getuid() == 0 else []
        # The kernel's asynchronous requests are few, and shared by all servers of the host.
        plain = ["--no-defaults", f"--datadir={data}", *user, "--innodb-use-native-aio=0"]
        install = ["mariadb-install-db", *plain, "--skip-test-db", "--auth-root-authentication-method=normal"]
        made = subprocess.run(install, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        self.process = subprocess.Popen(
            [
                *(self.binary, *plain, f"--port={self.port}"),
                *("--bind-address=127.0.0.1", f"--socket={self.folder}/socket", "--skip-name-resolve"),
                *("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"),
            ],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers() -> bool:
            try:
                pymysql.connect(host="127.0.0.1", port=self.port, user="root").close()
            except pymysql.OperationalError:
                return False
            return True

        wait_until(answers, what="MariaDB answers")
        return self

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=120)
        shutil.rmtree(self.folder, ignore_errors=True)
