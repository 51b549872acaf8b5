# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tests of headers, the licence, the version, and the workflows of GitHub."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import dramatiq_inflight
from dramatiq_inflight.store.schema import SCHEMA
from tests.packaging.sdist import ours

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"

#: Whose text nobody but a program reads, or that others show as it is, or that cannot have a comment.
NO_HEADER = {".gz", ".json", ".md", ".png", ".rst", ".svg", ".txt", ".typed"}


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


def test_every_source_file_says_whose_it_is_and_its_licence() -> None:
    sources = [ROOT / name for name in ours() if Path(name).suffix not in NO_HEADER and name != "LICENSE"]
    sources += list(GITHUB.rglob("*.yml"))
    assert len(sources) > 200
    for path in sources:
        head = "\n".join(path.read_text("utf-8").splitlines()[:4])
        assert "SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors" in head, path
        assert "SPDX-License-Identifier: MIT" in head, path


def test_the_licence_is_the_one_that_is_named() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The dramatiq_inflight authors\n")
    assert config()["metadata"]["license_expression"] == "MIT"


def test_the_changelog_has_this_version_and_its_schema() -> None:
    text = (ROOT / "CHANGELOG.rst").read_text("utf-8")
    version = re.escape(dramatiq_inflight.__version__.partition(".dev")[0])
    assert re.search(r"^Unreleased\n-+\n", text, re.MULTILINE)
    if ".dev" not in dramatiq_inflight.__version__:
        section = re.search(rf"^{version} - \d{{4}}-\d\d-\d\d\n-+\n(.*?)(?=\n\S+ - \d{{4}}|\Z)", text, re.M | re.S)
        assert section
        assert f"writes schema {SCHEMA} in Redis" in section[1]


def supported() -> list[str]:
    """The versions of Python, as the classifiers have them."""
    return re.findall(r"Python :: (3\.\d+)$", config()["metadata"]["classifiers"], re.MULTILINE)


def workflows() -> dict[str, Any]:
    if not GITHUB.exists():
        pytest.skip("this is an sdist: what GitHub runs is in the repository")
    return {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (GITHUB / "workflows").glob("*.yml")}


def steps(workflow: Any) -> list[Any]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_github_runs_existing_sessions_on_all_supported_pythons() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    ci = workflows()["ci"]
    named = {
        name
        for step in steps(ci)
        for line in re.findall(r"nox .*-s (.+)", step.get("run", ""))
        for name in line.split()
    }
    matrix = ci["jobs"]["tests"]["strategy"]["matrix"]["include"]
    sessions = {re.split(r"[-(]", str(one["session"]))[0] for one in matrix}
    named = {name for name in named if "matrix." not in name and name.isidentifier()} | sessions
    assert named <= functions
    assert {"lint", "tests", "matrix", "servers", "demo", "wheel"} <= named
    assert [one["python"] for one in matrix] == supported()
    wheel = next(step for step in ci["jobs"]["wheel"]["steps"] if "with" in step)
    assert sorted(wheel["with"]["python-version"].split()) == sorted(supported())


def test_only_the_job_that_publishes_may_do_more_than_read() -> None:
    for name, workflow in workflows().items():
        assert workflow["permissions"] == {"contents": "read"}, name
        for job, what in workflow["jobs"].items():
            assert what.get("permissions") in (None, {"id-token": "write"}), job
            assert what["timeout-minutes"] <= 30, job
            if "permissions" in what:
                assert (name, job, what["environment"]) == ("release", "publish", "pypi")
        assert not [step for step in steps(workflow) if "secrets." in str(step)]


def test_github_runs_what_ci_runs() -> None:
    """Each session of ``.ci/run``."""
    sessions = set(
        re.findall(r"^(?:\w+=\S+ )?nox (?:-R )?-s \"?([\w-]+)", (ROOT / ".ci" / "run").read_text("utf-8"), re.M)
    )
    assert {"lint", "docs", "tests", "matrix-3", "servers", "demo", "examples", "wheel"} == sessions
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    for session in sessions:
        assert re.search(rf"(nox [^\n]*-s [^\n]*|session: \"?)\b{session}\b", workflow), session
