"""
What a CREATE INDEX CONCURRENTLY leaves behind when it fails or is cut off: an invalid index under its name.

With IF NOT EXISTS, the next attempt would take that for the index. So it is dropped before, and after a failure.
https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
"""

from __future__ import annotations

import asyncio
import logging
import re

from .connect_db import Connection
from .query import quote_identifier

log = logging.getLogger("database")

_POLL_SECONDS = 0.25
_NAME = r'(?:"(?:[^"]|"")+"|[^\W\d][\w$]*)'
_CREATE = re.compile(
    rf"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<index>(?!ON\b|IF\b){_NAME})"
    rf"\s+ON\s+(?P<table>{_NAME}(?:\s*\.\s*{_NAME})?)",
    re.IGNORECASE,
)
# Of an ordinary table; that of a partitioned one is invalid until all its parts are attached.
_REMAINS = """
    SELECT n.nspname::text AS schema,
           c.relname::text AS name,
           EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index WHERE index_relid = c.oid) AS is_being_built
      FROM pg_catalog.pg_index AS i
      JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid AND c.relkind = 'i'
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE i.indrelid = to_regclass($1::text) AND c.relname = (parse_ident($2::text))[1]::name AND NOT i.indisvalid
"""


async def drop_remains(c: Connection, statement: str, deadline: float) -> None:
    """
    Drop the invalid index that has the name of the one that *statement* creates; nothing for any other statement.

    One that somebody still builds, such as a server process whose client is gone, is waited for until *deadline*.
    """
    made = _CREATE.match(statement)
    if made is None:
        return
    loop = asyncio.get_running_loop()
    while (row := await c.fetchrow(_REMAINS, made["table"], made["index"])) is not None:
        if not row["is_being_built"]:
            log.warning("dropping what a failed CREATE INDEX CONCURRENTLY has left: %s.%s", row["schema"], row["name"])
            await c.execute(
                f"DROP INDEX CONCURRENTLY IF EXISTS {quote_identifier(row['schema'])}.{quote_identifier(row['name'])}",
                timeout=max(1.0, deadline - loop.time()),
            )
        elif loop.time() >= deadline:
            return
        else:
            await asyncio.sleep(_POLL_SECONDS)
