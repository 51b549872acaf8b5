# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The shape of the package: who imports whom."""

from __future__ import annotations

import ast
from pathlib import Path

import dramatiq_inflight

PACKAGE = Path(dramatiq_inflight.__file__).parent

#: What each module may import of the package, besides itself.
GRAPH = {
    "__init__": {"current", "errors", "history", "incident", "inspector", "middleware", "operations", "version"},
    "attendant": {"connection", "evidence", "registry"},
    "challenge": {"records", "registry"},
    "connection": set(),
    "continuations": {"redis_broker", "table"},
    "current": {"records", "table"},
    "deliveries": {"registry", "table"},
    "doctor": {"doctor.codes", "doctor.examination", "doctor.findings"},
    "doctor.application": {"doctor.case", "doctor.findings", "errors", "policy"},
    "doctor.case": {"doctor.findings", "inspector", "middleware", "settings"},
    "doctor.codes": set(),
    "doctor.examination": {
        "doctor.application", "doctor.case", "doctor.findings", "doctor.fleet", "doctor.load", "doctor.messages",
        "doctor.rabbitmq", "doctor.rights", "doctor.server", "errors", "inspector",
    },
    "doctor.findings": {"doctor.codes"},
    "doctor.fleet": {"doctor.case", "doctor.findings", "inspector", "settings"},
    "doctor.load": {"doctor.case", "doctor.findings"},
    "doctor.messages": {"doctor.case", "doctor.findings", "history"},
    "doctor.rabbitmq": {"doctor.case", "doctor.findings"},
    "doctor.rights": {"doctor.case", "doctor.findings"},
    "doctor.server": {"doctor.case", "doctor.findings"},
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
    "metrics": {"history", "inspector"},
    "middleware": {
        "continuations", "errors", "home", "incident", "interrupt", "policy", "process_metrics", "records", "runtime",
        "settings", "table",
    },
    "operations": {
        "connection", "errors", "inspector", "middleware", "records", "recovery", "redis_broker", "registry",
        "runtime", "telling", "whereabouts",
    },
    "policy": {"errors"},
    "process_metrics": {"runtime"},
    "records": set(),
    "recovery": {"challenge", "incident", "policy", "records", "redis_broker", "registry", "table"},
    "redis_broker": {"registry", "wire"},
    "registry": {"keys", "records", "wire"},
    "runtime": {
        "attendant", "connection", "deliveries", "evidence", "gate", "heartbeat", "heartbeat_process",
        "incarnation", "lease", "policy", "recovery", "redis_broker", "registry", "settings", "siblings", "table",
        "telling", "version", "watch", "whereabouts", "wire",
    },
    "settings": {"errors", "incident", "policy"},
    "siblings": set(),
    "table": {"interrupt", "policy", "records"},
    "telling": {"incident", "policy"},
    "version": set(),
    "watch": {"evidence", "records", "registry"},
    "whereabouts": {"connection", "errors", "settings"},
    "wire": set(),
}  # fmt: skip


#: What imports more than the core needs: an application that does not use it need not have it installed.
OPTIONAL = {"metrics", "doctor"}


def name_of(path: Path) -> str:
    """A module's name in the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    inside = ".".join(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            imported = {node.module} if node.module else {alias.name for alias in node.names}
            found |= {f"{inside}.{name}" if inside and node.level == 1 else str(name) for name in imported}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "dramatiq_inflight"], f"{path.name}: absolute"
    return found


def test_modules_import_what_the_design_allows_and_no_more() -> None:
    """Recovery does not know the middleware, the registry does not know recovery, and so on."""
    assert {name_of(path): imports_of(path) for path in modules()} == GRAPH


def test_the_core_imports_nothing_that_is_optional() -> None:
    """What needs more than the core's dependencies, or is for operators, is imported by whoever wants it."""
    for module, imported in GRAPH.items():
        if module.partition(".")[0] not in OPTIONAL:
            assert not {name.partition(".")[0] for name in imported} & OPTIONAL, module


def test_only_the_registry_and_the_broker_module_talk_to_redis() -> None:
    """Everything else goes through them: redis is imported elsewhere for its errors and types alone."""
    talkers = {
        name_of(path)
        for path in modules()
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("client", "scripts") and isinstance(node.ctx, ast.Load)
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # The last three look whether there is a client, and hand it on; they call nothing on it.
    # The doctor looks at the time-outs of the broker's; what it asks Redis, it asks by the inspector's.
    assert talkers == {"registry", "redis_broker", "middleware", "settings", "whereabouts", "doctor.application"}


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
