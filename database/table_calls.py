"""
What calls about a table have in common: what is known of it, and a second attempt.

A call that fails is made once more, if the table has changed since it was looked at, and nothing was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from . import columns as catalog
from .columns import Column, Table
from .connect_db import Connection, Record, perform
from .exceptions import (
    ColumnMatchError,
    InvalidDataError,
    RecordNotFoundError,
    RepositoryError,
)
from .rows import to_model

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    M = TypeVarWithDefault("M", default=dict[str, Any])
else:
    M = TypeVar("M")

T = TypeVar("T")
Where: TypeAlias = Mapping[str, Any]
Names: TypeAlias = str | Sequence[str]

# Inside of a transaction a statement must not fail for a column that was added, so there it is looked for in time.
_CONFIRMED_SECONDS = 10.0
_CHANGED = ("42", "22", "0A", "XX")  # SQLSTATE classes of what a changed table causes


async def call_table(table: str, schema: str, conn: Connection | None, work: Callable[[Table], Awaitable[T]]) -> T:
    """
    The result of *work* with what is known of a table; once more, where it fails and the table has changed since.

    Only what has had no effect is done again. A failed statement has spoilt the transaction that it was in: there, the
    error leaves and the next call knows better.
    """
    known = catalog.known_table(table, schema, conn)
    if known is None or (conn is not None and _is_old(known, conn)):
        return await work(await catalog.read_table(table, schema, conn, known))
    try:
        return await work(known)
    except RepositoryError as exc:
        fresh = await _after_change(exc, known, conn)
    return await work(fresh)


async def call_row(
    table: str,
    schema: str,
    conn: Connection | None,
    model: type[Any] | None,
    prepare: Callable[[Table], tuple[Awaitable[Record | None], Callable[[Record], dict[str, Any]]]],
) -> Any:
    """
    As `call_table`, for the one row of a call, None where there is none.

    *prepare* makes the call, and says how to read the row.

    What is read is no part of what may be done again: the row is stored, whether it fits the model or not.
    """
    known = catalog.known_table(table, schema, conn)
    fresh: Table | None = None
    row: Record | None = None
    read: Callable[[Record], dict[str, Any]] = dict
    if known is None or (conn is not None and _is_old(known, conn)):
        fresh = await catalog.read_table(table, schema, conn, known)
    else:
        try:
            call, read = prepare(known)
            row = await call
        except RepositoryError as exc:
            fresh = await _after_change(exc, known, conn)
    if fresh is not None:
        call, read = prepare(fresh)
        row = await call
    values = None if row is None else read(row)
    del row  # of what does not fit the model, nothing is left for tracebacks to show
    return None if values is None else to_model(model, values, table)


async def _after_change(exc: RepositoryError, known: Table, conn: Connection | None) -> Table:
    """What is there to know of the table now; raises *exc* where that is nothing new, or nothing can be done again."""
    was_sent = exc.original_error is not None or exc.sqlstate is not None
    if not was_sent and not isinstance(exc, InvalidDataError | ColumnMatchError):
        raise exc
    if was_sent and (exc.sqlstate or "22")[:2] not in _CHANGED:
        raise exc
    if was_sent and conn is not None and (conn.is_closed() or conn.is_in_transaction()):
        catalog.forget_table(known, conn)
        raise exc
    fresh = await catalog.read_table(known.name, known.schema, conn, known)
    if fresh is known:
        raise exc
    return fresh


def _is_old(known: Table, conn: Connection) -> bool:
    """Whether to look again first, because inside of a transaction a statement that fails could not be repeated."""
    if asyncio.get_running_loop().time() - known.confirmed_at <= _CONFIRMED_SECONDS:
        return False
    return not conn.is_closed() and conn.is_in_transaction()


def is_guarded(conn: Connection | None) -> bool:
    """Whether a statement may fail for a new column: not inside of a transaction, which would fail with it."""
    return conn is None or not conn.is_in_transaction()


async def perform_read(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """The result of *work*, which reads."""
    return await perform(work, conn=conn, kind=RepositoryError, doing=doing, changes=False, repeatable=True)


async def perform_write(conn: Connection | None, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """The result of *work*, which changes rows, so that it is not repeated where its answer is lost."""
    return await perform(work, conn=conn, kind=RepositoryError, doing=doing, changes=True, repeatable=False)


def encode_key(column: Column, value: Any) -> Any:
    """The key of a row as it is sent; raises `InvalidDataError` where *column* cannot hold it."""
    if value is None:
        raise column.refusal("is the key of a row: None is no key")
    return column.encode(value)


def not_found(table: str) -> RecordNotFoundError:
    """The error for a row that is not there."""
    return RecordNotFoundError(f"there is no row under this key in table {table!r}")
