# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The contents of an sdist and a wheel: ``python -m tests.packaging.sdist FOLDER``."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Files that are not published: parts of the repository alone, and the remains of tools.
NOT_GIVEN = {
    ".git",
    ".github",
    ".gitignore",
    ".nox",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}


def ours() -> set[str]:
    """The files of this repository; or, without git, of this sdist."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    answer = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    names = answer.stdout.splitlines() if (ROOT / ".git").exists() and answer.returncode == 0 else _found()
    return {name for name in names if not NOT_GIVEN & set(Path(name).parts) and (ROOT / name).is_file()}


def _found() -> list[str]:
    paths = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
    made = {"PKG-INFO", "setup.cfg"}  # setuptools writes the latter anew, without its comments
    return [str(path) for path in paths if not any(part.endswith(".egg-info") or part in made for part in path.parts)]


def main() -> None:
    """Say what is missing, or too much."""
    folder = Path(sys.argv[1])
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {"PKG-INFO", *(name for name in inside if ".egg-info/" in name)}
    assert inside - made == ours(), f"sdist: {sorted((inside - made) ^ ours())}"
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    package = {name for name in ours() if name.startswith("dramatiq_inflight/")}
    others = {name for name in names - package if ".dist-info/" not in name}
    assert package <= names, f"wheel: {sorted(package - names)} missing"
    assert not others, f"wheel: {sorted(others)} too much"
    assert any(name.endswith(".dist-info/licenses/LICENSE") or name.endswith(".dist-info/LICENSE") for name in names)
    print(f"{sdist.name}: {len(inside)} files; {wheel.name}: {len(names)} files")


if __name__ == "__main__":
    main()
