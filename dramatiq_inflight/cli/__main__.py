# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Where the command line starts: ``dramatiq-inflight``, or ``python -m dramatiq_inflight.cli``."""

from __future__ import annotations

import io
import logging
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; or say what to install."""
    try:
        import click  # noqa: F401, PLC0415
        import rich  # noqa: F401, PLC0415
    except ImportError as error:
        print(f'There is no {error.name} here; pip install "dramatiq_inflight[cli]"', file=sys.stderr)
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in Chinese must not break a terminal in ASCII
    from .app import cli  # noqa: PLC0415
    from .output import LogHandler  # noqa: PLC0415

    logging.lastResort = LogHandler()
    cli(prog_name="dramatiq-inflight")


if __name__ == "__main__":
    main()
