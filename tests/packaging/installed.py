# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The package in an environment of its own, as installed: ``python installed.py [EXTRA]``.

Whatever its extra is for works; whatever it is not for says what to install.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path

#: The packages that only one extra brings (Flask brings click as well).
BRINGS = {"cli": ("rich",), "dashboard": ("flask", "waitress"), "metrics": ("prometheus_client",)}

#: Nothing listens there.
NOWHERE = "redis://127.0.0.1:1/0"


def program(*args: str) -> subprocess.CompletedProcess[str]:
    """The installed command."""
    script = Path(sys.executable).with_name("dramatiq-inflight")
    return subprocess.run([script, *args], capture_output=True, text=True, check=False)


def says_what_to_install(extra: str, text: str) -> None:
    assert f"dramatiq_inflight[{extra}]" in text, text
    assert "Traceback" not in text, text


def check_core() -> None:
    import dramatiq_inflight
    import dramatiq_inflight.doctor
    import dramatiq_inflight.metrics

    assert "site-packages" in dramatiq_inflight.__file__, dramatiq_inflight.__file__
    assert dramatiq_inflight.__version__ == version("dramatiq_inflight")
    assert (Path(dramatiq_inflight.__file__).parent / "py.typed").exists()
    of_others = {name for names in BRINGS.values() for name in names}
    assert not of_others & set(sys.modules)
    needed = {line.split(";")[0] for line in requires("dramatiq_inflight") or () if "extra ==" not in line}
    assert {name.rstrip("<>=,.0123456789 ") for name in needed} == {"dramatiq[redis]", "redis", "environs"}, needed
    assert metadata("dramatiq_inflight")["License-Expression"] == "MIT"


def check_cli(here: bool, extras: set[str]) -> None:
    answer = program("--version")
    if not here:
        assert answer.returncode == 2
        says_what_to_install("cli", answer.stderr)
        return
    assert answer.returncode == 0, answer
    assert version("dramatiq_inflight") in answer.stdout
    assert program("--redis-url", NOWHERE, "status").returncode == 3
    for command, extra in (("dashboard", "dashboard"), ("exporter", "metrics")):
        if extra not in extras:
            answer = program("--redis-url", NOWHERE, command)
            assert answer.returncode == 2, answer
            says_what_to_install(extra, answer.stderr)


def check_dashboard(here: bool) -> None:
    if not here:
        try:
            importlib.import_module("dramatiq_inflight.dashboard")
        except ImportError as error:
            says_what_to_install("dashboard", str(error))
            return
        raise AssertionError("the web page does without Flask?")
    from dramatiq_inflight import Inspector
    from dramatiq_inflight.dashboard import create_app

    answer = create_app(Inspector.from_url(NOWHERE)).test_client().get("/")
    assert answer.status_code == 503
    assert b"Redis cannot be reached" in answer.data


def check_metrics(here: bool) -> None:
    from dramatiq_inflight import Inspector
    from dramatiq_inflight.metrics import InFlightCollector, serve

    inspector = Inspector.from_url(NOWHERE)
    if not here:
        try:
            serve(inspector)
        except ImportError as error:
            says_what_to_install("metrics", str(error))
            return
        raise AssertionError("the exporter does without prometheus_client?")
    from prometheus_client import CollectorRegistry, generate_latest

    store = CollectorRegistry(auto_describe=False)
    store.register(InFlightCollector(inspector))
    assert b"dramatiq_inflight_up 0.0" in generate_latest(store)


def main() -> None:
    """Check what is here and what is not."""
    extras = set(sys.argv[1:])
    for extra, names in BRINGS.items():
        for name in names:
            found = importlib.util.find_spec(name) is not None
            assert found == (extra in extras), f"{name} with {extras or 'no extra'}"
    check_core()
    check_cli("cli" in extras, extras)
    check_dashboard("dashboard" in extras)
    check_metrics("metrics" in extras)
    print(f"Python {sys.version.split()[0]}: {', '.join(extras) or 'no extra'}")


if __name__ == "__main__":
    main()
