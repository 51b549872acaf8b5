# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A connection by its URL, for the command line."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError

__all__ = ["connect"]


def connect(url: str) -> Any:
    """Connect to ``postgresql://``, ``mysql://`` (MariaDB as well) or ``sqlite:///path``, by the driver that is there.

    Raises:
      ConfigurationError: The URL is of another kind, or there is no driver.
    """
    parts = urlsplit(url)
    kind = parts.scheme.partition("+")[0]  # SQLAlchemy names a driver there
    if kind in ("postgresql", "postgres"):
        return _driver("psycopg").connect(parts._replace(scheme="postgresql").geturl())
    if kind == "sqlite":
        return _driver("sqlite3").connect(unquote(parts.path)[1:] or ":memory:")
    if kind in ("mysql", "mariadb"):
        return _driver("MySQLdb", "pymysql").connect(
            host=parts.hostname or "localhost",
            port=parts.port or 3306,
            user=unquote(parts.username or "root"),
            password=unquote(parts.password or ""),
            database=unquote(parts.path[1:]),
            **dict(parse_qsl(parts.query)),
        )
    raise ConfigurationError(
        f"The database's URL begins with {kind!r}; it must begin with postgresql, mysql, mariadb or sqlite."
    )


def _driver(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    raise ConfigurationError(f"There is no driver for this database here: pip install {names[-1]}.")
