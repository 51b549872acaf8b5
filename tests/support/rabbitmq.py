# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A real RabbitMQ of the tests' own: on loopback only, with a name service (epmd) of its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pika

from . import sharing
from .servers import free_port, wait_until

__all__ = ["RabbitServer", "find_newer", "find_rabbitmq", "shared"]

#: Where Debian has it; the script on the PATH insists on another user.
BINARY = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

USER = PASSWORD = "test"


def find_rabbitmq() -> str | None:
    """The path of the server, or ``None``."""
    return str(BINARY) if BINARY.exists() else None


def find_newer() -> Path | None:
    """Return the root of another Debian (``TEST_RABBITMQ_ROOT``) whose RabbitMQ is 4.3 or newer; None if not there."""
    root = os.environ.get("TEST_RABBITMQ_ROOT")
    return Path(root) if root and (Path(root) / BINARY.relative_to("/")).exists() else None


def _inside(root: Path, folder: Path) -> list[str]:
    """Return the command that runs another one in a Debian that is elsewhere, where `folder` is as it is here.

    The mounts are in a namespace of their own, which ends with the server.
    """
    shared_with = Path("/", folder.parts[1])
    inner = root / shared_with.relative_to("/")
    mounts = [
        f"mount -t proc proc {shlex.quote(str(root / 'proc'))}",
        f"mount --rbind /dev {shlex.quote(str(root / 'dev'))}",
        f"touch {shlex.quote(str(root / 'etc/hosts'))}",
        f"mount --bind /etc/hosts {shlex.quote(str(root / 'etc/hosts'))}",
        f"mkdir -p {shlex.quote(str(inner))}",
        f"mount --rbind {shlex.quote(str(shared_with))} {shlex.quote(str(inner))}",
        f'exec chroot {shlex.quote(str(root))} "$@"',
    ]
    return ["unshare", "--mount", "sh", "-c", " && ".join(mounts), "sh"]


class RabbitServer:
    """One server process.

    Parameters:
      root: Where another Debian is whose RabbitMQ is to run; None: the RabbitMQ that is installed.
      consumer_timeout: How long a consumer may hold a message, seconds; ``None``: as RabbitMQ has it.
      address: Where it listens.
    """

    def __init__(
        self,
        folder: Path,
        *,
        consumer_timeout: float | None = None,
        address: str = "127.0.0.1",
        root: Path | None = None,
    ) -> None:
        self.folder = folder
        self.root = root
        self.port, self.epmd_port, self.dist_port = free_port(), free_port(), free_port()
        self.consumer_timeout = consumer_timeout
        self.address = address
        self.process: subprocess.Popen[bytes] | None = None
        self._is_known = False  # by its address: it has answered there

    @property
    def url(self) -> str:
        return f"amqp://{USER}:{PASSWORD}@{self.address}:{self.port}/"

    def start(self) -> RabbitServer:
        """Start it, and wait until it answers.  A port that was free may be somebody's by then: it tries some more."""
        for _ in range(3):
            self._launch()
            wait_until(lambda: self._answers() or self._has_ended(), what="RabbitMQ answers")
            if not self._has_ended():
                self._is_known = True
                return self
            self.remove()
            self.epmd_port, self.dist_port = free_port(), free_port()
            if not self._is_known:
                self.port = free_port()
        raise AssertionError((self.folder / "log").read_text(errors="replace")[-3000:])

    def _launch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        salt = os.urandom(4)
        user = {
            "name": USER,
            "password_hash": base64.b64encode(salt + hashlib.sha256(salt + PASSWORD.encode()).digest()).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }
        everything = {"user": USER, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}
        definitions = self.folder / "definitions.json"
        definitions.write_text(
            json.dumps({"users": [user], "vhosts": [{"name": "/"}], "permissions": [everything], "parameters": []})
        )
        settings = [
            f"listeners.tcp.1 = {self.address}:{self.port}",
            f"load_definitions = {definitions}",
            "log.console = true",
        ]
        rabbit = ""
        if self.consumer_timeout is not None:
            settings.append(f"consumer_timeout = {round(self.consumer_timeout * 1000)}")
            rabbit = ", {rabbit, [{channel_tick_interval, 1000}]}"
        (self.folder / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
        (self.folder / "advanced.config").write_text(
            "[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]}" + rabbit + "].\n"
        )
        (self.folder / "enabled_plugins").write_text("[].\n")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                # The name service would outlive the server else.
                [*(_inside(self.root, self.folder) if self.root else []), "sh", "-c", 'epmd & exec "$0"', str(BINARY)],
                env={
                    **os.environ,
                    "HOME": str(self.folder),
                    "ERL_EPMD_ADDRESS": "127.0.0.1",
                    "ERL_EPMD_PORT": str(self.epmd_port),
                    "RABBITMQ_NODENAME": f"t{self.port}@localhost",
                    "RABBITMQ_DIST_PORT": str(self.dist_port),
                    "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
                    "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
                    "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
                    "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
                    "RABBITMQ_LOG_BASE": str(self.folder),
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",  # it is not what is measured
                },
                cwd=self.folder,  # where it leaves its crash dump
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run_out_of_memory(self) -> None:
        """Have it believe so, for good: it reads nothing more from a connection that publishes."""
        control = [str(BINARY.with_name("rabbitmqctl")), "-n", f"t{self.port}@localhost"]
        environment = {**os.environ, "HOME": str(self.folder), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        environment["ERL_EPMD_PORT"] = str(self.epmd_port)
        subprocess.run([*control, "set_vm_memory_high_watermark", "0.00001"], env=environment, check=True, timeout=120)
        connection: Any = pika.BlockingConnection(pika.URLParameters(self.url))
        blocked: list[object] = []
        connection.add_on_connection_blocked_callback(lambda *why: blocked.append(why))
        channel = connection.channel()
        while not blocked:
            channel.basic_publish("", "nowhere", b"")
            connection.process_data_events(0.1)
        connection._impl._transport._sock.shutdown(socket.SHUT_RDWR)  # RabbitMQ would answer to no farewell

    def stop(self) -> None:
        """End it in order, and keep what is durable."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=120)
        self.remove()  # else its name service outlives it, and is nobody's once it has started again

    def remove(self) -> None:
        """End it, whatever it does, and its name service."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(timeout=120)
            self.process = None

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _answers(self) -> bool:
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except (pika.exceptions.AMQPError, OSError, ValueError):  # the last: pika, if it is reset as it connects
            time.sleep(0.1)
            return False
        return True


def shared(folder: Path, root: Path | None = None) -> AbstractContextManager[str]:
    """The address of one server for all test processes that have this folder."""
    name = "rabbitmq-newer" if root else "rabbitmq"
    return sharing.shared(folder, name, lambda: RabbitServer(folder / f"{name}-{os.getpid()}", root=root).start())
