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

#: What each module may import of the package, besides itself.
GRAPH = {
    "__init__": {
        "current", "errors", "history", "incident", "inspector", "middleware", "operations", "swept", "version",
    },
    "attendant": {"connection", "evidence", "registry", "subscription", "words"},
    "away": set(),
    "bell": set(),
    "bookkeeping": set(),
    "broker_copies": {"marks", "scripting"},
    "broker_recovery": {"policy", "rabbitmq_broker", "recovery", "redis_broker", "registry", "settings", "telling"},
    "checkpoints": {"errors", "outcomes", "registry", "table"},
    "connection": {"pool"},
    "consumers": {"mutex", "redis_broker"},
    "continuations": {"passing", "table"},
    "copying": {"incident", "outcomes", "putting_back", "records", "swept"},
    "current": {"records", "table"},
    "deliveries": {"consumers", "mutex", "redis_broker", "registry", "scripting", "table"},
    "ending": {
        "checkpoints", "continuations", "errors", "home", "interrupt", "marks", "policies", "refusing", "runtime",
        "table",
    },
    "enqueues": {"continuations", "errors", "marks", "policies", "runtime", "table"},
    "environment": {"errors", "policy"},
    "errors": set(),
    "evidence": set(),
    "following": {"replies"},
    "forks": set(),
    "gate": {"bell", "mutex", "siblings"},
    "handing_back": {"bell", "checkpoints", "errors", "mutex", "table"},
    "heartbeat": {"errors", "lease", "registry"},
    "heartbeat_process": {"attendant", "connection", "evidence", "settings"},
    "history": set(),
    "home": {"marks"},
    "hooks": {"errors", "interrupt", "marks", "table"},
    "incarnation": set(),
    "incident": {"records"},
    "inspector": {
        "connection", "errors", "history", "middleware", "parsing", "reader", "records", "schema", "settings",
        "views", "whereabouts",
    },
    "interrupt": {"mutex"},
    "interventions": {"looking", "orphans", "records", "scripting", "words"},
    "keys": set(),
    "lease": {"bell", "moment", "mutex", "table"},
    "ledger": {"errors", "lease", "marks", "outcomes", "registry", "scripting", "table", "wire"},
    "looking": {"records", "scripting"},
    "making": {"incident", "marks", "outcomes", "policy", "records"},
    "marks": set(),
    "membership": {"moment", "records", "schema", "scripting", "version"},
    "metrics": {"errors", "history", "inspector"},
    "middleware": {
        "ending", "enqueues", "errors", "hooks", "policies", "policy", "process_metrics", "runtime", "settings",
        "starting", "table",
    },
    "moment": set(),
    "mutex": set(),
    "operations": {
        "broker_recovery", "connection", "copying", "errors", "inspector", "marks", "middleware", "records",
        "redis_broker", "registry", "swept", "whereabouts",
    },
    "orphans": {"outcomes", "records", "scripting"},
    "outcomes": set(),
    "parsing": {"records", "schema", "views"},
    "passing": {"replies"},
    "policies": {"errors", "marks", "policy", "settings"},
    "policy": {"errors"},
    "pool": {"ruled"},
    "presence": {"lease", "moment", "registry", "subscription", "suspicions", "words"},
    "process_metrics": {"runtime"},
    "putting_back": {
        "away", "incident", "making", "mutex", "outcomes", "passing", "records", "registry", "swept", "table",
    },
    "rabbitmq_broker": set(),
    "reader": {
        "connection", "errors", "history", "keys", "parsing", "records", "schema", "settings", "version", "views",
    },
    "records": {"keys", "outcomes"},
    "recovery": {
        "copying", "incident", "outcomes", "passing", "rabbitmq_broker", "records", "redis_broker",
        "scripting", "swept",
    },
    "recovery_thread": {"bell", "recovery"},
    "redis_broker": {"connection", "following", "replies", "scripting", "wire"},
    "refusing": {"consumers", "errors", "marks", "outcomes", "runtime", "table"},
    "registry": {"broker_copies", "interventions", "orphans", "runs"},
    "replies": set(),
    "ruled": {"replies"},
    "runs": {"marks", "moment", "outcomes", "scripting", "wire"},
    "runtime": {
        "bookkeeping", "broker_recovery", "checkpoints", "deliveries", "errors", "evidence", "forks",
        "gate", "handing_back", "heartbeat", "heartbeat_process", "incarnation", "lease", "ledger", "membership",
        "moment", "policy", "presence", "recovery_thread", "redis_broker", "registry", "settings", "siblings",
        "stalls", "table", "version", "watch", "whereabouts", "wire", "words",
    },
    "schema": set(),
    "scripting": {"connection", "keys", "moment", "pool", "schema", "wire"},
    "settings": {"environment", "errors", "incident", "policy"},
    "siblings": set(),
    "stalls": {"bell", "registry", "table"},
    "starting": {
        "consumers", "errors", "incident", "interrupt", "marks", "outcomes", "policies", "records", "refusing",
        "runtime", "table",
    },
    "subscription": {"connection", "registry", "replies"},
    "suspicions": {"outcomes", "registry", "subscription"},
    "swept": set(),
    "table": {"interrupt", "marks", "mutex", "policy"},
    "telling": {"incident", "policy"},
    "version": set(),
    "views": set(),
    "watch": {"evidence", "records", "registry", "words"},
    "whereabouts": {"connection", "errors", "settings"},
    "wire": {"pool"},
    "words": {"membership", "outcomes", "scripting"},
}  # fmt: skip

