# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Take the pictures of the web page that the documentation has: ``python -m tests.support.pictures [FOLDER]``.

With ``--all`` every page, wide and narrow, light and dark: to be looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from playwright.sync_api import sync_playwright

from dramatiq_inflight import InFlightTracker, Inspector, Operations
from dramatiq_inflight.dashboard import create_app
from tests.support.letters import bury
from tests.support.scenes import Scene
from tests.support.served import find_chromium, served
from tests.support.servers import RedisServer, find_server

DOCS = Path(__file__).parents[2] / "docs"

Scheme = Literal["light", "dark"]

#: Width and height.
WIDE, NARROW = (1280, 900), (375, 812)


def shots(inspector: Inspector, everything: bool) -> Iterator[tuple[str, str, tuple[int, int], Scheme, bool]]:
    """File name, address, size, colours, and whether the whole page is wanted."""
    yield "dashboard", "/", WIDE, "light", False
    yield "dashboard-phone", "/", NARROW, "dark", False
    if not everything:
        return
    message = inspector.messages()[0].id
    poison = next(event.message_id for event in inspector.history() if event.name == "poison")
    pages = {
        "overview": "/",
        "overview-6h": "/?hours=6",
        "messages": "/messages",
        "message": f"/message?id={message}&payload=1",
        "poisoned": f"/message?id={poison}",
        "confirm": f"/message/discard?id={message}",
        "queues": "/queues",
        "queue": "/queues?queue=billing",
        "scheduled": "/delayed",
        "dead": "/dead",
        "history": "/history",
        "error": "/nowhere",
    }
    for name, path in pages.items():
        for size in (WIDE, NARROW):
            schemes: tuple[Scheme, ...] = ("light", "dark")
            for scheme in schemes:
                yield f"{name}-{size[0]}-{scheme}", path, size, scheme, True


def main() -> None:
    """Fill a server, serve the page, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DOCS)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    binary, chromium = find_server(), find_chromium()
    assert binary is not None, "no Redis or Valkey server here"
    assert chromium is not None, "no Chromium here"
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(binary, Path(folder)).start()
        try:
            take(server.url, chromium, args.folder, everything=args.all)
        finally:
            server.kill()


def take(url: str, chromium: str, folder: Path, *, everything: bool) -> None:
    """Take the pictures of an afternoon."""
    broker: Any = RedisBroker(client=redis.Redis.from_url(url))
    broker.add_middleware(InFlightTracker(namespace="shop"))
    dramatiq.set_broker(broker)
    for name, queue, errors in (
        ("charge", "billing", ["TimeoutError: no answer in 30 s"] * 3 + ["CardDeclined: card 7"]),
        ("send_receipt", "mail", []),
        ("transcode", "media", ["ValueError: it has no frames"]),
    ):
        bury(broker, dramatiq.actor(actor_name=name, queue_name=queue)(lambda: None), errors)
    Scene(redis.Redis.from_url(url), "shop").afternoon()
    inspector = Inspector.of(broker)
    with (
        served(create_app(inspector, Operations(broker))) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
    ):
        for name, path, (width, height), scheme, whole in shots(inspector, everything):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(address + path)
            page.screenshot(path=folder / f"{name}.png", full_page=whole)
            wide: int = page.evaluate("document.documentElement.scrollWidth")
            print(f"{name}.png" + (f": {wide - width} px too wide" if wide > width else ""))
            page.close()


if __name__ == "__main__":
    main()
