# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shape of the package: who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import dramatiq_inflight

PACKAGE = Path(dramatiq_inflight.__file__).parent

#: What each module may import of the package, besides itself.
GRAPH = {
    "__init__": {"current", "errors", "history", "incident", "inspector", "middleware", "operations"},
    "attendant": {"connection", "evidence", "registry"},
    "challenge": {"records", "registry"},
    "connection": set(),
    "continuations": {"redis_broker", "table"},
    "current": {"records", "table"},
    "deliveries": {"registry", "table"},
    "errors": set(),
    "evidence": set(),
    "gate": {"siblings"},
    "heartbeat": {"errors", "lease", "records", "registry", "table", "wire"},
    "heartbeat_process": {"attendant"},
    "history": set(),
    "home": {"records"},
    "incarnation": set(),
    "incident": {"records"},
    "inspector": {
        "connection", "errors", "history", "keys", "middleware", "records", "settings", "whereabouts",
    },
    "interrupt": set(),
    "keys": set(),
    "lease": {"table"},
    "middleware": {
        "continuations", "errors", "home", "incident", "interrupt", "policy", "records", "runtime", "settings", "table",
    },
    "operations": {
        "connection", "errors", "inspector", "middleware", "records", "recovery", "redis_broker", "registry",
        "runtime", "telling", "whereabouts",
    },
    "policy": {"errors"},
    "records": set(),
    "recovery": {"challenge", "incident", "policy", "records", "redis_broker", "registry", "table"},
    "redis_broker": {"registry", "wire"},
    "registry": {"keys", "records", "wire"},
    "runtime": {
        "attendant", "connection", "deliveries", "evidence", "gate", "heartbeat", "heartbeat_process",
        "incarnation", "lease", "policy", "recovery", "redis_broker", "registry", "settings", "siblings", "table",
        "telling", "watch", "whereabouts", "wire",
    },
    "settings": {"errors", "incident", "policy"},
    "siblings": set(),
    "table": {"interrupt", "policy", "records"},
    "telling": {"incident", "policy"},
    "watch": {"evidence", "records", "registry"},
    "whereabouts": {"connection", "errors", "settings"},
    "wire": set(),
}  # fmt: skip

#: The same for the web page, an optional part; with two dots what it takes of the package.
DASHBOARD = {
    "__init__": {"app", "serving"},
    "actions": {"..operations", "board", "pages", "tokens", "words"},
    "app": {
        "..inspector", "..operations", "actions", "board", "errors", "headers", "pages", "tokens", "words",
    },
    "board": {"..inspector", "shared", "tail"},
    "choice": {"..history", "..inspector", "timeline"},
    "errors": set(),
    "headers": set(),
    "lives": {"..history", "..inspector"},
    "pages": {"..inspector", "board", "choice", "headers", "payload", "timeline", "words"},
    "payload": set(),
    "serving": {"..inspector", "..operations", "app"},
    "shared": set(),
    "tail": {"..history", "..inspector", "shared"},
    "timeline": {"..history", "..inspector", "lives", "tail", "words"},
    "tokens": set(),
    "words": {"..history", "..operations"},
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            found.add(f"..{node.module}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "dramatiq_inflight"], f"{path.name}: absolute"
    return found


def test_modules_import_what_the_design_allows_and_no_more() -> None:
    """Recovery does not know the middleware, the registry does not know recovery, and so on."""
    assert {path.stem: imports_of(path) for path in PACKAGE.glob("*.py")} == GRAPH


def test_the_web_page_reads_by_the_inspector_and_acts_by_the_operations() -> None:
    assert {path.stem: imports_of(path) for path in (PACKAGE / "dashboard").glob("*.py")} == DASHBOARD


def test_the_package_does_not_need_what_its_optional_parts_need() -> None:
    code = "import sys, dramatiq_inflight; print([name for name in ('flask', 'waitress') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_only_the_registry_and_the_broker_module_talk_to_redis() -> None:
    """Everything else goes through them: redis is imported elsewhere for its errors and types alone."""
    talkers = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("client", "scripts") and isinstance(node.ctx, ast.Load)
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # The last three look whether there is a client, and hand it on; they call nothing on it.
    assert talkers == {"registry", "redis_broker", "middleware", "settings", "whereabouts"}


def test_every_script_has_a_method_and_a_header() -> None:
    """Each Lua file says its purpose, KEYS, ARGV, what it returns and why."""
    registry = (PACKAGE / "registry.py").read_text()
    scripts = [path for path in (PACKAGE / "scripts").glob("*.lua") if not path.name.startswith("_")]
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text()
        assert f'"{path.stem}"' in registry, path.name
        for part in ("-- KEYS", "-- returns"):
            assert part in text, f"{path.name} lacks {part}"
