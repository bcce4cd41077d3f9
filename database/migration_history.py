"""
The record of the SQL files that were applied, the table `database_migration`, and the lock that guards it.

The files of each source have versions of their own, and each schema of a project has a record of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from .connect_db import Connection, perform
from .exceptions import SchemaError
from .migration_files import Migration
from .query import quote_identifier

# "pgdb" as a number; any key will do as long as nobody else uses it
LOCK = 0x70676462

_TAKE_LOCK = "SELECT pg_try_advisory_xact_lock($1)"
_FIND_HISTORY = """
    SELECT coalesce(n.nspname, $2, current_schema())::text AS schema,
           c.oid IS NOT NULL AS is_there,
           $2::text IS NULL OR EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $2::text) AS has_schema,
           EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attname = 'source') AS has_source
      FROM (VALUES (to_regclass($1::text))) AS named (oid)
      LEFT JOIN pg_catalog.pg_class AS c USING (oid)
      LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
"""
_CREATE_HISTORY = """
    CREATE TABLE {table} (
        source     text        NOT NULL DEFAULT 'database',
        version    text        NOT NULL,
        name       text        NOT NULL,
        checksum   text        NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (source, version)
    )
"""
# of a time when there were only the package's own files
_EXTEND_HISTORY = """
    ALTER TABLE {table}
      ADD COLUMN source text NOT NULL DEFAULT 'database',
     DROP CONSTRAINT database_migration_pkey,
      ADD PRIMARY KEY (source, version)
"""
# to_jsonb, because the column need not be there yet
_READ_HISTORY = """
    SELECT version, name, checksum, applied_at
      FROM {table} AS this
     WHERE coalesce(to_jsonb(this) ->> 'source', 'database') = $1
"""
_RECORD = """
    INSERT INTO {table} (source, version, name, checksum)
    VALUES ($1, $2, $3, $4)
"""
_FORGET = """
    DELETE FROM {table}
     WHERE source = $1 AND version = $2
"""


class History(NamedTuple):
    """The record of the files of one *source*, in the table `database_migration` of *schema* (None: search_path)."""

    source: str
    schema: str | None = None


PACKAGE = History("database")


class Applied(NamedTuple):
    """What is recorded of a file."""

    version: str
    name: str
    checksum: str
    applied_at: datetime

    @property
    def file(self) -> str:
        """What it was called, or nearly so."""
        return f"{self.version}_{self.name}.sql" if self.name else f"{self.version}.sql"


def check_unchanged(migration: Migration, applied: Mapping[str, Applied], history: History) -> None:
    """Raise `SchemaError` where the file is not the one that was applied."""
    recorded = applied.get(migration.version)
    if recorded is None or recorded.checksum == migration.checksum:
        return
    if recorded.name != migration.name and history.source != PACKAGE.source:
        raise SchemaError(
            f"version {migration.version} of {history.source!r} was applied as {recorded.file}, not {migration.file}; "
            "give each directory a source= of its own, or the file its old name"
        )
    raise SchemaError(
        f"{migration.file} is not the file that was applied to this database (its checksum differs); "
        "a change to the tables needs a file of its own"
    )


async def take_lock(c: Connection) -> bool:
    """Whether the lock is ours now, until the end of the transaction; never waits."""
    return bool(await c.fetchval(_TAKE_LOCK, LOCK))


async def _find_history(c: Connection, history: History) -> tuple[str, dict[str, bool]]:
    """The table's name in SQL, and what there is of it."""
    prefix = "" if history.schema is None else f"{quote_identifier(history.schema)}."
    found = dict(await c.fetchrow(_FIND_HISTORY, f"{prefix}database_migration", history.schema) or {})
    schema = found.pop("schema")
    if schema is None:
        raise SchemaError("there is no schema to make tables in: search_path names none that exists", sqlstate="3F000")
    if not found["has_schema"]:
        raise SchemaError(f"Schema {history.schema!r} not found.", sqlstate="3F000")
    return f"{quote_identifier(schema)}.database_migration", found


async def read_applied(history: History, conn: Connection | None) -> dict[str, Applied]:
    """What was applied of *history*, by version; {} where nothing was, also where its table is not there."""

    async def ask(c: Connection) -> dict[str, Applied]:
        table, found = await _find_history(c, history)
        return await read_history(c, table, history) if found["is_there"] else {}

    doing = "read the applied migrations"
    return await perform(ask, conn=conn, kind=SchemaError, doing=doing, changes=False, repeatable=True)


async def read_history(c: Connection, table: str, history: History) -> dict[str, Applied]:
    """What its *table* holds of a source."""
    rows = await c.fetch(_READ_HISTORY.format(table=table), history.source)
    return {row["version"]: Applied(**row) for row in rows}


async def make_history(c: Connection, history: History) -> str:
    """The name of the table in SQL, which is made, and brought up to date."""
    table, found = await _find_history(c, history)
    if not found["is_there"]:
        await c.execute(_CREATE_HISTORY.format(table=table))
    elif not found["has_source"]:
        await c.execute(_EXTEND_HISTORY.format(table=table))
    return table


async def record_applied(c: Connection, table: str, source: str, migration: Migration) -> None:
    """Note that a file was applied."""
    await c.execute(_RECORD.format(table=table), source, migration.version, migration.name, migration.checksum)


async def record_undone(c: Connection, table: str, source: str, migration: Migration) -> None:
    """Note that it is no longer."""
    await c.execute(_FORGET.format(table=table), source, migration.version)
