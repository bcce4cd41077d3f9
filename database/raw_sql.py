"""SQL of your own, with numbers or names for its values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

from .connect_db import Connection, Record, get_db_connection, get_db_transaction, run_transaction
from .exceptions import DatabaseError, InvalidDataError, SchemaError, confidential
from .placeholders import number_names
from .query import quote_identifier
from .relations import schema_exists
from .rows import to_model
from .table_calls import (
    M,
    perform_write,
)


@confidential
async def execute_raw(
    sql: str,
    args: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    schema: str = "public",
    model: type[M] | None = None,
    conn: Connection | None = None,
) -> list[M]:
    """
    Run one statement of your own; the rows that it returns, an empty list where it returns none.

    *args* are a list for `$1`, `$2`, …, or a dict for `:name`. They go to the driver as they are. With a *schema*,
    names without one are looked for there first. Without *conn* it runs in a transaction, so that a lost answer is
    looked up and a write never done twice; what refuses a transaction (VACUUM) runs without.
    """
    if not isinstance(sql, str):
        raise InvalidDataError("sql is a str")
    if isinstance(args, Mapping):
        query, values = number_names(sql, args)
    elif args is None or isinstance(args, list | tuple):
        query, values = sql, list(args or ())
    else:
        raise InvalidDataError("args is a list for $1, $2, …, or a dict for :name")

    if schema != "public":
        # a prepared statement means the tables that it meant at first: each schema has its own
        query += f"\n-- {schema.encode(errors='replace').hex()}"

    async def run(c: Connection) -> list[Record]:
        return await c.fetch(query, *values)

    async def run_in(c: Connection, *, local: bool = True) -> list[Record]:
        if schema == "public":
            return await perform_write(c, "execute the statement", run)
        before = await c.fetchval("SELECT current_setting('search_path')")
        # said in the SQL and not as a parameter, so that it can be seen what would stay in a session
        set_path = f"SELECT set_config('search_path', $1, {'true' if local else 'false'})"
        await c.execute(set_path, f"{quote_identifier(schema)}, {before}")
        rows = await perform_write(c, "execute the statement", run)
        await c.execute(set_path, before)
        return rows

    if schema != "public" and not await schema_exists(schema, conn=conn):
        raise SchemaError(f"Schema {schema!r} not found.", sqlstate="3F000")
    rows = await _run_raw(run_in, schema, conn)
    return [cast("M", to_model(model, dict(row), "of the statement")) for row in rows]


async def _run_raw(
    run_in: Callable[..., Awaitable[list[Record]]], schema: str, conn: Connection | None
) -> list[Record]:
    if conn is not None:
        if schema == "public":
            return await run_in(conn)
        async with get_db_transaction(conn=conn) as c:
            return await run_in(c)
    try:
        return await run_transaction(run_in)
    except DatabaseError as exc:
        if exc.sqlstate != "25001":  # active_sql_transaction: it refuses to run inside one
            raise
    async with get_db_connection() as c:  # whose session is reset afterwards
        return await run_in(c, local=False)
