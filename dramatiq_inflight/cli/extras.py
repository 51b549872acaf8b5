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
    except ImportError as error:
        missing = error.__cause__ if isinstance(error.__cause__, ImportError) else error  # the page says it by its own
        raise Wrong(
            f'{command} needs {missing.name}, which is not here; pip install "dramatiq_inflight[{extra}]"'
        ) from error
