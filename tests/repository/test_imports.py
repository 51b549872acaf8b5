# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shape of the package: who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dramatiq_inflight

pytestmark = pytest.mark.once

PACKAGE = Path(dramatiq_inflight.__file__).parent

#: The package's floors, from the ground up.  A room may use those on the floors below, and no other on its own.
FLOORS = (
    {"errors", "version", "delivery", "threads"},
    {"store", "isolation"},
    {"incident"},
    {"config"},
    {"liveness"},
    {"brokers", "tracker"},
    {"recovery", "inspection"},
    {"operations"},
    {"message"},
    {"worker"},
    {"metrics"},
    {"middleware"},
    {"__init__"},
    {"doctor", "effects"},
    {"cli", "dashboard"},
)

#: Modules that only an extra brings: the core does without, and each part may use its own.
EXTRAS = {
    "click": {"cli"},
    "django": {"effects"},
    "flask": {"dashboard"},
    "itsdangerous": {"dashboard"},
    "jinja2": {"dashboard"},
    "prometheus_client": {"metrics"},
    "rich": {"cli"},
    "sqlalchemy": {"effects"},
    "waitress": {"dashboard"},
    "werkzeug": {"dashboard"},
}


def rooms_used(path: Path) -> set[str]:
    """The rooms of the package that a module imports from, besides its own."""
    here, found = path.relative_to(PACKAGE).parts[:-1], set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            found |= {names[0]} if names else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "dramatiq_inflight"], f"{path.name}: absolute"
    return found - {room_of(path)}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def others_imported(path: Path) -> set[str]:
    """The packages of others that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def test_nobody_looks_up() -> None:
    """A room uses those on the floors below it."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    uses = {(room_of(path), used) for path in PACKAGE.rglob("*.py") for used in rooms_used(path)}
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(floor)
    assert {(room, used) for room, used in uses if floor[used] >= floor[room]} == set()


def test_what_an_extra_brings_is_for_its_own_part() -> None:
    """Nobody who does not use a part needs what it needs."""
    for path in PACKAGE.rglob("*.py"):
        for name in others_imported(path) & set(EXTRAS):
            assert room_of(path) in EXTRAS[name], path


def loaded_with(module: str) -> set[str]:
    """Return the modules that a Python loads for a module of the package."""
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True).split())


def test_the_middleware_does_not_need_what_optional_parts_need() -> None:
    assert not loaded_with("dramatiq_inflight.middleware") & set(EXTRAS)


def test_the_store_does_not_need_dramatiq() -> None:
    """The heartbeat's own process has none of the application."""
    loaded = loaded_with("dramatiq_inflight.liveness.sidecar_main")
    assert "dramatiq_inflight.store.store" in loaded
    assert "dramatiq" not in loaded


def test_the_package_has_its_public_names() -> None:
    """Each is loaded at its first use."""
    for name in dramatiq_inflight.__all__:
        assert getattr(dramatiq_inflight, name) is not None
    assert set(dramatiq_inflight.__all__) <= set(dir(dramatiq_inflight))
    with pytest.raises(AttributeError, match="no attribute 'Inspektor'"):
        getattr(dramatiq_inflight, "Inspektor")  # noqa: B009  a type checker knows that it is not there


def talks(node: ast.Attribute) -> bool:
    """True for a client, and for the scripts of a broker; a store's own are for everybody."""
    return node.attr == "client" or (node.attr == "scripts" and not ast.unparse(node.value).endswith("store"))


def test_only_the_store_and_the_broker_module_talk_to_redis() -> None:
    """Everything else goes through them: redis is imported elsewhere for its errors and types alone."""
    talkers = {
        "store" if path.parent.name == "store" else path.stem
        for path in PACKAGE.rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and talks(node)
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # These look whether there is a client, and hand it on; the doctor's looks at the time-outs of the broker's.
    lookers = {"middleware", "settings", "location", "application"}
    assert talkers == {"store", "redis"} | lookers


def test_every_script_has_a_method_and_a_header() -> None:
    """Each Lua file says its purpose, its keys and arguments, what it returns and why."""
    store = "".join(path.read_text() for path in (PACKAGE / "store").glob("*.py"))
    scripts = list((PACKAGE / "store" / "lua").glob("*/*.lua"))
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text()
        assert f'"{path.stem}"' in store, path.name
        for part in ("--@ ", "-- returns"):
            assert part in text, f"{path.name} lacks {part}"
