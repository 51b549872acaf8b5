# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A network of two: a server and a worker, each in a network namespace of its own, with a cable that can be cut."""

from __future__ import annotations

import shutil
import subprocess
import uuid

__all__ = ["Cable", "ip", "no_namespaces"]


def no_namespaces() -> str:
    """Return why there can be no network namespaces here; empty if there can."""
    if shutil.which("ip") is None:
        return "there is no ip command (Debian: iproute2)"
    name = f"probe-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Cable:
    """From one end to the other, and nowhere else."""

    #: The addresses of the ends.
    SERVER, WORKER = "10.213.77.1", "10.213.77.2"

    def __init__(self) -> None:
        name = uuid.uuid4().hex[:8]
        self.ends = (f"s-{name}", f"w-{name}")
        for end in self.ends:
            ip("netns", "add", end)
        ip("link", "add", f"s{name}", "netns", self.ends[0], "type", "veth", "peer", f"w{name}", "netns", self.ends[1])
        for end, address, link in zip(self.ends, (self.SERVER, self.WORKER), (f"s{name}", f"w{name}"), strict=True):
            ip("-n", end, "addr", "add", f"{address}/24", "dev", link)
            for each in ("lo", link):
                ip("-n", end, "link", "set", each, "up")
        self._link = f"w{name}"

    def inside(self, end: int) -> list[str]:
        """Return the prefix of a command that runs it at an end: 0 the server's, 1 the worker's."""
        return ["ip", "netns", "exec", self.ends[end]]

    def cut(self) -> None:
        """Nothing comes through, and nobody is told."""
        ip("-n", self.ends[1], "link", "set", self._link, "down")

    def mend(self) -> None:
        """It is as before."""
        ip("-n", self.ends[1], "link", "set", self._link, "up")

    def remove(self) -> None:
        for end in self.ends:
            ip("netns", "del", end)


def ip(*args: str) -> None:
    """Run an ``ip`` command.

    Raises:
      subprocess.CalledProcessError: It failed.
    """
    subprocess.run(["ip", *args], check=True, capture_output=True)
