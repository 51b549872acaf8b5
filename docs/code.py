# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Whether the code that pages show can be read: by Python, the shell, or whatever it is for.  None of it is run."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

import yaml

__all__ = ["fault"]


def fault(language: str, code: str) -> str:
    """Return what is wrong with a block of code; empty if nothing is."""
    if language in UNCHECKED:
        return ""
    if language not in READERS:
        return f"nobody checks {language!r} here: {', '.join(sorted([*READERS, *UNCHECKED]))}"
    try:
        READERS[language](code)
    except Exception as error:  # each reader has errors of its own
        return f"this is no {language}: {error}"
    return ""


def _python(code: str) -> None:
    compile(code, "<page>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def _yaml(code: str) -> None:
    list(yaml.safe_load_all(code))


def _ini(code: str) -> None:
    configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True).read_string(code)


def _shell(code: str) -> None:
    read = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
    if read.returncode or read.stderr:
        raise ValueError(read.stderr.strip())


def _console(code: str) -> None:
    commands = re.findall(r"^\$ (.*(?:(?<=\\)\n.*)*)", code, re.MULTILINE)
    if not commands:
        raise ValueError('no line begins with "$ "')
    _shell("\n".join(commands))


READERS: Mapping[str, Callable[[str], Any]] = {
    "python": _python,
    "yaml": _yaml,
    "json": json.loads,
    "toml": tomllib.loads,
    "ini": _ini,
    "bash": _shell,
    "sh": _shell,
    "shell": _shell,
    "console": _console,
}

#: Texts, and what only its own program can read.
UNCHECKED = ("text", "none", "pycon", "default", "docker", "lua", "nginx", "html", "promql", "sql")