#: What `registry.Registry` is made of, a concern in each: nobody else has the tracker's keys.
REGISTRY = {
    "broker_copies", "interventions", "looking", "membership", "orphans", "registry", "runs", "scripting", "words",
}  # fmt: skip

#: The parts that are folders of their own: what their modules may import of the package outside of their folder.  The
#: core imports none of them.
PARTS = {
    "cli": {
        "effects",
        "effects.connecting",
        "errors",
        "history",
        "inspector",
        "operations",
        "records",
        "settings",
        "swept",
        "version",
        "views",
    },
    "dashboard": {"errors", "history", "inspector", "operations"},
    "effects": {"errors", "table"},
    "doctor": {"errors", "history", "inspector", "middleware", "policy", "schema", "settings", "version"},
}

#: How many lines a module has at the most, and why those have more that do.
LONGEST = 250
LONG = {
    "inspector.py": "a public class, each of whose methods is described",
    "ledger.py": "all that changes an entry's record does so under its mutex",
    "middleware.py": "the hooks, in the order of a message's life, and the settings that users read of first",
    "recovery.py": "one sweep",
    "table.py": "the fields of an entry, each of which is described",
    "runtime.py": "the one place where all that a worker holds is put together",
}

#: Modules that nobody in the package imports: whoever wants them has the extra that they need.
OPTIONAL = {"metrics"}

#: What is there with an extra only: the core does without, and the parts may use what is theirs.
EXTRAS = {
    "click": {"cli"},
    "django": {"effects"},
    "flask": {"dashboard"},
    "itsdangerous": {"dashboard"},
    "jinja2": {"dashboard"},
    "prometheus_client": {"metrics", "process_metrics"},
    "rich": {"cli"},
    "sqlalchemy": {"effects"},
    "waitress": {"dashboard"},
    "werkzeug": {"dashboard"},
}


def imports_of(path: Path, level: int = 1) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == level:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "dramatiq_inflight"], f"{path.name}: absolute"
    return found


def others_imported(path: Path) -> set[str]:
    """The packages of others that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def test_modules_import_what_the_design_allows_and_no_more() -> None:
    """Recovery does not know the middleware, the registry does not know recovery, and so on."""
    assert {path.stem: imports_of(path) for path in PACKAGE.glob("*.py")} == GRAPH


def test_the_parts_import_the_core_and_not_the_other_way_round() -> None:
    """Nobody who does not use a part needs what it needs."""
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(PARTS)
    for path in PACKAGE.glob("*.py"):
        assert not imports_of(path) & (set(PARTS) | OPTIONAL), path.name
        for name in others_imported(path) & set(EXTRAS):
            assert path.stem in EXTRAS[name], path.name
    for part, allowed in PARTS.items():
        for path in (PACKAGE / part).glob("*.py"):
            assert imports_of(path, level=2) <= allowed, path.name
            assert not imports_of(path, level=3), path.name
            for name in others_imported(path) & set(EXTRAS):
                assert part in EXTRAS[name], path.name


def test_the_package_does_not_need_what_its_optional_parts_need() -> None:
    code = f"import sys, dramatiq_inflight; print({set(EXTRAS)!r} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_only_the_registry_and_the_broker_module_talk_to_redis() -> None:
    """Everything else goes through them: redis is imported elsewhere for its errors and types alone."""
    talkers = {
        "registry" if path.stem in REGISTRY else path.stem
        for path in PACKAGE.rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("client", "scripts") and isinstance(node.ctx, ast.Load)
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    # These look whether there is a client, and hand it on; the doctor's looks at the time-outs of the broker's.
    lookers = {"middleware", "settings", "whereabouts", "application"}
    assert talkers == {"registry", "redis_broker"} | lookers


def test_every_script_has_a_method_and_a_header() -> None:
    """Each Lua file says its purpose, KEYS, ARGV, what it returns and why."""
    registry = "".join((PACKAGE / f"{name}.py").read_text() for name in REGISTRY)
    scripts = [path for path in (PACKAGE / "scripts").glob("*.lua") if not path.name.startswith("_")]
    assert len(scripts) > 10
    for path in scripts:
        text = path.read_text()
        assert f'"{path.stem}"' in registry, path.name
        for part in ("-- KEYS", "-- returns"):
            assert part in text, f"{path.name} lacks {part}"
