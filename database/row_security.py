"""
Row-level security: PostgreSQL itself confines a transaction to the chats and documents of one user.

Opt-in: `enable_row_security()` once, with the rights of the tables' owner; then `acting_as(user_id)` for each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from .chat_history import init_chat_history_table
from .connect_db import Connection, get_db_transaction
from .document import init_document_table
from .exceptions import DatabaseError, SchemaError
from .migration_files import read_directory
from .migration_history import History
from .migrations import apply_files

_SOURCE = "row_security"  # both the directory and the source: who does not ask for it misses nothing
_ACT = """
    SELECT set_config('pgdatabase.user_id', $1, true), set_config('role', 'pgdatabase_user', true)
"""


async def enable_row_security(*, conn: Connection | None = None) -> None:
    """
    Make the role `pgdatabase_user` and the policies that `acting_as` needs, unless they are there; also the tables.

    From then on, who neither owns the tables nor is a superuser sees and stores rows as `acting_as` a user alone, and
    documents have a column `user_id`; those that exist, and those that the owner stores, have none and can be read by
    all users. Raises `SchemaError` where the role of the connection may not do that: it takes the owner of the tables,
    and CREATEROLE unless `pgdatabase_user` exists.
    """
    try:
        await init_document_table(conn=conn)
        await init_chat_history_table(conn=conn)
        files = await asyncio.to_thread(read_directory, resources.files("database").joinpath("sql", _SOURCE))
        await apply_files(files, History(_SOURCE), conn=conn)
    except DatabaseError as exc:
        if exc.sqlstate != "42501":
            raise
        raise SchemaError(
            "cannot enable row-level security: that takes the owner of the tables, and CREATEROLE unless an "
            "administrator has said CREATE ROLE pgdatabase_user NOLOGIN",
            original_error=exc.original_error,
            sqlstate=exc.sqlstate,
        ) from exc


@asynccontextmanager
async def acting_as(user_id: int, name: str = "default") -> AsyncIterator[Connection]:
    """
    A connection in a transaction that sees, changes and stores the chats and documents of *user_id* alone.

    Give it as `conn=` to the package's functions; calls without are not in the transaction and have no user. As with
    `get_db_transaction`, the end of the block commits and an exception rolls back. User and role hold for the
    transaction only, so nothing of them stays in the connection, also behind PgBouncer. Raises `TypeError` or
    `ValueError` where *user_id* is no integer of 64 bits, and `SchemaError` where `enable_row_security` was not called
    or the role of the connection is no member of `pgdatabase_user`.
    """
    if isinstance(user_id, bool) or not isinstance(user_id, int):
        raise TypeError(f"user_id is an int, not {type(user_id).__name__}")
    if not -(2**63) <= user_id < 2**63:
        raise ValueError("user_id is an integer of at most 64 bits")
    async with get_db_transaction(name) as conn:
        await _act(conn, user_id)
        yield conn


async def _act(conn: Connection, user_id: int) -> None:
    try:
        await conn.execute(_ACT, str(user_id))
    except Exception as exc:
        state = getattr(exc, "sqlstate", None)
        if state not in ("22023", "42501"):  # no such role; no member of it
            raise
        raise SchemaError(
            "cannot act as a user: call enable_row_security() once, as the owner of the tables, and GRANT "
            "pgdatabase_user TO the role that this application connects as",
            original_error=exc,
            sqlstate=state,
        ) from exc
