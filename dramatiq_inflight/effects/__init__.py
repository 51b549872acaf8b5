# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Effects once: a fence in the user's own database.

`once` commits an effect and the fact that it is done in one transaction.  `fence` keeps an earlier run, which was
frozen and wakes up, from writing once a later run has written.  Both take a connection of psycopg 3, sqlite3, PyMySQL
or mysqlclient; a connection or session of SQLAlchemy 2, sync or async; or a connection of Django.
"""

from __future__ import annotations

from .block import Effect, fence, once
from .upkeep import KEPT_FOR, clean, create, ddl, forget

__all__ = ["KEPT_FOR", "Effect", "clean", "create", "ddl", "fence", "forget", "once"]
