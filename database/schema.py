"""
The tables of the package: versioned SQL files, each applied once, in order, under a lock.

A file is named `NNNN_name.sql` and holds `-- migrate:up` and `-- migrate:down` parts (the format of dbmate). Those in
sql/optional/ are applied for who asks for them.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cache
from importlib import resources

from .connect_db import Connection, get_db_transaction, perform, run_in_transaction
from .exceptions import DatabaseError, SchemaError, sqlstate_of

log = logging.getLogger("database")

# "pgdb" as a number; any key will do as long as nobody else uses it
_LOCK = 0x70676462

_APPLIED = """
    SELECT checksum
      FROM database_migration
     WHERE version = $1
"""
_CREATE_LOG = """
    CREATE TABLE IF NOT EXISTS database_migration (
        version    text        PRIMARY KEY,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
"""
_RECORD = """
    INSERT INTO database_migration (version, name, checksum)
    VALUES ($1, $2, $3)
"""


@dataclass(frozen=True)
class Migration:
    """One SQL file; *checksum* is the SHA-256 of its text."""

    version: str
    name: str
    up: str
    checksum: str


@cache
def read_migration(version: str) -> Migration:
    """The package's SQL file with the number *version*, such as "0001"."""
    directory = resources.files("database").joinpath("sql")
    files = [*directory.iterdir(), *directory.joinpath("optional").iterdir()]
    file = next(file for file in files if file.name.startswith(f"{version}_"))
    text = file.read_text(encoding="utf-8")
    up = text.partition("-- migrate:up")[2].partition("-- migrate:down")[0]
    return Migration(version, file.name[5:-4], up, hashlib.sha256(text.encode()).hexdigest())


async def apply_migration(version: str, *, conn: Connection | None = None) -> bool:
    """
    Apply the package's SQL file *version* unless it was applied before; True if it was applied now.

    Any number of processes may call it at once: one applies, the others wait for it. Raises `SchemaError` where the
    user may not create tables, where a table of that name is there that the package has not made, and where the file
    has changed since it was applied.
    """
    migration = read_migration(version)
    if await _is_applied(migration, conn):
        return False

    async def apply(c: Connection) -> bool:
        await c.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await c.execute(_CREATE_LOG)
        if await _is_applied(migration, c):
            return False
        await c.execute(migration.up)
        await c.execute(_RECORD, migration.version, migration.name, migration.checksum)
        return True

    try:
        if conn is None:
            applied = await run_in_transaction(apply)
        else:
            async with get_db_transaction(conn=conn) as c:
                applied = await apply(c)
    except DatabaseError as exc:
        raise _explained(exc, migration) from exc
    if applied:
        log.info("applied %s_%s.sql", migration.version, migration.name)
    return applied


async def _is_applied(migration: Migration, conn: Connection | None) -> bool:
    async def ask(c: Connection) -> str | None:
        if await c.fetchval("SELECT to_regclass('database_migration')::text") is None:
            return None
        return str(checksum) if (checksum := await c.fetchval(_APPLIED, migration.version)) else None

    checksum = await perform(
        ask, conn=conn, kind=SchemaError, doing="read the applied migrations", changes=False, repeatable=True
    )
    if checksum not in (None, migration.checksum):
        raise SchemaError(
            f"{migration.version}_{migration.name}.sql is not the file that was applied to this database (its checksum "
            "differs); a change to the tables needs a file of its own"
        )
    return checksum is not None


def _explained(exc: DatabaseError, migration: Migration) -> DatabaseError:
    way_out = {
        "42P07": f"a table of that name is there already and this package has not made it; rename it and copy its rows "
                 f"after init_{migration.name}_table() (MIGRATION_GUIDE.md)",
        "42501": "the user may not create tables; GRANT CREATE ON SCHEMA public TO it, or let its owner run this once",
        "25006": "the server is read-only; run this on the primary",
    }.get(sqlstate_of(exc) or "")  # fmt: skip
    if way_out is None:
        return exc
    return SchemaError(
        f"cannot create the table {migration.name}: {way_out}", original_error=exc, sqlstate=exc.sqlstate
    )
