"""What tables and schemas there are."""

from __future__ import annotations

from typing import Any

from . import columns as catalog
from .connect_db import Connection, get_db_transaction, perform
from .exceptions import (
    DatabaseError,
    SchemaError,
)
from .query import quote_identifier

_SCHEMA_EXISTS = """
    SELECT nspname::text
      FROM pg_catalog.pg_namespace
     WHERE nspname = $1::text
"""


async def table_exists(table: str, *, schema: str = "public", conn: Connection | None = None) -> bool:
    """True where *schema* has a table, view or foreign table of that name."""
    return catalog.is_name(table) and table in await list_tables(schema=schema, conn=conn)


async def schema_exists(schema: str, *, conn: Connection | None = None) -> bool:
    """True where there is a schema of that name."""
    doing = "look for a schema"
    return catalog.is_name(schema) and bool(await catalog.list_names(_SCHEMA_EXISTS, schema, conn=conn, doing=doing))


async def create_schema(schema: str, *, conn: Connection | None = None) -> bool:
    """
    Make a schema unless there is one of that name; True if it was made now. Any number of callers may do so at once.

    Raises `SchemaError` where the name is empty, longer than 63 bytes, begins with pg_, or the user may not.
    """
    if not catalog.is_name(schema) or schema.startswith("pg_"):
        raise SchemaError("the name of a schema has 1 to 63 bytes of text and does not begin with pg_")
    if await schema_exists(schema, conn=conn):
        return False
    try:
        async with get_db_transaction(conn=conn) as c:
            await perform(
                lambda c: c.execute(f"CREATE SCHEMA {quote_identifier(schema)}"),
                conn=c,
                kind=SchemaError,
                doing=f"create schema {schema!r}",
                changes=True,
                repeatable=False,
            )
    except DatabaseError as exc:
        if exc.sqlstate not in ("42P06", "23505"):  # somebody else was quicker
            raise
        return False
    return True


async def list_tables(*, schema: str = "public", conn: Connection | None = None) -> list[str]:
    """The names of the tables, views and foreign tables of *schema*, in order; empty where there is no such schema."""
    return await catalog.list_tables(schema, conn) if catalog.is_name(schema) else []


async def describe_table(table: str, *, schema: str = "public", conn: Connection | None = None) -> list[dict[str, Any]]:
    """
    What the columns of a table are, in their order: dicts.

    `name`, `type` as PostgreSQL writes it, `nullable`, `default` (SQL, or None), `primary_key`, `unique` (alone in a
    unique key), `generated` (the server alone makes its values). Raises `SchemaError` where there is no such table.
    """
    known = await catalog.read_table(table, schema, conn, catalog.known_table(table, schema, conn))
    return [
        {
            "name": column.name,
            "type": column.declared,
            "nullable": not column.not_null,
            "default": column.default,
            "primary_key": column.name in known.primary_key,
            "unique": (column.name,) in [key.columns for key in known.keys],
            "generated": not column.is_written,
        }
        for column in known.columns.values()
    ]
