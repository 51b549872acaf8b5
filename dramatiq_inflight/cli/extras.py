# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Parts of the package that need extras of their own: imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import Any

from .failures import Wrong

__all__ = ["load"]


def load(module: str, command: str, extra: str) -> Any:
    """A module of the package, for a command that needs it.

    Parameters:
      extra: With which it is installed.
    """
    name = f"dramatiq_inflight.{module}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Wrong(
            f'{command} needs {error.name}, which is not here; pip install "dramatiq_inflight[{extra}]"'
        ) from error
