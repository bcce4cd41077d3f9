"""
The package's own tables: what the `init_*_table()` functions apply.

What is said to any database about tables and schemas stands beside it: migrations.py (versioned SQL files), tables.py
(a table by arguments), project_schemas.py, temporary.py; all of it can be had from here.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from .connect_db import Connection
from .exceptions import DatabaseError, SchemaError, sqlstate_of
from .migration_files import Migration, read_directory
from .migration_history import PACKAGE
from .migrations import apply_files, migrate, migration_status, rollback
from .project_schemas import drop_project_schema, ensure_project_schema, ensure_public_schema, verify_schema
from .tables import ColumnOptions, create_table
from .temporary import temporary_data, temporary_schema

__all__ = [
    "ColumnOptions",
    "apply_migration",
    "create_table",
    "drop_project_schema",
    "ensure_project_schema",
    "ensure_public_schema",
    "migrate",
    "migration_status",
    "read_migration",
    "read_migrations",
    "rollback",
    "temporary_data",
    "temporary_schema",
    "verify_schema",
]


@cache
def read_migrations() -> list[Migration]:
    """The package's SQL files, in order."""
    return read_directory(resources.files("database").joinpath("sql"))


def read_migration(version: str) -> Migration:
    """The package's SQL file with the number *version*, such as "0001"."""
    return next(each for each in read_migrations() if each.version == version)


async def apply_migration(version: str, *, conn: Connection | None = None) -> bool:
    """
    Apply the package's SQL file *version* unless it was applied before; True if it was applied now.

    Any number of processes may call it at once: one applies, the others wait for it. Raises `SchemaError` where the
    user may not create tables, where a table of that name is there that the package has not made, and where the file
    has changed since it was applied.
    """
    migration = read_migration(version)
    try:
        return bool(await apply_files([migration], PACKAGE, conn=conn))
    except DatabaseError as exc:
        raise _explained(exc, migration) from exc


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
