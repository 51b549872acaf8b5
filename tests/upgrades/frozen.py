# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The state of a Redis as text, and back: its keys, of which kind, with which values, and when they expire."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

__all__ = ["NAME", "RELEASES", "load", "save", "unpack"]

ROOT = Path(__file__).parent

#: The releases whose state is kept.
RELEASES = sorted(path.parent.name for path in ROOT.glob("*/redis.json"))

#: The namespace in the frozen state, wherever it is in it; another is put in its place.
NAME = "frozen-namespace"

#: The sets that are sorted by time, by the end of their keys: they are moved on to the present.
BY_TIME = ("}:heartbeats", "}:waiting", "}:handed", ":__heartbeats__")


def save(client: Any, namespace: str) -> list[list[Any]]:
    """All keys that have the namespace in their name."""
    return [
        [_text(key, namespace), client.type(key).decode(), max(client.pttl(key), 0), _value(client, key, namespace)]
        for key in sorted(client.keys(f"*{namespace}*"))
    ]


def load(client: Any, namespace: str, keys: list[list[Any]], later_ms: int) -> None:
    """Put them into a Redis, under another namespace, as much later."""
    for name, kind, expiry, value in keys:
        key = _bytes(name, namespace)
        shift = later_ms if name.endswith(BY_TIME) else 0
        if kind == "string":
            client.set(key, _bytes(value, namespace))
        elif kind == "hash":
            client.hset(key, mapping={_bytes(n, namespace): _bytes(v, namespace) for n, v in value})
        elif kind == "zset":
            client.zadd(key, {_bytes(member, namespace): score + shift * (score > 1e9) for member, score in value})
        elif kind == "list":
            client.rpush(key, *(_bytes(one, namespace) for one in value))
        elif kind == "set":
            client.sadd(key, *(_bytes(one, namespace) for one in value))
        else:
            assert kind == "stream", kind
            for id, fields in value:
                client.xadd(key, {_bytes(n, namespace): _bytes(v, namespace) for n, v in fields}, id=id)
        if expiry:
            client.pexpire(key, expiry)


def unpack(release: str, folder: Path) -> Path:
    """The package of a release, in a folder to import it from."""
    with tarfile.open(ROOT / release / "package.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def _value(client: Any, key: bytes, namespace: str) -> Any:
    def text(raw: bytes) -> str:
        return _text(raw, namespace)

    kind = client.type(key)
    if kind == b"string":
        return text(client.get(key))
    if kind == b"hash":
        return sorted([text(name), text(value)] for name, value in client.hgetall(key).items())
    if kind == b"zset":
        return [[text(member), score] for member, score in client.zrange(key, 0, -1, withscores=True)]
    if kind == b"list":
        return [text(one) for one in client.lrange(key, 0, -1)]
    if kind == b"set":
        return sorted(text(one) for one in client.smembers(key))
    assert kind == b"stream", kind
    return [
        [id.decode(), [[text(name), text(value)] for name, value in fields.items()]]
        for id, fields in client.xrange(key)
    ]


def _text(raw: bytes, namespace: str) -> str:
    return raw.decode("utf-8", "surrogateescape").replace(namespace, NAME)


def _bytes(text: str, namespace: str) -> bytes:
    return text.replace(NAME, namespace).encode("utf-8", "surrogateescape")
