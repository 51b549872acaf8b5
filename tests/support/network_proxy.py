# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A hostile network on loopback: a proxy that forwards connections to a server, and fails on demand."""

from __future__ import annotations

import socket
import struct
import threading
import time

__all__ = ["Link", "NetworkProxy"]

#: How many bytes pass at a time, and how many a kernel may hold for each socket.
CHUNK = 64 * 1024


class Link:
    """One connection through the proxy.

    Attributes:
      target: The port of the server that the connection reached.
      source: The port from which that server sees the connection come.
      swallows: True if the proxy drops without a word what is sent on it.
    """

    def __init__(self, proxy: NetworkProxy, near: socket.socket, far: socket.socket, target: int) -> None:
        self.target = target
        self.source: int = far.getsockname()[1]
        self.swallows = False
        self.closed = False
        self._proxy = proxy
        self._near = near
        self._far = far
        self._last = time.monotonic()

    def start(self) -> None:
        for source, sink in ((self._near, self._far), (self._far, self._near)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def reset(self) -> None:
        """Close both sides with a reset."""
        self.closed = True
        for sock in (self._near, self._far):
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)  # a thread that reads keeps the descriptor open until it returns
            except OSError:
                pass
            sock.close()

    def cut(self) -> None:
        """End both sides in order."""
        self.closed = True
        for sock in (self._near, self._far):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK):
                self._forward(data, sink)
        except OSError:
            pass
        if self._proxy.keeps_open and source is self._far:
            self.swallows = True  # the end is not passed on
            return
        self.cut()

    def _forward(self, data: bytes, sink: socket.socket) -> None:
        proxy = self._proxy
        idle_limit = proxy.idle_limit
        if idle_limit is not None and time.monotonic() - self._last > idle_limit:
            self.swallows = True  # a balancer that has forgotten a connection does not remember it later
        self._last = time.monotonic()
        if self.swallows:
            return
        if proxy.latency:
            time.sleep(proxy.latency)
        while proxy.stalled and not self.closed:
            time.sleep(0.005)
        if proxy.bandwidth is not None:
            proxy.take(len(data))
        if proxy.ends_after is None or sink is not self._far:
            sink.sendall(data)
            return
        sink.sendall(data[: proxy.ends_after])
        proxy.ends_after = max(0, proxy.ends_after - len(data))
        if not proxy.ends_after:
            self.cut()


class NetworkProxy:
    """Forwards every connection to a server on loopback.

    Attributes:
      links: All connections so far.
      stalled: True if nothing comes through; the bytes arrive later.
      latency: How long each piece of data waits, seconds.
      bandwidth: How many bytes a second all connections together may pass; ``None`` for no limit.
      ends_after: After how many more bytes to the server a connection ends in order; ``None`` for never.
      idle_limit: After how many idle seconds a connection swallows what is sent on it; ``None`` for never.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.links: list[Link] = []
        self.stalled = False
        self.latency = 0.0
        self.bandwidth: float | None = None
        self.ends_after: int | None = None
        self.idle_limit: float | None = None
        #: Whether new connections get no answer at all: the kernel accepts them, and nobody forwards them.
        self.ignores = False
        #: Whether a connection that the server closes stays open on the other side, and swallows what is sent on it.
        self.keeps_open = False
        self._mutex = threading.Lock()
        self._free_at = 0.0
        self._ignored: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)  # or a megabyte fits into the kernel
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="network-proxy", daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def open_links(self) -> list[Link]:
        """The connections that neither side has closed."""
        return [link for link in self.links if not link.closed]

    def switch(self, target: int) -> None:
        """New connections go to another server; those that are open stay where they are."""
        self.target = target

    def stall(self) -> None:
        """Hold back all bytes, until `resume`."""
        self.stalled = True

    def resume(self) -> None:
        """Deliver what was held back, and go on."""
        self.stalled = False

    def swallow(self) -> int:
        """Drop without a word whatever comes on the open connections from now on.  Returns how many these are."""
        links = self.open_links()
        for link in links:
            link.swallows = True
        return len(links)

    def reset(self) -> int:
        """Reset the open connections.  Returns how many these were."""
        links = self.open_links()
        for link in links:
            link.reset()
        return len(links)

    def cut(self) -> int:
        """End the open connections in order.  Returns how many these were."""
        links = self.open_links()
        for link in links:
            link.cut()
        return len(links)

    def down(self, seconds: float) -> None:
        """Reset the connections that are open, and for so long each new one."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.reset()
            time.sleep(0.01)

    def take(self, size: int) -> None:
        """Wait for a share of the bandwidth."""
        with self._mutex:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / (self.bandwidth or float("inf"))
            pause = self._free_at - now
        time.sleep(pause)

    def close(self) -> None:
        """Accept no more, and close all connections."""
        self._listener.close()
        for sock in self._ignored:
            sock.close()
        for link in self.links:
            link.reset()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.ignores:
                self._ignored.append(near)
                continue
            try:
                target = self.target
                far = socket.create_connection(("127.0.0.1", target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
            link = Link(self, near, far, target)
            self.links.append(link)
            link.start()
