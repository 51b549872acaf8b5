# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``dashboard`` and ``exporter``: the same for browsers and for Prometheus, until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from ..config.environment import API_TOKEN
from .extras import load
from .failures import Wrong
from .source import Source
from .text import clean

__all__ = ["dashboard", "exporter"]

F = TypeVar("F", bound=Callable[..., Any])

host_option = click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")


def port_option(default: int) -> Callable[[F], F]:
    """The port to listen at."""
    return click.option(
        "--port", type=click.IntRange(1, 65535), default=default, show_default=True, help="The port to listen at."
    )


@click.command(short_help="Serve a web page.")
@host_option
@port_option(8010)
@click.option(
    "--allow-actions",
    is_flag=True,
    help="Let everybody who can reach it requeue, dead-letter and discard; needs --broker.",
)
@click.pass_obj
def dashboard(source: Source, host: str, port: int, allow_actions: bool) -> None:
    """Serve a web page that shows what runs where, until Ctrl-C.

    Its JSON interface is under /api. With PROCESSING_API_TOKEN in the environment, each request there has to send that
    as "Authorization: Bearer TOKEN", and may act where --allow-actions is given; without, it only reads.
    """
    operations = source.operations("dashboard --allow-actions") if allow_actions else None
    serve = load("dashboard", "dashboard", "dashboard").serve
    inspector = source.inspector
    token = next((os.environ[variable] for variable in API_TOKEN if variable in os.environ), None)
    if allow_actions:
        # Each act is logged, though the application may have set up no logging.
        logging.getLogger("dramatiq_inflight.dashboard.acts").setLevel(logging.INFO)
    with _listening(host, port, "/"):
        serve(inspector, operations, host=host, port=port, api_token=token)


@click.command(short_help="Serve metrics for Prometheus.")
@host_option
@port_option(9192)
@click.pass_obj
def exporter(source: Source, host: str, port: int) -> None:
    """Serve metrics for Prometheus, until Ctrl-C."""
    serve = load("metrics", "exporter", "metrics").serve
    inspector = source.inspector
    with _listening(host, port, "/metrics"):
        serve(inspector, host=host, port=port)


@contextlib.contextmanager
def _listening(host: str, port: int, path: str) -> Iterator[None]:
    address = f"[{host}]" if ":" in host else host
    click.echo(clean(f"http://{address}:{port}{path} (Ctrl-C ends it)"), err=True)
    try:
        yield
    except KeyboardInterrupt:
        pass  # that is how it ends
    except ImportError as error:
        raise Wrong(str(error)) from error
    except OSError as error:
        raise Wrong(f"--host is {host!r} and --port is {port}: {error.strerror or error}; choose others.") from error
